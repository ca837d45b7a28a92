"""An erase that is killed at every effect: never offered, and the next one comes to its end."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from harness import killing
from harness.constants import NVME_ID
from harness.fakenvme import FakeNvme
from harness.hosttree import HostTree
from harness.world import World

from passthrough import erasing
from passthrough.effects import handing
from passthrough.nova import offer as nova_offer
from passthrough.state import record
from passthrough.system import timed_write

pytestmark = pytest.mark.faults

NVME = "0000:02:00.0"
# Fewer would mean that the harness does not see the effects any more.
LEAST_EFFECTS = 20


class Machine:
    """A host whose NVMe is claimed, and in quarantine."""

    def __init__(self, tree: HostTree, monkeypatch: pytest.MonkeyPatch):
        self.world = World.of(tree, monkeypatch)
        self.nvme = FakeNvme(self.world.kernel, NVME, monkeypatch, 1 << 16, 1 << 16)
        self.world.nova.install()
        self.world.turn_iommu_on()
        self.world.hook(f"disk={NVME_ID}")
        with self.world.ledger() as ledger:
            ledger.update(quarantine={NVME: record.Quarantine(NVME_ID, "", "", 1)})
        self.world.hook()
        self.rules = tree.root / handing.rules_path(NVME)

    def erase(self) -> None:
        """What is killed, and run again."""
        means = erasing.Means(self.world.tools, self.nvme.means)
        with self.world.ledger() as ledger:
            decision = self.world.decide()
            erasing.check(decision, NVME, NVME)
            erasing.erase(ledger, decision, NVME, means, self.world.said.append)

    def boot(self) -> None:
        """Start the host again: what lies below /run is gone."""
        self.rules.unlink(missing_ok=True)
        self.world.reboot()
        self.nvme.show()

    @property
    def is_offered(self) -> bool:
        """Whether Nova is offered it, now or once all is done."""
        decision = self.world.decide()
        offers = (decision.nova, decision.nova_planned)
        specs = [spec for offer in offers for spec in (*offer.device_specs, *offer.held)]
        listed = nova_offer.listed(decision.nova.facts)
        return NVME in listed or any(spec["address"] == NVME for spec in specs)

    def check(self, number: int) -> None:
        """What has to hold behind a kill, and behind each hook after it."""
        assert not self.is_offered, f"kill {number}"
        assert self.rules.exists() or self.world.tree.driver_of(NVME) != "nvme", (
            f"kill {number}: udev is let loose on a tenant's disk"
        )

    def check_rest(self, number: int) -> None:
        """What has to hold once a hook has run: all is as before the erase, but for the mark."""
        assert self.world.tree.driver_of(NVME) == "vfio-pci", f"kill {number}"
        assert not self.rules.exists()
        mark = self.world.record().erasing.get(NVME)
        assert mark or self.nvme.is_erased or self.nvme.content() == self.nvme.content(2)
        if mark != record.TOLD and not self.nvme.is_erased:
            assert b"tenant" in self.nvme.content(2), "nothing is erased before the record says so"


@pytest.mark.parametrize("boots", [False, True], ids=["a-hook", "a-boot-and-a-hook"])
def test_every_kill_leaves_it_off_the_offer(
    make_host: Callable[..., HostTree], monkeypatch: pytest.MonkeyPatch, boots: bool
):
    monkeypatch.setattr(timed_write, "write", killing.write_in_process)
    machine = Machine(make_host(), monkeypatch)
    world = machine.world
    start = killing.Tree(world.root)
    marks: set[str | None] = set()
    number = 0
    while True:
        number += 1
        start.put_back(world.root)
        if not killing.run_killed(number, world.kernel, world.tools, machine.erase):
            break
        machine.check(number)
        # An operator who loses patience with the quarantine as well.
        with world.ledger() as ledger:
            marks.add(ledger.present.erasing.get(NVME))
            if NVME in ledger.present.erasing:
                ledger.update(quarantine={})
        if boots:
            machine.boot()
        machine.check(number)
        world.hook()
        machine.check_rest(number)
        if world.record().erasing:
            machine.check(number)
            machine.erase()
            assert machine.nvme.is_erased
            assert world.record().erasing == {}
    assert machine.nvme.is_erased
    assert number > LEAST_EFFECTS
    assert marks == {None, record.BEGUN, record.TOLD}
