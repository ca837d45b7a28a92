"""A kill at every effect: each file old or new, and the next run ends where nothing was killed.

One loop a case, since each visits some hundred states: the run is killed at its first effect, at
its second, and so on, until it comes to its end. What every kill leaves is mended by the next run,
with and without a boot in between, and has to end in the very bytes of an undisturbed run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from harness import hosttree, killing, made
from harness.constants import GPUS
from harness.hosttree import etcfiles
from harness.world import World

from passthrough import reconcile
from passthrough.nova import lines as nova_lines
from passthrough.planning import boot_files
from passthrough.state import record
from passthrough.system import clock, timed_write

pytestmark = pytest.mark.faults

OTHERS = {
    "devices": "gpu=10de:1bb0@0000:84:00.0, gpu=10de:1bb0@0000:85:00.0",
    "kernel_options": "nosmt",
}
# Fewer would mean that the harness does not see the effects any more.
LEAST_EFFECTS = 40
LENT = "0000:83:00.0"


@dataclasses.dataclass(frozen=True)
class Case:
    """A change that is killed: what was configured before, and what is now; {} removes all.

    With an ``action``, lend, take-back or quarantine, it is that which is killed: a kill before the
    record has it leaves all as it was before, and one after that is mended by the next hook.

    With ``is_sick`` a device has fallen off the bus, and the hook is killed that takes it off
    Nova's offer. Fewer than ``effects`` would mean that the harness sees them no more.
    """

    before: Mapping[str, object] | None
    after: Mapping[str, object]
    iommu: bool = True
    reboots: int = 0
    has_variant: bool = False
    action: str = ""
    is_sick: bool = False
    effects: int = LEAST_EFFECTS


CASES = {
    "install-without-iommu": Case(None, {"devices": GPUS}, iommu=False),
    "install-with-iommu": Case(None, {"devices": GPUS}),
    "change": Case({"devices": GPUS}, OTHERS, iommu=False, reboots=1),
    "removal": Case(
        {"devices": "gpu=10de:1bb0", "blacklist_drivers": "nouveau"}, {}, iommu=False, reboots=1
    ),
    "install-with-a-variant": Case(None, {"devices": GPUS}, has_variant=True),
    "removal-with-a-variant": Case({"devices": GPUS}, {}, has_variant=True),
    "lend": Case({"devices": GPUS}, {"devices": GPUS}, action="lend"),
    "take-back": Case({"devices": GPUS}, {"devices": GPUS}, action="take-back"),
    "quarantine": Case({"devices": GPUS}, {"devices": GPUS}, action="quarantine", effects=20),
    "sick": Case({"devices": GPUS}, {"devices": GPUS}, is_sick=True, effects=20),
}


class Machine(World):
    """The world of a host with Nova, whose files are watched."""

    def __init__(self, *values: Any):
        super().__init__(*values)
        # What is offered to Nova changes on the way, so every content that is offered counts.
        self.seen: dict[str, set[bytes | None]] = {}
        self.tools.before_rebuild = lambda what: self.look()
        self.kernel.before_write = lambda name, text: self.look()

    def go(self, config: Mapping[str, Any]) -> reconcile.Result:
        """One hook with this configuration."""
        return self.run(made.wanted(**config)) if config else self.leave()

    def act(self, case: Case) -> None:
        """What is killed: an action, or a hook with what is configured now."""
        if not case.action:
            self.go(case.after)
            return
        self.config = dict(case.after)
        actions = {
            "lend": self.lend,
            "take-back": self.take_back,
            "quarantine": self.set_aside,
        }
        actions[case.action](LENT)

    def settle(self, config: Mapping[str, object]) -> None:
        """Hooks and boots until no boot is needed, as an operator would see to it."""
        result = self.go(config)
        if result.decision.plan.reboot:
            self.reboot()
            result = self.go(config)
        assert not result.decision.plan.reboot

    def files(self) -> dict[str, bytes | None]:
        """What each file holds that boots the host or that Nova reads."""
        owned = (file.path for file in boot_files.owned_files(self.application))
        names = (etcfiles.GRUB_CFG, nova_lines.path_of(self.application), *owned)
        paths = {name: self.root / name for name in names}
        return {name: path.read_bytes() if path.exists() else None for name, path in paths.items()}

    def look(self) -> None:
        """Remember what the files hold now."""
        for name, content in self.files().items():
            self.seen.setdefault(name, set()).add(content)

    def state(self) -> dict[str, object]:
        """All that must be the same in the end, whatever happened on the way."""
        found = self.snapshot("etc", "var/lib", "boot/grub", "run/lock")
        left = (*self.root.rglob(".*.new"), *self.root.rglob(".*.kept"))
        found["leftovers"] = sorted(str(each) for each in left)
        # The boot in which a device was seen to be sick is another one each time.
        with self.ledger() as ledger:
            aside = ledger.present.quarantine
        boots = {each.boot.encode() for each in aside.values() if each.boot}
        path = f"{record.DIRECTORY}/{self.application}.json"
        mode, content = self.tree.snapshot("var/lib").get(path, (0, b""))
        for boot in boots:
            assert isinstance(content, bytes)
            found[path] = (mode, content.replace(boot, b"the boot"))
        found["lock"] = (self.root / "run/pci-passthrough.lock").exists()
        return found


@pytest.fixture(params=CASES.values(), ids=list(CASES))
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


@pytest.fixture
def machine(
    case: Case, make_host: Callable[..., hosttree.HostTree], monkeypatch: pytest.MonkeyPatch
) -> Machine:
    """The machine as it is before the change that is killed."""
    monkeypatch.setattr(timed_write, "write", killing.write_in_process)
    monkeypatch.setattr(clock, "now", lambda: 1_790_000_000)
    machine = Machine.of(make_host(), monkeypatch)
    machine.nova.install()
    if case.has_variant:
        machine.tree.variant("acme-vfio-pci", "v000010DEd00001BB0sv*sd*bc*sc*i*")
    if case.iommu:
        machine.turn_iommu_on()
    if case.before:
        machine.go(case.before)
        for _ in range(case.reboots):
            machine.reboot()
            machine.go(case.before)
    if case.action == "take-back":
        machine.config = dict(case.after)
        machine.lend(LENT)
    if case.is_sick:
        (machine.tree.directory(LENT) / "config").write_bytes(b"\xff" * 4096)
    return machine


def is_away(known: record.Record) -> bool:
    """Whether an operator has lent the device, or taken it off Nova's offer."""
    return bool(known.lent) or any(not each.why for each in known.quarantine.values())


