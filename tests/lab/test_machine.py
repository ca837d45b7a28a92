"""The lab itself: the machine is what its table says, before and after its IOMMU is switched on.

The tests share two boots, with a power cut in between, so they depend on their order.
"""

import pathlib
from collections.abc import Iterator

import pytest

from lab import booting, errors, guest, kernel, machine, ssh

SWITCH_ON = 'GRUB_CMDLINE_LINUX_DEFAULT="$GRUB_CMDLINE_LINUX_DEFAULT intel_iommu=on"\n'


@pytest.fixture(scope="module")
def intel(boot: booting.Boot) -> Iterator[guest.Guest]:
    """The machine on a disk that survives a power cut."""
    with boot(machine.INTEL, disk_cache="writeback") as host:
        yield host


def test_addresses_ids_and_native_drivers_are_as_declared(intel: guest.Guest) -> None:
    found = kernel.read_functions(intel)
    shown = {
        address: (found[address].id, found[address].driver)
        for address in machine.INTEL.functions
        if address in found
    }
    declared = {
        address: (function.id, function.driver)
        for address, function in machine.INTEL.functions.items()
    }
    assert shown == declared


def test_the_graphics_cards_sit_on_the_second_socket(intel: guest.Guest) -> None:
    found = kernel.read_functions(intel)
    nodes = {name: found[machine.INTEL[name].address].numa_node for name in ("gpu0", "gpu1")}
    assert nodes == {"gpu0": 1, "gpu1": 1}


def test_the_iommu_is_off_at_first(intel: guest.Guest) -> None:
    assert "intel_iommu=off" in kernel.read_command_line(intel)
    assert kernel.list_groups(kernel.read_functions(intel)) == []


def test_the_guest_passes_for_ubuntu(intel: guest.Guest) -> None:
    assert "\nID=ubuntu\n" in intel.read("/etc/os-release")


def test_a_failed_command_tells_what_it_printed_and_shows_the_console(intel: guest.Guest) -> None:
    with pytest.raises(ssh.CommandError, match="status 3") as caught:
        intel.run("echo what went wrong >&2; exit 3")
    assert "what went wrong" in str(caught.value)
    assert "the console's last lines" in str(caught.value)


def test_a_folder_arrives_with_its_modes(intel: guest.Guest, tmp_path: pathlib.Path) -> None:
    (tmp_path / "sent").mkdir()
    script = tmp_path / "sent" / "script"
    script.write_text("#!/bin/sh\necho it runs\n")
    script.chmod(0o750)
    intel.put(tmp_path / "sent", "/root/arrived")
    assert intel.run(["/root/arrived/script"]).stdout == "it runs\n"
    assert intel.run(["stat", "-c", "%U %a", "/root/arrived/script"]).stdout == "root 750\n"


def test_an_option_for_grub_switches_the_iommu_on_at_the_next_boot(intel: guest.Guest) -> None:
    intel.write("/etc/default/grub.d/95-test.cfg", SWITCH_ON)
    with intel.progress.step("update-grub"):
        intel.run("update-grub")
    intel.run("sync")
    former = intel.boot_id
    intel.cut_power()
    with pytest.raises(errors.LabError, match="QEMU ended with status -9"):
        intel.run("true")
    intel.power_on("boot after a power cut")
    assert intel.boot_id != former
    assert "intel_iommu=on" in kernel.read_command_line(intel)


def test_every_device_has_an_iommu_group_of_its_own_then(intel: guest.Guest) -> None:
    groups = kernel.list_groups(kernel.read_functions(intel))
    for device in machine.INTEL.devices:
        assert set(device.functions) in groups, device.name


def test_nothing_but_the_groups_has_changed(intel: guest.Guest) -> None:
    found = kernel.read_functions(intel)
    declared = {address: each.driver for address, each in machine.INTEL.functions.items()}
    assert {address: found[address].driver for address in declared} == declared
