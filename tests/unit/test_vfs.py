"""VFs that the charm makes and keeps, on a made-up host: hooks, reboots, kills, removals."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable

import pytest
from harness import constants, hosttree, killing, made
from harness.hosttree import kernel as model
from harness.world import World

from passthrough import confirm, errors, reboot
from passthrough.reporting import plan_text
from passthrough.state import record
from passthrough.system import timed_write

PF, OTHER_PF = "0000:3b:00.0", "0000:3b:00.1"
PF_ID, VF_ID = "8086:10c9", "8086:10ca"
VFS = [f"0000:3b:10.{number}" for number in (0, 2, 4, 6)]
PORT, MAC = "eno1", "52:54:00:00:00:01"
UNIT = "etc/systemd/system/pci-passthrough-vfs.service"
STARTS = "etc/systemd/system/multi-user.target.d/pci-passthrough-vfs.conf"
SCRIPT = "var/lib/pci-passthrough/pci-passthrough.vfs.sh"
WAITS = (
    "blocked: reboot required: 0000:3b:00.0 gets its 2 VFs at the next boot (its port would be"
    " reset, and eno1"
)


def count(number: int, **more: object) -> str:
    """The item that has the card have so many VFs."""
    return json.dumps({"id": PF_ID, "address": PF, "vfs": number, **more})


def ask(number: int) -> str:
    """The whole option: so many VFs of the card, and an alias for them."""
    return f"[{count(number)}, vf={VF_ID}/VF]"


@pytest.fixture
def bare(make_host: Callable[..., hosttree.HostTree], monkeypatch: pytest.MonkeyPatch) -> World:
    """A host with a card of two ports that can have VFs; its IOMMU is off, its port is down."""
    tree = make_host()
    for address in (PF, OTHER_PF):
        tree.unplug(address)
        tree.function(
            address, PF_ID, made.ETHERNET, parent="0000:3a:00.0", driver="igb", total_vfs=7
        )
    shutil.rmtree(tree.root / ".made/unplugged")
    tree.can_have_vfs(PF, VFS, VF_ID, driver="igbvf")
    tree.nic(PF, PORT, mac=MAC)
    monkeypatch.setattr(timed_write, "write", killing.write_in_process)
    return World.of(tree, monkeypatch)


@pytest.fixture
def world(bare: World) -> World:
    """The same with its IOMMU on."""
    bare.turn_iommu_on()
    return bare


@pytest.fixture
def having(world: World) -> World:
    """It has two VFs, which are ready."""
    assert world.hook(ask(2)).message == "vf: 2 ready"
    world.forget()
    return world


def attribute(world: World, name: str, address: str = PF) -> str:
    return world.tree.read(f"{model.DEVICES}/{address}/{name}").strip()


def numbers(world: World) -> tuple[int, str]:
    """How many VFs there are, and whether their own driver may have them."""
    return int(attribute(world, "sriov_numvfs")), attribute(world, model.AUTOPROBE)


def vf_drivers(world: World) -> list[str | None]:
    there = [each for each in VFS if (world.root / model.DEVICES / each).exists()]
    return [world.tree.driver_of(each) for each in there]


def set_up(world: World) -> None:
    (world.root / f"sys/class/net/{PORT}/flags").write_text("0x1003\n")


def set_down(world: World) -> None:
    (world.root / f"sys/class/net/{PORT}/flags").write_text("0x1002\n")


def had_native_driver(world: World) -> bool:
    """Whether the VFs' own driver was ever asked to let one go: it never has one."""
    return any("drivers/igbvf" in each for each in world.kernel.writes())


