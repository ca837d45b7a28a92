"""Disks of the host: what is mounted, swapped to, exported, or part of something larger.

Reads only. Sources: the kernel's Documentation/ABI for /sys/class/block and /sys/fs, proc(5) for
mountinfo and swaps, fs/jbd2/journal.c for /proc/fs/jbd2, and Documentation/target and
drivers/nvme/target/configfs.c for what configfs shows of exports.
"""

from __future__ import annotations

import functools
import itertools
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

from passthrough import pci_address
from passthrough.host.disks import Disks
from passthrough.host.uses import kinds
from passthrough.system import procfs, quoting, sysfs

# The file systems that the kernel has at work, by their devices, below /sys/fs. Some are mounted
# where no process is: in a namespace that a file keeps, or detached while a file was open.
_LIVE = ("btrfs/*/devices/*", "erofs/*", "ext4/*", "f2fs/*", "nilfs2/*", "xfs/*")
# The same, where a link leads to the device or to its ``bcache``. A cache that nothing is attached
# to yet has no holder.
_BCACHEFS, _BCACHE = "bcachefs/*/dev-*/block", ("bcache/*/bdev*", "bcache/*/cache*")
# The journals that the kernel has at work: ``sda2-8`` lies in a file of sda2, and ``sdb`` is an
# external one, whose device has no other sign of it. OCFS2's file systems show there alone.
_JOURNALS = "fs/jbd2"
_WITHIN = r"-[0-9]+$"
# Disks that the kernel itself serves to other machines: where configfs names them, and to whom.
_OVER_FABRICS, _SCSI_TARGET = "NVMe over fabrics", "a SCSI target"
_EXPORTS = (
    ("nvmet/subsystems/*/namespaces/*/device_path", _OVER_FABRICS),
    ("target/core/*/*/udev_path", _SCSI_TARGET),
    ("usb_gadget/*/functions/mass_storage.*/lun.*/file", "USB"),
)
# Out of the kernel's tree, and not in configfs: SCST's, each with more lines behind the name.
_SCST = "sys/kernel/scst_tgt/devices/*/filename"
# A SCSI target names a device in its own text as well: by its node, by its number, or by its place
# on the bus.
_TARGETS = "target/core/*/*/info"
_BY_NODE = r"File: (/dev/\S+)"
_BY_NUMBER = r"Major: *([0-9]+) +Minor: *([0-9]+)"
_BY_PLACE = r"Channel ID: *([0-9]+) +Target ID: *([0-9]+) +LUN: *([0-9]+) +Host ID: *([0-9]+)"
# A whole NVMe controller, which is no block device: ``/dev/nvme0``.
_CONTROLLERS = "nvmet/subsystems/*/passthru/device_path"
_CONFIGFS = "sys/kernel/config"


def find(
    root: Path, disks: Disks, mounted: Mapping[str, set[str]], swaps: Collection[str]
) -> Iterator[tuple[str, kinds.Use]]:
    """Find the uses of functions by storage, as pairs of address and use.

    Args:
        root: the host's root.
        disks: its block devices.
        mounted: what `find_mounts` gave.
        swaps: what `find_swaps` gave.
    """
    places = sysfs.paths_if_there(root / _CONFIGFS, _TARGETS)
    targets = [sysfs.attribute_if_there(place) or "" for place in places]
    for name, use in itertools.chain(
        _uses(root, disks, mounted, swaps), _exported(root, disks, targets)
    ):
        for address in sorted(disks.functions(name)):
            yield address, use
    for path, name, whom in _exported_devices(root, targets):
        for address in sorted(pci_address.functions_on(path)):
            what = f"{quoting.plain(name)} is exported through {whom}"
            yield address, kinds.Use(kinds.Kind.MEMBER, what)


def _uses(
    root: Path, disks: Disks, mounted: Mapping[str, set[str]], swaps: Collection[str]
) -> Iterator[tuple[str, kinds.Use]]:
    for name, places in mounted.items():
        place = quoting.plain(min(places, key=lambda each: (len(each), each)))
        yield name, kinds.Use(kinds.Kind.MOUNT, f"{place} on {disks.label(name)}")
    for name in swaps:
        yield name, kinds.Use(kinds.Kind.SWAP, disks.label(name))
    for name, holders in disks.holders.items():
        for holder in holders:
            yield name, kinds.Use(kinds.Kind.MEMBER, f"{name} is part of {disks.label(holder)}")
    for name in itertools.chain(*(_linked(root, disks, each) for each in _BCACHE)):
        if not disks.holders[name]:
            yield name, kinds.Use(kinds.Kind.MEMBER, f"{name} is part of a live bcache set")
    for name, path in disks.backing.items():
        # A loop device that nothing has mounted holds its disk all the same, and so does zram.
        idle = name not in mounted and name not in swaps
        for lower in disks.named(root, path) if idle else ():
            yield lower, kinds.Use(kinds.Kind.MEMBER, f"{disks.label(lower)} is behind {name}")


