"""The whole life of an application on a made-up host, hook by hook and boot by boot."""

from __future__ import annotations

import os
import stat

import pytest
from harness import fakekernel, hosttree, made, uses
from harness.fakekernel import CLAIMED, GPUS, OWNED

from passthrough import errors, reconcile, survey
from passthrough.config import options
from passthrough.planning import prerequisites
from passthrough.reporting import status
from passthrough.reporting.status import Status
from passthrough.site import Site
from passthrough.state import record

NATIVE = {
    "0000:83:00.0": "nouveau",
    "0000:83:00.1": "snd_hda_intel",
    "0000:84:00.0": "nouveau",
    "0000:84:00.1": "snd_hda_intel",
}
KEPT = {"0000:85:00.0": "nouveau", "0000:85:00.1": "snd_hda_intel"}
READY = {**dict.fromkeys(CLAIMED, "vfio-pci"), **KEPT}
REBOOT = Status(
    "blocked", "reboot required: the IOMMU is off until the kernel starts with intel_iommu=on"
)


class Unit:
    """One application's unit on a host: runs hooks, remembers what was said."""

    def __init__(self, tree: hosttree.HostTree, tools, application: str = "pci-passthrough"):
        self.tree, self.tools, self.application = tree, tools, application
        self.wanted = options.Options()
        self.said: list[str] = []

    def hook(self, devices: str | None = None, **config: object) -> Status:
        """Run a hook, with another configuration if one is given; the status behind it."""
        if devices is not None:
            self.wanted = made.wanted(devices, **config)
        result = reconcile.reconcile(
            Site(self.tree.root, self.application), self.wanted, self.tools, self.said.append
        )
        return status.summarize(result.decision, result.outcome.failed)


@pytest.fixture
def unit(tree, kernel, tools) -> Unit:
    del kernel  # answers behind the tree
    return Unit(tree, tools)


@pytest.fixture
def ready(unit: Unit) -> Unit:
    """A unit whose host was configured and rebooted, and that has settled."""
    unit.wanted = made.wanted(GPUS)
    return unit


def identities(tree: hosttree.HostTree) -> dict[str, tuple[int, int]]:
    """Inode and time of every file below /etc and /var/lib."""
    found = {}
    for directory in OWNED:
        for path in (tree.root / directory).rglob("*"):
            entry = path.lstat()
            if not stat.S_ISDIR(entry.st_mode):
                found[os.fspath(path)] = (entry.st_ino, entry.st_mtime_ns)
    return found


def record_of(unit: Unit) -> record.Record:
    return record.read(Site(unit.tree.root, unit.application))


