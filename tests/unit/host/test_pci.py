"""The host's PCI functions as sysfs shows them."""

from __future__ import annotations

import dataclasses
import pathlib

import pytest
from harness import constants, hosttree, made

from passthrough import pci_address
from passthrough.host import pci


@pytest.fixture
def plain(tmp_path: pathlib.Path) -> hosttree.HostTree:
    """A host without any PCI function yet."""
    return hosttree.HostTree(tmp_path / "host")


def test_a_function_is_read_with_all_its_facts(tree: hosttree.HostTree):
    tree.iommu_on({"0000:83:00.0": 17, "0000:83:00.1": 17})
    assert pci.read(tree.root).functions["0000:83:00.0"] == pci.Function(
        address="0000:83:00.0",
        vendor="10de",
        product="1bb0",
        class_code=0x030000,
        driver="nouveau",
        override=None,
        group=17,
        numa_node=1,
        boot_vga=False,
        total_vfs=0,
        num_vfs=0,
        physfn=None,
        modalias="pci:v000010DEd00001BB0sv00001AF4sd00001100bc03sc00i00",
    )


def test_the_module_is_the_one_that_the_driver_links_to(plain: hosttree.HostTree):
    plain.function("0000:81:00.0", "8086:37c8", 0x0B4000, driver="c6xx")
    plain.function("0000:82:00.0", "8086:37c8", 0x0B4000, driver="c6xx")
    plain.function("0000:83:00.0", "1234:11e8", 0x00FF00)
    plain.function("0000:84:00.0", "144d:a808", 0x010802, driver="nvme")
    plain.module("qat_c62x", "c6xx")
    modules = [each.module for each in pci.read(plain.root).functions.values()]
    assert modules == ["qat_c62x", "qat_c62x", None, None]


@pytest.mark.parametrize(
    ("driver", "shown", "expected"),
    [
        ("vfio-pci", False, True),
        ("mlx5_vfio_pci", False, True),
        ("nvgrace_gpu_vfio_pci", True, True),
        ("qat_vfio_pci", True, True),
        ("xe", True, True),
        ("nouveau", False, False),
        (None, False, False),
    ],
    ids=["vfio-pci", "older-kernel", "variant", "qat", "by-the-directory", "native", "none"],
)
def test_a_function_is_on_vfio(
    plain: hosttree.HostTree, driver: str | None, shown: bool, expected: bool
):
    plain.function("0000:01:00.0", "15b3:101e", 0x020000)
    plain.bind("0000:01:00.0", driver)
    if shown:
        (plain.directory("0000:01:00.0") / "vfio-dev/vfio0").mkdir(parents=True)
    assert pci.read(plain.root).functions["0000:01:00.0"].is_on_vfio is expected


def test_every_function_of_the_host_is_read_in_order(tree: hosttree.HostTree):
    tree.function("10000:01:00.0", "8086:0a54", 0x010802)
    found = list(pci.read(tree.root).functions)
    assert found == sorted(found, key=pci_address.sort_key)
    assert found[0] == "0000:00:00.0"
    assert found[-1] == "10000:01:00.0"
    assert len(found) == 15


@pytest.mark.parametrize(
    ("driver", "override"), [(None, None), ("nouveau", None), ("vfio-pci", "vfio-pci")], ids=str
)
def test_driver_and_override(tree: hosttree.HostTree, driver: str | None, override: str | None):
    tree.iommu_on()
    tree.bind("0000:83:00.0", driver)
    function = pci.read(tree.root).functions["0000:83:00.0"]
    assert (function.driver, function.override) == (driver, override)
    assert pci.driver_of(tree.root, "0000:83:00.0") == driver


def test_overrides_need_not_be_read(tree: hosttree.HostTree):
    tree.iommu_on()
    tree.bind("0000:83:00.0", "vfio-pci")
    with_overrides = pci.read(tree.root).functions
    found = pci.read(tree.root, overrides=False).functions
    assert found == {
        address: dataclasses.replace(function, override=None)
        for address, function in with_overrides.items()
    }
    assert found != with_overrides


def test_driver_of_a_function_that_is_not_there(tree: hosttree.HostTree):
    assert pci.driver_of(tree.root, "0000:99:00.0") is None


class TestGroups:
    def test_there_are_none_while_the_iommu_is_off(self, tree: hosttree.HostTree):
        host = pci.read(tree.root)
        assert not host.has_groups
        assert host.groups == {}
        assert host.group_members(host.functions["0000:83:00.0"]) == ()

    def test_list_their_members_in_address_order(self, tree: hosttree.HostTree):
        tree.iommu_on({"0000:84:00.0": 9, "0000:83:00.1": 9, "0000:02:00.0": 3})
        host = pci.read(tree.root)
        assert host.has_groups
        assert {
            group: [each.address for each in members] for group, members in host.groups.items()
        } == {3: ["0000:02:00.0"], 9: ["0000:83:00.1", "0000:84:00.0"]}
        assert list(host.groups) == [3, 9]
        assert host.group_members(host.functions["0000:84:00.0"]) == host.groups[9]


