"""The checks of the claimed functions themselves: how each is, and who has it."""

from __future__ import annotations

import pytest
from harness import made
from harness.constants import GPU_ID

from passthrough import frozen, survey
from passthrough.host import guests
from passthrough.host.health import Answer, Errors, Power, Severity, Signs
from passthrough.planning import health as judging
from passthrough.reporting.verify import evidence, health
from passthrough.reporting.verify.result import FAIL, OK, UNKNOWN, Check

ADDRESS, AUDIO = "0000:83:00.0", "0000:83:00.1"
WELL = Signs(Power.AWAKE, answer=Answer.GOOD)
MANY = {Severity.CORRECTABLE: Errors(5000, ("RxErr",))}
UUID = "6a3c1a4e-52a5-4f0c-9b58-0c9a7d1f2e3d"


def decision(signs: Signs = WELL) -> survey.Decision:
    """One card, claimed and bound, of which the kernel tells these signs."""
    cards = made.gpus("83", group=15, driver="vfio-pci", override="vfio-pci")
    found = made.decision(made.wanted(f"gpu={GPU_ID}"), *cards, machine=made.IOMMU_ON)
    judged = {each: judging.judge(each, signs) for each in (ADDRESS, AUDIO)}
    return frozen.replace(found, health=judged)


def check(of: survey.Decision, seen: evidence.Seen | None = None) -> dict[str, Check]:
    seen = seen or evidence.Seen()
    return {found.name: found for each in health.CHECKS for found in each(of, seen)}


@pytest.mark.parametrize(
    ("signs", "result", "kind"),
    [
        (WELL, OK, None),
        (Signs(Power.ASLEEP), OK, None),
        (Signs(Power.AWAKE, answer=Answer.ONES), FAIL, judging.Kind.OFF_THE_BUS),
        (frozen.replace(WELL, errors=MANY), UNKNOWN, judging.Kind.CORRECTABLE_ERRORS),
        (frozen.replace(WELL, reset_methods=()), OK, None),
    ],
)
def test_only_what_is_sick_fails(signs: Signs, result: str, kind: judging.Kind | None):
    found = check(decision(signs))["health " + ADDRESS]
    assert found.status == result
    assert found.fix == (judging.Finding(kind).way_out if kind else "")


def test_a_missing_card_fails_and_has_no_state():
    gone = {"0000:84:00.0": judging.judge_missing("0000:84:00.0", GPU_ID)}
    found = check(frozen.replace(decision(), health={**decision().health, **gone}))
    assert found["health 0000:84:00.0"].status == FAIL
    assert "state 0000:84:00.0" not in found


def test_the_state_tells_who_has_it_and_fails_nothing():
    seen = evidence.Seen(
        holders={ADDRESS: (17,), AUDIO: (18,)},
        domains={17: guests.Domain("instance-0000002a", UUID)},
    )
    found = check(decision(Signs(Power.AWAKE, answer=Answer.ONES)), seen)
    assert found[f"state {ADDRESS}"] == Check(
        f"state {ADDRESS}", OK, f"sick: fell off the bus; held by instance-0000002a ({UUID})"
    )
    assert found[f"state {AUDIO}"].seen.endswith("held by process 18 (a program)")


def test_without_a_holder_it_is_ready():
    assert check(decision())["state " + ADDRESS].seen == "gpu, ready"
