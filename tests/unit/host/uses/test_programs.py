"""Functions that programs of the host's have: through uio, through vfio, in parts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from harness import hosttree
from harness.hosttree import kernel

from passthrough.config import devices as devices_option
from passthrough.host import pci, usage
from passthrough.planning import claims
from passthrough.reporting import words

NIC, TWIN, GPU = "0000:3b:00.0", "0000:3b:00.1", "0000:83:00.0"
OVS = "/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk"


@pytest.fixture
def tree(tmp_path: Path) -> hosttree.HostTree:
    """Two ports of a NIC and a GPU, each in an IOMMU group of its own."""
    made = hosttree.HostTree(tmp_path / "host")
    for group, (address, identity, class_code, driver) in enumerate(
        (
            (NIC, "8086:1572", 0x020000, "uio_pci_generic"),
            (TWIN, "8086:1572", 0x020000, "vfio-pci"),
            (GPU, "10de:1bb0", 0x030000, "nvidia"),
        )
    ):
        made.function(address, identity, class_code, driver=driver, group=group)
    return made


def open_node(tree: hosttree.HostTree, process: int, program: str, *nodes: str) -> None:
    """A process of that program has the nodes open."""
    directory = tree.root / f"proc/{process}"
    (directory / "fd").mkdir(parents=True)
    os.symlink(program, directory / "exe")
    for number, node in enumerate(nodes):
        os.symlink(node, directory / f"fd/{number}")


def add_uio(tree: hosttree.HostTree, address: str, name: str) -> None:
    """The kernel's uio driver has given the function a device node."""
    device = tree.directory(address) / "uio" / name
    device.mkdir(parents=True)
    link = tree.root / "sys/class/uio" / name
    link.parent.mkdir(parents=True, exist_ok=True)
    kernel.link(link, device)


def refusals(tree: hosttree.HostTree, devices: str, *ours: str) -> list[tuple[str, str]]:
    """What is refused of an option, as rule and reason."""
    host = pci.read(tree.root)
    decided = claims.decide(
        devices_option.parse(devices),
        host,
        usage=usage.read(tree.root, host, ours),
    )
    return [(each.rule, words.reason(each.objection, each.address)) for each in decided.refusals]


WAY_OUT = "; free it, or set allow-in-use: true on the item"


def test_a_nic_that_dpdk_drives_through_uio_is_refused(tree: hosttree.HostTree):
    add_uio(tree, NIC, "uio0")
    open_node(tree, 900, OVS, "/dev/uio0")
    fact = (
        "is in use by a program of the host: /dev/uio0 is open in process 900 (ovs-vswitchd-dpdk)"
    )
    assert refusals(tree, f"nic=8086:1572@{NIC}") == [("program", f"{fact}{WAY_OUT}")]


def test_a_nic_on_uio_that_nobody_has_open_is_free(tree: hosttree.HostTree):
    add_uio(tree, NIC, "uio0")
    open_node(tree, 900, OVS, "/dev/uio1", "/dev/null")
    assert refusals(tree, f"nic=8086:1572@{NIC}") == []


def test_a_nic_that_dpdk_drives_through_vfio_is_refused(tree: hosttree.HostTree):
    open_node(tree, 900, OVS, "/dev/vfio/1", "/dev/vfio/vfio")
    fact = "/dev/vfio/1 is open in process 900 (ovs-vswitchd-dpdk)"
    assert refusals(tree, f"nic=8086:1572@{TWIN}") == [
        ("program", f"is in use by a program of the host: {fact}{WAY_OUT}")
    ]


def test_allow_in_use_sets_it_aside(tree: hosttree.HostTree):
    open_node(tree, 900, OVS, "/dev/vfio/1")
    item = f"- {{id: '8086:1572', address: '{TWIN}', allow-in-use: true}}"
    assert refusals(tree, item) == []


@pytest.mark.parametrize(
    "program", ["/usr/bin/qemu-system-x86_64", "/usr/bin/cloud-hypervisor (deleted)"]
)
def test_a_guest_that_has_a_function_already_is_no_program_of_the_host(
    tree: hosttree.HostTree, program: str
):
    """As on a host whose devices were bound by hand before the charm came."""
    open_node(tree, 901, program, "/dev/vfio/1")
    assert refusals(tree, f"nic=8086:1572@{TWIN}") == []


def test_who_has_what_the_charm_bound_is_not_asked(tree: hosttree.HostTree):
    open_node(tree, 902, "/usr/bin/python3", "/dev/vfio/1")
    assert refusals(tree, f"nic=8086:1572@{TWIN}", TWIN) == []


def test_a_program_without_a_name_is_one_all_the_same(tree: hosttree.HostTree):
    (tree.root / "proc/903/fd").mkdir(parents=True)
    os.symlink("/dev/vfio/1", tree.root / "proc/903/fd/0")
    ((rule, reason),) = refusals(tree, f"nic=8086:1572@{TWIN}")
    assert rule == "program"
    assert "/dev/vfio/1 is open in process 903 (a program)" in reason


def test_a_card_that_is_cut_up_into_mediated_devices_is_refused(tree: hosttree.HostTree):
    name = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001"
    (tree.directory(GPU) / name).mkdir()
    link = tree.root / "sys/bus/mdev/devices" / name
    link.parent.mkdir(parents=True)
    kernel.link(link, tree.directory(GPU) / name)
    fact = f"is cut up into mediated devices (vGPUs): {name}"
    assert refusals(tree, "gpu=10de:1bb0") == [("mediated", f"{fact}{WAY_OUT}")]
