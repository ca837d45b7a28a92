"""A host without an IOMMU: the charm refuses with the way out, and changes nothing."""

from collections.abc import Iterator

import pytest

from lab import booting, kernel, machine, story

pytestmark = pytest.mark.row("no-iommu")


@pytest.fixture(scope="module")
def refused(boot: booting.Boot) -> Iterator[story.Watched]:
    """The charm is deployed with a card that is there."""
    with boot(machine.NO_IOMMU) as host:
        told = story.begin(host)
        with host.progress.step("deploy"):
            told.charm.deploy(devices="gpu=1234:1111")
        yield told


def test_the_firmware_has_no_table_of_an_iommu(refused: story.Watched) -> None:
    tables = refused.host.run(["ls", "/sys/firmware/acpi/tables"]).stdout.split()
    assert "APIC" in tables
    assert {"DMAR", "IVRS", "IORT"} & set(tables) == set()


def test_the_unit_is_blocked_with_the_way_out(refused: story.Watched) -> None:
    status = refused.charm.read_status()
    assert status.startswith("blocked: the firmware offers no IOMMU")
    assert "enable VT-d" in status


def test_nothing_is_written_and_no_driver_changes(refused: story.Watched) -> None:
    assert refused.list_rewritten() == set()
    assert refused.read_drivers() == refused.with_claimed()


def test_verify_fails_with_the_same_reason(refused: story.Watched) -> None:
    verified = refused.charm.run_action("verify", check=False)
    assert verified["failed"]
    assert "the firmware offers no IOMMU" in verified["message"]


def test_the_kernel_has_no_group(refused: story.Watched) -> None:
    assert kernel.list_groups(kernel.read_functions(refused.host)) == []
