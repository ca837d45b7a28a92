"""Who else sets how many VFs a card has: each place, and that others' cards do not count."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness import made

from passthrough.host import ports, vf_makers

CARD = made.function("0000:3b:00.0", "8086:10c9", made.ETHERNET, driver="igb", total_vfs=7)
PORTS = (ports.Port("eno1", mac="52:54:00:00:00:01"),)


def find(root: Path, path: str, text: str) -> tuple[str, ...]:
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)
    return vf_makers.Makers(root).of(CARD, PORTS)


def netplan(name: str, *lines: str) -> str:
    body = "".join(f"      {line}\n" for line in lines)
    return f"network:\n  version: 2\n  ethernets:\n    {name}:\n{body}"


COUNT = "virtual-function-count: 4"
MEANT = {
    "netplan, by name": ("etc/netplan/a.yaml", netplan("eno1", COUNT)),
    "netplan, by its address": (
        "etc/netplan/a.yaml",
        netplan("any", COUNT, "match: {macaddress: '52:54:00:00:00:01'}"),
    ),
    "netplan, by a pattern": ("etc/netplan/a.yaml", netplan("any", COUNT, "match: {name: 'en*'}")),
    "netplan, by several drivers": (
        "etc/netplan/a.yaml",
        netplan("any", COUNT, "match: {driver: [ixgbe, igb]}"),
    ),
    "netplan, a VF with a link": (
        "run/netplan/a.yaml",
        netplan("eno1", "dhcp4: true") + "    eno1v0: {link: eno1}\n",
    ),
    "netplan that is damaged": ("etc/netplan/a.yaml", f"{{ [{COUNT}"),
    "the shim of the OpenStack charms": (
        "etc/sriov-netplan-shim/interfaces.yaml",
        "interfaces:\n  eno1:\n    num_vfs: 8\n",
    ),
    "the shim, by PCI address": (
        "etc/sriov-netplan-shim/interfaces.yaml",
        "interfaces:\n  any:\n    match: {pciaddress: '0000:3B:00.0'}\n    num_vfs: 8\n",
    ),
    "the shim, damaged": ("etc/sriov-netplan-shim/interfaces.yaml", "interfaces: ["),
    "udev, by PCI address": (
        "etc/udev/rules.d/50-vfs.rules",
        'SUBSYSTEM=="net", KERNELS=="0000:3b:00.0", ATTR{device/sriov_numvfs}="4"\n',
    ),
    "udev, by driver, over two lines": (
        "etc/udev/rules.d/50-vfs.rules",
        'ACTION=="add", DRIVERS=="ixgbe|igb", \\\n ATTR{device/sriov_numvfs}="4"\n',
    ),
    "udev, by id": (
        "run/udev/rules.d/50-vfs.rules",
        'ATTR{vendor}=="0x8086", ATTR{device}=="0x10C9", ATTR{sriov_numvfs}="4"\n',
    ),
    "udev, by MAC address": (
        "etc/udev/rules.d/50-vfs.rules",
        'ATTR{address}=="52:54:00:00:00:01", ATTR{device/sriov_numvfs}="4"\n',
    ),
    "udev, of anything": ("etc/udev/rules.d/50-vfs.rules", 'ATTR{device/sriov_numvfs}="4"\n'),
    "systemd, by path": (
        "etc/systemd/network/10-a.link",
        "[Match]\nPath=pci-0000:3b:00.0\n[Link]\nSR-IOVVirtualFunctions=4\n",
    ),
    "systemd, by name": (
        "run/systemd/network/10-a.link",
        "[Match]\nOriginalName=eth0 eno*\n\n[Link]\nSR-IOVVirtualFunctions=4\n",
    ),
    "a unit": (
        "etc/systemd/system/vfs.service",
        "[Service]\nExecStart=sh -c 'echo 4 >/sys/class/net/eno1/device/sriov_numvfs'\n",
    ),
    "rc.local": ("etc/rc.local", "echo 4 > /sys/bus/pci/devices/0000:3b:00.0/sriov_numvfs\n"),
    "tmpfiles": (
        "etc/tmpfiles.d/vfs.conf",
        "w /sys/class/net/eno1/device/sriov_numvfs - - - - 4\n",
    ),
    "sysfsutils": ("etc/sysfs.d/vfs.conf", "class/net/eno1/device/sriov_numvfs = 4\n"),
    "ifupdown": (
        "etc/network/interfaces",
        "iface eno1 inet manual\n  pre-up echo 4 > /sys/class/net/$IFACE/device/sriov_numvfs\n",
    ),
    "networkd-dispatcher": (
        "etc/networkd-dispatcher/routable.d/vfs",
        "#!/bin/sh\necho 4 > /sys/class/net/eno1/device/sriov_numvfs\n",
    ),
    "NetworkManager, by name": (
        "etc/NetworkManager/system-connections/a.nmconnection",
        "[connection]\ninterface-name=eno1\n[sriov]\ntotal-vfs=4\n",
    ),
    "NetworkManager, by address": (
        "etc/NetworkManager/system-connections/a.nmconnection",
        "[ethernet]\nmac-address=52:54:00:00:00:01\n[sriov]\ntotal-vfs=4\n",
    ),
    "the module's parameter": ("etc/modprobe.d/igb.conf", "options igb \\\n max_vfs=4\n"),
}
NOT_MEANT = {
    "tmpfiles, another interface": (
        "etc/tmpfiles.d/vfs.conf",
        "# eno1\nw /sys/class/net/eno12/device/sriov_numvfs - - - - 4\n",
    ),
    "NetworkManager, another interface": (
        "etc/NetworkManager/system-connections/a.nmconnection",
        "[connection]\ninterface-name=eno2\n[sriov]\ntotal-vfs=4\n",
    ),
    "NetworkManager, no VFs": (
        "etc/NetworkManager/system-connections/a.nmconnection",
        "[connection]\ninterface-name=eno1\n",
    ),
    "the parameter of another module": ("etc/modprobe.d/a.conf", "options ixgbe max_vfs=4\n"),
    "the parameter for none": ("etc/modprobe.d/a.conf", "options igb max_vfs=0 debug=1\n"),
    "netplan, another interface": ("etc/netplan/a.yaml", netplan("eno2", COUNT)),
    "netplan, another address": (
        "etc/netplan/a.yaml",
        netplan("eno1", COUNT, "match: {macaddress: '52:54:00:00:00:02'}"),
    ),
    "netplan, no VFs": ("etc/netplan/a.yaml", netplan("eno1", "dhcp4: true")),
    "netplan, a link-local setting": (
        "etc/netplan/a.yaml",
        netplan("eno1", "link-local: [ipv6]", "dhcp4: true"),
    ),
    "netplan that is no mapping": ("etc/netplan/a.yaml", "- link\n"),
    "the shim, another interface": (
        "etc/sriov-netplan-shim/interfaces.yaml",
        "interfaces:\n  eno2:\n    num_vfs: 8\n",
    ),
    "the shim, empty": ("etc/sriov-netplan-shim/interfaces.yaml", "\n"),
    "udev, another card": (
        "etc/udev/rules.d/50-vfs.rules",
        'KERNELS=="0000:5e:00.0", ATTR{device/sriov_numvfs}="4"\n',
    ),
    "udev, another driver": (
        "etc/udev/rules.d/50-vfs.rules",
        'DRIVERS=="ixgbe", ATTR{device/sriov_numvfs}="4"\n',
    ),
    "udev, a comment": ("etc/udev/rules.d/50-vfs.rules", '# ATTR{device/sriov_numvfs}="4"\n'),
    "udev, another setting": ("etc/udev/rules.d/50-vfs.rules", 'KERNEL=="eno1", NAME="lan"\n'),
    "systemd, another path": (
        "etc/systemd/network/10-a.link",
        "[Match]\nPath=pci-0000:5e:00.0\n[Link]\nSR-IOVVirtualFunctions=4\n",
    ),
    "systemd, no VFs": (
        "etc/systemd/network/10-a.link",
        "[Match]\nDriver=igb\n[Link]\nMTUBytes=9000\n",
    ),
    "a unit for another card": (
        "etc/systemd/system/vfs.service",
        "[Service]\nExecStart=sh -c 'echo 4 >/sys/class/net/eno10/device/sriov_numvfs'\n",
    ),
    "a unit that says so in a comment": (
        "etc/systemd/system/vfs.service",
        "# eno1/device/sriov_numvfs is set elsewhere\n[Service]\nExecStart=true\n",
    ),
}


@pytest.mark.parametrize(("path", "text"), MEANT.values(), ids=list(MEANT))
def test_who_sets_the_card_is_named(tmp_path, path, text):
    assert find(tmp_path, path, text) == (f"/{path}",)


@pytest.mark.parametrize(("path", "text"), NOT_MEANT.values(), ids=list(NOT_MEANT))
def test_who_sets_another_or_nothing_is_not(tmp_path, path, text):
    assert find(tmp_path, path, text) == ()


def test_a_folder_of_such_a_name_is_no_setting(tmp_path):
    (tmp_path / "etc/netplan/a.yaml").mkdir(parents=True)
    assert vf_makers.Makers(tmp_path).of(CARD, PORTS) == ()


def test_a_host_without_settings_has_nobody(tmp_path):
    assert vf_makers.Makers(tmp_path).of(CARD, PORTS) == ()
    assert vf_makers.Makers.none().of(CARD, PORTS) == ()
