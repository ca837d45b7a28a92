"""reboot=when-idle: once for one plan, never under a guest, never in a loop."""

from __future__ import annotations

import dataclasses
import inspect
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import hosttree, made
from harness.constants import GPUS, ONE
from harness.world import World

from passthrough import errors, reboot
from passthrough.effects import reboot_request
from passthrough.host import guests
from passthrough.planning import plan, vfs
from passthrough.problem import Kind, Problem
from passthrough.reboot import Action
from passthrough.reporting import words
from passthrough.state import record
from passthrough.system import commands, procfs


@pytest.fixture
def world(world: World) -> World:
    """A unit with reboot=when-idle, whose hooks say whether they reboot."""
    world.config = {"devices": GPUS, "reboot": "when-idle"}
    return world


def hook(world: World) -> reboot.Verdict:
    """One hook; the reboot is left to the caller, as the charm leaves it to Juju."""
    world.hook()
    return world.verdict


def life(world: World, hooks: int, spoil: Callable[[], object] = lambda: None) -> int:
    """So many hooks, with the reboots they ask for; how many those were.

    Args:
        world: where.
        hooks: how many.
        spoil: what becomes of the host with every boot.
    """
    reboots = 0
    for _ in range(hooks):
        if hook(world).action is Action.NOW:
            reboots += 1
            world.reboot()
            spoil()
    return reboots


def asked(world: World) -> record.Reboot | None:
    """The reboot that the record holds."""
    return world.record().reboot


def start_guest(tree: hosttree.HostTree, process: int, name: str = "instance-0000002a") -> None:
    tree.write(f"proc/{process}/cmdline", f"qemu\0-name\0guest={name},debug-threads=on\0-S\0")
    os.symlink("/usr/bin/qemu-system-x86_64", tree.root / f"proc/{process}/exe")


def stop_guest(tree: hosttree.HostTree, process: int) -> None:
    for name in ("cmdline", "exe"):
        (tree.root / f"proc/{process}/{name}").unlink()
    (tree.root / f"proc/{process}").rmdir()


def test_an_idle_host_is_rebooted_once_and_is_ready(world: World):
    verdict = hook(world)
    assert verdict.action is Action.NOW
    assert words.verdict(verdict) == (
        "rebooting: the IOMMU is off until the kernel starts with intel_iommu=on"
    )
    assert world.status.startswith("maintenance: rebooting: the IOMMU is off")
    world.reboot()
    assert hook(world).action is Action.NONE
    assert world.status == "active: gpu: 2 ready"
    assert life(world, 5) == 0


def test_manual_is_the_default_and_never_reboots(world: World):
    del world.config["reboot"]
    assert life(world, 3) == 0
    assert world.status.startswith("blocked: reboot required: the IOMMU is off")
    assert asked(world) is None


def test_it_is_recorded_before_it_is_asked_for(world: World):
    boot_id = world.tree.read("proc/sys/kernel/random/boot_id").strip()
    hook(world)
    last = asked(world)
    assert last
    assert last.boot_id == boot_id


def test_a_crash_between_record_and_request_asks_again(world: World):
    """The host has not started anew, so this is the same reboot still."""
    assert hook(world).action is Action.NOW
    assert hook(world).action is Action.NOW


def test_a_reboot_that_brings_nothing_is_not_repeated(world: World):
    """As where another boot loader comes first: grub.cfg has the option, the kernel has not."""
    hook(world)
    good = world.tree.read("boot/grub/grub.cfg")
    world.tree.write("boot/grub/grub.cfg", good.replace("intel_iommu=on", ""))
    world.reboot()
    world.tree.write("boot/grub/grub.cfg", good)
    assert hook(world).action is Action.SPENT
    assert world.status == (
        "blocked: the reboot did not help: expected intel_iommu=on on the kernel's command line,"
        " found intel_iommu=off; expected an active IOMMU, found no IOMMU group; run verify, then"
        " reboot by hand"
    )
    assert life(world, 5) == 0
    world.reboot()
    assert hook(world).action is Action.NONE
    assert world.status == "active: gpu: 2 ready"


