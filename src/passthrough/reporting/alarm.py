"""What the NRPE check says of a host: one exit code, one line."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from passthrough.problem import Problem
from passthrough.reporting import words
from passthrough.reporting.verify import result

# Exit codes of a Nagios plugin (the Nagios Plugin API).
OK, WARNING, CRITICAL = 0, 1, 2


class Report(NamedTuple):
    """What the check says: the exit code of a Nagios plugin, and one line of text."""

    code: int
    text: str


def judge(checks: Iterable[result.Check], reboot_reasons: Iterable[Problem] = ()) -> Report:
    """Turn checks into a report.

    Args:
        checks: the result of ``verify``; an unknown check is no fault.
        reboot_reasons: what the running kernel lacks until a reboot. With a reason, a failed check
            is expected and a warning; without one, it means that the host has drifted.
    """
    checks = tuple(checks)
    failed = [each for each in checks if each.status == result.FAIL]
    reasons = "; ".join(map(words.sentence, reboot_reasons))
    if not failed:
        return Report(OK, f"{len(checks)} checks passed")
    if reasons:
        return Report(WARNING, f"reboot required: {reasons}")
    seen = "; ".join(f"{each.name}: {each.seen}" for each in failed)
    return Report(CRITICAL, f"{len(failed)} of {len(checks)} checks failed: {seen}")


def judge_problem(problem: Exception) -> Report:
    """Report the problem that kept the charm from checking the host at all."""
    return Report(CRITICAL, str(problem))
