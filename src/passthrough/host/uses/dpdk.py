"""Functions that the host's configuration gives to DPDK, whose program may be down. Reads only.

Sources: DPDK's dpdk-devbind and Debian's /etc/dpdk/interfaces, VPP's startup.conf, driverctl(8).
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator
from pathlib import Path

from passthrough.host import pci
from passthrough.host.uses import kinds
from passthrough.system import sysfs

_NETWORK = 0x02  # PCI's base class
_FILES = ("etc/dpdk/interfaces", "etc/vpp/startup.conf")
_PROGRAMS = ("etc/dpdk", "etc/vpp", "usr/lib/openvswitch-switch-dpdk")
_DRIVERS = ("vfio-pci", "uio_pci_generic", "igb_uio")
_DRIVERCTL = "etc/driverctl.d"


def find(root: Path, host: pci.Host, ours: Container[str]) -> Iterator[tuple[str, kinds.Use]]:
    """Find the functions that the host's configuration gives to DPDK, whose program may be down.

    A driver that driverctl keeps a NIC on is DPDK's where a program for it is installed.

    Args:
        root: the host's root.
        host: its functions.
        ours: addresses of functions that applications of this charm have taken.

    Raises:
        OSError: when a file is there and cannot be read.
    """
    for name in _FILES:
        for line in sysfs.lines_or_raise(root / name):
            # VPP's may write a brace right behind an address: dev 0000:3b:00.0{ name x }
            for word in re.split(r"[\s{}]+", line.partition("#")[0].lower()):
                for address in (word, f"0000:{word}"):
                    if address in host.functions and address not in ours:
                        yield address, kinds.Use(kinds.Kind.DPDK, f"/{name} names it")
    if any(sysfs.is_there_or_raise(root / each) for each in _PROGRAMS):
        for address in sysfs.names_or_raise(root / _DRIVERCTL):
            function = host.functions.get(address)
            driver = sysfs.attribute_if_there(root / _DRIVERCTL / address)
            if (
                function
                and address not in ours
                and function.class_code >> 16 == _NETWORK
                and driver in _DRIVERS
            ):
                what = f"driverctl keeps it on {driver}"
                yield address, kinds.Use(kinds.Kind.DPDK, what)
