"""Which processes hold a function through VFIO, as guests do. Reads only."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from passthrough.host import pci
from passthrough.system import procfs

OWN_NODES = "/dev/vfio/devices/"  # each function's own one; its group's stands above


def of_nodes(root: Path, nodes: frozenset[str]) -> dict[str, tuple[int, ...]]:
    """Find the processes that have a VFIO device node open.

    Args:
        root: the host's root.
        nodes: paths such as ``/dev/vfio/17`` or ``/dev/vfio/devices/vfio0``.

    Returns:
        For each of the nodes that is open, the sorted process ids. A process that ends while it
        is looked at is passed over.
    """
    found: dict[str, set[int]] = {}
    if nodes:
        for process, target in procfs.open_files(root):
            if target in nodes:
                found.setdefault(target, set()).add(process)
    return {node: tuple(sorted(found[node])) for node in sorted(found)}


def of_functions(root: Path, addresses: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """Find the processes that hold functions, or VFs of theirs, in one pass over /proc.

    Returns:
        For each function that is held, the sorted process ids.
    """
    nodes = {
        address: nodes_of(root, address).union(
            *(nodes_of(root, each) for each in vfs_of(root, address))
        )
        for address in addresses
    }
    held = of_nodes(root, frozenset().union(*nodes.values()))
    found = {
        address: {process for node in mine if node in held for process in held[node]}
        for address, mine in nodes.items()
    }
    return {address: tuple(sorted(found[address])) for address in found if found[address]}


def nodes_of(root: Path, address: str) -> frozenset[str]:
    """The device nodes through which a process holds a function, or a part of it.

    Its group's and its own, and those of the mediated devices that it is cut up into.
    """
    device = root / pci.DEVICES / address
    return frozenset[str]().union(
        *(_nodes(root, each) for each in (device, *_mediated_devices(device)))
    )


def is_cut_up(root: Path, address: str) -> bool:
    """Whether a function has mediated devices, such as vGPUs, which are guests' own."""
    return bool(_mediated_devices(root / pci.DEVICES / address))


def opens_once(root: Path, node: str) -> bool:
    """Whether the kernel lets one process at a time open a node: where it is a group's device.

    A function's own node opens any number of times, and a file of that name says nothing.
    """
    if node.startswith(OWN_NODES):
        return False
    try:
        return stat.S_ISCHR(os.stat(root / node[1:]).st_mode)
    except OSError:
        return False


def vfs_of(root: Path, address: str) -> list[str]:
    """The addresses of the VFs that a function has now, sorted."""
    device = root / pci.DEVICES / address
    links = [name for name in _listdir(device) if name.startswith("virtfn")]
    return sorted(os.path.basename(os.readlink(device / name)) for name in links)


def _nodes(root: Path, device: Path) -> Iterator[str]:
    """A device's own node, which is iommufd's, and its group's.

    A kernel that offers the first shows its number as ``dev``; others from 6.1 on have the
    directory ``vfio-dev`` alone, and no node.
    """
    for name in _listdir(device / "vfio-dev"):
        if (device / "vfio-dev" / name / "dev").exists():
            yield f"{OWN_NODES}{name}"
    with contextlib.suppress(FileNotFoundError):  # no IOMMU, hence no group
        group = os.path.basename(os.readlink(device / "iommu_group"))
        yield f"/dev/vfio/{group}"
        # What somebody has who runs the kernel's "unsafe noiommu mode".
        if (root / f"dev/vfio/noiommu-{group}").exists():
            yield f"/dev/vfio/noiommu-{group}"


def _mediated_devices(device: Path) -> list[Path]:
    if not (device / "mdev_supported_types").is_dir():
        return []
    return [device / name for name in _listdir(device) if (device / name / "mdev_type").exists()]


def _listdir(path: Path) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []  # gone, or not a directory
