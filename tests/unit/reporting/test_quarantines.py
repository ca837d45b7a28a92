"""What is kept off Nova's offer, in words and in values."""

from __future__ import annotations

import pytest
from harness.world import World

from passthrough.reporting import quarantines
from passthrough.state.record import Quarantine

SICK = Quarantine("10de:1bb0", "", "off-the-bus", 1_790_000_000)
SOON = "if it stays missing, or comes and goes"


@pytest.mark.parametrize(
    ("entry", "state"),
    [
        (SICK, "quarantined: fell off the bus; rebind ends that once it is mended"),
        (SICK._replace(why=""), "quarantined: by an operator; rebind ends that"),
        (
            SICK._replace(companion="0000:83:00.1"),
            "quarantined: its companion 0000:83:00.1 fell off the bus;"
            " rebind ends that once it is mended",
        ),
        (
            SICK._replace(why="on-fire", well_since=1_790_000_060),
            "quarantined: on-fire; well since 2026-09-21 14:14 UTC,"
            " returns at 2026-09-21 14:44 UTC",
        ),
        (
            SICK._replace(well_since=10**15),
            "quarantined: fell off the bus; well since 9999-12-31 23:59 UTC,"
            " returns at 9999-12-31 23:59 UTC",
        ),
    ],
    ids=["sick", "by-hand", "companion", "of-another-revision", "beyond-the-calendar"],
)
def test_a_state_says_how_it_ends(entry: Quarantine, state: str):
    assert quarantines.state(entry) == state


def test_what_a_restart_waits_for_is_told():
    row = {"address": "0000:83:00.0", "offered": True}
    assert quarantines.table([row]).endswith("0000:83:00.0  quarantined once nova-compute restarts")


@pytest.mark.parametrize(
    ("why", "when"),
    [
        ("missing", SOON),
        (
            "off-the-bus",
            "once no guest has it and nova-compute may be restarted: it fell off the bus",
        ),
    ],
)
def test_what_is_due_is_told_in_plan(ready: World, why: str, when: str):
    held = ready.kernel.hold("0000:83:00.0")
    ready.tree.directory("0000:83:00.0").joinpath("power_state").write_text("D3cold\n")
    with ready.ledger() as ledger:
        ledger.update(due={"0000:83:00.0": SICK._replace(why=why, boot=boot_of(ready))})
    said = quarantines.sentences(ready.decide())
    assert said == [f"0000:83:00.0 goes into quarantine {when}"]
    ready.kernel.close(held)


def boot_of(world: World) -> str:
    return world.decide().facts.machine.boot_id
