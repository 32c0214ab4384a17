"""Fixtures that every test shares."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real datasets; the test is skipped where it is absent."""
    named = os.environ.get("AUGMINT_DATA")
    folder = Path(named) if named else Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no real data on this machine (set AUGMINT_DATA)")
    return folder
