"""Which processes hold a function through VFIO, as guests do. Reads only."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from passthrough.host import pci
from passthrough.system import procfs, sysfs

OWN_NODES = "/dev/vfio/devices/"  # each function's own node; its group's stands a level higher


class Users:
    """Who has functions open through VFIO, in one pass over the processes.

    Args:
        root: the host's root; None for a host where nobody has any.
        processes: the host's processes.
    """

    def __init__(self, root: Path | None, processes: procfs.Processes):
        self._root = root
        self._processes = processes

    @classmethod
    def none(cls) -> Users:
        """A host where nobody has a function open."""
        return cls(None, procfs.Processes.none())

    def of(self, addresses: Iterable[str]) -> dict[str, tuple[int, ...]]:
        """Find the processes that hold functions, or VFs of theirs.

        Returns:
            Address of a function that is held → sorted process ids.
        """
        root = self._root
        if root is None:
            return {}
        nodes = {
            address: nodes_of(root, address).union(
                *(nodes_of(root, each) for each in vfs_of(root, address))
            )
            for address in addresses
        }
        held = of_nodes(self._processes, frozenset[str]().union(*nodes.values()))
        found = {
            address: {process for node in mine if node in held for process in held[node]}
            for address, mine in nodes.items()
        }
        return {address: tuple(sorted(found[address])) for address in found if found[address]}


def of_nodes(processes: procfs.Processes, nodes: frozenset[str]) -> dict[str, tuple[int, ...]]:
    """Find the processes that have a VFIO device node open.

    Args:
        processes: the host's processes, which are read only where there is a node to look for.
        nodes: paths such as ``/dev/vfio/17`` or ``/dev/vfio/devices/vfio0``.

    Returns:
        Node that is open → sorted process ids. A process that ends meanwhile is left out.
    """
    if not nodes:
        return {}
    return {node: users for node, users in processes.devices.items() if node in nodes}


def nodes_of(root: Path, address: str) -> frozenset[str]:
    """Find the device nodes through which a process holds a function, or a part of it.

    These are its own node, its group's, and those of its mediated devices.
    """
    device = _device(root, address)
    return frozenset[str]().union(
        *(_nodes(root, each) for each in (device, *_mediated_devices(device)))
    )


def is_cut_up(root: Path, address: str) -> bool:
    """Tell whether a function has mediated devices, such as vGPUs, which guests hold."""
    return bool(_mediated_devices(_device(root, address)))


def opens_once(root: Path, node: str) -> bool:
    """Tell whether the kernel lets one process at a time open a node, as it does a group's.

    A function's own node opens any number of times, and a file that is no device tells nothing.
    """
    if node.startswith(OWN_NODES):
        return False
    try:
        return stat.S_ISCHR(os.stat(root / node[1:]).st_mode)
    except OSError:
        return False


def vfs_of(root: Path, address: str) -> list[str]:
    """The addresses of the VFs that a function has now, sorted."""
    device = _device(root, address)
    links = [name for name in sysfs.names_if_there(device) if name.startswith("virtfn")]
    found = (sysfs.link_name_or_raise(f"{device}/{name}") for name in links)
    return sorted(filter(None, found))


def _nodes(root: Path, device: str) -> Iterator[str]:
    """Yield a device's own node, which goes with iommufd, and its group's.

    A kernel with own nodes shows a node's number as ``dev``; a kernel from 6.1 on without them has
    the directory ``vfio-dev`` and no ``dev``.
    """
    for name in sysfs.names_if_there(f"{device}/vfio-dev"):
        if sysfs.is_there_or_raise(f"{device}/vfio-dev/{name}/dev"):
            yield f"{OWN_NODES}{name}"
    group = sysfs.link_name_or_raise(f"{device}/iommu_group")
    if group:  # else no IOMMU is on
        yield f"/dev/vfio/{group}"
        # The group's node in the kernel's "unsafe noiommu mode".
        if (root / f"dev/vfio/noiommu-{group}").exists():
            yield f"/dev/vfio/noiommu-{group}"


def _mediated_devices(device: str) -> list[str]:
    if not sysfs.is_there_or_raise(f"{device}/mdev_supported_types"):
        return []
    children = (f"{device}/{name}" for name in sysfs.names_if_there(device))
    return [each for each in children if sysfs.is_there_or_raise(f"{each}/mdev_type")]


def _device(root: Path, address: str) -> str:
    return os.path.join(root, pci.DEVICES, address)