def test_a_reboot_that_the_first_release_asked_for_in_vain_is_not_repeated(world: World):
    """52ee0af recorded another digest of the same options; the digest here is its own."""
    world.config["devices"] = GPUS
    hook(world)
    theirs = "92b2edd8688964b767530fd18cea9f096a0e66595320c243b330fcc503435efa"
    with record.open(world.site) as ledger:
        ledger.update(reboot=record.Reboot(theirs, "an earlier boot"))
    assert hook(world).action is Action.SPENT
    assert life(world, 3) == 0
    world.config["iommu_passthrough"] = True
    assert hook(world).action is Action.NOW, "another configuration is worth another reboot"


def test_what_a_reboot_was_for_is_what_an_operator_asked_for(world: World):
    """Pinned: another digest of the same options would cost every idle host a reboot."""
    world.config["devices"] = ONE
    hook(world)
    last = asked(world)
    assert last
    assert last.plan == "2:f94cb908df3acdf5a059f147af0e49c01c364b71e5d5dbd6effa64286ae2b868"


def test_a_device_that_no_boot_can_bind_costs_one_reboot(world: World):
    life(world, 3)
    world.config["devices"] = f"{GPUS}, more=10de:1bb0@0000:85:00.0"
    world.kernel.fail_probe("0000:85:00.0", "vfio-pci")
    # What the initramfs cannot bind either.
    assert life(world, 6, lambda: world.tree.bind("0000:85:00.0", "nouveau")) == 1
    assert world.status.startswith(
        "blocked: the reboot did not help: expected 0000:85:00.0 on vfio-pci, found nouveau"
        " (vfio-pci did not take it); run verify"
    )


def test_another_plan_may_have_another_reboot(world: World):
    assert life(world, 4) == 1
    world.config["kernel_options"] = "hugepages=64"
    assert life(world, 4) == 1
    assert "hugepages=64" in world.tree.read("proc/cmdline")
    assert world.status == "active: gpu: 2 ready"


def test_no_reboot_while_a_guest_runs(world: World):
    start_guest(world.tree, 4711)
    assert life(world, 3) == 0
    assert asked(world) is None
    assert world.status == (
        "waiting: reboot when no guest runs, and now instance-0000002a (process 4711) does; the"
        " IOMMU is off until the kernel starts with intel_iommu=on"
    )
    stop_guest(world.tree, 4711)
    assert life(world, 3) == 1
    assert world.status == "active: gpu: 2 ready"


def test_many_guests_are_counted(world: World):
    for number in range(5):
        start_guest(world.tree, 100 + number, f"vm{number}")
    hook(world)
    assert "vm0 (process 100), vm1 (process 101) and 3 more does" in world.status


WHY = "the IOMMU is off until the kernel starts with intel_iommu=on"
OSD = "var/lib/ceph/osd/ceph-3"
CONTAINER = "sys/fs/cgroup/lxc.payload.web"
OF_JUJU = "var/snap/lxd/common/lxd/containers/juju-3f2a1c-0-lxd-2"


