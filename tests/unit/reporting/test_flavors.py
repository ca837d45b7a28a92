"""What flavors and images need, ready to paste."""

from __future__ import annotations

import pytest
from harness import made, madenova
from harness.constants import GPUS

from passthrough.reporting import flavors, plan_text

UEFI = {"hw_machine_type": "q35", "hw_firmware_type": "uefi"}
CARDS = made.gpus("83", "84", group=15, driver="vfio-pci")


def nic(**values: object):
    return made.function("0000:03:00.0", "8086:10d3", made.ETHERNET, group=3, **values)


def test_each_alias_has_its_flavor_once():
    decision = madenova.decision(f"{GPUS}, nic=8086:10d3", *CARDS, nic())
    assert flavors.describe(decision) == [
        {
            "alias": "gpu",
            "properties": {"pci_passthrough:alias": "gpu:1"},
            "image-properties": UEFI,
        },
        {
            "alias": "nic",
            "properties": {"pci_passthrough:alias": "nic:1"},
            "image-properties": {},
        },
    ]
    text = plan_text.plan_text(decision)
    assert (
        "\n\nfor guests:\n"
        "openstack flavor set FLAVOR --property pci_passthrough:alias=gpu:1\n"
        "openstack flavor set FLAVOR --property pci_passthrough:alias=nic:1\n"
        "openstack image set IMAGE --property hw_machine_type=q35 --property hw_firmware_type=uefi"
        "\n\n"
    ) in text
    assert plan_text.describe_plan(decision)["flavors"] == flavors.describe(decision)


def test_while_an_alias_is_renamed_both_names_have_one():
    decision = madenova.decision("old|new=8086:10d3", nic())
    assert [each["alias"] for each in flavors.describe(decision)] == ["new", "old"]


@pytest.mark.parametrize(
    ("class_code", "large"),
    [(0x030200, True), (0x120000, True), (0x0B4000, True), (0x020000, False), (0x010802, False)],
)
def test_an_image_needs_uefi_for_large_bars_alone(class_code: int, large: bool):
    device = made.function("0000:03:00.0", "1234:5678", class_code, group=3)
    (found,) = flavors.describe(madenova.decision("x=1234:5678", device))
    assert found["image-properties"] == (UEFI if large else {})


@pytest.mark.parametrize("devices", ["", "8086:10d3", "x=8086:ffff"])
def test_without_an_alias_or_a_device_there_is_none(devices: str):
    decision = madenova.decision(devices, nic())
    assert flavors.sections(decision) == []
    assert "for guests" not in plan_text.plan_text(decision)


def test_a_host_without_nova_offers_nothing():
    assert flavors.describe(made.decision(made.wanted(GPUS), *CARDS)) == []