def _exported(root: Path, disks: Disks, targets: Iterable[str]) -> Iterator[tuple[str, kinds.Use]]:
    """The devices that the kernel serves to other machines."""
    for name, whom in _exports(root, disks, targets):
        yield name, kinds.Use(kinds.Kind.MEMBER, f"{disks.label(name)} is exported through {whom}")


def _exports(root: Path, disks: Disks, targets: Iterable[str]) -> Iterator[tuple[str, str]]:
    """The same, each with the means."""
    for pattern, whom in _EXPORTS:
        for place in sysfs.paths_if_there(root / _CONFIGFS, pattern):
            for name in disks.named(root, sysfs.attribute_if_there(place) or ""):
                yield name, whom
    for place in sysfs.paths_if_there(root, _SCST):
        for line in (sysfs.attribute_if_there(place) or "").splitlines()[:1]:
            yield from ((name, _SCSI_TARGET) for name in disks.named(root, line))
    for text in targets:
        node, number = re.search(_BY_NODE, text), re.search(_BY_NUMBER, text)
        for name in disks.named(root, node[1]) if node else ():
            yield name, _SCSI_TARGET
        name = disks.numbers.get(":".join(number.groups())) if number else None
        if name:
            yield name, _SCSI_TARGET


def _exported_devices(root: Path, targets: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    """The exported devices that are no block devices: path in sysfs, name, and the means."""
    controllers = sysfs.links_or_raise(root / "sys/class/nvme")
    for place in sysfs.paths_if_there(root / _CONFIGFS, _CONTROLLERS):
        name = os.path.basename(sysfs.attribute_if_there(place) or "")
        if name in controllers:
            yield controllers[name], name, _OVER_FABRICS
    devices = sysfs.links_or_raise(root / "sys/class/scsi_device")
    for text in targets:
        found = re.search(_BY_PLACE, text)
        if found:
            channel, target, unit, host = found.groups()
            name = f"{host}:{channel}:{target}:{unit}"
            if name in devices:
                yield devices[name], name, _SCSI_TARGET


def find_mounts(root: Path, disks: Disks, mounts: Iterable[str]) -> dict[str, set[str]]:
    """Map each mounted device to its mount points, in every mount namespace."""
    found: dict[str, set[str]] = {}
    named: dict[str, list[str]] = {}  # by source: a host of containers mounts one many times
    for line in mounts:
        before, separator, after = line.partition(" - ")
        words, (_, source, *options) = before.split(" "), [*after.split(" "), "", ""]
        if not separator or len(words) < 5:
            continue
        name = disks.numbers.get(words[2])
        # A file system such as btrfs has a number of its own, and names its devices as the source.
        if not name and source not in named:
            named[source] = list(disks.named(root, source))
        for each in [name] if name else named[source]:
            found.setdefault(each, set()).add(_unescape(words[4]))
        for each in _second_devices(root, disks, ",".join(options)):
            found.setdefault(each, set()).add(_unescape(words[4]))
    for name, what in _live(root, disks):
        found.setdefault(name, {what})
    return dict(sorted(found.items()))


def _second_devices(root: Path, disks: Disks, options: str) -> Iterator[str]:
    """The devices that a mount's options name: XFS' log and its realtime device."""
    for option in options.split(",") if "=/dev/" in options else ():
        yield from disks.named(root, _unescape(option.partition("=")[2]))


def _live(root: Path, disks: Disks) -> Iterator[tuple[str, str]]:
    """The devices of the file systems that the kernel has at work, each with what it is for."""
    for pattern in _LIVE:
        for place in sysfs.paths_if_there(root / "sys/fs", pattern):
            # Entries that are no device stand there too, such as ext4's features.
            name = os.path.basename(place)
            if name in disks.own:
                yield name, f"a live {pattern.partition('/')[0]} file system"
    for name in _linked(root, disks, _BCACHEFS):
        yield name, "a live bcachefs file system"
    for journal in procfs.names_or_raise(root, _JOURNALS):
        within = re.sub(_WITHIN, "", journal)
        if journal in disks.own:  # dm-0 is a device of its own
            yield journal, "the journal of a live file system"
        elif within in disks.own:
            yield within, "a live file system"


def _linked(root: Path, disks: Disks, pattern: str) -> Iterator[str]:
    """The devices that links below /sys/fs lead to."""
    for place in sysfs.paths_if_there(root / "sys/fs", pattern):
        parts = (sysfs.link_target_if_there(place) or "").split("/")
        yield from [each for each in parts if each in disks.own][-1:]


def find_swaps(root: Path, disks: Disks) -> Iterator[str]:
    """Find the devices that are swapped to."""
    for line in procfs.lines_or_raise(root, "swaps")[1:]:
        words = line.split()
        # A swap file lies on a file system, which is mounted.
        if len(words) > 1 and words[1] == "partition":
            yield from disks.named(root, _unescape(words[0]))


@functools.lru_cache(maxsize=1024)
def _unescape(text: str) -> str:
    """Undo the octal escapes of mountinfo and swaps: blank, tab, newline and backslash."""
    for code, character in (("040", " "), ("011", "\t"), ("012", "\n"), ("134", "\\")):
        text = text.replace(f"\\{code}", character)
    return text
