"""What a check of the host or of Nova finds."""

from __future__ import annotations

from passthrough import enums, frozen


class Result(enums.StrEnum):
    """How a check came out; UNKNOWN where it cannot tell."""

    OK = "ok"
    FAIL = "fail"
    UNKNOWN = "unknown"


# Every check ends with one of these words, too often to be spelled out.
OK, FAIL, UNKNOWN = Result.OK, Result.FAIL, Result.UNKNOWN


class Check(frozen.Value):
    """One check: its name, how it came out, what it has seen, and how a person mends it."""

    name: str
    status: Result
    seen: str
    fix: str = ""


def has_failed(checks: tuple[Check, ...]) -> bool:
    """Tell whether any check failed; one that is unknown has not."""
    return any(check.status == FAIL for check in checks)