class TestOthersOnTheHost:
    """A host that others count on is never rebooted by the charm."""

    def test_are_waited_for_and_named(self, world: World):
        (world.root / OSD).mkdir(parents=True)
        (world.root / CONTAINER).mkdir(parents=True)
        (world.root / "var/lib/juju/agents/unit-keystone-0").mkdir(parents=True)
        assert life(world, 3) == 0
        assert asked(world) is None
        assert world.status == (
            "waiting: reboot when nobody needs the host, and now unit keystone/0, container web,"
            f" /{OSD} do; {WHY}"
        )
        for path in (OSD, CONTAINER, "var/lib/juju/agents/unit-keystone-0"):
            (world.root / path).rmdir()
        assert life(world, 3) == 1
        assert world.status == "active: gpu: 2 ready"

    def test_are_named_beside_guests(self, world: World):
        start_guest(world.tree, 4711)
        (world.root / OSD).mkdir(parents=True)
        (world.root / "var/lib/juju/agents/controller-0").mkdir(parents=True)
        world.tree.write("etc/openvswitch/conf.db", "enable-chassis-as-gw")
        hook(world)
        assert world.status == (
            "waiting: reboot when nobody needs the host, and now instance-0000002a (process 4711),"
            f" Juju's controller 0 and 2 more do; {WHY}"
        )

    def test_an_ovn_gateway_is_named_with_its_file(self, world: World):
        world.tree.write("etc/openvswitch/conf.db", "enable-chassis-as-gw")
        hook(world)
        assert world.status == (
            "waiting: reboot when nobody needs the host, and now OVN's gateway"
            f" (/etc/openvswitch/conf.db, which cannot be read) do; {WHY}"
        )

    def test_in_jujus_containers_leave_the_reboot_to_an_operator(self, world: World):
        """Juju waits ten minutes until they have stopped, and gives up."""
        (world.root / OF_JUJU).mkdir(parents=True)
        assert life(world, 3) == 0
        assert asked(world) is None
        assert world.status == (
            "blocked: reboot by hand: Juju waits for the LXD containers juju-3f2a1c-0-lxd-2, and"
            f" gives up; {WHY}"
        )
        (world.root / OSD).mkdir(parents=True)
        start_guest(world.tree, 4711)
        hook(world)
        assert world.status.endswith(
            f"; it takes down instance-0000002a (process 4711), /{OSD}; {WHY}"
        )
        assert reboot.foresee(world.decide()).action is Action.BY_HAND
        for path in (OF_JUJU, OSD):
            (world.root / path).rmdir()
        stop_guest(world.tree, 4711)
        assert life(world, 3) == 1

    def test_are_not_the_principal_and_not_the_other_subordinates(self, world: World):
        for name in ("nova-compute-0", "pci-passthrough-2"):
            (world.root / f"var/lib/juju/agents/unit-{name}").mkdir(parents=True)
        assert hook(world).action is Action.NOW

    def test_are_told_apart_from_the_principal_that_the_record_names(self, world: World):
        (world.root / "var/lib/juju/agents/unit-gpus-4").mkdir(parents=True)
        assert hook(world).action is Action.WAIT
        decision = world.decide()
        assert reboot.judge(decision).action is Action.WAIT
        owner = record.Owner("model", "pci-passthrough/0", "gpus/4")
        known = dataclasses.replace(decision.facts.record, owner=owner)
        facts = dataclasses.replace(decision.facts, record=known)
        owned = dataclasses.replace(decision, facts=facts)
        assert reboot.judge(owned).action is Action.NOW
        assert reboot.judge(owned, principal="other/0").action is Action.WAIT

    def test_that_cannot_be_seen_keep_the_host_up(self, world: World):
        world.tree.write("var/lib/juju/agents", "no directory")
        with pytest.raises(NotADirectoryError):
            world.hook()
        assert asked(world) is None


