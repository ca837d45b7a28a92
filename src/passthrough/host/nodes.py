"""The device nodes through which programs have a PCI function. Reads only.

Sources: the kernel's Documentation/ABI/testing/sysfs-dev for /sys/dev, uio-howto.rst, and NVIDIA's
README ("proc interface") for /proc/driver/nvidia, whose nodes stand below no function.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from passthrough import frozen, pci_address
from passthrough.host import disks, pci, vfio_users
from passthrough.system import procfs, sysfs

_CHARACTERS = "sys/dev/char"
_UIO = "sys/class/uio"
_VDPA = "vhost-vdpa"
_VFIO = "vfio-dev"
# What a function's directory has where guests can have it, or a part of it (vfio_users.is_lent).
_OF_GUESTS = frozenset((_VFIO, "mdev_supported_types"))
# NVIDIA's driver has this major number for itself (the kernel's admin-guide/devices.txt).
_NVIDIA, _NVIDIA_MAJOR, _MINOR = "driver/nvidia/gpus", 195, "Device Minor"
_NVIDIA_VENDOR = "10de"
# AMD's compute node stands for all of its GPUs.
_COMPUTE, _COMPUTE_DRIVER = "sys/class/kfd/kfd/dev", "amdgpu"
# The switches between NVIDIA's GPUs: whoever manages them has all of their nodes.
_SWITCH_DRIVER, _SWITCHES = "nvidia-nvswitch", 32


class Node(frozen.Value):
    """A device node.

    Attributes:
        path: its own name, such as ``/dev/dri/card1``; only the last part where no more is known.
        number: its device number as udev spells it, ``c195:0`` or ``b259:0``; None where only its
            name is known.
        of_guests: whether only a guest opens it: vhost-vdpa's, or VFIO's.
    """

    path: str
    number: str | None = None
    of_guests: bool = False

    def is_called(self, path: str) -> bool:
        """Whether a path that was seen in some mount namespace may be this node's."""
        return path.endswith(self.path if self.path.startswith("/") else f"/{self.path}")


class Nodes:
    """The nodes of each function, found when the first question comes.

    Args:
        root: the host's root.
        known: its block devices.
    """

    def __init__(self, root: Path, known: disks.Disks):
        self._root = root
        self._disks = known

    def of(self, function: pci.Function) -> tuple[Node, ...]:
        """The nodes through which programs have a function on a native driver, or VFs of it."""
        address = function.address
        found = dict.fromkeys(self._blocks.get(address, ()))
        for path, number in self._characters(address):
            found[_node(path, number)] = None
        found.update(dict.fromkeys(self._uio.get(address, ())))
        if function.vendor == _NVIDIA_VENDOR:
            found.update(dict.fromkeys(_nvidia(self._root, address)))
        if function.driver == _COMPUTE_DRIVER:
            number = sysfs.attribute_if_there(self._root / _COMPUTE)
            if number:
                found[Node("/dev/kfd", f"c{number}")] = None
        if function.driver == _SWITCH_DRIVER:
            paths = (f"/dev/{_SWITCH_DRIVER}{number}" for number in range(_SWITCHES))
            found.update(dict.fromkeys(map(Node, paths)))
        # One listing says of most functions that guests have no part of them, and that they have
        # no VF: a question for each costs a fifth of what `list` takes.
        names = sysfs.names_or_raise(f"{self._root}/{pci.DEVICES}/{address}")
        is_cut = not _OF_GUESTS.isdisjoint(names)
        if address in self._vdpa or is_cut or "vfio" in (function.driver or ""):
            found.update(dict.fromkeys(self._lent(address)))
        if any(name.startswith("virtfn") for name in names):
            for vf in vfio_users.vfs_of(self._root, address):
                below = (_node(path, number) for path, number in self._characters(vf))
                found.update(dict.fromkeys(node for node in below if node.of_guests))
                found.update(dict.fromkeys(self._lent(vf)))
        return tuple(found)

    @functools.cached_property
    def _vdpa(self) -> Mapping[str, frozenset[str]]:
        return vfio_users.vdpa_nodes(self._root)

    def _lent(self, address: str) -> Iterator[Node]:
        """VFIO's nodes of a function that guests can have on another driver than vfio-pci."""
        driver = pci.driver_of(self._root, address)
        if driver == pci.VFIO_PCI:
            return
        if vfio_users.is_lent(self._root, address, driver or "", self._vdpa):
            for path in sorted(vfio_users.nodes_of(self._root, address, self._vdpa)):
                yield Node(path, vfio_users.number_of(self._root, path), of_guests=True)

    @functools.cached_property
    def _blocks(self) -> Mapping[str, list[Node]]:
        found: dict[str, list[Node]] = {}
        for number, name in self._disks.numbers.items():
            node = Node(f"/dev/{name.replace('!', '/')}", f"b{number}")
            for address in self._disks.functions(name):
                found.setdefault(address, []).append(node)
        return found

    def _characters(self, address: str) -> list[tuple[str, str]]:
        """The places in sysfs, and the numbers, of the character devices below a function."""
        if self._is_listed:
            return self._listed.get(address, [])
        # A tree without the kernel's list of them.
        directory = f"{self._root}/{pci.DEVICES}/{address}"
        return [
            (os.path.dirname(path), sysfs.attribute_if_there(path) or "")
            for path in sysfs.files_below_or_raise(directory, "dev")
            if os.path.basename(os.path.dirname(path)) not in self._disks.own
        ]

    @functools.cached_property
    def _is_listed(self) -> bool:
        return sysfs.is_there_or_raise(self._root / _CHARACTERS)

    @functools.cached_property
    def _listed(self) -> Mapping[str, list[tuple[str, str]]]:
        found: dict[str, list[tuple[str, str]]] = {}
        for number, path in sysfs.links_or_raise(self._root / _CHARACTERS).items():
            for address in pci_address.functions_on(path):
                found.setdefault(address, []).append(
                    (f"{self._root}/{_CHARACTERS}/{number}", number)
                )
        return found

    @functools.cached_property
    def _uio(self) -> Mapping[str, list[Node]]:
        found: dict[str, list[Node]] = {}
        for name, path in sysfs.links_or_raise(self._root / _UIO).items():
            number = sysfs.attribute_if_there(self._root / _UIO / name / "dev")
            node = Node(f"/dev/{name}", f"c{number}" if number else None)
            for address in pci_address.functions_on(path):
                found.setdefault(address, []).append(node)
        return found


def _node(path: str, number: str) -> Node:
    """Describe the node of a device in sysfs."""
    event = (sysfs.attribute_if_there(f"{path}/uevent") or "").splitlines()
    name = next((line[8:] for line in event if line.startswith("DEVNAME=")), "")
    place = os.path.realpath(path)
    last = os.path.basename(place)
    return Node(
        f"/dev/{name}" if name else last,
        f"c{number}",
        of_guests=last.startswith(_VDPA) or f"/{_VFIO}/" in place,
    )


def _nvidia(root: Path, address: str) -> Iterator[Node]:
    for line in procfs.lines_or_raise(root, f"{_NVIDIA}/{address}/information"):
        key, _, value = line.partition(":")
        if key.strip() == _MINOR and value.strip().isdecimal():
            minor = int(value)
            yield Node(f"/dev/nvidia{minor}", f"c{_NVIDIA_MAJOR}:{minor}")
