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
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from harness import hosttree, killing, made, uses
from harness.constants import GPU_BUSES, NVME_ID
from harness.fakekernel import FakeKernel, FakeTools
from harness.hosttree.kernel import DEVICES
from hypothesis import stateful, strategies

from passthrough import reboot, reconcile
from passthrough.config import options
from passthrough.effects import reboot_request
from passthrough.errors import PassthroughError
from passthrough.planning import boot_files
from passthrough.site import Site
from passthrough.state import record
from passthrough.system import timed_write

pytestmark = pytest.mark.faults

APPLICATION = "pci-passthrough"
SEQUENCES = 200
STEPS = 8
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
        "kernel_options": strategies.sampled_from(["", "a=b", "hugepages=64 c"]),
        "blacklist_drivers": strategies.sampled_from(["auto", "", "nouveau"]),
        "iommu_passthrough": strategies.booleans(),
        "reboot": strategies.sampled_from(["manual", "when-idle", "when-idle"]),
    }
).map(with_all_that_need_it)
CARDS = [f"0000:{bus}:00.{number}" for bus in GPU_BUSES for number in (0, 1)]
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
    """One host and what happens to it; ``seen`` counts what is notable of that."""

    def __init__(
        self,
        tree: hosttree.HostTree,
        patch: pytest.MonkeyPatch,
        seen: collections.Counter[str],
    ):
        self.tree = tree
        self.kernel = FakeKernel(tree, patch)
        self.tools = FakeTools(tree)
        self.seen = seen
        self.holds: dict[str, Path] = {}
        uses.disk(tree, DISK, "nvme0n1", "259:0", "nvme/nvme0")
        addresses = os.listdir(tree.root / DEVICES)
        self.natives = {address: tree.driver_of(address) for address in addresses}

    def run(self, config: dict[str, Any], *, leaving: bool = False) -> reconcile.Result:
        """One hook; the errors that a charm shows are passed on."""
        wanted = options.Options(leaving=True) if leaving else made.wanted(**config)
        return reconcile.reconcile(
            Site(self.tree.root, APPLICATION),
            wanted,
            self.tools,
            lambda said: None,
        )

    def attempt(self, config: dict[str, Any], *, leaving: bool = False) -> reboot.Verdict:
        """One hook, whatever becomes of it; no guest loses its device, no mount its disk.

        Returns:
            What it makes of a reboot.
        """
        held = {each: self.tree.driver_of(each) for each in self.holds}
        disk, verdict = self.tree.driver_of(DISK), reboot.Verdict()
        had_files = (self.tree.root / RECORD).exists()
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
            assert self.tools.failing or not self.kernel.is_kind, "nothing was wrong"
        assert {each: self.tree.driver_of(each) for each in self.holds} == held
        if self.is_mounted and disk == "nvme":
            if "allow-in-use" not in config["devices"]:
                assert self.tree.driver_of(DISK) == "nvme"
            elif self.tree.driver_of(DISK) == "vfio-pci":
                self.seen["allowed in use"] += 1
        self.seen["reboot in vain"] += verdict.action is reboot.Action.SPENT
        return verdict

    def check_removed(self, result: reconcile.Result) -> None:
        """Nothing of the charm is left, unless something would not let go."""
        if not (result.outcome.failed or result.decision.plan.pending):
            assert list(self.tree.root.rglob("*pci-passthrough*")) == []

    @property
    def is_mounted(self) -> bool:
        return (self.tree.root / MOUNTS).exists()

    def mount(self) -> None:
        """Mount the disk, where it can be."""
        if self.tree.driver_of(DISK) == "nvme" and not self.is_mounted:
            uses.mount(self.tree, "259:0", "/srv", "/dev/nvme0n1")

    def unmount(self) -> None:
        (self.tree.root / MOUNTS).unlink(missing_ok=True)

    def boot(self) -> None:
        """Start anew: guests and mounts are gone."""
        self.release()
        self.unmount()
        self.kernel.reboot()

    def release(self) -> None:
        for link in self.holds.values():
            link.unlink()
        self.holds.clear()

    def calm(self, config: dict[str, Any]) -> dict[str, object]:
        """Let nothing go wrong any more, and give the state in which all ends."""
        self.tools.failing.clear()
        self.kernel.relent()
        self.release()
        self.unmount()
        for address in self.tree.unplugged:
            self.tree.plug(address)
        for _ in range(2):
            self.run(config)
            self.boot()
        result = self.run(config)
        assert not result.decision.plan.reboot
        assert self.run(config).outcome.did == (), "a settled host is left alone"
        return self.state()

    def state(self) -> dict[str, object]:
        """All that must be the same in the end; a reboot of before may be remembered."""
        found: dict[str, object] = dict(
            self.tree.snapshot("etc", "boot/grub", "var/lib/pci-passthrough", "run")
        )
        found.pop(RECORD, None)
        mine = record.read(Site(self.tree.root, APPLICATION))
        # Where our own blacklist had kept a native driver off before, it is not known.
        known = {address: self.natives[address] for address in mine.taken}
        assert all(mine.taken[address] in (None, known[address]) for address in known)
        found["record"] = dataclasses.replace(mine, taken=known, reboot=None)
        found["initramfs"] = sorted(self._initramfs())
        for address in sorted(os.listdir(self.tree.root / "sys/bus/pci/devices")):
            override = self.tree.read(f"sys/bus/pci/devices/{address}/driver_override")
            found[address] = (self.tree.driver_of(address), override)
        return found

    def _initramfs(self) -> Iterator[tuple[str, bytes]]:
        for image in (self.tree.root / "boot").glob("initrd.img-*"):
            if image.stat().st_size:
                with tarfile.open(image) as archive:
                    for member in archive.getmembers():
                        content = archive.extractfile(member) if member.isfile() else None
                        if content:
                            yield member.name, content.read()