class TestNovaCompute:
    """Nova schedules no guest into a reboot, and has its service back where none happens."""

    @pytest.fixture
    def world(self, world: World) -> World:
        world.nova.install()
        hook(world)
        world.reboot()
        world.hook()
        world.config["kernel_options"] = "hugepages=64"
        world.forget()
        return world

    def calls(self, world: World) -> list[str]:
        found = [each for each in world.tools.calls if each.split()[0] in ("stop", "start")]
        world.forget()
        return found

    def test_stops_for_the_reboot_and_starts_with_the_host(self, world: World):
        assert hook(world).action is Action.NOW
        assert self.calls(world) == ["stop nova-compute"]
        assert getattr(asked(world), "stopped", None) is True
        world.reboot()
        assert hook(world).action is Action.NONE
        assert self.calls(world) == []
        assert getattr(asked(world), "stopped", None) is False
        assert world.status == "active: gpu: 2 ready"

    def test_starts_in_the_next_hook_where_the_reboot_is_not_due_any_more(self, world: World):
        hook(world)
        self.calls(world)
        world.config["reboot"] = "manual"
        hook(world)
        assert self.calls(world) == ["start nova-compute"]
        hook(world)
        assert self.calls(world) == []

    def test_starts_again_where_a_guest_came_until_it_had_stopped(self, world: World):
        before = asked(world)
        world.tools.after_stop = lambda service: start_guest(world.tree, 4711)
        assert hook(world).action is Action.WAIT
        assert self.calls(world) == ["stop nova-compute", "start nova-compute"]
        assert asked(world) == before
        assert "instance-0000002a (process 4711)" in world.status

    def test_starts_again_where_a_container_came_meanwhile(self, world: World):
        world.tools.after_stop = lambda service: (world.root / CONTAINER).mkdir(parents=True)
        assert hook(world).action is Action.WAIT
        assert self.calls(world) == ["stop nova-compute", "start nova-compute"]

    def test_that_does_not_stop_keeps_the_host_up(self, world: World):
        world.tools.failing["stop"] = "job timed out"
        with pytest.raises(commands.CommandError, match="job timed out"):
            world.hook()
        world.tools.failing.clear()
        world.config["reboot"] = "manual"
        hook(world)
        assert self.calls(world) == ["stop nova-compute"]
        assert getattr(asked(world), "stopped", None) is False

    def test_that_does_not_run_is_neither_stopped_nor_started(self, world: World):
        world.tools.services.clear()
        hook(world)
        world.config["reboot"] = "manual"
        hook(world)
        assert self.calls(world) == []

    def test_that_somebody_has_started_meanwhile_is_left_alone(self, world: World):
        hook(world)
        world.tools.services["nova-compute"] = "other"
        world.config["reboot"] = "manual"
        hook(world)
        assert self.calls(world) == ["stop nova-compute"]
        assert getattr(asked(world), "stopped", None) is False

    def test_starts_before_the_unit_leaves(self, world: World):
        hook(world)
        self.calls(world)
        reboot_request.resume(world.site, world.tools)
        assert self.calls(world) == ["start nova-compute"]


def test_whoever_has_no_tools_records_a_reboot_and_stops_nothing(world: World):
    world.nova.install()
    result = world.run(world.wanted)
    assert reboot_request.arrange(result.decision).action is Action.NOW
    assert getattr(asked(world), "stopped", None) is False
    assert "stop nova-compute" not in world.tools.calls


class TestNoLoop:
    def test_where_juju_never_reboots(self, world: World):
        """Juju 4.0 before 4.0.13 forgets the request."""
        world.nova.install()
        asked_for = [hook(world).action for _ in range(6)]
        assert asked_for == [Action.NOW] * 3 + [Action.BY_HAND] * 3
        assert world.status == (
            "blocked: reboot by hand: Juju was asked 3 times and has not rebooted the host; " + WHY
        )
        assert world.tools.services, "nova-compute runs again"
        world.reboot()
        assert hook(world).action is Action.NONE
        assert world.status == "active: gpu: 2 ready"

    def test_where_each_boot_forgets_the_record(self, world: World):
        world.tree.write("proc/self/mountinfo", "20 1 0:20 / / rw - overlay overlayroot rw\n")
        assert life(world, 3) == 0
        assert world.status == (
            "blocked: reboot by hand: the host forgets at each boot what is below / (overlay); "
            + WHY
        )

    def test_where_the_clock_jumps(self, world: World):
        """What counts is the boot's id: no time is compared."""
        hook(world)
        world.reboot()
        path = world.root / record.DIRECTORY / "pci-passthrough.json"
        for moment in (1, 2**33):
            os.utime(path, (moment, moment))
            assert life(world, 3) == 0


