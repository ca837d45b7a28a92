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
# The kernel's bus of mediated devices has each of them (mdev_device_create() of
# drivers/vfio/mdev/mdev_core.c).
_MEDIATED = "sys/bus/mdev/devices"
# NVIDIA's driver has this major number for itself (the kernel's admin-guide/devices.txt).
_NVIDIA, _NVIDIA_MAJOR, _MINOR = "driver/nvidia/gpus", 195, "Device Minor"
_NVIDIA_VENDOR, _NVIDIA_DRIVER, _MOST = "10de", "nvidia", 32
# Nodes that stand for all functions of a driver, by their class and name below /sys/class: AMD's
# compute node for its GPUs, the node of encrypted guests for its security processor, and BMCs.
_SHARED = {"amdgpu": ("kfd", "kfd"), "ccp": ("misc", "sev"), "ipmi_si": ("ipmi", "ipmi0")}
# The first watchdog has an older node as well (drivers/watchdog/watchdog_dev.c).
_WATCHDOG, _OLD_WATCHDOG = "/dev/watchdog0", ("/dev/watchdog", "10:130")
# What stands below no function and is NVMe's all the same: several controllers, and over fabrics.
_VIRTUAL = ("sys/devices/virtual/nvme-subsystem", "sys/devices/virtual/nvme-fabrics")
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
        host: its functions, as they were read for the same look.
        known: its block devices.
        accounts: what is told of functions on vfio-pci without asking all processes; None leaves
            it out.
    """

    def __init__(
        self,
        root: Path,
        host: pci.Host,
        known: disks.Disks,
        accounts: vfio_users.Accounts | None = None,
    ):
        self._root = root
        self._host = host
        self._disks = known
        self._accounts = accounts

    def of(self, function: pci.Function) -> tuple[Node, ...]:
        """The nodes through which programs have a function on a native driver, or VFs of it."""
        address = function.address
        found = dict.fromkeys(self._blocks.get(address, ()))
        for path, number in self._characters(address):
            node = _node(path, number)
            found[node] = None
            if node.path == _WATCHDOG:
                found[Node(_OLD_WATCHDOG[0], f"c{_OLD_WATCHDOG[1]}")] = None
        found.update(dict.fromkeys(self._uio.get(address, ())))
        if function.vendor == _NVIDIA_VENDOR:
            found.update(dict.fromkeys(self._nvidia(function)))
        if function.driver in _SHARED:
            place, name = _SHARED[function.driver]
            number = sysfs.attribute_if_there(self._root / "sys/class" / place / name / "dev")
            found[Node(f"/dev/{name}", f"c{number}" if number else None)] = None
        if function.driver == _SWITCH_DRIVER:
            paths = (f"/dev/{_SWITCH_DRIVER}{number}" for number in range(_SWITCHES))
            found.update(dict.fromkeys(map(Node, paths)))
        if self._may_be_lent(address):
            found.update(dict.fromkeys(self._lent(address)))
        # Only what can have VFs is asked for them: a question for each takes a fifth of `list`.
        for vf in vfio_users.vfs_of(self._root, address) if function.total_vfs else ():
            below = (_node(path, number) for path, number in self._characters(vf))
            found.update(dict.fromkeys(node for node in below if node.of_guests))
            if self._may_be_lent(vf):
                found.update(dict.fromkeys(self._lent(vf)))
        return tuple(found)

    def of_vfio(self, function: pci.Function) -> tuple[Node, ...]:
        """The nodes of a function on vfio-pci; none where it is told that only guests have it."""
        address = function.address
        paths = vfio_users.nodes_of(self._root, address, self._vdpa)
        if self._accounts and self._accounts.holders(address, paths) is not None:
            return ()
        return tuple(Node(path, vfio_users.number_of(self._root, path)) for path in sorted(paths))

    @functools.cached_property
    def _vdpa(self) -> Mapping[str, frozenset[str]]:
        return vfio_users.vdpa_nodes(self._root)

    @functools.cached_property
    def _cut_up(self) -> frozenset[str]:
        """The functions on the paths of mediated devices."""
        return frozenset[str]().union(*mediated(self._root).values())

    def _may_be_lent(self, address: str) -> bool:
        """Whether guests can have a function, or a part of it; of one that was not read, perhaps.

        The same as `vfio_users.is_lent`, without a question to the kernel for each function.
        """
        function = self._host.functions.get(address)
        return (
            function is None
            or function.has_vfio_dev
            or "vfio" in (function.driver or "")
            or address in self._vdpa
            or address in self._cut_up
        )

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
        places = [os.path.dirname(path) for path in sysfs.files_below_or_raise(directory, "dev")]
        places += self._virtual.get(address, [])
        return [
            (place, sysfs.attribute_if_there(f"{place}/dev") or "")
            for place in places
            if os.path.basename(place) not in self._disks.own
        ]

    @functools.cached_property
    def _virtual(self) -> Mapping[str, list[str]]:
        """What `_VIRTUAL` has for each function, in a tree without the kernel's list."""
        found: dict[str, list[str]] = {}
        for directory in _VIRTUAL:
            for path in sysfs.files_below_or_raise(f"{self._root}/{directory}", "dev"):
                place = os.path.dirname(path)
                for address in disks.functions_on(self._root, place):
                    found.setdefault(address, []).append(place)
        return found

    @functools.cached_property
    def _is_listed(self) -> bool:
        return sysfs.is_there_or_raise(self._root / _CHARACTERS)

    @functools.cached_property
    def _listed(self) -> Mapping[str, list[tuple[str, str]]]:
        found: dict[str, list[tuple[str, str]]] = {}
        for number, path in sysfs.links_or_raise(self._root / _CHARACTERS).items():
            for address in disks.functions_on(self._root, path):
                found.setdefault(address, []).append(
                    (f"{self._root}/{_CHARACTERS}/{number}", number)
                )
        return found

    def _nvidia(self, function: pci.Function) -> Iterator[Node]:
        """NVIDIA's node of a GPU; where the driver tells others' alone, all that are no other's."""
        mine = _minors(self._root, function.address) if self._nvidia_gpus else []
        if not mine and function.driver == _NVIDIA_DRIVER:
            mine = self._untold
        for minor in mine:
            yield Node(f"/dev/nvidia{minor}", f"c{_NVIDIA_MAJOR}:{minor}")

    @functools.cached_property
    def _nvidia_gpus(self) -> list[str]:
        return procfs.names_or_raise(self._root, _NVIDIA)

    @functools.cached_property
    def _untold(self) -> list[int]:
        """The numbers that NVIDIA's driver tells of no GPU; none where it tells of none at all."""
        gpus = self._nvidia_gpus
        told = {minor for each in gpus for minor in _minors(self._root, each)}
        return [minor for minor in range(_MOST) if minor not in told] if gpus else []

    @functools.cached_property
    def _uio(self) -> Mapping[str, list[Node]]:
        found: dict[str, list[Node]] = {}
        for name, path in sysfs.links_or_raise(self._root / _UIO).items():
            number = sysfs.attribute_if_there(self._root / _UIO / name / "dev")
            node = Node(f"/dev/{name}", f"c{number}" if number else None)
            for address in pci_address.functions_on(path):
                found.setdefault(address, []).append(node)
        return found


def mediated(root: Path) -> dict[str, frozenset[str]]:
    """Map each mediated device, by its name, to the functions on its path.

    Raises:
        OSError: when the kernel's list of them is there and cannot be read.
    """
    links = sysfs.links_or_raise(root / _MEDIATED)
    return {name: pci_address.functions_on(path) for name, path in links.items()}


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


def _minors(root: Path, address: str) -> list[int]:
    """The numbers of a GPU's nodes, as NVIDIA's driver tells them."""
    lines = procfs.lines_or_raise(root, f"{_NVIDIA}/{address}/information")
    pairs = [line.partition(":") for line in lines]
    minors = [value.strip() for key, _, value in pairs if key.strip() == _MINOR]
    return [int(each) for each in minors if each.isdecimal()]
