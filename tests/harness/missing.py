"""What a test needs of the machine that runs it, and what its absence means."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def skip(what: str) -> NoReturn:
    """End this test for want of something: skipped, but where CI runs it has failed."""
    if os.environ.get("CI"):
        pytest.fail(what)
    pytest.skip(what)