class TestLife:
    def test_deploy_writes_rebuilds_once_and_waits_for_the_reboot(self, unit: Unit, kernel):
        assert unit.hook(GPUS) == REBOOT
        assert unit.tools.calls == ["rebuild initramfs", "rebuild grub"]
        assert kernel.drivers() == {**NATIVE, **KEPT}
        assert kernel.writes() == []
        assert record_of(unit).taken == NATIVE

    def test_the_reboot_brings_the_devices_to_vfio_and_the_third_stays(self, unit: Unit, kernel):
        unit.hook(GPUS)
        kernel.reboot()
        assert kernel.drivers() == READY
        assert unit.hook() == Status("active", "gpu: 2 ready")
        assert record_of(unit).taken == NATIVE

    @pytest.mark.parametrize("when", ["before", "after"])
    def test_a_hook_with_nothing_changed_does_nothing(self, unit: Unit, kernel, tree, when: str):
        unit.hook(GPUS)
        if when == "after":
            kernel.reboot()
            unit.hook()
        unit.tools.calls.clear()
        unit.said.clear()
        kernel.forget_writes()
        before = identities(tree)
        for _ in range(2):
            unit.hook()
        assert identities(tree) == before
        assert len(before) > 10
        assert (unit.tools.calls, unit.said, kernel.writes()) == ([], [], [])

    def test_one_device_less_goes_back_to_its_driver_and_stays_there(self, ready: Unit, kernel):
        one = "gpu=10de:1bb0@0000:83:00.0"
        assert ready.hook(one) == Status("active", "gpu: 1 ready")
        gone = {"0000:84:00.0": "nouveau", "0000:84:00.1": "snd_hda_intel"}
        assert kernel.drivers() == {**READY, **gone}
        assert ready.tools.calls == ["rebuild initramfs"]
        kernel.reboot()
        assert kernel.drivers() == {**READY, **gone}
        assert ready.hook() == Status("active", "gpu: 1 ready")
        assert set(record_of(ready).taken) == {"0000:83:00.0", "0000:83:00.1"}

    def test_one_device_more_is_bound_without_a_reboot(self, ready: Unit, kernel):
        assert ready.hook("gpu=10de:1bb0") == Status("active", "gpu: 3 ready")
        assert set(kernel.drivers().values()) == {"vfio-pci"}

    @pytest.mark.parametrize("rebooted", [False, True], ids=["before-reboot", "after-reboot"])
    @pytest.mark.parametrize("ubuntu", ["22.04", "24.04", "26.04"])
    def test_removal_leaves_etc_as_it_was(
        self, make_host, monkeypatch, ubuntu: str, rebooted: bool
    ):
        tree = make_host(ubuntu=ubuntu)
        kernel = fakekernel.FakeKernel(tree, monkeypatch)
        unit = Unit(tree, fakekernel.FakeTools(tree))
        before = tree.snapshot(*OWNED)
        unit.hook(GPUS, blacklist_drivers="nvidiafb", allow_unsafe_interrupts=True)
        assert tree.snapshot(*OWNED) != before
        if rebooted:
            kernel.reboot()
            assert kernel.drivers() == READY
        unit.hook("")
        assert tree.snapshot(*OWNED) == before
        assert list(tree.root.rglob("*pci-passthrough*")) == []
        assert kernel.drivers() == {**NATIVE, **KEPT}
        assert unit.tools.calls == ["rebuild initramfs", "rebuild grub"] * 2
        kernel.reboot()
        assert kernel.drivers() == {**NATIVE, **KEPT}
        assert not tree.read("proc/cmdline").rstrip().endswith("intel_iommu=on")

    def test_with_the_iommu_on_already_no_reboot_is_asked(self, make_host, monkeypatch):
        tree = make_host(iommu_table="IVRS")
        tree.iommu_on()
        kernel = fakekernel.FakeKernel(tree, monkeypatch)
        unit = Unit(tree, fakekernel.FakeTools(tree))
        assert unit.hook(GPUS) == Status("active", "gpu: 2 ready")
        assert kernel.drivers() == READY
        assert unit.tools.calls == ["rebuild initramfs", "load vfio"]
        assert not (tree.root / "etc/default/grub.d/95-pci-passthrough.cfg").exists()


class TestNothingToDo:
    @pytest.mark.parametrize(
        ("devices", "expected"),
        [
            ("gpu=10de:2235", Status("active", "no matching device")),
            ("gpu=10de:1bb0@0000:99:00.0", Status("active", "no matching device")),
            (
                "",
                Status(
                    "blocked", "devices is not set: run list-devices, then juju config devices=…"
                ),
            ),
        ],
        ids=["other-model", "other-slot", "not-set"],
    )
    def test_nothing_is_written_and_no_reboot_asked(self, unit: Unit, tree, devices, expected):
        before, times = tree.snapshot("etc", "var", "boot", "run", "usr"), identities(tree)
        config = {"kernel_options": "quiet", "blacklist_drivers": "nouveau"}
        assert unit.hook(devices, **config) == expected
        assert tree.snapshot("etc", "var", "boot", "run", "usr") == before
        assert identities(tree) == times
        assert unit.tools.calls == []

    def test_the_driver_of_the_root_disk_is_not_kept_off_and_nothing_is_written(
        self, unit: Unit, tree
    ):
        tree.function("0000:05:00.0", "144d:a808", 0x010802, driver="nvme")
        before = tree.snapshot("etc", "var")
        with pytest.raises(errors.OptionError, match="is on nvme and not claimed"):
            unit.hook(GPUS, blacklist_drivers="nvidiafb, nvme")
        assert tree.snapshot("etc", "var") == before
        assert unit.tools.calls == []

    def test_a_wrong_item_blocks_and_writes_nothing(self, unit: Unit, tree):
        before = tree.snapshot("etc", "var")
        assert unit.hook("gpu=10de:1bb0@0000:3b:00.0") == Status(
            "blocked",
            "devices: item 1 gpu=10de:1bb0@0000:3b:00.0: 0000:3b:00.0 holds 8086:1572, not"
            " 10de:1bb0; correct the id or the address",
        )
        assert tree.snapshot("etc", "var") == before

    def test_a_device_under_two_items_stops_everything(self, ready: Unit, tree, kernel):
        before = tree.snapshot("etc", "var")
        with pytest.raises(errors.OptionError, match=r"0000:84:00.0 is claimed by item 1 \(a="):
            ready.hook("a=10de:1bb0, b=10de:1bb0@84:00.0")
        assert tree.snapshot("etc", "var") == before
        assert kernel.drivers() == READY

    def test_a_host_that_cannot_is_left_alone(self, make_host):
        tree = make_host(iommu_table=None)
        before = tree.snapshot("etc", "var")
        with pytest.raises(
            prerequisites.UnsupportedHostError, match="the firmware offers no IOMMU"
        ):
            Unit(tree, fakekernel.FakeTools(tree)).hook(GPUS)
        assert tree.snapshot("etc", "var") == before

    def test_surveying_changes_nothing(self, tree):
        before = tree.snapshot("etc", "var", "sys", "boot")
        found = survey.decide(made.wanted(GPUS), survey.look(Site(tree.root, "pci-passthrough")))
        assert found.plan.changes_host
        assert tree.snapshot("etc", "var", "sys", "boot") == before


