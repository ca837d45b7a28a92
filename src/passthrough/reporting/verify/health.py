"""Checks of the claimed functions themselves: how each is, and who has it. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from passthrough.planning import health
from passthrough.reporting import health_text
from passthrough.reporting.verify.evidence import Seen
from passthrough.reporting.verify.result import FAIL, OK, UNKNOWN, Check
from passthrough.survey import Decision

# An alert is no fault, and what cannot be told is none: both are shown, and fail nothing.
_RESULTS = {health.Verdict.SICK: FAIL, health.Verdict.ALERT: UNKNOWN}


def _health(decision: Decision, seen: Seen) -> Iterator[Check]:
    """Tell how each function is that is claimed, or that is missing."""
    del seen
    for judged in decision.health.values():
        one = judged.worst
        yield Check(
            f"health {judged.address}",
            _RESULTS.get(judged.verdict, OK),
            health_text.seen(judged),
            one.way_out if one else "",
        )


CHECKS = (_health,)