class TestWhileTheHostRuns:
    def test_a_port_that_is_down_gets_them_at_once(self, world):
        assert str(world.hook(ask(2)).message) == "vf: 2 ready"
        assert numbers(world) == (2, "1")
        assert vf_drivers(world) == ["vfio-pci", "vfio-pci"]
        assert world.record().vfs == {PF: record.Vfs(2)}
        assert not had_native_driver(world)

    def test_their_own_driver_is_kept_off_until_udev_is_done(self, world):
        world.tools.settle_devices = lambda: world.tools.calls.append(
            f"settle with {numbers(world)}"
        )
        world.hook(ask(2))
        assert "settle with (2, '0')" in world.tools.calls
        written = [each for each in world.kernel.writes() if "sriov" in each]
        assert [each.rpartition("/")[2] for each in written] == [
            "sriov_drivers_autoprobe='0'",
            "sriov_numvfs='2'",
            "sriov_drivers_autoprobe='1'",
        ]
        assert world.tree.driver_of(VFS[0]) == "vfio-pci"

    def test_what_their_own_driver_may_have_is_put_back_as_it_was(self, world):
        world.tree.write(f"{model.DEVICES}/{PF}/{model.AUTOPROBE}", "0\n")
        world.hook(ask(2))
        assert numbers(world) == (2, "0")

    def test_the_next_hook_has_nothing_to_do(self, having):
        assert having.hook().message == "vf: 2 ready"
        assert having.result.outcome.did == ()
        assert having.kernel.writes() == []

    def test_without_an_item_for_them_the_status_says_so(self, world):
        status = world.hook(f"[{count(2)}]")
        assert status.message == f"{PF} has 2 VFs, and no item claims any"
        assert vf_drivers(world) == [None, None]

    @pytest.mark.parametrize(
        ("make_busy", "why"),
        [
            (set_up, "is up"),
            (
                lambda world: (world.root / f"sys/class/net/{PORT}/master").symlink_to("bond0"),
                "is a port of bond0",
            ),
            (
                lambda world: world.tree.write(
                    "proc/net/if_inet6", f"{'0' * 31}1 02 40 00 80 {PORT}\n"
                ),
                "has an address",
            ),
        ],
        ids=["up", "master", "address"],
    )
    def test_a_port_that_may_carry_something_waits_for_the_boot(self, world, make_busy, why):
        make_busy(world)
        world.hook(ask(2))
        assert world.status == f"{WAITS} {why})"
        assert numbers(world) == (0, "1")
        assert [each for each in world.kernel.writes() if "sriov" in each] == []

    def test_a_port_in_another_network_namespace_waits(self, world):
        net = world.tree.directory(PF) / "net"
        (world.root / f"sys/class/net/{PORT}").unlink()
        for path in (*net.glob("*/*"), *net.glob("*"), net):
            path.unlink() if path.is_symlink() or path.is_file() else path.rmdir()
        net.mkdir()  # as the kernel keeps none that is empty
        world.hook(ask(2))
        assert "its interface is in another network namespace" in world.status
        assert numbers(world) == (0, "1")

    def test_a_disk_with_vfs_has_no_port_to_lose(self, world):
        disk = "0000:05:00.0"
        world.tree.function(disk, "144d:a824", made.STORAGE, driver="nvme", total_vfs=2)
        world.tree.can_have_vfs(disk, ["0000:05:00.1"], "144d:a824", driver="nvme")
        world.tree.iommu_on()
        item = json.dumps({"id": "144d:a824", "vfs": 1})
        assert world.hook(f"[{item}, disk=144d:a824/VF]").message == "disk: 1 ready"
        assert world.tree.driver_of(disk) == "nvme"

    def test_somebody_who_takes_the_port_at_the_last_moment_is_left_alone(self, world):
        install = world.tools.start_timer
        world.tools.start_timer = lambda name: (install(name), set_up(world))
        world.hook(ask(2))
        assert numbers(world) == (0, "1")
        assert world.status == (
            "waiting: the next hook goes on with 0000:3b:00.0: its VFs stay as they are: its port"
            " would be reset, and eno1 is up"
        )
        world.hook()
        assert world.status == f"{WAITS} is up)"

    def test_what_the_driver_refuses_is_told(self, world):
        world.kernel.refuse("sriov_numvfs", errno.EINVAL)
        world.hook(ask(2))
        assert world.status == (
            "blocked: reboot required: 0000:3b:00.0 has 0 VFs, not 2 (igb makes no VFs:"
            " Invalid argument)"
        )
        assert numbers(world) == (0, "1")

    def test_a_driver_that_makes_none_and_says_nothing_is_told(self, world, monkeypatch):
        monkeypatch.setattr(model, "set_number_of_vfs", lambda root, address, number: None)
        world.hook(ask(2))
        assert world.status.endswith("0000:3b:00.0 has 0 VFs, not 2 (igb made 0 of 2 VFs)")

    def test_udev_that_does_not_end_is_told_and_the_rest_put_back(self, world):
        world.tools.failing["settle"] = "timed out"
        world.hook(ask(2))
        assert numbers(world)[1] == "0"  # nobody knows what udev still loads
        world.tools.failing.clear()
        assert world.hook().message == "vf: 2 ready"
        assert numbers(world) == (2, "1")

    def test_a_host_that_was_switched_off_makes_none(self, world):
        world.tree.set_command_line("quiet splash intel_iommu=on pci-passthrough=off")
        world.hook(ask(2))
        assert numbers(world) == (0, "1")