class TestSriov:
    @pytest.fixture
    def host(self, tree: hosttree.HostTree) -> pci.Host:
        tree.function("0000:c1:00.0", "15b3:101d", 0x020000, total_vfs=8, driver="mlx5_core")
        tree.function("0000:c1:00.1", "15b3:101d", 0x020000, total_vfs=8, driver="mlx5_core")
        tree.virtual_functions("0000:c1:00.0", ["0000:c1:00.2", "0000:c1:01.0"], "15b3:101e")
        return pci.read(tree.root)

    def test_device_type_is_what_nova_calls_it(self, host: pci.Host):
        types = {
            address: host.functions[address].device_type
            for address in ("0000:c1:00.0", "0000:c1:00.2", "0000:83:00.0")
        }
        assert types == {
            "0000:c1:00.0": "type-PF",
            "0000:c1:00.2": "type-VF",
            "0000:83:00.0": "type-PCI",
        }

    def test_numbers_and_parents(self, host: pci.Host):
        pf, vf = host.functions["0000:c1:00.0"], host.functions["0000:c1:00.2"]
        assert (pf.total_vfs, pf.num_vfs, pf.physfn) == (8, 2, None)
        assert (vf.total_vfs, vf.num_vfs, vf.physfn) == (0, 0, "0000:c1:00.0")

    def test_vfs_are_not_part_of_the_card(self, host: pci.Host):
        members = host.slot_members(host.functions["0000:c1:00.0"])
        assert [each.address for each in members] == ["0000:c1:00.0", "0000:c1:00.1"]


def test_slot_members_are_the_card(tree: hosttree.HostTree):
    host = pci.read(tree.root)
    members = host.slot_members(host.functions["0000:83:00.1"])
    assert [each.address for each in members] == ["0000:83:00.0", "0000:83:00.1"]


@pytest.mark.parametrize(("numa", "expected"), [(-1, None), (0, 0), (3, 3)])
def test_numa_node_is_none_where_the_firmware_names_none(plain, numa: int, expected: int | None):
    plain.function("0000:01:00.0", "1234:5678", 0x030000, numa=numa)
    assert pci.read(plain.root).functions["0000:01:00.0"].numa_node == expected


@pytest.mark.parametrize("boot_vga", [True, False])
def test_boot_vga(plain: hosttree.HostTree, boot_vga: bool):
    plain.function("0000:01:00.0", "1a03:2000", 0x030000, boot_vga=boot_vga)
    assert pci.read(plain.root).functions["0000:01:00.0"].boot_vga is boot_vga


@pytest.mark.parametrize(
    ("class_code", "expected"),
    [
        (0x030000, (False, False, True)),
        (0x030200, (False, False, True)),
        (0x040300, (False, False, False)),
        (0x060000, (True, False, False)),
        (0x060400, (True, True, False)),
        (0x060401, (True, True, False)),
        (0x060100, (True, False, False)),
        (0x120000, (False, False, False)),
    ],
    ids=["vga", "3d", "audio", "host", "pci", "subtractive", "isa", "accelerator"],
)
def test_class(class_code: int, expected: tuple[bool, bool, bool]):
    function = made.function("0000:01:00.0", class_code=class_code)
    assert (function.is_bridge, function.is_pci_bridge, function.is_display) == expected


@pytest.mark.parametrize(
    ("class_code", "expected"),
    [(0x120000, True), (0x0B4000, True), (0x068000, True), (0x030200, False), (0x060400, False)],
    ids=["accelerator", "co-processor", "nvswitch", "3d", "pci-bridge"],
)
def test_an_accelerator(class_code: int, expected: bool):
    assert made.function("0000:01:00.0", class_code=class_code).is_accelerator is expected


def test_a_host_without_pci_is_empty(tmp_path: pathlib.Path):
    assert pci.read(tmp_path).functions == {}


def test_sysfs_that_cannot_be_read_is_an_error_and_not_an_empty_host(tmp_path: pathlib.Path):
    (tmp_path / "sys/bus/pci").mkdir(parents=True)
    (tmp_path / "sys/bus/pci/devices").touch()
    with pytest.raises(NotADirectoryError):
        pci.read(tmp_path)


def test_a_function_that_vanishes_while_it_is_read_is_passed_over(tree: hosttree.HostTree):
    (tree.directory("0000:83:00.0") / "uevent").unlink()
    host = pci.read(tree.root)
    assert "0000:83:00.0" not in host.functions
    assert "0000:83:00.1" in host.functions


def test_a_function_whose_ids_are_not_shown_yet_is_passed_over(tree: hosttree.HostTree):
    (tree.directory("0000:83:00.0") / "uevent").write_text("PCI_CLASS=30000\n")
    assert "0000:83:00.0" not in pci.read(tree.root).functions


def test_a_sysfs_copied_without_its_links_is_read(tree: hosttree.HostTree):
    """``cp --dereference`` of another machine's /sys, looked at with --root."""
    link = tree.root / "sys/bus/pci/devices/0000:83:00.0"
    directory = link.resolve()
    link.unlink()
    directory.rename(link)
    assert pci.read(tree.root).functions["0000:83:00.0"].id == "10de:1bb0"


@pytest.mark.parametrize("name", ["iommu_group", "numa_node", "driver_override", "boot_vga"])
def test_an_attribute_that_vanishes_is_not_set(tree: hosttree.HostTree, name: str):
    tree.iommu_on()
    (tree.directory("0000:83:00.0") / name).unlink()
    function = pci.read(tree.root).functions["0000:83:00.0"]
    assert (function.id, function.driver) == ("10de:1bb0", "nouveau")
    missing = {
        "iommu_group": function.group,
        "numa_node": function.numa_node,
        "driver_override": function.override,
        "boot_vga": function.boot_vga or None,
    }
    assert missing[name] is None


def test_sort_key_orders_domains_as_numbers():
    addresses = ["10000:00:00.0", "0000:ff:1f.7", "0001:00:00.0", "0000:00:00.1", "0000:00:00.0"]
    assert sorted(addresses, key=pci_address.sort_key) == [
        "0000:00:00.0",
        "0000:00:00.1",
        "0000:ff:1f.7",
        "0001:00:00.0",
        "10000:00:00.0",
    ]


def test_reading_changes_nothing(tree: hosttree.HostTree):
    before = tree.snapshot("sys", *constants.OWNED)
    pci.read(tree.root)
    assert tree.snapshot("sys", *constants.OWNED) == before