@pytest.mark.parametrize(
    "arrange",
    [
        lambda world: world.config.update(devices=f"{GPUS}, x=8086:2020@0000:00:00.0"),
        lambda world: world.tree.write(
            "etc/default/grub.d/99-zz.cfg", "GRUB_CMDLINE_LINUX_DEFAULT=quiet\n"
        ),
        lambda world: (world.root / "proc/sys/kernel/random/boot_id").unlink(),
    ],
    ids=["something-is-refused", "another-writer-spoils-it", "no-boot-id"],
)
def test_no_reboot_that_would_have_to_be_repeated(world: World, arrange: Callable[[World], object]):
    arrange(world)
    assert life(world, 3) == 0
    assert asked(world) is None
    assert world.status.startswith("blocked: ")


def test_whoever_only_looks_says_what_the_next_hook_does(world: World):
    hook(world)
    before = asked(world)
    decision = world.decide()
    verdict = reboot.foresee(decision)
    assert verdict.action is Action.WAIT
    assert words.verdict(verdict) == (
        "the next hook reboots the host: the IOMMU is off until the kernel starts with"
        " intel_iommu=on"
    )
    assert asked(world) == before


def test_a_device_that_comes_and_goes_between_boots_makes_no_loop(world: World):
    """Its coming and going changes the claims; what was asked for is the same."""
    decision = world.decide()
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
    def world(self, world: World) -> World:
        tree = world.tree
        world.turn_iommu_on()
        tree.bridge("0000:80:09.0")
        tree.function("0000:99:00.0", "1002:73bf", 0x030000, parent="0000:80:09.0", driver="amdgpu")
        tree.iommu_on()
        return world

    def late_boots(self, world: World, number: int) -> int:
        """So many boots with the device missing in the first hook; how many were asked for."""
        world.kernel.fail_probe(self.LATE, "vfio-pci")
        reboots = 0
        for _ in range(number):
            world.tree.unplug(self.LATE)
            assert hook(world).action is Action.NONE
            world.tree.plug(self.LATE)
            if hook(world).action is Action.NOW:
                reboots += 1
                world.reboot()
                world.tree.bind(self.LATE, "nouveau")
        return reboots

    @pytest.mark.parametrize("alias", ["gpu=", ""], ids=["alias", "no-alias"])
    @pytest.mark.parametrize("nova", [False, True], ids=["no-nova", "nova"])
    def test_coming_late_with_every_boot_costs_one_reboot(self, world: World, alias, nova: bool):
        if nova:
            world.nova.install()
        world.config["devices"] = f"{alias}10de:1bb0@{self.LATE}"
        assert self.late_boots(world, 4) == 1
        assert world.status.startswith("blocked: the reboot did not help: expected 0000:85:00.0 on")

    def boot_often(self, world: World, other: str) -> tuple[int, set[bool]]:
        """Boot four times, every other time without one; count reboots, and tell of blacklists."""
        world.config["devices"] = "gpu=10de:1bb0@0000:83:00.0, amd=1002:73bf"
        world.kernel.fail_probe("0000:83:00.0", "vfio-pci")
        reboots, tokens = 0, set[bool]()
        for boot in range(4):
            if boot % 2:
                world.tree.unplug(other)
            reboots += hook(world).action is Action.NOW
            tokens.add("amdgpu" in world.tree.read("boot/grub/grub.cfg"))
            for address in world.tree.unplugged:
                world.tree.plug(address)
            world.reboot()
            world.tree.bind("0000:83:00.0", "nouveau")
        return reboots, tokens

    def test_whose_blacklist_comes_and_goes_costs_one_reboot(self, world: World):
        """A display of the host's own is there in every other boot, and needs its driver then."""
        own = "0000:9a:00.0"
        world.tree.function(own, "1002:6611", 0x030000, parent="0000:80:09.0", driver="amdgpu")
        assert self.boot_often(world, own) == (1, {False, True})

    def test_that_is_away_in_every_other_boot_keeps_its_blacklist(self, world: World):
        assert self.boot_often(world, "0000:99:00.0") == (1, {True})

    def test_gets_another_reboot_for_another_configuration(self, world: World):
        world.config["devices"] = f"gpu=10de:1bb0@{self.LATE}"
        assert self.late_boots(world, 3) == 1
        world.config["kernel_options"] = "hugepages=64"
        assert self.late_boots(world, 3) == 1

    def test_leaves_nothing_behind_when_the_charm_goes(self, world: World):
        world.config["devices"] = f"gpu=10de:1bb0@{self.LATE}"
        self.late_boots(world, 2)
        world.tree.unplug(self.LATE)
        hook(world)
        assert asked(world), "remembered without a device"
        world.leave()
        assert list(world.root.rglob("*pci-passthrough*")) == []