class TestDriversThatWantThePortUp:
    @pytest.fixture
    def world(self, world: World) -> World:
        world.tree.write(f"{model.NATIVE}/{PF}", "bnxt_en")
        model.set_driver(world.root, PF, "bnxt_en")
        return world

    def test_a_port_that_is_down_is_told(self, world):
        world.hook(ask(2))
        assert world.status == (
            f"blocked: devices: item 1 {PF_ID}@{PF}: {PF} gets VFs only while its port is up and"
            " idle: eno1 is down; bnxt_en makes none else: set the port up without an address (ip"
            " link set … up), or leave its VFs to netplan"
        )

    def test_a_port_in_use_is_told(self, world):
        set_up(world)
        world.tree.write("proc/net/if_inet6", f"{'0' * 31}1 02 40 00 80 {PORT}\n")
        world.hook(ask(2))
        assert "only while its port is up and idle: eno1 has an address" in world.status

    def test_an_idle_port_that_is_up_gets_them(self, world):
        set_up(world)
        assert world.hook(ask(2)).message == "vf: 2 ready"


class TestAtBoot:
    def test_one_reboot_brings_the_iommu_and_the_vfs(self, bare):
        set_up(bare)
        bare.hook(ask(2))
        assert bare.status.startswith("blocked: reboot required: the IOMMU is off")
        bare.reboot()
        assert vf_drivers(bare) == [None, None]
        bare.hook()
        assert bare.status == "active: vf: 2 ready"
        assert vf_drivers(bare) == ["vfio-pci", "vfio-pci"]

    def test_they_are_there_and_claimed_after_every_boot(self, having):
        set_up(having)
        having.reboot()
        assert numbers(having) == (2, "1")
        assert vf_drivers(having) == ["vfio-pci", "vfio-pci"]
        assert having.hook().message == "vf: 2 ready"
        assert having.result.outcome.did == ()

    def test_the_unit_stands_before_whoever_sets_up_ports_or_hands_vfs_out(self, having):
        unit = having.tree.read(UNIT)
        before = next(line for line in unit.splitlines() if line.startswith("Before="))
        for name in ("network-pre.target", "libvirtd.service", "nova-compute.service"):
            assert name in before
        assert "ConditionKernelCommandLine=!pci-passthrough=off" in unit
        assert f"ExecStart=/bin/sh /{SCRIPT}" in unit
        assert "Wants=pci-passthrough-vfs.service" in having.tree.read(STARTS)

    def test_the_script_makes_them_and_claims_them(self, having):
        script = having.tree.read(SCRIPT)
        wanted = f"make {PF} 0x8086 0x10c9 2\n" + "".join(
            f"claim {each} 0x8086 0x10ca\n" for each in VFS[:2]
        )
        assert wanted in script

    def test_a_boot_with_the_switch_makes_none(self, having):
        cfg = having.tree.read("boot/grub/grub.cfg")
        having.tree.write(
            "boot/grub/grub.cfg",
            cfg.replace("intel_iommu=on", "intel_iommu=on pci-passthrough=off"),
        )
        having.reboot()
        assert numbers(having) == (0, "1")
        having.hook()
        assert numbers(having) == (0, "1")

    def test_a_boot_that_brought_none_is_no_reason_for_another(self, world, monkeypatch):
        set_up(world)
        monkeypatch.setattr(model, "set_number_of_vfs", lambda root, address, number: None)
        world.hook(ask(2), reboot="when-idle")
        assert world.verdict.action is reboot.Action.NOW
        world.reboot()
        world.hook()
        assert world.verdict.action is reboot.Action.SPENT
        assert "expected 2 VFs of 0000:3b:00.0, found 0" in world.status


