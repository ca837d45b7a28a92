"""Checks of the claimed functions themselves: how each is, and who has it. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from passthrough.planning import health
from passthrough.reporting import health_text, holdings, taken
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


def _states(decision: Decision, seen: Seen) -> Iterator[Check]:
    """Tell who has each claimed function; the checks before this one say what is wrong."""
    processes = decision.facts.processes
    for claim in decision.claims:
        address = claim.address
        who = [
            taken.holder(seen.domains, processes, each) for each in seen.holders.get(address, ())
        ]
        aside = decision.plan.record.quarantine.get(address)
        state = (
            holdings.state_in_erase(decision.health[address], aside, who)
            if address in decision.plan.record.erasing
            else holdings.state_in_quarantine(aside, who)
            if aside
            else holdings.state_of_claim(
                holdings.claim_name(claim),
                claim.function,
                who,
                decision.health[address],
                waits_for_boot=address in decision.plan.at_boot,
            )
        )
        yield Check(f"state {address}", OK, state)


CHECKS = (_health, _states)
