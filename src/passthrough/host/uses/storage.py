"""Disks that the host mounts, swaps to, or has as a part of something larger. Reads only.

Sources: the kernel's Documentation/ABI for /sys/class/block and /sys/fs, proc(5) for mountinfo and
swaps, and udev's database for signatures.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import re
from collections.abc import Container, Iterable, Iterator, Mapping
from pathlib import Path

from passthrough import pci_address
from passthrough.host.uses import kinds
from passthrough.system import procfs, quoting, sysfs

_BLOCK = "sys/class/block"

# Signatures of disks that are parts of something, assembled or not: a pool that waits for its
# import must not lose a disk. ZFS shows in no other place.
_SIGNATURES = {
    "LVM2_member": "an LVM volume group",
    "bcache": "a bcache set",
    "ceph_bluestore": "a Ceph OSD",
    "drbd": "a DRBD resource",
    "zfs_member": "a ZFS pool",
}
# The properties in which udev names signatures. A disk with several, such as a pool's over an older
# file system's, has the second alone: USAGE:TYPE:VERSION of each.
_SIGNATURE_KEYS = ("E:ID_FS_TYPE", "E:ID_FS_AMBIVALENT")
# A partition's type tells whose it is, whatever its content looks like.
_PARTITION_KEY = "E:ID_PART_ENTRY_TYPE"
_PARTITION_TYPES = {"6a898cc3-1dd2-11b2-99a6-080020736631": "a ZFS pool"}

# The live file systems below /sys/fs, by their devices. Some are mounted where no process is: in a
# namespace that a file keeps, or detached while a file was open.
_LIVE = ("btrfs/*/devices/*", "erofs/*", "ext4/*", "f2fs/*", "nilfs2/*", "xfs/*")


@dataclasses.dataclass(frozen=True)
class Disks:
    """The block devices of a host, partitions and assembled ones among them, by kernel name.

    ``own`` maps a device to the PCI functions on its own path below /sys/devices, ``lower`` to the
    devices that it stands on, ``holders`` to those that stand on it, and ``labels`` a device of
    device-mapper's to its name for people. ``numbers`` maps MAJOR:MINOR to the device.
    """

    own: Mapping[str, frozenset[str]]
    lower: Mapping[str, frozenset[str]]
    holders: Mapping[str, tuple[str, ...]]
    numbers: Mapping[str, str]
    labels: Mapping[str, str]

    def label(self, name: str) -> str:
        """The name of a device for people."""
        return quoting.plain(self.labels.get(name, name))

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


def find(root: Path) -> Iterator[tuple[str, kinds.Use]]:
    """Find the uses of functions by storage, as pairs of address and use."""
    disks = _read_disks(root)
    for name, use in _uses(root, disks):
        for address in sorted(disks.functions(name)):
            yield address, use


def _uses(root: Path, disks: Disks) -> Iterator[tuple[str, kinds.Use]]:
    for name, places in _mounts(root, disks).items():
        place = quoting.plain(min(places, key=lambda each: (len(each), each)))
        yield name, kinds.Use(kinds.Kind.MOUNT, f"{place} on {disks.label(name)}")
    for name in _swaps(root, disks):
        yield name, kinds.Use(kinds.Kind.SWAP, disks.label(name))
    for name, holders in disks.holders.items():
        for holder in holders:
            yield name, kinds.Use(kinds.Kind.MEMBER, f"{name} is part of {disks.label(holder)}")
    for number, name in disks.numbers.items():
        signature = _signature(root, number) if disks.own[name] else None
        if signature:
            yield name, kinds.Use(kinds.Kind.MEMBER, f"{name} is part of {signature}")


def _read_disks(root: Path) -> Disks:
    paths = sysfs.links_or_raise(root / _BLOCK)
    own: dict[str, frozenset[str]] = {}
    numbers: dict[str, str] = {}
    labels: dict[str, str] = {}
    holders: dict[str, tuple[str, ...]] = {}
    lower: dict[str, set[str]] = {name: set() for name in paths}
    for name, path in paths.items():
        device = root / _BLOCK / name
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
        for place in ("loop/backing_file", "backing_dev"):  # the second is zram's
            backing = sysfs.attribute_if_there(device / place) or ""
            lower[name].update(_named(backing, paths, labels, root))
        ways = [path, *_controllers(root, path)]
        own[name] = frozenset[str]().union(*(pci_address.functions_on(way) for way in ways))
    return Disks(own, {name: frozenset(lower[name]) for name in lower}, holders, numbers, labels)


def _controllers(root: Path, path: str) -> list[str]:
    """Find the paths of the controllers below the head of an NVMe multipath subsystem.

    The head stands below virtual/nvme-subsystem/nvme-subsysN, beside links to the controllers.
    """
    if "/nvme-subsystem/" not in path:
        return []
    links = sysfs.links_or_raise((root / _BLOCK / path).parent)
    return [target for name, target in links.items() if name.startswith("nvme")]


def _mounts(root: Path, disks: Disks) -> dict[str, set[str]]:
    """Map each mounted device to its mount points, in every mount namespace."""
    found: dict[str, set[str]] = {}
    named: dict[str, list[str]] = {}  # by source: a host of containers mounts each many times
    for line in _mount_lines(root):
        before, separator, after = line.partition(" - ")
        words, (_, source, *_) = before.split(" "), [*after.split(" "), "", ""]
        if not separator or len(words) < 5:
            continue
        name = disks.numbers.get(words[2])
        # A file system such as btrfs has a number of its own, and names its devices as the source.
        if not name and source not in named:
            named[source] = list(_named(source, disks.own, disks.labels, root))
        for each in [name] if name else named[source]:
            found.setdefault(each, set()).add(_unescape(words[4]))
    for pattern in _LIVE:
        for place in sysfs.paths_if_there(root / "sys/fs", pattern):
            # Entries that are no device stand there too, such as ext4's features.
            if place.name in disks.own:
                kind = pattern.partition("/")[0]
                found.setdefault(place.name, {f"a live {kind} file system"})
    return dict(sorted(found.items()))


def _mount_lines(root: Path) -> Iterable[str]:
    seen: set[str] = set()
    lines: dict[str, None] = {}
    for process in ("self", *procfs.processes_if_there(root)):
        try:
            namespace = procfs.mount_namespace_or_raise(root, process)
        except OSError:
            if process not in ("self", 1):
                continue  # it has ended; or it is another user's, and we are not root
            namespace = str(process)
        if namespace in seen:
            continue
        try:
            lines.update(dict.fromkeys(procfs.lines_or_raise(root, f"{process}/mountinfo")))
            seen.add(namespace)
        except OSError:
            continue  # the same; another process of the namespace may answer
    return lines


def _swaps(root: Path, disks: Disks) -> Iterator[str]:
    for line in procfs.lines_or_raise(root, "swaps")[1:]:
        words = line.split()
        # A swap file lies on a file system, which is mounted.
        if len(words) > 1 and words[1] == "partition":
            yield from _named(_unescape(words[0]), disks.own, disks.labels, root)


def _named(
    source: str, known: Container[str], labels: Mapping[str, str], root: Path
) -> Iterator[str]:
    """Yield the kernel's names of a ``/dev/…``, or of several between colons (bcachefs)."""
    for path in source.split(":"):
        if not path.startswith("/dev/"):
            continue
        base = os.path.basename(path)
        mapped = next((name for name, label in labels.items() if label == base), None)
        linked = os.path.basename(os.path.realpath(root / path[1:]))
        found = next((name for name in (base, mapped, linked) if name and name in known), None)
        if found:
            yield found


def _signature(root: Path, number: str) -> str | None:
    for line in sysfs.lines_or_raise(root / f"run/udev/data/b{number}"):
        key, _, value = line.partition("=")
        if key == _PARTITION_KEY and value.lower() in _PARTITION_TYPES:
            return _PARTITION_TYPES[value.lower()]
        for word in re.findall(r"\w+", value) if key in _SIGNATURE_KEYS else ():
            if word.endswith("_raid_member"):
                return "a RAID array"
            if word in _SIGNATURES:
                return _SIGNATURES[word]
    return None


@functools.lru_cache(maxsize=1024)
def _unescape(text: str) -> str:
    """Undo the octal escapes of mountinfo and swaps: blank, tab, newline and backslash."""
    for code, character in (("040", " "), ("011", "\t"), ("012", "\n"), ("134", "\\")):
        text = text.replace(f"\\{code}", character)
    return text
