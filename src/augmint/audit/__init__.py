"""The audit of a synthetic dataset: what is valid, what follows its mask, what is copied."""

from augmint.audit.run import audit
from augmint.audit.words import in_words

__all__ = ["audit", "in_words"]
