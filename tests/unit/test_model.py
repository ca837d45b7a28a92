"""Any life of a host ends where a fresh install of its last configuration ends.

Random sequences of configurations, failures, kills, guests, boots, devices that come and go and
other people's changes, on a host whose kernel and tools answer. On the way no guest loses its
device, no mounted disk its driver, and no configuration has the host reboot twice. When all is calm
again, hooks and boots have to bring the host to the very state that the last configuration gives on
a host that never had another one.
"""

from __future__ import annotations

import collections
import dataclasses
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from harness import killing, made, uses
from harness.constants import APPLICATION, CARDS, GPU_BUSES, NVME_ID
from harness.hosttree.kernel import DEVICES
from harness.world import World
from hypothesis import stateful, strategies

from passthrough import reboot, reconcile
from passthrough.effects import reboot_request
from passthrough.errors import PassthroughError
from passthrough.planning import boot_files
from passthrough.state import record
from passthrough.system import clock, timed_write

pytestmark = pytest.mark.faults

SEQUENCES = 200
STEPS = 8
# Behind it nothing is remembered of a card that was away for a while (planning/quarantine.py).
LONG = 3600
DISK = "0000:02:00.0"
MOUNTS = "proc/1/mountinfo"
RECORD = f"{record.DIRECTORY}/{APPLICATION}.json"
NOTHING: dict[str, Any] = {"devices": ""}

DISK_ITEMS = {
    "none": "",
    "guarded": f"- {{alias: disk, id: '{NVME_ID}', address: '{DISK}'}}\n",
    "allowed": f"- {{alias: disk, id: '{NVME_ID}', address: '{DISK}', allow-in-use: true}}\n",
}


def cards(buses: Iterable[str]) -> str:
    """The items that ask for the cards on these buses."""
    return "".join(f"- gpu=10de:1bb0@{bus}:00.0\n" for bus in sorted(buses))


def with_all_that_need_it(config: dict[str, Any]) -> dict[str, Any]:
    """A driver is only kept off where the host keeps no card that needs it."""
    if config["blacklist_drivers"] != "nouveau":
        return config
    asked = config["devices"]
    return {**config, "devices": asked + cards({each for each in GPU_BUSES if each not in asked})}


CONFIGS = strategies.fixed_dictionaries(
    {
        "devices": strategies.builds(
            lambda buses, disk: DISK_ITEMS[disk] + cards(buses),
            strategies.sets(strategies.sampled_from(GPU_BUSES)),
            strategies.sampled_from(["guarded", "allowed", "guarded", "none"]),
        ),
        "kernel_options": strategies.sampled_from(["", "nosmt", "hugepages=64 quiet"]),
        "blacklist_drivers": strategies.sampled_from(["auto", "", "nouveau"]),
        "iommu_passthrough": strategies.booleans(),
        "reboot": strategies.sampled_from(["manual", "when-idle", "when-idle"]),
    }
).map(with_all_that_need_it)
FUNCTIONS = strategies.sampled_from(CARDS)
# A configuration, a function that vfio-pci cannot take from now on, and whether the disk is mounted
# while the rebuild that follows is at work.
CHANGES = strategies.tuples(
    CONFIGS, strategies.none() | FUNCTIONS, strategies.sampled_from([True, True, False])
)
OWNED = [file.path for file in boot_files.owned_files(APPLICATION)]
# What has to have happened in the end: a machine in which it does not proves nothing about it.
NOTABLE = ("reboot", "reboot in vain", "mounted meanwhile", "allowed in use", "removed")


