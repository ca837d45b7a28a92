"""reboot=when-idle: once for one plan, never under a guest, never in a loop."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import hosttree, made
from harness.constants import GPUS
from harness.fakekernel import FakeKernel, FakeTools

from passthrough import reboot, reconcile, survey
from passthrough.config import options
from passthrough.effects import reboot_request
from passthrough.host import guests
from passthrough.reboot import Action
from passthrough.reporting import status, words
from passthrough.site import Site
from passthrough.state import record
from passthrough.system import procfs

APPLICATION = "pci-passthrough"


class Unit:
    """A unit with reboot=when-idle, whose hooks say whether they reboot."""

    def __init__(self, tree: hosttree.HostTree, kernel: FakeKernel, tools: FakeTools):
        self.tree = tree
        self.kernel = kernel
        self.tools = tools
        self.config: dict[str, Any] = {"devices": GPUS, "reboot": "when-idle"}
        self.status = ""

    def hook(self) -> reboot.Verdict:
        """One hook; the reboot is left to the caller, as the charm leaves it to Juju."""
        wanted = made.wanted(**self.config)
        result = reconcile.reconcile(
            Site(self.tree.root, APPLICATION), wanted, self.tools, lambda said: None
        )
        verdict = reboot_request.arrange(result.decision, result.outcome.failed)
        found = status.summarize(result.decision, result.outcome.failed, verdict)
        self.status = f"{found.kind}: {found.message}"
        return verdict

    def life(self, hooks: int) -> int:
        """So many hooks, with the reboots they ask for; how many those were."""
        reboots = 0
        for _ in range(hooks):
            if self.hook().action is Action.NOW:
                reboots += 1
                self.kernel.reboot()
        return reboots

    @property
    def asked(self) -> record.Reboot | None:
        return record.read(Site(self.tree.root, APPLICATION)).reboot


@pytest.fixture
def unit(tree: hosttree.HostTree, kernel: FakeKernel, tools: FakeTools) -> Unit:
    return Unit(tree, kernel, tools)


def start_guest(tree: hosttree.HostTree, process: int, name: str = "instance-0000002a") -> None:
    tree.write(f"proc/{process}/cmdline", f"qemu\0-name\0guest={name},debug-threads=on\0-S\0")
    os.symlink("/usr/bin/qemu-system-x86_64", tree.root / f"proc/{process}/exe")


def stop_guest(tree: hosttree.HostTree, process: int) -> None:
    for name in ("cmdline", "exe"):
        (tree.root / f"proc/{process}/{name}").unlink()
    (tree.root / f"proc/{process}").rmdir()


def test_an_idle_host_is_rebooted_once_and_is_ready(unit: Unit):
    verdict = unit.hook()
    assert verdict.action is Action.NOW
    assert words.verdict(verdict) == (
        "rebooting: the IOMMU is off until the kernel starts with intel_iommu=on"
    )
    assert unit.status.startswith("maintenance: rebooting: the IOMMU is off")
    unit.kernel.reboot()
    assert unit.hook().action is Action.NONE
    assert unit.status == "active: gpu: 2 ready"
    assert unit.life(5) == 0


def test_manual_is_the_default_and_never_reboots(unit: Unit):
    del unit.config["reboot"]
    assert unit.life(3) == 0
    assert unit.status.startswith("blocked: reboot required: the IOMMU is off")
    assert unit.asked is None


def test_it_is_recorded_before_it_is_asked_for(unit: Unit):
    boot_id = unit.tree.read("proc/sys/kernel/random/boot_id").strip()
    unit.hook()
    assert unit.asked
    assert unit.asked.boot_id == boot_id


def test_a_crash_between_record_and_request_asks_again(unit: Unit):
    """The host has not started anew, so this is the same reboot still."""
    assert unit.hook().action is Action.NOW
    assert unit.hook().action is Action.NOW


def test_a_reboot_that_brings_nothing_is_not_repeated(unit: Unit):
    """As where another boot loader comes first: grub.cfg has the option, the kernel has not."""
    unit.hook()
    good = unit.tree.read("boot/grub/grub.cfg")
    unit.tree.write("boot/grub/grub.cfg", good.replace("intel_iommu=on", ""))
    unit.kernel.reboot()
    unit.tree.write("boot/grub/grub.cfg", good)
    assert unit.hook().action is Action.SPENT
    assert unit.status == (
        "blocked: the reboot did not help: expected intel_iommu=on on the kernel's command line,"
        " found intel_iommu=off; expected an active IOMMU, found no IOMMU group; run verify, then"
        " reboot by hand"
    )
    assert unit.life(5) == 0
    unit.kernel.reboot()
    assert unit.hook().action is Action.NONE
    assert unit.status == "active: gpu: 2 ready"


def test_a_reboot_that_the_first_release_asked_for_in_vain_is_not_repeated(unit: Unit):
    """52ee0af recorded another digest of the same options; the digest here is its own."""
    unit.config["devices"] = "gpu=10de:1bb0@0000:83:00.0, gpu=10de:1bb0@0000:84:00.0"
    unit.hook()
    theirs = "92b2edd8688964b767530fd18cea9f096a0e66595320c243b330fcc503435efa"
    with record.open(Site(unit.tree.root, APPLICATION)) as ledger:
        ledger.update(reboot=record.Reboot(theirs, "an earlier boot"))
    assert unit.hook().action is Action.SPENT
    assert unit.life(3) == 0
    unit.config["iommu_passthrough"] = True
    assert unit.hook().action is Action.NOW, "another configuration is worth another reboot"


def test_what_a_reboot_was_for_is_what_an_operator_asked_for(unit: Unit):
    """Pinned: another digest of the same options would cost every idle host a reboot."""
    unit.config["devices"] = "gpu=10de:1bb0@0000:83:00.0"
    unit.hook()
    assert unit.asked
    assert unit.asked.plan == "2:f94cb908df3acdf5a059f147af0e49c01c364b71e5d5dbd6effa64286ae2b868"


def test_a_device_that_no_boot_can_bind_costs_one_reboot(unit: Unit):
    unit.life(3)
    unit.config["devices"] = f"{GPUS}, more=10de:1bb0@0000:85:00.0"
    unit.kernel.fail_probe("0000:85:00.0", "vfio-pci")
    reboots = 0
    for _ in range(6):
        if unit.hook().action is Action.NOW:
            reboots += 1
            unit.kernel.reboot()
            # What the initramfs cannot bind either.
            unit.tree.bind("0000:85:00.0", "nouveau")
    assert reboots == 1
    assert unit.status.startswith(
        "blocked: the reboot did not help: expected 0000:85:00.0 on vfio-pci, found nouveau"
        " (vfio-pci did not take it); run verify"
    )


def test_another_plan_may_have_another_reboot(unit: Unit):
    assert unit.life(4) == 1
    unit.config["kernel_options"] = "hugepages=64"
    assert unit.life(4) == 1
    assert "hugepages=64" in unit.tree.read("proc/cmdline")
    assert unit.status == "active: gpu: 2 ready"


def test_no_reboot_while_a_guest_runs(unit: Unit):
    start_guest(unit.tree, 4711)
    assert unit.life(3) == 0
    assert unit.asked is None
    assert unit.status == (
        "waiting: reboot when no guest runs, and now instance-0000002a (process 4711) does: the"
        " IOMMU is off until the kernel starts with intel_iommu=on"
    )
    stop_guest(unit.tree, 4711)
    assert unit.life(3) == 1
    assert unit.status == "active: gpu: 2 ready"


def test_many_guests_are_counted(unit: Unit):
    for number in range(5):
        start_guest(unit.tree, 100 + number, f"vm{number}")
    unit.hook()
    assert "vm0 (process 100), vm1 (process 101), vm2 (process 102) and 2 more does" in unit.status


@pytest.mark.parametrize(
    "arrange",
    [
        lambda unit: unit.config.update(devices=f"{GPUS}, x=8086:2020@0000:00:00.0"),
        lambda unit: unit.tree.write(
            "etc/default/grub.d/99-zz.cfg", "GRUB_CMDLINE_LINUX_DEFAULT=quiet\n"
        ),
        lambda unit: (unit.tree.root / "proc/sys/kernel/random/boot_id").unlink(),
    ],
    ids=["something-is-refused", "another-writer-spoils-it", "no-boot-id"],
)
def test_no_reboot_that_would_have_to_be_repeated(unit: Unit, arrange: Callable[[Unit], object]):
    arrange(unit)
    assert unit.life(3) == 0
    assert unit.asked is None
    assert unit.status.startswith("blocked: ")


def test_whoever_only_looks_says_what_the_next_hook_does(unit: Unit):
    unit.hook()
    before = unit.asked
    decision = survey.decide(
        made.wanted(**unit.config), survey.look(Site(unit.tree.root, APPLICATION))
    )
    verdict = reboot.foresee(decision)
    assert verdict.action is Action.WAIT
    assert words.verdict(verdict) == (
        "the next hook reboots the host: the IOMMU is off until the kernel starts with"
        " intel_iommu=on"
    )
    assert unit.asked == before


def test_a_device_that_comes_and_goes_between_boots_makes_no_loop(unit: Unit):
    """Its coming and going changes the claims; what was asked for is the same."""
    decision = survey.decide(
        made.wanted(**unit.config), survey.look(Site(unit.tree.root, APPLICATION))
    )
    fewer = dataclasses.replace(
        decision, outcome=dataclasses.replace(decision.outcome, claims=decision.claims[:2])
    )
    assert reboot.key(decision) == reboot.key(fewer)
    other = dataclasses.replace(decision, options=made.wanted(GPUS, iommu_passthrough=True))
    assert reboot.key(decision) != reboot.key(other)


class TestDeviceThatFlaps:
    """It is there in some hooks and not in others, and no reboot brings what was asked for."""

    LATE = "0000:85:00.0"

    @pytest.fixture
    def unit(self, tree: hosttree.HostTree, kernel: FakeKernel, tools: FakeTools) -> Unit:
        tree.set_command_line("quiet splash intel_iommu=on")
        tree.iommu_on()
        tree.bridge("0000:80:09.0")
        tree.function("0000:99:00.0", "1002:73bf", 0x030000, parent="0000:80:09.0", driver="amdgpu")
        tree.iommu_on()
        return Unit(tree, kernel, tools)

    def late_boots(self, unit: Unit, number: int) -> int:
        """So many boots with the device missing in the first hook; how many were asked for."""
        unit.kernel.fail_probe(self.LATE, "vfio-pci")
        reboots = 0
        for _ in range(number):
            unit.tree.unplug(self.LATE)
            assert unit.hook().action is Action.NONE
            unit.tree.plug(self.LATE)
            if unit.hook().action is Action.NOW:
                reboots += 1
                unit.kernel.reboot()
                unit.tree.bind(self.LATE, "nouveau")
        return reboots

    @pytest.mark.parametrize("alias", ["gpu=", ""], ids=["alias", "no-alias"])
    @pytest.mark.parametrize("nova", [False, True], ids=["no-nova", "nova"])
    def test_coming_late_with_every_boot_costs_one_reboot(self, unit: Unit, alias, nova: bool):
        if nova:
            unit.tree.install_nova()
            unit.tree.write("etc/group", f"root:x:0:\nnova:x:{os.getgid()}:nova\n")
            unit.tools.services["nova-compute"] = "run"
        unit.config["devices"] = f"{alias}10de:1bb0@{self.LATE}"
        assert self.late_boots(unit, 4) == 1
        assert unit.status.startswith("blocked: the reboot did not help: expected 0000:85:00.0 on")

    def test_whose_blacklist_comes_and_goes_costs_one_reboot(self, unit: Unit):
        """Another display is there in every other boot, and its drivers are kept off then."""
        unit.config["devices"] = "gpu=10de:1bb0@0000:83:00.0, amd=1002:73bf"
        unit.kernel.fail_probe("0000:83:00.0", "vfio-pci")
        reboots, tokens = 0, set()
        for boot in range(4):
            if boot % 2:
                unit.tree.unplug("0000:99:00.0")
            reboots += unit.hook().action is Action.NOW
            tokens.add("amdgpu" in unit.tree.read("boot/grub/grub.cfg"))
            for address in unit.tree.unplugged:
                unit.tree.plug(address)
            unit.kernel.reboot()
            unit.tree.bind("0000:83:00.0", "nouveau")
        assert (reboots, tokens) == (1, {False, True})

    def test_gets_another_reboot_for_another_configuration(self, unit: Unit):
        unit.config["devices"] = f"gpu=10de:1bb0@{self.LATE}"
        assert self.late_boots(unit, 3) == 1
        unit.config["kernel_options"] = "hugepages=64"
        assert self.late_boots(unit, 3) == 1

    def test_leaves_nothing_behind_when_the_charm_goes(self, unit: Unit):
        unit.config["devices"] = f"gpu=10de:1bb0@{self.LATE}"
        self.late_boots(unit, 2)
        unit.tree.unplug(self.LATE)
        unit.hook()
        assert unit.asked, "remembered without a device"
        reconcile.reconcile(
            Site(unit.tree.root, APPLICATION),
            options.Options(leaving=True),
            unit.tools,
            lambda said: None,
        )
        assert list(unit.tree.root.rglob("*pci-passthrough*")) == []


def test_a_device_that_never_comes_back_from_vfio_costs_one_reboot(unit: Unit):
    """Nothing is asked for any more, and another tool gives it to vfio-pci in every boot."""
    unit.life(3)
    unit.config["devices"] = ""
    unit.kernel.refuse("0000:83:00.0/driver/unbind")
    reboots = 0
    for _ in range(5):
        if unit.hook().action is Action.NOW:
            reboots += 1
            unit.kernel.reboot()
            unit.tree.bind("0000:83:00.0", "vfio-pci")
    assert reboots == 1
    assert unit.status.startswith("blocked: the reboot did not help: expected 0000:83:00.0 on nouv")
    unit.kernel.relent()
    unit.hook()
    assert list(unit.tree.root.rglob("*pci-passthrough*")) == []


class TestGuests:
    def test_by_program(self, tree: hosttree.HostTree):
        start_guest(tree, 12, "one")
        os.symlink("/usr/bin/bash", _process(tree, 13) / "exe")
        os.symlink("/usr/bin/qemu-system-aarch64 (deleted)", _process(tree, 14) / "exe")
        os.symlink("/usr/bin/qemu-img", _process(tree, 15) / "exe")
        assert guests.running(procfs.Processes(tree.root)) == (
            guests.Guest(12, "one"),
            guests.Guest(14, "qemu-system-aarch64"),
        )

    @pytest.mark.parametrize(
        ("target", "counts"),
        [
            ("anon_inode:kvm-vm", True),
            ("anon_inode:kvm-vcpu:0", False),
            ("/dev/kvm", False),
            ("/dev/vfio/17", True),
            ("/dev/vfio/devices/vfio0", True),
            ("/dev/vfio/vfio", False),
            ("/var/log/syslog", False),
        ],
    )
    def test_by_what_a_process_has_open(self, tree: hosttree.HostTree, target: str, counts: bool):
        descriptors = _process(tree, 20) / "fd"
        descriptors.mkdir()
        os.symlink(target, descriptors / "9")
        assert bool(guests.running(procfs.Processes(tree.root))) is counts

    def test_by_libvirts_files(self, tree: hosttree.HostTree):
        for process in (30, 31):
            _process(tree, process)
        tree.write("run/libvirt/qemu/instance-1.pid", "30")
        tree.write("run/libvirt/qemu/driver.pid", "31")
        tree.write("run/libvirt/qemu/gone.pid", "32")
        tree.write("run/libvirt/qemu/broken.pid", "x")
        assert [each.process for each in guests.running(procfs.Processes(tree.root))] == [30]

    def test_hostile_name_is_not_shown(self, tree: hosttree.HostTree):
        start_guest(tree, 12, "x\x1b[2J")
        assert guests.running(procfs.Processes(tree.root))[0].name == "qemu-system-x86_64"


def _process(tree: hosttree.HostTree, number: int) -> Path:
    directory = tree.root / f"proc/{number}"
    directory.mkdir(parents=True)
    return directory
