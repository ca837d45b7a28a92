"""The host's block devices, and the PCI functions that each one stands on. Reads only.

Sources: the kernel's Documentation/ABI for /sys/class/block, drivers/nvme/host/fabrics.c for the
addresses of NVMe over Fibre Channel, and udev's database.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from passthrough import frozen, pci_address
from passthrough.system import quoting, sysfs

BLOCK = "sys/class/block"
_FC_HOSTS = "sys/class/fc_host"
_UDEV = "run/udev/data"
_NODES = "/dev/"
# Of a loop device whose file was removed.
_DELETED = " (deleted)"
# bcachefs names its devices with colons between; a link by path has colons of its own.
_SEVERAL = r":(?=/dev/)"
_MAX_LINKS = 8

# A controller of NVMe over fabrics, on the path of its namespaces.
_OVER_FABRICS = r"/nvme-fabrics/ctl/(nvme[0-9]+)(?:/|$)"
_PORT = r"(?i)host_traddr=\S*?pn-(0x[0-9a-f]+)"


class Disks(frozen.Value):
    """The block devices of a host, partitions and assembled ones among them, by kernel name.

    ``own`` maps a device to the PCI functions on its own path below /sys/devices, ``lower`` to the
    devices that it stands on, ``holders`` to those that stand on it, and ``labels`` a device of
    device-mapper's to its name for people. ``numbers`` maps MAJOR:MINOR to the device, and
    ``backing`` a loop device, or zram's, to the path behind it. ``parents`` maps a partition to its
    disk. ``said`` is what udev's database says of a device: pairs such as ``("E:ID_FS_TYPE",
    "ext4")``, and a link to it with the key ``S``.
    """

    own: Mapping[str, frozenset[str]]
    lower: Mapping[str, frozenset[str]]
    holders: Mapping[str, tuple[str, ...]]
    numbers: Mapping[str, str]
    labels: Mapping[str, str]
    backing: Mapping[str, str] = frozen.field(default_factory=dict[str, str])
    parents: Mapping[str, str] = frozen.field(default_factory=dict[str, str])
    said: Mapping[str, tuple[tuple[str, str], ...]] = frozen.field(
        default_factory=dict[str, tuple[tuple[str, str], ...]]
    )

    @classmethod
    def none(cls) -> Disks:
        """A host without block devices."""
        return cls({}, {}, {}, {}, {})

    def label(self, name: str) -> str:
        """The name of a device for people."""
        return quoting.plain(self.labels.get(name, name))

    def whole(self, name: str) -> str:
        """The disk that a partition belongs to; any other device is its own."""
        return self.parents.get(name, name)

    def functions(self, name: str) -> frozenset[str]:
        """The PCI functions below a device, through every device it stands on."""
        functions: set[str] = set()
        seen: set[str] = set()
        waiting = [name]
        while waiting:
            device = waiting.pop()
            if device not in seen:
                seen.add(device)
                functions |= self.own.get(device, frozenset())
                waiting += self.lower.get(device, ())
        return frozenset(functions)

    def named(self, root: Path, source: str) -> Iterator[str]:
        """The kernel names of ``/dev/…``, or of several devices with colons between (bcachefs)."""
        for each in re.split(_SEVERAL, source.removesuffix(_DELETED)):
            path = follow(root, each)
            if not path.startswith(_NODES):
                continue
            name = path.removeprefix(_NODES)
            base = os.path.basename(name)
            mapped = self._mapped.get(base)
            for found in (name.replace("/", "!"), base, self._links.get(name), mapped):
                if found and found in self.own:
                    yield found
                    break

    @functools.cached_property
    def _links(self) -> Mapping[str, str]:
        """Udev's links, such as ``disk/by-id/x``, and what each means."""
        return {
            value: name for name, said in self.said.items() for key, value in said if key == "S"
        }

    @functools.cached_property
    def _mapped(self) -> Mapping[str, str]:
        return {label: name for name, label in self.labels.items()}


