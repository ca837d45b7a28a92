"""What a check of the host or of Nova finds."""

from __future__ import annotations

import dataclasses

OK = "ok"
FAIL = "fail"
UNKNOWN = "unknown"


@dataclasses.dataclass(frozen=True)
class Check:
    """One thing looked at; ``status`` is OK, FAIL or UNKNOWN, ``fix`` a sentence for a person."""

    name: str
    status: str
    seen: str
    fix: str = ""


def has_failed(checks: tuple[Check, ...]) -> bool:
    """Tell whether any check failed; an unknown one did not."""
    return any(check.status == FAIL for check in checks)