class Life:
    """A world and what happens to it; ``seen`` counts what is notable of that."""

    def __init__(self, world: World, seen: collections.Counter[str]):
        self.world = world
        self.seen = seen
        self.now = 1_790_000_000
        self.holds: dict[str, Path] = {}
        uses.disk(world.tree, DISK, "nvme0n1", "259:0", "nvme/nvme0")
        addresses = os.listdir(world.root / DEVICES)
        self.natives = {address: world.tree.driver_of(address) for address in addresses}

    def run(self, config: dict[str, Any], *, leaving: bool = False) -> reconcile.Result:
        """One hook; the errors that a charm shows are passed on."""
        return self.world.leave() if leaving else self.world.run(made.wanted(**config))

    def attempt(self, config: dict[str, Any], *, leaving: bool = False) -> reboot.Verdict:
        """One hook, whatever becomes of it; no guest loses its device, no mount its disk.

        Returns:
            What it makes of a reboot.
        """
        held = {each: self.world.tree.driver_of(each) for each in self.holds}
        disk, verdict = self.world.tree.driver_of(DISK), reboot.Verdict()
        had_files = (self.world.root / RECORD).exists()
        try:
            result = self.run(config, leaving=leaving)
            failed = result.outcome.failed
            if leaving:
                self.check_removed(result)
                self.seen["removed"] += had_files
            else:
                self.seen["mounted meanwhile"] += DISK in failed and self.is_mounted
                verdict = reboot_request.arrange(result.decision, failed)
        except (PassthroughError, OSError):
            assert self.world.tools.failing or not self.world.kernel.is_kind, "nothing was wrong"
        assert {each: self.world.tree.driver_of(each) for each in self.holds} == held
        if self.is_mounted and disk == "nvme":
            if "allow-in-use" not in config["devices"]:
                assert self.world.tree.driver_of(DISK) == "nvme"
            elif self.world.tree.driver_of(DISK) == "vfio-pci":
                self.seen["allowed in use"] += 1
        self.seen["reboot in vain"] += verdict.action is reboot.Action.SPENT
        return verdict

    def check_removed(self, result: reconcile.Result) -> None:
        """Nothing of the charm is left, unless something would not let go."""
        if not (result.outcome.failed or result.decision.plan.pending):
            assert list(self.world.root.rglob("*pci-passthrough*")) == []

    @property
    def is_mounted(self) -> bool:
        return (self.world.root / MOUNTS).exists()

    def mount(self) -> None:
        """Mount the disk, where it can be."""
        if self.world.tree.driver_of(DISK) == "nvme" and not self.is_mounted:
            uses.mount(self.world.tree, "259:0", "/srv", "/dev/nvme0n1")

    def unmount(self) -> None:
        (self.world.root / MOUNTS).unlink(missing_ok=True)

    def boot(self) -> None:
        """Start anew: guests and mounts are gone."""
        self.release()
        self.unmount()
        self.world.reboot()

    def release(self) -> None:
        for link in self.holds.values():
            self.world.kernel.close(link)
        self.holds.clear()

    def calm(self, config: dict[str, Any]) -> dict[str, object]:
        """Let nothing go wrong any more, and give the state in which all ends."""
        self.world.tools.failing.clear()
        self.world.kernel.relent()
        self.release()
        self.unmount()
        for address in self.world.tree.unplugged:
            self.world.tree.plug(address)
        for _ in range(2):
            self.run(config)
            self.boot()
            self.now += LONG
        result = self.run(config)
        assert not result.decision.plan.reboot
        assert self.run(config).outcome.did == (), "a settled host is left alone"
        return self.state()

    def state(self) -> dict[str, object]:
        """All that must be the same in the end.

        A reboot of before may be remembered, and when an offer changed for a card that was away.
        """
        found = self.world.snapshot("etc", "boot/grub", "var/lib/pci-passthrough", "run")
        found.pop(RECORD, None)
        mine = self.world.record()
        # Where our own blacklist had kept a native driver off before, it is not known.
        known = {address: self.natives[address] for address in mine.taken}
        assert all(mine.taken[address] in (None, known[address]) for address in known)
        found["record"] = dataclasses.replace(mine, taken=known, reboot=None, restarted=0)
        return found