class TestAnotherNumber:
    def test_free_vfs_are_made_anew(self, having):
        assert having.hook(ask(4)).message == "vf: 4 ready"
        assert numbers(having) == (4, "1")
        assert not had_native_driver(having)

    def test_it_is_refused_while_a_guest_holds_one(self, having):
        held = having.kernel.hold(VFS[1])
        having.hook(ask(4))
        assert having.status == (
            f"blocked: devices: item 1 {PF_ID}@{PF}: {PF} keeps its 2 VFs, as {VFS[1]} is open in"
            " process 4711; stop or migrate the guest, or write vfs: 2"
        )
        assert numbers(having) == (2, "1")
        assert f"{PF} 0x8086 0x10c9 2\n" in having.tree.read(SCRIPT)
        assert having.record().vfs == {PF: record.Vfs(2)}
        having.kernel.close(held)
        assert having.hook().message == "vf: 4 ready"

    def test_a_port_that_is_up_has_it_wait_for_the_boot(self, having):
        set_up(having)
        having.hook(ask(4))
        assert "gets its 4 VFs at the next boot" in having.status
        assert numbers(having) == (2, "1")
        assert vf_drivers(having) == ["vfio-pci", "vfio-pci"]
        having.reboot()
        assert having.hook().message == "vf: 4 ready"

    def test_a_vf_that_the_host_uses_is_not_taken_away(self, world):
        world.hook(f"[{count(2)}]")
        model.set_driver(world.root, VFS[0], "igbvf")
        world.tree.nic(VFS[0], "eno1v0", mac="52:54:00:00:00:02", up=True)
        world.tree.write("proc/net/route", "Iface\tDestination\neno1v0\t0000000A\n")
        world.hook(f"[{count(4)}]")
        assert "keeps its 2 VFs, as the host uses 0000:3b:10.0" in world.status
        assert numbers(world)[0] == 2

    def test_a_guest_that_takes_one_at_the_last_moment_keeps_it(self, having, monkeypatch):
        def take(decision: object, address: str) -> None:
            having.kernel.hold(VFS[0])

        monkeypatch.setattr(confirm, "object_to_vfs", take)
        having.hook(ask(4))
        assert numbers(having) == (2, "1")
        assert f"keeps its 2 VFs, as {VFS[0]} is open in process 4711" in having.status


class TestGivenUp:
    def test_without_the_item_they_go(self, having):
        having.hook(f"vf={VF_ID}/VF")
        assert numbers(having) == (0, "1")
        assert having.record().is_empty
        for path in (UNIT, STARTS, SCRIPT):
            assert not (having.root / path).exists()
        assert not had_native_driver(having)

    def test_a_held_one_keeps_all_until_its_guest_is_gone(self, having):
        held = having.kernel.hold(VFS[0])
        having.hook("gpu=10de:1bb0")
        assert numbers(having)[0] == 2
        assert having.status == (
            f"blocked: {VFS[0]}: a guest holds it (process 4711), and it is given back when that"
            " guest is gone; stop or migrate the guest"
        )
        assert vf_drivers(having) == ["vfio-pci", "vfio-pci"]
        having.kernel.close(held)
        having.hook()
        assert numbers(having) == (0, "1")
        assert PF not in having.record().vfs

    def test_a_port_that_is_up_keeps_them_until_the_boot(self, having):
        set_up(having)
        having.hook("gpu=10de:1bb0")
        assert "0000:3b:00.0 keeps its 2 VFs until the next boot" in having.status
        assert vf_drivers(having) == ["vfio-pci", "vfio-pci"]
        having.reboot()
        having.hook()
        assert numbers(having) == (0, "1")
        assert set(having.record().taken) <= set(constants.CARDS)

    def test_a_unit_that_leaves_gives_them_back(self, having):
        having.leave()
        assert numbers(having) == (0, "1")
        assert having.record().is_empty

    def test_a_unit_that_leaves_a_busy_port_leaves_them_until_the_boot(self, having):
        set_up(having)
        result = having.leave()
        assert numbers(having)[0] == 2
        assert [each.address for each in result.decision.plan.pending] == VFS[:2]
        assert having.record().vfs == {PF: record.Vfs(2)}
        having.reboot()
        assert numbers(having) == (0, "1")
        having.leave()
        assert having.record().is_empty

    def test_a_shut_off_guest_that_names_one_keeps_all_where_the_unit_leaves(self, having):
        domain = (
            "<domain><devices><hostdev mode='subsystem' type='pci'><source><address domain='0x0000'"
            " bus='0x3b' slot='0x10' function='0x2'/></source></hostdev></devices></domain>"
        )
        having.tree.write("etc/libvirt/qemu/one.xml", domain)
        having.leave()
        assert numbers(having)[0] == 2
        assert having.record().vfs == {PF: record.Vfs(2)}

    def test_a_card_that_was_taken_out_is_forgotten(self, having):
        model.set_number_of_vfs(having.root, PF, 0)
        having.tree.unplug(PF)
        having.hook("gpu=10de:1bb0")
        assert having.record().vfs == {}

    def test_an_older_record_is_of_no_vfs(self, world):
        assert world.record().vfs == {}


