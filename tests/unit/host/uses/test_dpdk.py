"""DPDK's ports, while the program that drives them is down."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from harness import hosttree, uses

from passthrough.host import pci, usage

NIC, TWIN, USB = "0000:3b:00.0", "0000:3b:00.1", "0000:00:14.0"


@pytest.fixture
def host(tmp_path: Path) -> hosttree.HostTree:
    return uses.two_ports(tmp_path / "host", NIC, TWIN, USB)


@pytest.mark.parametrize("driver", ["i40e", "vfio-pci"])
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("etc/dpdk/interfaces", f"pci\t{NIC}\tvfio-pci\n"),
        ("etc/dpdk/interfaces", f"# pci {TWIN} vfio-pci\npci 3b:00.0 vfio-pci # {TWIN}\n"),
        ("etc/vpp/startup.conf", f"dpdk {{\n  dev {NIC} {{\n    num-rx-queues 2\n  }}\n}}\n"),
        ("etc/vpp/startup.conf", f"dpdk {{ dev {NIC}{{ name x }} }}\n"),
        ("etc/dpdk/interfaces", f"pci {NIC.upper()} vfio-pci\n"),
    ],
)
def test_a_port_that_a_configuration_gives_to_dpdk(
    host: hosttree.HostTree, find: Callable, driver: str, name: str, text: str
):
    host.bind(NIC, driver)
    assert find() == {}
    host.write(name, text)
    assert find() == {NIC: [f"dpdk: /{name} names it"]}


@pytest.mark.parametrize("program", ["etc/dpdk", "etc/vpp", "usr/lib/openvswitch-switch-dpdk"])
@pytest.mark.parametrize("driver", ["vfio-pci", "uio_pci_generic", "igb_uio"])
def test_a_port_that_driverctl_keeps_on_a_driver_of_dpdks(
    host: hosttree.HostTree, find: Callable, program: str, driver: str
):
    host.write(f"etc/driverctl.d/{NIC}", f"{driver}\n")
    host.write(f"etc/driverctl.d/{TWIN}", "ixgbe\n")
    host.write(f"etc/driverctl.d/{USB}", f"{driver}\n")
    host.write("etc/driverctl.d/0000:ff:00.0", f"{driver}\n")
    assert find() == {}  # by hand, for guests
    (host.root / program).mkdir(parents=True)
    assert find() == {NIC: [f"dpdk: driverctl keeps it on {driver}"]}


def test_what_the_charm_has_taken_is_not_dpdks(host: hosttree.HostTree):
    host.write("etc/dpdk/interfaces", f"pci {NIC} vfio-pci\n")
    host.write(f"etc/driverctl.d/{NIC}", "vfio-pci\n")
    assert usage.read(host.root, pci.read(host.root), (NIC,)).uses == {}