def test_every_kill_is_mended(machine: Machine, case: Case):
    start = killing.Tree(machine.root)
    machine.look()
    was_lent = is_away(machine.record())
    wanted: dict[bool, object] = {}
    wanted_after_a_boot: dict[bool, object] = {}
    for change in (lambda: machine.go(case.after), lambda: machine.act(case)):
        start.put_back(machine.root)
        change()
        machine.look()
        machine.settle(case.after)
        is_lent = is_away(machine.record())
        wanted[is_lent] = machine.state()
        machine.reboot()
        machine.settle(case.after)
        wanted_after_a_boot[is_lent] = machine.state()
    assert len(wanted) == (2 if case.action else 1)
    ends: set[bool] = set()
    mended: list[killing.Tree] = []
    booted: list[killing.Tree] = []
    number = 0
    while True:
        number += 1
        start.put_back(machine.root)
        if not killing.run_killed(number, machine.kernel, machine.tools, lambda: machine.act(case)):
            break
        left = killing.Tree(machine.root)
        # Between some effects nothing changes that outlives a kill: an fsync, a lock.
        if left not in mended[-1:]:
            mended.append(left)
            for path, content in machine.files().items():
                assert content in machine.seen[path], f"kill {number} leaves half of /{path}"
            is_lent = is_away(record.read(machine.site))
            ends.add(is_lent)
            machine.settle(case.after)
            assert machine.state() == wanted[is_lent], f"kill {number}, then a hook"
        # A boot does not see the beginnings of files.
        visible = left.without(".new", ".lock")
        if visible not in booted[-1:]:
            booted.append(visible)
            left.put_back(machine.root)
            machine.reboot()
            assert machine.tree.driver_of("0000:02:00.0") == "nvme"
            machine.settle(case.after)
            is_lent = is_away(machine.record())
            assert machine.state() == wanted_after_a_boot[is_lent], (
                f"kill {number}, then a boot and a hook"
            )
    assert number > case.effects
    assert ends == ({was_lent, not was_lent} if case.action else {False})
