"""A host with AMD-Vi, which its kernel switches on by itself: no option, no reboot, GRUB untouched.

The emulated AMD-Vi carries binding and booting; a guest's DMA through it is not tried.
"""

from collections.abc import Iterator

import pytest

from lab import booting, kernel, machine, story

pytestmark = pytest.mark.row("amd")

GIVEN = "gpu=1234:1111@0000:00:08.0, nic=8086:10d3"
CLAIMED = ("gpu0", "nic0")


@pytest.fixture(scope="module")
def fresh(boot: booting.Boot) -> Iterator[story.Watched]:
    """The machine has booted, and the charm is not deployed."""
    with boot(machine.AMD) as host:
        yield story.begin(host)


@pytest.fixture(scope="module")
def claimed(fresh: story.Watched) -> story.Watched:
    """One of two identical cards and a NIC are claimed."""
    with fresh.host.progress.step("deploy, claim a card and a NIC"):
        fresh.charm.deploy(devices=GIVEN)
    return fresh


@pytest.fixture(scope="module")
def bound(claimed: story.Watched) -> story.Watched:
    """The machine has been rebooted."""
    claimed.charm.reboot("reboot with a card and a NIC claimed")
    return claimed


def test_the_iommu_is_amds_and_on_by_itself(fresh: story.Watched) -> None:
    assert "IVRS" in fresh.host.run(["ls", "/sys/firmware/acpi/tables"]).stdout.split()
    groups = kernel.list_groups(kernel.read_functions(fresh.host))
    assert set(machine.AMD["gpu0"].functions) in groups


def test_a_claim_is_bound_at_once_and_asks_for_no_reboot(claimed: story.Watched) -> None:
    assert claimed.read_drivers() == claimed.with_claimed(*CLAIMED)
    assert claimed.charm.read_status() == "active: gpu: 1 ready, nic: 1 ready"


def test_grub_is_left_alone(claimed: story.Watched) -> None:
    changed = claimed.list_changed()
    assert [path for path in changed if "grub" in path] == []
    assert "/etc/initramfs-tools/scripts/init-top/pci-passthrough" in changed


def test_after_a_reboot_the_claims_were_made_at_boot(bound: story.Watched) -> None:
    assert bound.read_drivers() == bound.with_claimed(*CLAIMED)
    assert [bound.find_touches(name) for name in CLAIMED] == [[], []]


def test_after_a_reboot_the_kernel_has_no_option_of_ours(bound: story.Watched) -> None:
    names = {token.partition("=")[0] for token in kernel.read_command_line(bound.host)}
    assert names & {"amd_iommu", "iommu"} == set()


def test_after_a_reboot_the_unit_is_ready_and_verify_passes(bound: story.Watched) -> None:
    assert bound.charm.read_status() == "active: gpu: 1 ready, nic: 1 ready"
    assert bound.list_failed_checks() == ""