def follow(root: Path, path: str) -> str:
    """Follow a path's last part, where it is a link, to what is no link; within the host's root."""
    for _ in range(_MAX_LINKS):
        target = sysfs.link_target_if_there(f"{root}{path}")
        if target is None:
            break
        path = os.path.normpath(os.path.join(os.path.dirname(path), target))
    return path


def read(root: Path) -> Disks:
    """Read every block device of a host.

    Raises:
        OSError: when /sys/class/block, or what udev's database has of a device, is there and cannot
            be read.
    """
    paths = sysfs.links_or_raise(root / BLOCK)
    own: dict[str, frozenset[str]] = {}
    numbers: dict[str, str] = {}
    labels: dict[str, str] = {}
    behind: dict[str, str] = {}
    parents: dict[str, str] = {}
    holders: dict[str, tuple[str, ...]] = {}
    lower: dict[str, set[str]] = {name: set() for name in paths}
    for name, path in paths.items():
        device = root / BLOCK / name
        number = sysfs.attribute_if_there(device / "dev")
        if number:
            numbers[number] = name
        label = sysfs.attribute_if_there(device / "dm/name")
        if label:
            labels[name] = label
        holders[name] = tuple(sorted(sysfs.names_if_directory_or_raise(device / "holders")))
        lower[name].update(sysfs.names_if_directory_or_raise(device / "slaves"))
        parent = path.split("/")[-2]
        if parent in paths:  # of a partition
            lower[name].add(parent)
            parents[name] = parent
        for place in ("loop/backing_file", "backing_dev"):  # the second is zram's
            backing = sysfs.attribute_if_there(device / place) or ""
            if backing:
                behind[name] = backing
        own[name] = functions_on(root, path)
    for name, parent in parents.items():
        # The head of a multipath subsystem shows its functions; a partition stands on its path.
        own[name] |= own[parent]
    said = {name: tuple(_read_database(root, number)) for number, name in numbers.items()}
    found = Disks(own, {}, holders, numbers, labels, behind, parents, said)
    for name, backing in behind.items():
        lower[name].update(found.named(root, backing))
    return frozen.replace(found, lower={name: frozenset(lower[name]) for name in lower})


def functions_on(root: Path, path: str) -> frozenset[str]:
    """The PCI functions that a device of NVMe or another disk stands on.

    Args:
        root: the host's root.
        path: the device in sysfs, as a link of a class's directory or of /sys/dev/char has it.

    Raises:
        OSError: when sysfs cannot be read.
    """
    ways = [path, *_controllers(root, path)]
    return frozenset[str]().union(
        *(pci_address.functions_on(way) for way in ways),
        *(_ports(root, way) for way in ways if "/nvme-fabrics/" in way),
    )


def _read_database(root: Path, number: str) -> Iterator[tuple[str, str]]:
    for line in sysfs.lines_or_raise(root / _UDEV / f"b{number}"):
        if line.startswith("S:"):
            yield "S", line[2:]
        else:
            key, _, value = line.partition("=")
            yield key, value


def _controllers(root: Path, path: str) -> list[str]:
    """Find the paths of the controllers below the head of an NVMe multipath subsystem.

    The head stands below virtual/nvme-subsystem/nvme-subsysN, beside links to the controllers.
    """
    if "/nvme-subsystem/" not in path:
        return []
    links = sysfs.links_or_raise((root / BLOCK / path).parent)
    return [target for name, target in links.items() if name.startswith("nvme")]


def _ports(root: Path, path: str) -> frozenset[str]:
    """The functions of the Fibre Channel ports that carry an NVMe controller.

    It stands below virtual/nvme-fabrics and names its port: ``host_traddr=nn-0x…:pn-0x…``.
    """
    controller = re.search(_OVER_FABRICS, path)
    if not controller:
        return frozenset()
    where = root / "sys/devices/virtual/nvme-fabrics/ctl" / controller[1] / "address"
    wanted = {port.lower() for port in re.findall(_PORT, sysfs.attribute_if_there(where) or "")}
    return frozenset[str]().union(
        *(
            pci_address.functions_on(target)
            for name, target in sysfs.links_or_raise(root / _FC_HOSTS).items()
            if sysfs.attribute_if_there(root / _FC_HOSTS / name / "port_name") in wanted
        )
    )
