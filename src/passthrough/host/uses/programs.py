"""Functions that the host's programs drive past the kernel's own drivers. Reads only.

Open vSwitch with DPDK drives NICs through uio or vfio; guests have the mediated devices (vGPUs)
that a card is cut up into. Sources: the kernel's Documentation/driver-api/uio-howto.rst,
vfio.rst and vfio-mediated-device.rst.
"""

from __future__ import annotations

import os
from collections.abc import Container, Iterator
from pathlib import Path

from passthrough import pci_address
from passthrough.host import pci, vfio_users
from passthrough.host.uses import kinds
from passthrough.system import procfs, quoting, sysfs

_MEDIATED = "sys/bus/mdev/devices"
_UIO = "sys/class/uio"


def find(
    root: Path, host: pci.Host, processes: procfs.Processes, ours: Container[str]
) -> Iterator[tuple[str, kinds.Use]]:
    """Find the uses of functions by programs, as pairs of address and use.

    Args:
        root: the host's root.
        host: the host's functions.
        processes: the host's processes.
        ours: addresses of functions that the charm has put on vfio-pci: guests have those open,
            which is no use by the host.
    """
    for name, path in sysfs.links_or_raise(root / _MEDIATED).items():
        for address in sorted(pci_address.functions_on(path)):
            yield address, kinds.Use(kinds.Kind.MEDIATED, quoting.plain(name))
    nodes = _nodes(root, host, ours)
    held = vfio_users.of_nodes(processes, frozenset(nodes))
    if held:
        from passthrough.host import guests  # not for `list` on most hosts

        certain = guests.certain(processes)
        for node, users in held.items():
            for process in sorted(set(users) - certain):
                who = quoting.bare(processes.programs.get(process, "")) or "a program"
                what = f"{who} (process {process}) has {node} open"
                yield from (
                    (address, kinds.Use(kinds.Kind.PROGRAM, what)) for address in nodes[node]
                )


def _nodes(root: Path, host: pci.Host, ours: Container[str]) -> dict[str, list[str]]:
    """Map the device nodes through which a program can drive functions to those functions."""
    found: dict[str, list[str]] = {}
    for name, path in sysfs.links_or_raise(root / _UIO).items():
        found[f"/dev/{os.path.basename(name)}"] = sorted(pci_address.functions_on(path))
    for address, function in host.functions.items():
        if function.driver == pci.VFIO_PCI and address not in ours:
            for node in vfio_users.nodes_of(root, address):
                found.setdefault(node, []).append(address)
    return found
