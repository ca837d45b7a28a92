"""The wall's clock, which an operator reads and may set."""

from __future__ import annotations

import time


def now() -> int:
    """The time in seconds since the epoch."""
    return int(time.time())