def test_a_device_that_never_comes_back_from_vfio_costs_one_reboot(world: World):
    """Nothing is asked for any more, and another tool gives it to vfio-pci in every boot."""
    life(world, 3)
    world.config["devices"] = ""
    world.kernel.refuse("0000:83:00.0/driver/unbind")
    assert life(world, 5, lambda: world.tree.bind("0000:83:00.0", "vfio-pci")) == 1
    assert world.status.startswith(
        "blocked: the reboot did not help: expected 0000:83:00.0 on nouv"
    )
    world.kernel.relent()
    hook(world)
    assert list(world.root.rglob("*pci-passthrough*")) == []


class TestCauseFirst:
    """The first reason is what the status says, and the others follow from it."""

    OFF = Problem(Kind.IOMMU_IS_OFF, "the IOMMU is off until the kernel starts with intel_iommu=on")
    LACKS = Problem(Kind.KERNEL_LACKS_OPTIONS, "the running kernel lacks nosmt")
    TAKEN = plan.Binding("0000:83:00.0", "nouveau", "vfio-pci")
    RELEASED = plan.Binding("0000:84:00.0", "vfio-pci", "nouveau")

    def facts(self, *reboot_for: Problem, **failed: errors.BindError) -> list[str]:
        planned = plan.Plan(bind=(self.TAKEN,), release=(self.RELEASED,), reboot=reboot_for)
        by_address = {each.address: each for each in failed.values()}
        return [words.sentence(each) for each in reboot.reasons(planned, by_address)]

    def test_the_iommu_before_the_drivers(self):
        assert self.facts(self.LACKS, self.OFF) == [
            "the IOMMU is off until the kernel starts with intel_iommu=on",
            "the running kernel lacks nosmt",
            "0000:83:00.0 is on nouveau, not vfio-pci",
            "0000:84:00.0 is on vfio-pci, not nouveau",
        ]

    def test_a_driver_that_does_not_let_go_before_what_waits_for_it(self):
        stuck = errors.StuckError(self.RELEASED.address, "vfio-pci has not released the device")
        waits = errors.PostponedError.after(stuck, self.TAKEN.address)
        assert [each.partition(" ")[0] for each in self.facts(stuck=stuck, waits=waits)] == [
            self.RELEASED.address,
            self.TAKEN.address,
        ]

    def test_every_kind_of_reason_has_its_place(self):
        """A kind without one would end the hook."""
        made = set(re.findall(r"Problem\(\s*Kind\.([A-Z_]+)", inspect.getsource(plan)))
        made |= set(re.findall(r"Problem\(\s*Kind\.([A-Z_]+)", inspect.getsource(vfs)))
        made |= set(re.findall(r"Kind\.([A-Z_]+)", inspect.getsource(reboot.reasons)))
        assert made == {each.name for each in reboot._CAUSES_FIRST}


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
