"""A unit that leaves, killed at every effect of giving back: the next hook ends what it began.

What comes next is another hook that proves that the unit leaves, as after a kill of the agent Juju
runs the same one again, or goes on with the next; or none, until an operator looks.
"""

from __future__ import annotations

import pytest
from harness import killing
from harness.constants import CARDS, DRIVERS, GPUS, MODEL_UUID
from harness.unit import AGENTS, Unit
from harness.world import World

import leaving
from passthrough.effects import tools as host_tools
from passthrough.system import commands, timed_write

pytestmark = pytest.mark.faults

UNIT = "pci-passthrough/0"
# Fewer would mean that the harness does not see the effects any more.
LEAST_EFFECTS = 25


@pytest.fixture
def before(world: World) -> dict[str, object]:
    """The host before the charm came."""
    world.nova.install()
    world.turn_iommu_on()
    world.tools.rebuild(
        "initramfs", lambda sentence: None
    )  # an image as a kernel's package left it
    world.forget()
    return world.snapshot("etc", "var/lib")


@pytest.fixture
def left(before: object, unit: Unit, monkeypatch: pytest.MonkeyPatch) -> Unit:
    """A unit that has its devices, in a Juju that answers no hook tool any more."""

    def fail(command: tuple[str, ...], timeout: float) -> tuple[str, ...]:
        raise commands.CommandError(command, "failed with exit code 1", ("ERROR gone",), 1)

    del before
    monkeypatch.setattr(timed_write, "write", killing.write_in_process)
    monkeypatch.setattr(host_tools, "HostTools", lambda: unit.world.tools)
    monkeypatch.setattr(commands, "run", fail)
    unit.run(devices=GPUS)
    assert unit.status == "active: gpu: 2 ready"
    return unit


def environment(unit: Unit, hook: str) -> dict[str, str]:
    return {
        "JUJU_DISPATCH_PATH": f"hooks/{hook}",
        "JUJU_UNIT_NAME": UNIT,
        "JUJU_DEPARTING_UNIT": UNIT,
        "JUJU_PRINCIPAL_UNIT": "nova-compute/0",
        "JUJU_RELATION_ID": "juju-info:0",
        "JUJU_REMOTE_APP": "nova-compute",
        "JUJU_MODEL_UUID": MODEL_UUID,
        "JUJU_CHARM_DIR": str(unit.world.root / AGENTS / "unit-pci-passthrough-0/charm"),
    }


def test_every_kill_is_mended_by_the_next_hook(left: Unit, before: dict[str, object]):
    world = left.world

    def leave(hook: str) -> bool:
        return leaving.give_back_first(world.site, environment(left, hook))

    start = killing.Tree(world.root)
    seen: list[killing.Tree] = []
    number = 0
    while True:
        number += 1
        start.put_back(world.root)
        killed = killing.run_killed(
            number, world.kernel, world.tools, lambda: leave("juju-info-relation-departed")
        )
        if not killed:
            break
        found = killing.Tree(world.root)
        if found in seen[-1:]:
            continue
        seen.append(found)
        for hook in ("juju-info-relation-broken", "stop"):
            found.put_back(world.root)
            assert leave(hook)
            where = f"kill {number}, then {hook}"
            assert world.drivers() == {each: DRIVERS[each] for each in CARDS}, where
            assert world.record().is_empty, where
            assert world.snapshot("etc", "var/lib") == before, where
    assert number > LEAST_EFFECTS
    assert world.snapshot("etc", "var/lib") == before