def machine_of(make_life: Callable[[], Life]) -> type[stateful.RuleBasedStateMachine]:
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
                self.life.kernel.fail_probe(stubborn, "vfio-pci")
            if is_mounting:
                self.life.tools.before_rebuild = lambda what: self.life.mount()
            self.choose(config)
            self.attempt()

        def attempt(self):
            """One hook, and the reboot that it asks for, with the hook behind that."""
            verdict = self.life.attempt(self.config)
            self.life.tools.before_rebuild = lambda what: None
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
                self.life.tree.set_command_line("quiet splash intel_iommu=on")
                self.life.tree.iommu_on()
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
            killing.run_killed(number, life.kernel, life.tools, lambda: life.attempt(config))

        @stateful.rule()
        def remove(self):
            self.choose(NOTHING)
            self.life.attempt(NOTHING, leaving=True)

        @stateful.rule()
        def boot(self):
            self.life.boot()

        @stateful.rule(what=strategies.sampled_from(["initramfs", "grub", "modprobe"]))
        def break_tool(self, what: str):
            self.life.tools.failing[what] = "no space left on device"

        @stateful.rule()
        def mend_tools(self):
            self.life.tools.failing.clear()

        @stateful.rule(address=FUNCTIONS)
        def start_guest(self, address: str):
            life = self.life
            has_group = (life.tree.root / f"{DEVICES}/{address}/iommu_group").exists()
            on_vfio = life.tree.driver_of(address) == "vfio-pci"
            if has_group and on_vfio and address not in life.holds:
                life.holds[address] = life.kernel.hold(address)

        @stateful.rule()
        def stop_guests(self):
            self.life.release()

        @stateful.rule(address=FUNCTIONS)
        def unbind(self, address: str):
            if not self.life.holds and self.life.tree.driver_of(address) == "vfio-pci":
                self.life.tree.bind(address, None)

        @stateful.rule(address=FUNCTIONS)
        def come_or_go(self, address: str):
            tree = self.life.tree
            if address in tree.unplugged:
                tree.plug(address)
            elif not self.life.holds:
                tree.unplug(address)

        @stateful.rule()
        def boot_with_late_cards(self):
            """Boot; the cards are not there in the first hook, and are in the second."""
            self.life.boot()
            tree = self.life.tree
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
            target = self.life.tree.root / path
            if target.exists():
                target.unlink()
                if text is not None:
                    target.write_text(text)

        def teardown(self):
            assert self.life.calm(self.config) == self.fresh()
            shutil.rmtree(self.life.tree.root)

        def fresh(self) -> dict[str, object]:
            """The state to end in, worked out once for each configuration."""
            name = repr(sorted((key, self.config[key]) for key in self.config if key != "reboot"))
            if name not in known:
                life = make_life()
                known[name] = life.calm(self.config)
                shutil.rmtree(life.tree.root)
            return known[name]

    return Lives


def test_every_life_ends_where_a_fresh_install_ends(
    make_host: Callable[..., hosttree.HostTree], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(timed_write, "write", killing.write_in_process)
    seen: collections.Counter[str] = collections.Counter()

    def make_life() -> Life:
        life = Life(make_host(), monkeypatch, seen)
        # What the made-up host boots at first is not what its tools would write.
        for what in ("initramfs", "grub"):
            life.tools.rebuild(what, lambda said: None)
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