class TestOthers:
    def test_just_as_many_that_somebody_made_are_taken_over_at_the_next_boot(self, world):
        world.tree.write(f"{model.DEVICES}/{PF}/{model.AUTOPROBE}", "0\n")
        model.set_number_of_vfs(world.root, PF, 2)
        assert world.hook(ask(2)).message == "vf: 2 ready"
        found = world.record().vfs[PF].found
        assert found
        world.hook("gpu=10de:1bb0")
        assert numbers(world)[0] == 2  # somebody else's
        world.hook(ask(2))
        world.reboot()
        world.hook()
        assert world.record().vfs == {PF: record.Vfs(2)}
        world.hook("gpu=10de:1bb0")
        assert numbers(world)[0] == 0

    def test_another_number_that_somebody_made_stays(self, world):
        model.set_number_of_vfs(world.root, PF, 1)
        world.hook(ask(2))
        assert world.status == (
            f"blocked: devices: item 1 {PF_ID}@{PF}: {PF} has 1 VFs that this charm has not made;"
            " write vfs: 1, or take them away first"
        )
        assert numbers(world)[0] == 1

    def test_netplan_that_sets_the_card_is_named(self, world):
        text = f"network:\n  ethernets:\n    {PORT}:\n      virtual-function-count: 2\n"
        world.tree.write("etc/netplan/50-cloud-init.yaml", text)
        world.hook(ask(2))
        assert world.status == (
            f"blocked: devices: item 1 {PF_ID}@{PF}: {PF} has its VFs set by"
            " /etc/netplan/50-cloud-init.yaml; take that out (of the charm that writes it), or"
            " take the item with vfs out"
        )
        assert numbers(world)[0] == 0
        assert not (world.root / UNIT).exists()

    def test_a_second_application_does_not_get_the_card(self, having):
        second = having.beside("second")
        second.hook(ask(3))
        assert f"{PF} is the application pci-passthrough's already" in second.status
        assert numbers(having)[0] == 2

    def test_a_vf_of_a_second_application_keeps_all(self, world):
        world.hook(f"[{count(2)}]")
        second = world.beside("second")
        assert second.hook(f"vf={VF_ID}/VF").message == "vf: 2 ready"
        world.hook("gpu=10de:1bb0")
        assert numbers(world)[0] == 2

    def test_two_items_for_one_card_are_refused(self, world):
        twice = json.dumps({"id": PF_ID, "vfs": 3})
        with pytest.raises(errors.OptionError, match="has its VFs counted by item 1"):
            world.hook(f"[{count(2)}, {twice}]")

    def test_a_card_that_is_claimed_too_is_refused(self, world):
        with pytest.raises(errors.OptionError, match=r"is claimed by item 2 .* too"):
            world.hook(f"[{count(2)}, nic={PF_ID}/PF]")


