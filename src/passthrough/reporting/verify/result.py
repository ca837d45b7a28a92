"""What a check of the host or of Nova finds."""

from __future__ import annotations

import dataclasses

from passthrough import enums


class Result(enums.StrEnum):
    """How a check came out; UNKNOWN where what it looks at cannot be made out."""

    OK = "ok"
    FAIL = "fail"
    UNKNOWN = "unknown"


# Every check ends with one of these words, too often to be spelled out.
OK, FAIL, UNKNOWN = Result.OK, Result.FAIL, Result.UNKNOWN


@dataclasses.dataclass(frozen=True)
class Check:
    """One thing looked at: how it came out, what was seen, and for a person how to mend it."""

    name: str
    status: Result
    seen: str
    fix: str = ""


def has_failed(checks: tuple[Check, ...]) -> bool:
    """Tell whether any check failed; an unknown one did not."""
    return any(check.status == FAIL for check in checks)
