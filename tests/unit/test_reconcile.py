"""The whole life of an application on a made-up host, hook by hook and boot by boot."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from harness import uses
from harness.constants import CLAIMED, GPUS, GRUB, INITRAMFS_HOOK, KEPT, NATIVE, ONE, OWNED, READY
from harness.world import World

from passthrough import errors
from passthrough.effects import images
from passthrough.host import generators
from passthrough.planning import prerequisites
from passthrough.reporting.status import Kind, Status
from passthrough.state import record

REBOOT = Status(
    Kind.BLOCKED, "reboot required: the IOMMU is off until the kernel starts with intel_iommu=on"
)


class TestGenerators:
    """What is written is for the generator that builds, also where another one is about."""

    @pytest.fixture
    def upgraded(self, make_world: Callable[..., World]) -> World:
        """On Ubuntu 26.04, where an upgrade left initramfs-tools-core beside dracut."""
        world = make_world(ubuntu="26.04")
        world.tree.write("usr/share/initramfs-tools/hook-functions", "# -*- shell-script -*-\n")
        return world

    @staticmethod
    def forget_who_builds(world: World) -> None:
        world.tree.write("usr/sbin/update-initramfs", "#!/bin/sh\n", mode=0o755)

    def test_the_devices_are_claimed_at_boot(self, upgraded: World):
        upgraded.hook(GPUS)
        upgraded.reboot()
        assert upgraded.drivers() == READY
        assert upgraded.hook() == Status(Kind.ACTIVE, "gpu: 2 ready")

    def test_what_was_written_for_the_wrong_one_is_mended(self, upgraded: World, monkeypatch):
        wrong = (generators.INITRAMFS_TOOLS,)
        with monkeypatch.context() as patched:
            patched.setattr(generators, "find", lambda root: wrong)
            # As a revision of the charm that looked into no image left it.
            patched.setattr(images, "check", lambda *asked: None)
            upgraded.hook(GPUS)
            upgraded.reboot()
            assert upgraded.drivers() == {**NATIVE, **KEPT}
        upgraded.forget()
        upgraded.hook()
        assert upgraded.tools.calls[0] == "rebuild initramfs"
        assert not (upgraded.root / INITRAMFS_HOOK).exists()
        upgraded.reboot()
        assert upgraded.drivers() == READY

    def test_where_none_is_told_nothing_is_written(self, upgraded: World):
        self.forget_who_builds(upgraded)
        before = upgraded.tree.snapshot(*OWNED)
        with pytest.raises(prerequisites.UnsupportedHostError, match="both installed"):
            upgraded.hook(GPUS)
        assert upgraded.tree.snapshot(*OWNED) == before
        assert upgraded.tools.calls == []

    def test_where_none_is_told_any_more_removal_still_rebuilds(self, upgraded: World):
        upgraded.hook(GPUS)
        self.forget_who_builds(upgraded)
        upgraded.forget()
        upgraded.hook("")
        assert upgraded.tools.calls == ["rebuild initramfs", "rebuild grub"]
        assert upgraded.record() == record.Record()


class TestLife:
    def test_deploy_writes_rebuilds_once_and_waits_for_the_reboot(self, world: World):
        assert world.hook(GPUS) == REBOOT
        assert world.tools.calls == ["rebuild initramfs", "rebuild grub"]
        assert world.drivers() == {**NATIVE, **KEPT}
        assert world.kernel.writes() == []
        assert world.record().taken == NATIVE

    def test_the_reboot_brings_the_devices_to_vfio_and_the_third_stays(self, world: World):
        world.hook(GPUS)
        world.reboot()
        assert world.drivers() == READY
        assert world.hook() == Status(Kind.ACTIVE, "gpu: 2 ready")
        assert world.record().taken == NATIVE

    @pytest.mark.parametrize("when", ["before", "after"])
    def test_a_hook_with_nothing_changed_does_nothing(self, world: World, when: str):
        world.hook(GPUS)
        if when == "after":
            world.reboot()
            world.hook()
        world.forget()
        before = world.tree.identities(*OWNED)
        for _ in range(2):
            world.hook()
        assert world.tree.identities(*OWNED) == before
        assert len(before) > 10
        assert (world.tools.calls, world.said, world.kernel.writes()) == ([], [], [])

    def test_one_device_less_goes_back_to_its_driver_and_stays_there(self, ready: World):
        assert ready.hook(ONE) == Status(Kind.ACTIVE, "gpu: 1 ready")
        gone = {"0000:84:00.0": "nouveau", "0000:84:00.1": "snd_hda_intel"}
        assert ready.drivers() == {**READY, **gone}
        assert ready.tools.calls == ["rebuild initramfs"]
        ready.reboot()
        assert ready.drivers() == {**READY, **gone}
        assert ready.hook() == Status(Kind.ACTIVE, "gpu: 1 ready")
        assert set(ready.record().taken) == {"0000:83:00.0", "0000:83:00.1"}

    def test_one_device_more_is_bound_without_a_reboot(self, ready: World):
        assert ready.hook("gpu=10de:1bb0") == Status(Kind.ACTIVE, "gpu: 3 ready")
        assert set(ready.drivers().values()) == {"vfio-pci"}

    @pytest.mark.parametrize("rebooted", [False, True], ids=["before-reboot", "after-reboot"])
    @pytest.mark.parametrize("ubuntu", ["22.04", "24.04", "26.04"])
    def test_removal_leaves_etc_as_it_was(self, make_world, ubuntu: str, rebooted: bool):
        world = make_world(ubuntu=ubuntu)
        before = world.tree.snapshot(*OWNED)
        world.hook(GPUS, blacklist_drivers="nvidiafb", allow_unsafe_interrupts=True)
        assert world.tree.snapshot(*OWNED) != before
        if rebooted:
            world.reboot()
            assert world.drivers() == READY
        world.hook("")
        assert world.tree.snapshot(*OWNED) == before
        assert list(world.root.rglob("*pci-passthrough*")) == []
        assert world.drivers() == {**NATIVE, **KEPT}
        assert world.tools.calls == ["rebuild initramfs", "rebuild grub"] * 2
        world.reboot()
        assert world.drivers() == {**NATIVE, **KEPT}
        assert not world.tree.read("proc/cmdline").rstrip().endswith("intel_iommu=on")

    def test_with_the_iommu_on_already_no_reboot_is_asked(self, make_world):
        world = make_world(iommu_table="IVRS")
        world.tree.iommu_on()
        assert world.hook(GPUS) == Status(Kind.ACTIVE, "gpu: 2 ready")
        assert world.drivers() == READY
        assert world.tools.calls == ["rebuild initramfs", "load vfio"]
        assert not (world.root / GRUB).exists()


class TestNothingToDo:
    @pytest.mark.parametrize(
        ("devices", "expected"),
        [
            ("gpu=10de:2235", Status(Kind.ACTIVE, "no matching device")),
            ("gpu=10de:1bb0@0000:99:00.0", Status(Kind.ACTIVE, "no matching device")),
            (
                "",
                Status(
                    Kind.BLOCKED, "devices is not set: run list-devices, then juju config devices=…"
                ),
            ),
        ],
        ids=["other-model", "other-slot", "not-set"],
    )
    def test_nothing_is_written_and_no_reboot_asked(self, world: World, devices, expected):
        before = world.tree.snapshot("etc", "var", "boot", "run", "usr")
        times = world.tree.identities(*OWNED)
        config = {"kernel_options": "quiet", "blacklist_drivers": "nouveau"}
        assert world.hook(devices, **config) == expected
        assert world.tree.snapshot("etc", "var", "boot", "run", "usr") == before
        assert world.tree.identities(*OWNED) == times
        assert world.tools.calls == []

    def test_the_driver_of_the_root_disk_is_not_kept_off_and_nothing_is_written(self, world: World):
        world.tree.function("0000:05:00.0", "144d:a808", 0x010802, driver="nvme")
        before = world.tree.snapshot("etc", "var")
        with pytest.raises(errors.OptionError, match="is on nvme; it is not claimed"):
            world.hook(GPUS, blacklist_drivers="nvidiafb, nvme")
        assert world.tree.snapshot("etc", "var") == before
        assert world.tools.calls == []

    def test_a_wrong_item_blocks_and_writes_nothing(self, world: World):
        before = world.tree.snapshot("etc", "var")
        assert world.hook("gpu=10de:1bb0@0000:3b:00.0") == Status(
            Kind.BLOCKED,
            "devices: item 1 gpu=10de:1bb0@0000:3b:00.0: 0000:3b:00.0 holds 8086:1572, not"
            " 10de:1bb0; correct the id or the address",
        )
        assert world.tree.snapshot("etc", "var") == before

    def test_a_device_under_two_items_stops_everything(self, ready: World):
        before = ready.tree.snapshot("etc", "var")
        with pytest.raises(errors.OptionError, match=r"0000:84:00.0 is claimed by item 1 \(a="):
            ready.hook("a=10de:1bb0, b=10de:1bb0@84:00.0")
        assert ready.tree.snapshot("etc", "var") == before
        assert ready.drivers() == READY

    def test_a_host_that_cannot_is_left_alone(self, make_world):
        world = make_world(iommu_table=None)
        before = world.tree.snapshot("etc", "var")
        with pytest.raises(
            prerequisites.UnsupportedHostError, match="the firmware offers no IOMMU"
        ):
            world.hook(GPUS)
        assert world.tree.snapshot("etc", "var") == before

    def test_surveying_changes_nothing(self, world: World):
        before = world.tree.snapshot("etc", "var", "sys", "boot")
        found = world.decide(GPUS)
        assert found.plan.changes_host
        assert world.tree.snapshot("etc", "var", "sys", "boot") == before


class TestMixed:
    def test_a_refused_item_leaves_the_others_working(self, world: World):
        mixed = "gpu=10de:1bb0@83:00.0, gpu=10de:1bb0@3b:00.0, x=1af4:1041"
        world.hook(mixed)
        world.reboot()
        found = world.hook()
        assert found.kind == "blocked"
        assert found.message.startswith("devices: item 2 gpu=10de:1bb0@0000:3b:00.0: ")
        assert world.drivers()["0000:83:00.0"] == "vfio-pci"
        assert world.drivers()["0000:84:00.0"] == "nouveau"

    def test_several_models_behind_one_alias(self, world: World):
        world.tree.function("0000:c1:00.0", "10de:1db6", 0x030200, driver="nouveau")
        world.hook("gpu=10de:1bb0@83:00.0 gpu=10de:1db6")
        world.reboot()
        assert world.hook() == Status(Kind.ACTIVE, "gpu: 2 ready")
        assert world.tree.driver_of("0000:c1:00.0") == "vfio-pci"


class TestTwoApplications:
    @pytest.fixture
    def second(self, world: World) -> World:
        return world.beside("more-gpus")

    def test_each_has_files_records_and_devices_of_its_own(self, world: World, second: World):
        world.hook("gpu=10de:1bb0@83:00.0")
        second.hook("more=10de:1bb0@84:00.0")
        world.reboot()
        assert world.hook() == Status(Kind.ACTIVE, "gpu: 1 ready")
        assert second.hook() == Status(Kind.ACTIVE, "more: 1 ready")
        assert world.drivers() == READY
        names = sorted(path.name for path in (world.root / "etc/modules-load.d").iterdir())
        assert names == ["pci-passthrough-more-gpus.conf", "pci-passthrough.conf"]

    def test_the_second_is_refused_what_the_first_has_taken(self, world: World, second: World):
        world.hook("gpu=10de:1bb0@83:00.0")
        before = world.tree.snapshot("etc")
        assert second.hook("more=10de:1bb0@83:00.0") == Status(
            Kind.BLOCKED,
            "devices: item 1 more=10de:1bb0@0000:83:00.0: 0000:83:00.0 is claimed by the"
            " application pci-passthrough already",
        )
        assert world.tree.snapshot("etc") == before

    def test_removing_one_leaves_the_other(self, world: World, second: World):
        second.hook("more=10de:1bb0@84:00.0")
        before = world.tree.snapshot(*OWNED)
        world.hook("gpu=10de:1bb0@83:00.0")
        world.reboot()
        world.hook()
        world.hook("")
        assert world.tree.snapshot(*OWNED) == before
        assert second.hook() == Status(Kind.ACTIVE, "more: 1 ready")
        assert world.drivers()["0000:83:00.0"] == "nouveau"


class TestDrift:
    def test_a_removed_file_comes_back_and_only_its_part_is_rebuilt(self, ready: World):
        before = ready.tree.snapshot(*OWNED)
        (ready.root / GRUB).unlink()
        assert ready.hook() == Status(Kind.ACTIVE, "gpu: 2 ready")
        assert ready.tree.snapshot(*OWNED) == before
        assert ready.tools.calls == ["rebuild grub"]

    def test_a_device_that_another_tool_took_is_bound_again(self, ready: World):
        ready.tree.bind("0000:83:00.0", "nouveau")
        assert ready.hook() == Status(Kind.ACTIVE, "gpu: 2 ready")
        assert ready.drivers() == READY
        assert [call for call in ready.tools.calls if call.startswith("rebuild")] == []

    def test_a_card_that_was_swapped_is_not_taken(self, world: World):
        """Between two boots somebody puts a NIC where the GPU was."""
        world.hook("gpu=10de:1bb0@83:00.0")
        directory = world.tree.directory("0000:83:00.0")
        text = (directory / "uevent").read_text().replace("10DE:1BB0", "8086:1572")
        (directory / "uevent").write_text(text)
        world.reboot()
        assert world.drivers()["0000:83:00.0"] != "vfio-pci"
        assert world.hook().message == (
            "devices: item 1 gpu=10de:1bb0@0000:83:00.0: 0000:83:00.0 holds 8086:1572, not"
            " 10de:1bb0; correct the id or the address"
        )
        assert world.record().taken == {}

    def test_the_hosts_disk_is_not_taken_for_its_twin_that_was_pulled_out(self, world: World):
        """The guests' disk is gone, and the host's own is numbered anew: it stands there now."""
        guests, own = "0000:02:00.0", "0000:03:00.0"
        world.tree.function(own, "144d:a808", 0x010802, driver="nvme", built_in=True)
        for number, address in enumerate((guests, own)):
            uses.disk(world.tree, address, f"nvme{number}n1", f"259:{number}", f"nvme/nvme{number}")
        uses.mount(world.tree, "259:1", "/", "/dev/nvme1n1")
        assert world.hook(f"disk=144d:a808@{guests}").message.startswith("reboot required")
        world.reboot()
        assert (world.tree.driver_of(guests), world.tree.driver_of(own)) == ("vfio-pci", "nvme")
        world.tree.unplug(own)
        (world.root / "proc/1/mountinfo").unlink()
        uses.mount(world.tree, "259:0", "/", "/dev/nvme0n1")
        world.reboot()
        assert world.tree.driver_of(guests) == "nvme"
        found = world.hook()
        assert found.message.startswith(f"devices: item 1 disk=144d:a808@{guests}: {guests} holds")
        assert world.tree.driver_of(guests) == "nvme"

    def test_a_twin_that_was_pulled_out_on_purpose_costs_the_next_hook_a_rebuild(
        self, ready: World
    ):
        for address in KEPT:
            ready.tree.unplug(address)
        ready.reboot()
        assert ready.tree.driver_of("0000:83:00.0") == "nouveau"
        assert ready.hook() == Status(Kind.ACTIVE, "gpu: 2 ready")
        assert "rebuild initramfs" in ready.tools.calls
        ready.reboot()
        assert ready.tree.driver_of("0000:83:00.0") == "vfio-pci"
        assert ready.hook() == Status(Kind.ACTIVE, "gpu: 2 ready")

    def test_a_missing_record_is_found_again_from_the_configuration(self, ready: World):
        (ready.root / "var/lib/pci-passthrough/pci-passthrough.json").unlink()
        assert ready.hook() == Status(Kind.ACTIVE, "gpu: 2 ready")
        assert set(ready.record().taken) == set(CLAIMED)
        ready.hook("")
        assert ready.tree.driver_of("0000:83:00.0") == "nouveau"

    def test_a_damaged_record_stops_everything(self, ready: World):
        ready.tree.write("var/lib/pci-passthrough/pci-passthrough.json", "{")
        before = ready.tree.snapshot("etc", "var")
        with pytest.raises(record.RecordError, match="move it away, and what it held is found"):
            ready.hook("")
        assert ready.tree.snapshot("etc", "var") == before
        assert ready.drivers() == READY

    @pytest.mark.parametrize(
        "name", ["pci-passthrough.bad.json", "Old.json", "pci-passthrough-old.json"]
    )
    def test_a_damaged_record_that_was_moved_aside_in_its_folder_is_out_of_the_way(
        self, ready: World, name: str
    ):
        """What the message advises, as an operator does it."""
        path = ready.root / "var/lib/pci-passthrough/pci-passthrough.json"
        path.write_text('{"taken": ')
        with pytest.raises(record.RecordError):
            ready.hook()
        path.rename(path.with_name(name))
        assert ready.hook() == Status(Kind.ACTIVE, "gpu: 2 ready")
        assert set(ready.record().taken) == set(CLAIMED)
        assert path.with_name(name).read_text() == '{"taken": '

    def test_a_damaged_record_of_an_application_that_lives_here_still_stops_everything(
        self, ready: World
    ):
        other = ready.beside("more")
        other.hook("10de:1bb0@0000:85:00.0")
        ready.tree.write("var/lib/pci-passthrough/more.json", "{")
        with pytest.raises(record.RecordError, match=r"more\.json is not readable"):
            ready.hook()

    @pytest.mark.parametrize(
        "place",
        [
            "etc/nova/nova.conf.d/x.conf",
            "etc/default/grub.d/x.cfg",
            "etc/modprobe.d/pci-passthrough.conf",
            "var/lib/pci-passthrough/more.json",
        ],
    )
    def test_a_fifo_where_a_file_is_looked_for_is_named_and_no_hook_waits_for_it(
        self, ready: World, place: str
    ):
        ready.nova.install()
        path = ready.root / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        os.mkfifo(path)
        with pytest.raises(OSError, match="no regular file, so not read") as caught:
            ready.hook()
        assert caught.value.filename == str(path)
        assert ready.drivers() == READY
