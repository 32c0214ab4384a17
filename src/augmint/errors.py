"""The one error that a user's input can cause."""

from __future__ import annotations


class AugmintError(Exception):
    """Bad input or an unusable environment: the rule, what came, the file or case, the remedy.

    The command line prints the message alone and exits with code 2.
    """