class TestMixed:
    def test_a_refused_item_leaves_the_others_working(self, unit: Unit, kernel):
        mixed = "gpu=10de:1bb0@83:00.0, gpu=10de:1bb0@3b:00.0, x=1af4:1041"
        unit.hook(mixed)
        kernel.reboot()
        found = unit.hook()
        assert found.kind == "blocked"
        assert found.message.startswith("devices: item 2 gpu=10de:1bb0@0000:3b:00.0: ")
        assert kernel.drivers()["0000:83:00.0"] == "vfio-pci"
        assert kernel.drivers()["0000:84:00.0"] == "nouveau"

    def test_several_models_behind_one_alias(self, unit: Unit, kernel, tree):
        tree.function("0000:c1:00.0", "10de:1db6", 0x030200, driver="nouveau")
        unit.hook("gpu=10de:1bb0@83:00.0 gpu=10de:1db6")
        kernel.reboot()
        assert unit.hook() == Status("active", "gpu: 2 ready")
        assert tree.driver_of("0000:c1:00.0") == "vfio-pci"


class TestTwoApplications:
    @pytest.fixture
    def second(self, tree, tools) -> Unit:
        return Unit(tree, tools, "more-gpus")

    def test_each_has_files_records_and_devices_of_its_own(self, unit, second, kernel, tree):
        unit.hook("gpu=10de:1bb0@83:00.0")
        second.hook("more=10de:1bb0@84:00.0")
        kernel.reboot()
        assert unit.hook() == Status("active", "gpu: 1 ready")
        assert second.hook() == Status("active", "more: 1 ready")
        assert kernel.drivers() == READY
        names = sorted(path.name for path in (tree.root / "etc/modules-load.d").iterdir())
        assert names == ["pci-passthrough-more-gpus.conf", "pci-passthrough.conf"]

    def test_the_second_is_refused_what_the_first_has_taken(self, unit, second, kernel, tree):
        unit.hook("gpu=10de:1bb0@83:00.0")
        before = tree.snapshot("etc")
        assert second.hook("more=10de:1bb0@83:00.0") == Status(
            "blocked",
            "devices: item 1 more=10de:1bb0@0000:83:00.0: 0000:83:00.0 is claimed by the"
            " application pci-passthrough already",
        )
        assert tree.snapshot("etc") == before

    def test_removing_one_leaves_the_other(self, unit, second, kernel, tree):
        second.hook("more=10de:1bb0@84:00.0")
        before = tree.snapshot(*OWNED)
        unit.hook("gpu=10de:1bb0@83:00.0")
        kernel.reboot()
        unit.hook()
        unit.hook("")
        assert tree.snapshot(*OWNED) == before
        assert second.hook() == Status("active", "more: 1 ready")
        assert kernel.drivers()["0000:83:00.0"] == "nouveau"