def machine_of(  # noqa: C901 (it counts the methods of the class inside)
    make_life: Callable[[], Life],
) -> type[stateful.RuleBasedStateMachine]:
    """The machine that hypothesis plays with."""
    known: dict[str, dict[str, object]] = {}

    class Lives(stateful.RuleBasedStateMachine):
        def __init__(self):
            super().__init__()
            self.life = make_life()
            self.config = NOTHING
            self.has_rebooted = False

        def choose(self, config: dict[str, Any]):
            """Another configuration may have the host reboot once more."""
            if config != self.config:
                self.has_rebooted = False
            self.config = config

        def configure(self, change: tuple[dict[str, Any], str | None, bool]):
            config, stubborn, is_mounting = change
            if stubborn:
                self.life.world.kernel.fail_probe(stubborn, "vfio-pci")
            if is_mounting:
                self.life.world.tools.before_rebuild = lambda what: self.life.mount()
            self.choose(config)
            self.attempt()

        def attempt(self):
            """One hook, and the reboot that it asks for, with the hook behind that."""
            verdict = self.life.attempt(self.config)
            self.life.world.tools.before_rebuild = lambda what: None
            if verdict.action is reboot.Action.NOW:
                assert not self.has_rebooted, "twice for one configuration"
                assert not self.life.holds, "under a guest"
                self.has_rebooted = True
                self.life.seen["reboot"] += 1
                self.life.boot()
                self.attempt()

        @stateful.initialize(is_on=strategies.booleans(), change=CHANGES)
        def start(self, is_on: bool, change: tuple[dict[str, Any], str | None, bool]):
            """Some kernels have the IOMMU on already, and bind at once."""
            if is_on:
                self.life.world.turn_iommu_on()
            self.configure(change)

        @stateful.rule(change=CHANGES)
        def change(self, change: tuple[dict[str, Any], str | None, bool]):
            self.configure(change)

        @stateful.rule()
        def hook(self):
            self.attempt()

        @stateful.rule(config=CONFIGS, number=strategies.integers(1, 90))
        def kill(self, config: dict[str, Any], number: int):
            self.choose(config)
            life = self.life
            killing.run_killed(
                number, life.world.kernel, life.world.tools, lambda: life.attempt(config)
            )

        @stateful.rule()
        def remove(self):
            self.choose(NOTHING)
            self.life.attempt(NOTHING, leaving=True)

        @stateful.rule()
        def boot(self):
            self.life.boot()

        @stateful.rule(what=strategies.sampled_from(["initramfs", "grub", "modprobe"]))
        def break_tool(self, what: str):
            self.life.world.tools.failing[what] = "no space left on device"

        @stateful.rule()
        def mend_tools(self):
            self.life.world.tools.failing.clear()

        @stateful.rule(address=FUNCTIONS)
        def start_guest(self, address: str):
            life = self.life
            has_group = (life.world.root / f"{DEVICES}/{address}/iommu_group").exists()
            on_vfio = life.world.tree.driver_of(address) == "vfio-pci"
            if has_group and on_vfio and address not in life.holds:
                life.holds[address] = life.world.kernel.hold(address)

        @stateful.rule()
        def stop_guests(self):
            self.life.release()

        @stateful.rule(address=FUNCTIONS)
        def unbind(self, address: str):
            if not self.life.holds and self.life.world.tree.driver_of(address) == "vfio-pci":
                self.life.world.tree.bind(address, None)

        @stateful.rule(address=FUNCTIONS)
        def come_or_go(self, address: str):
            tree = self.life.world.tree
            if address in tree.unplugged:
                tree.plug(address)
            elif not self.life.holds:
                tree.unplug(address)

        @stateful.rule()
        def boot_with_late_cards(self):
            """Boot; the cards are not there in the first hook, and are in the second."""
            self.life.boot()
            tree = self.life.world.tree
            late = [each for each in CARDS if each not in tree.unplugged]
            for address in late:
                tree.unplug(address)
            self.attempt()
            for address in late:
                tree.plug(address)
            self.attempt()

        @stateful.rule(mounted=strategies.booleans())
        def mount(self, mounted: bool):
            if mounted:
                self.life.mount()
            else:
                self.life.unmount()

        @stateful.rule(
            path=strategies.sampled_from(OWNED), text=strategies.sampled_from([None, "#\n"])
        )
        def tamper(self, path: str, text: str | None):
            target = self.life.world.root / path
            if target.exists():
                target.unlink()
                if text is not None:
                    target.write_text(text)

        def teardown(self):
            assert self.life.calm(self.config) == self.fresh()
            shutil.rmtree(self.life.world.root)

        def fresh(self) -> dict[str, object]:
            """The state to end in, worked out once for each configuration."""
            name = repr(sorted((key, self.config[key]) for key in self.config if key != "reboot"))
            if name not in known:
                life = make_life()
                known[name] = life.calm(self.config)
                shutil.rmtree(life.world.root)
            return known[name]

    return Lives


def test_every_life_ends_where_a_fresh_install_ends(
    make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(timed_write, "write", killing.write_in_process)
    seen: collections.Counter[str] = collections.Counter()

    def make_life() -> Life:
        life = Life(make_world(), seen)
        monkeypatch.setattr(clock, "now", lambda: life.now)
        # What the made-up host boots at first is not what its tools would write.
        for what in ("initramfs", "grub"):
            life.world.tools.rebuild(what, lambda said: None)
        return life

    stateful.run_state_machine_as_test(
        machine_of(make_life),
        settings=hypothesis.settings(
            max_examples=SEQUENCES,
            stateful_step_count=STEPS,
            deadline=None,
            derandomize=True,
            database=None,
            print_blob=False,
            # Shrinking a life takes minutes; while looking for a cause, add Phase.shrink.
            phases=(hypothesis.Phase.generate,),
            suppress_health_check=(
                hypothesis.HealthCheck.too_slow,
                hypothesis.HealthCheck.data_too_large,
                hypothesis.HealthCheck.filter_too_much,
            ),
        ),
    )
    assert [what for what in NOTABLE if not seen[what]] == [], seen
