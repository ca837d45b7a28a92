"""Groups as chipsets make them: what the host needs stays, bridges are nobody's matter."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness import hosttree, made, uses

from passthrough import survey
from passthrough.site import Site

GPU, ROOT_DISK, NIC = "0000:07:00.0", "0000:04:00.0", "0000:03:00.0"
SMBUS = "is a bridge or host controller that the machine itself needs"


def decide(tree: hosttree.HostTree, devices: str) -> survey.Decision:
    return survey.decide(made.wanted(devices), survey.look(Site(tree.root, "pci-passthrough")))


@pytest.fixture
def chipset(tmp_path: Path) -> hosttree.HostTree:
    """One group of everything behind an AMD chipset: USB, SATA, a NIC, a disk, a GPU."""
    tree = hosttree.HostTree(tmp_path / "host", iommu_table="IVRS")
    top = "0000:00:01.3"
    tree.bridge(top, identity="1022:1453")
    tree.function("0000:01:00.0", "1022:43d0", 0x0C0330, parent=top, driver="xhci_hcd")
    tree.function("0000:01:00.1", "1022:43c8", 0x010601, parent=top, driver="ahci")
    tree.bridge("0000:01:00.2", identity="1022:43c6", parent=top)
    members = [top, "0000:01:00.0", "0000:01:00.1", "0000:01:00.2"]
    for slot, address, identity, code, driver in (
        ("00", NIC, "10ec:8168", 0x020000, "r8169"),
        ("01", ROOT_DISK, "2646:2263", 0x010802, "nvme"),
        ("04", GPU, "10de:2504", 0x030000, "nouveau"),
    ):
        port = f"0000:02:{slot}.0"
        tree.bridge(port, identity="1022:43c7", parent="0000:01:00.2")
        tree.function(address, identity, code, parent=port, driver=driver)
        members += [port, address]
    tree.iommu_on(dict.fromkeys(members, 12))
    uses.interface(tree, NIC, "enp3s0")
    uses.route(tree, "enp3s0", default=True)
    uses.disk(tree, ROOT_DISK, "nvme0n1", "259:0", "nvme/nvme0")
    uses.mount(tree, "259:0", "/", "/dev/nvme0n1")
    return tree


def test_a_gpu_in_the_chipsets_group_is_refused_for_a_device_and_for_no_bridge(
    chipset: hosttree.HostTree,
):
    decision = decide(chipset, "gpu=10de:2504")
    (refusal,) = decision.refusals
    assert decision.claims == ()
    assert refusal.rule == "group-in-use"
    assert refusal.objection.sibling
    assert refusal.objection.sibling.address in (NIC, ROOT_DISK)


def test_with_allow_in_use_all_strangers_of_the_group_are_named(chipset: hosttree.HostTree):
    decision = decide(chipset, "[{alias: gpu, id: '10de:2504', allow-in-use: true}]")
    (refusal,) = decision.refusals
    assert decision.claims == ()
    assert refusal.rule == "group-not-viable"
    assert refusal.objection.fact == (
        "shares IOMMU group 12 with 0000:01:00.0 (1022:43d0, xhci_hcd), 0000:01:00.1 (1022:43c8,"
        f" ahci), {NIC} (10ec:8168, r8169), {ROOT_DISK} (2646:2263, nvme)"
    )


def test_all_four_functions_of_a_card_go_together_and_its_root_port_stays(tmp_path: Path):
    tree = hosttree.HostTree(tmp_path / "host")
    port, card = "0000:00:01.0", [f"0000:01:00.{number}" for number in range(4)]
    tree.bridge(port, identity="8086:1901")
    for address, (identity, code, driver) in zip(
        card,
        (
            ("10de:2184", 0x030000, "nouveau"),
            ("10de:1aeb", 0x040300, "snd_hda_intel"),
            ("10de:1aec", 0x0C0330, "xhci_hcd"),
            ("10de:1aed", 0x0C8000, "nvidia-gpu"),
        ),
        strict=True,
    ):
        tree.function(address, identity, code, parent=port, driver=driver)
    tree.iommu_on(dict.fromkeys([port, *card], 2))
    decision = decide(tree, "gpu=10de:2184")
    assert (list(decision.outcome.addresses), decision.refusals) == (card, ())


@pytest.mark.parametrize("item", ["1022:790b", "[{id: '1022:790b', companions: false}]"])
@pytest.mark.parametrize("driver", ["piix4_smbus", None])
def test_an_smbus_that_shares_its_group_with_isa_is_the_machines(
    tmp_path: Path, item: str, driver: str | None
):
    tree = hosttree.HostTree(tmp_path / "host", iommu_table="IVRS")
    tree.function("0000:00:14.0", "1022:790b", 0x0C0500, driver=driver)
    tree.function("0000:00:14.3", "1022:790e", 0x060100)
    tree.iommu_on({"0000:00:14.0": 13, "0000:00:14.3": 13})
    decision = decide(tree, item)
    (refusal,) = decision.refusals
    assert decision.claims == ()
    assert (refusal.rule, refusal.objection.fact) == ("host-controller", SMBUS)