class TestDrift:
    def test_a_removed_file_comes_back_and_only_its_part_is_rebuilt(self, ready: Unit, tree):
        before = tree.snapshot(*OWNED)
        (tree.root / "etc/default/grub.d/95-pci-passthrough.cfg").unlink()
        assert ready.hook() == Status("active", "gpu: 2 ready")
        assert tree.snapshot(*OWNED) == before
        assert ready.tools.calls == ["rebuild grub"]

    def test_a_device_that_another_tool_took_is_bound_again(self, ready: Unit, kernel, tree):
        tree.bind("0000:83:00.0", "nouveau")
        assert ready.hook() == Status("active", "gpu: 2 ready")
        assert kernel.drivers() == READY
        assert [call for call in ready.tools.calls if call.startswith("rebuild")] == []

    def test_a_card_that_was_swapped_is_not_taken(self, unit: Unit, kernel, tree):
        """Between two boots somebody puts a NIC where the GPU was."""
        unit.hook("gpu=10de:1bb0@83:00.0")
        directory = tree.directory("0000:83:00.0")
        text = (directory / "uevent").read_text().replace("10DE:1BB0", "8086:1572")
        (directory / "uevent").write_text(text)
        kernel.reboot()
        assert kernel.drivers()["0000:83:00.0"] != "vfio-pci"
        assert unit.hook().message == (
            "devices: item 1 gpu=10de:1bb0@0000:83:00.0: 0000:83:00.0 holds 8086:1572, not"
            " 10de:1bb0; correct the id or the address"
        )
        assert record_of(unit).taken == {}

    def test_the_hosts_disk_is_not_taken_for_its_twin_that_was_pulled_out(
        self, unit: Unit, kernel, tree
    ):
        """The guests' disk is gone, and the host's own is numbered anew: it stands there now."""
        guests, own = "0000:02:00.0", "0000:03:00.0"
        tree.function(own, "144d:a808", 0x010802, driver="nvme", built_in=True)
        for number, address in enumerate((guests, own)):
            uses.disk(tree, address, f"nvme{number}n1", f"259:{number}", f"nvme/nvme{number}")
        uses.mount(tree, "259:1", "/", "/dev/nvme1n1")
        assert unit.hook(f"disk=144d:a808@{guests}").message.startswith("reboot required")
        kernel.reboot()
        assert (tree.driver_of(guests), tree.driver_of(own)) == ("vfio-pci", "nvme")
        tree.unplug(own)
        (tree.root / "proc/1/mountinfo").unlink()
        uses.mount(tree, "259:0", "/", "/dev/nvme0n1")
        kernel.reboot()
        assert tree.driver_of(guests) == "nvme"
        found = unit.hook()
        assert found.message.startswith(f"devices: item 1 disk=144d:a808@{guests}: {guests} holds")
        assert tree.driver_of(guests) == "nvme"

    def test_a_twin_that_was_pulled_out_on_purpose_costs_the_next_hook_a_rebuild(
        self, ready: Unit, kernel, tree
    ):
        for address in KEPT:
            tree.unplug(address)
        kernel.reboot()
        assert tree.driver_of("0000:83:00.0") == "nouveau"
        assert ready.hook(blacklist_drivers="") == Status("active", "gpu: 2 ready")
        assert "rebuild initramfs" in ready.tools.calls
        kernel.reboot()
        assert tree.driver_of("0000:83:00.0") == "vfio-pci"
        assert ready.hook() == Status("active", "gpu: 2 ready")

    def test_a_missing_record_is_found_again_from_the_configuration(self, ready: Unit, tree):
        (tree.root / "var/lib/pci-passthrough/pci-passthrough.json").unlink()
        assert ready.hook() == Status("active", "gpu: 2 ready")
        assert set(record_of(ready).taken) == set(CLAIMED)
        ready.hook("")
        assert tree.driver_of("0000:83:00.0") == "nouveau"

    def test_a_damaged_record_stops_everything(self, ready: Unit, tree, kernel):
        tree.write("var/lib/pci-passthrough/pci-passthrough.json", "{")
        before = tree.snapshot("etc", "var")
        with pytest.raises(record.RecordError, match="move it away, and what it held is found"):
            ready.hook("")
        assert tree.snapshot("etc", "var") == before
        assert kernel.drivers() == READY