class TestRefused:
    @pytest.mark.parametrize(
        ("facts", "said"),
        [
            ({"total_vfs": 1}, "can have 1 VFs, and vfs is 2; write vfs: 1 or less"),
            (
                {},
                "can have no VF: SR-IOV is off in its firmware, or it has none; turn SR-IOV on in"
                " the card's firmware and in the machine's settings, and reboot, until its"
                " sriov_totalvfs tells a number",
            ),
            (
                {"total_vfs": 4, "driver": None},
                "is on no driver, and its own driver makes its VFs; give it back to its own"
                " driver first",
            ),
            (
                {"total_vfs": 4, "driver": "vfio-pci"},
                "is on vfio-pci, and its own driver makes its VFs; give it back to its own"
                " driver first",
            ),
        ],
        ids=["too many", "none", "no driver", "vfio-pci"],
    )
    def test_a_card_that_cannot(self, world, facts, said):
        address = "0000:05:00.0"
        world.tree.function(address, "15b3:101d", made.ETHERNET, **{"driver": "mlx5_core", **facts})
        world.tree.iommu_on()
        world.hook('{id: "15b3:101d", vfs: 2}')
        expected = f"blocked: devices: item 1 15b3:101d: {address} {said}"
        assert world.status == expected

    def test_a_vf_has_none_of_its_own(self, having):
        having.hook(f'[{count(2)}, {{id: "{VF_ID}", address: "{VFS[0]}", vfs: 1}}]')
        assert f"{VFS[0]} is a VF, and has none of its own" in having.status

    def test_no_such_card_is_no_concern(self, world):
        assert world.hook('{id: "15b3:101d", vfs: 2}').message == "no matching device"


class TestTold:
    def test_plan_says_what_changes(self, world):
        decision = world.decide(ask(2))
        assert f"VFs of {PF} now: 0 -> 2" in plan_text.plan_text(decision)
        described = plan_text.describe_plan(decision)
        assert described["vfs"] == [{"address": PF, "present": 0, "number": 2}]

    def test_a_status_before_the_hook_says_what_comes(self, world):
        from passthrough.reporting import status

        found = status.summarize(world.decide(ask(2)), acted=False)
        assert found.message.startswith("the next hook rebuilds GRUB's configuration")
        assert "changes the VFs of 1 card" in found.message

    def test_verify_counts_them(self, having):
        assert having.shown(f"vfs {PF}") == "ok: 2 of 2"

    def test_verify_tells_of_a_reboot(self, world):
        set_up(world)
        world.hook(ask(2))
        assert world.shown(f"vfs {PF}") == (
            "fail: 0000:3b:00.0 gets its 2 VFs at the next boot (its port would be reset, and eno1"
            " is up) -> reboot the host"
        )

    def test_what_waits_with_others_of_its_card_is_no_guests(self, having):
        set_up(having)
        having.hook("gpu=10de:1bb0")
        decision = having.decide()
        assert f"goes with the other VFs of its card: {VFS[0]}" in plan_text.plan_text(decision)
        assert f"in-use {VFS[0]}" not in having.checks()


@pytest.mark.faults
class TestKilled:
    @pytest.mark.parametrize(
        ("before", "after"),
        [(None, ask(2)), (ask(2), ask(4)), (ask(2), "")],
        ids=["made", "another number", "removal"],
    )
    def test_every_kill_is_mended(self, world, before, after):
        def go() -> object:
            return world.run(made.wanted(after)) if after else world.leave()

        if before:
            world.hook(before)
        start = killing.Tree(world.root)
        go()
        wanted = (numbers(world), vf_drivers(world), world.snapshot("etc", "var/lib"))
        number, seen = 0, []
        while True:
            number += 1
            start.put_back(world.root)
            if not killing.run_killed(number, world.kernel, world.tools, go):
                break
            left = killing.Tree(world.root)
            if left in seen[-1:]:
                continue
            seen.append(left)
            assert None in vf_drivers(world) or set(vf_drivers(world)) <= {"vfio-pci"}
            go()
            found = (numbers(world), vf_drivers(world), world.snapshot("etc", "var/lib"))
            assert found == wanted, f"kill {number}, then a hook"
            left.put_back(world.root)
            world.reboot()
            assert "igbvf" not in vf_drivers(world), f"kill {number}, then a boot"
            go()
            assert numbers(world) == wanted[0], f"kill {number}, then a boot and a hook"
            assert vf_drivers(world) == wanted[1], f"kill {number}, then a boot and a hook"
        assert number > 25
