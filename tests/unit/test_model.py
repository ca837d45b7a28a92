"""Any life of a host ends where a fresh install of its last configuration ends.

Random sequences of configurations, failures, kills, guests, boots and other people's changes, on a
host whose kernel and tools answer. When all is calm again, hooks and boots have to bring the host
to the very state that the last configuration gives on a host that never had another one.
"""

from __future__ import annotations

import os
import shutil
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import hosttree
import hypothesis
import pytest
from hypothesis import stateful, strategies
from unit import killing, made
from unit.fakekernel import GPU_BUSES, FakeKernel, FakeTools

from passthrough import PassthroughError, boot, bounded, reconcile

pytestmark = pytest.mark.faults

APPLICATION = "pci-passthrough"
SEQUENCES = 200
STEPS = 10


def devices(buses: Iterable[str]) -> str:
    """The option that asks for the cards on these buses."""
    return ", ".join(f"gpu=10de:1bb0@{bus}:00.0" for bus in sorted(buses))


def with_all_that_need_it(config: dict[str, Any]) -> dict[str, Any]:
    """A driver is only kept off where the host keeps no card that needs it."""
    every = {"devices": devices(GPU_BUSES)} if config["blacklist_drivers"] == "nouveau" else {}
    return {**config, **every}


CONFIGS = strategies.fixed_dictionaries(
    {
        "devices": strategies.sets(strategies.sampled_from(GPU_BUSES)).map(devices),
        "kernel_options": strategies.sampled_from(["", "a=b", "hugepages=64 c"]),
        "blacklist_drivers": strategies.sampled_from(["auto", "", "nouveau"]),
        "iommu_passthrough": strategies.booleans(),
    }
).map(with_all_that_need_it)
FUNCTIONS = strategies.sampled_from([f"0000:{bus}:00.{n}" for bus in GPU_BUSES for n in (0, 1)])
OWNED = [file.path for file in boot.owned_files(APPLICATION)]


class Life:
    """One host and what happens to it."""

    def __init__(self, tree: hosttree.HostTree, patch: pytest.MonkeyPatch):
        self.tree = tree
        self.kernel = FakeKernel(tree, patch)
        self.tools = FakeTools(tree)
        self.holds: dict[str, Path] = {}

    def run(self, config: dict[str, Any]) -> reconcile.Result:
        """One hook; the errors that a charm shows are passed on."""
        wanted = made.wanted(**config)
        return reconcile.reconcile(
            self.tree.root, APPLICATION, wanted, self.tools, lambda said: None
        )

    def attempt(self, config: dict[str, Any]) -> None:
        """One hook, whatever becomes of it; no guest loses its device."""
        held = {each: self.tree.driver_of(each) for each in self.holds}
        try:
            self.run(config)
        except (PassthroughError, OSError):
            assert self.tools.failing or self.kernel._refused, "nothing was wrong"
        assert {each: self.tree.driver_of(each) for each in self.holds} == held

    def boot(self) -> None:
        """Start anew: guests are gone."""
        self.release()
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
        for _ in range(2):
            self.run(config)
            self.boot()
        result = self.run(config)
        assert not result.survey.plan.reboot
        assert self.run(config).outcome.did == (), "a settled host is left alone"
        return self.state()

    def state(self) -> dict[str, object]:
        found: dict[str, object] = dict(
            self.tree.snapshot("etc", "boot/grub", "var/lib/pci-passthrough", "run")
        )
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

    class Lives(stateful.RuleBasedStateMachine):
        def __init__(self):
            super().__init__()
            self.life = make_life()
            self.config: dict[str, Any] = {"devices": ""}
            self.installed = False

        @stateful.rule(config=CONFIGS)
        def configure(self, config: dict[str, Any]):
            self.config = config
            self.installed = True
            self.life.attempt(config)

        @stateful.rule()
        def hook(self):
            self.life.attempt(self.config)

        @stateful.rule(config=CONFIGS, number=strategies.integers(1, 90))
        def kill(self, config: dict[str, Any], number: int):
            self.config = config
            life = self.life
            killing.run_killed(number, life.kernel, life.tools, lambda: life.attempt(config))

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
            has_group = (life.tree.directory(address) / "iommu_group").exists()
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
            ended = self.life.calm(self.config)
            fresh = make_life()
            assert ended == fresh.calm(self.config)
            for life in (self.life, fresh):
                shutil.rmtree(life.tree.root)

    return Lives


def test_every_life_ends_where_a_fresh_install_ends(
    make_host: Callable[..., hosttree.HostTree], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(bounded, "write", killing.write_in_process)

    def make_life() -> Life:
        life = Life(make_host(), monkeypatch)
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
