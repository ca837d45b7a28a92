"""Disks of the host: what is mounted, swapped to, exported, or part of something larger.

Reads only. Sources: the kernel's Documentation/ABI for /sys/class/block and /sys/fs, proc(5) for
mountinfo and swaps, fs/jbd2/journal.c for /proc/fs/jbd2, and Documentation/target and
drivers/nvme/target/configfs.c for what configfs shows of exports.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from passthrough.host.disks import Disks
from passthrough.host.uses import kinds
from passthrough.system import procfs, quoting, sysfs

# The file systems that the kernel has at work, by their devices, below /sys/fs. Some are mounted
# where no process is: in a namespace that a file keeps, or detached while a file was open.
_LIVE = ("btrfs/*/devices/*", "erofs/*", "ext4/*", "f2fs/*", "nilfs2/*", "xfs/*")
# The journals that the kernel has at work: ``sda2-8`` lies in a file of sda2, and ``sdb`` is an
# external one, whose device has no other sign of it.
_JOURNALS = "fs/jbd2"
# Disks that the kernel itself serves to other machines: where configfs names them, and to whom.
_EXPORTS = (
    ("nvmet/subsystems/*/namespaces/*/device_path", "NVMe over fabrics"),
    ("target/core/*/*/udev_path", "a SCSI target"),
)
_CONFIGFS = "sys/kernel/config"


def find(
    root: Path, disks: Disks, mounted: Mapping[str, set[str]], swaps: Iterable[str]
) -> Iterator[tuple[str, kinds.Use]]:
    """Find the uses of functions by storage, as pairs of address and use.

    Args:
        root: the host's root.
        disks: its block devices.
        mounted: what `find_mounts` gave.
        swaps: what `find_swaps` gave.
    """
    for name, use in _uses(root, disks, mounted, swaps):
        for address in sorted(disks.functions(name)):
            yield address, use


def _uses(
    root: Path, disks: Disks, mounted: Mapping[str, set[str]], swaps: Iterable[str]
) -> Iterator[tuple[str, kinds.Use]]:
    for name, places in mounted.items():
        place = quoting.plain(min(places, key=lambda each: (len(each), each)))
        yield name, kinds.Use(kinds.Kind.MOUNT, f"{place} on {disks.label(name)}")
    for name in swaps:
        yield name, kinds.Use(kinds.Kind.SWAP, disks.label(name))
    for name, holders in disks.holders.items():
        for holder in holders:
            yield name, kinds.Use(kinds.Kind.MEMBER, f"{name} is part of {disks.label(holder)}")
    for name, whom in _exported(root, disks):
        yield name, kinds.Use(kinds.Kind.MEMBER, f"{disks.label(name)} is exported through {whom}")
    for name, path in disks.backing.items():
        # A loop device that nothing has mounted holds its disk all the same.
        idle = name.startswith("loop") and name not in mounted
        for lower in disks.named(root, path) if idle else ():
            yield lower, kinds.Use(kinds.Kind.MEMBER, f"{disks.label(lower)} is behind {name}")


def _exported(root: Path, disks: Disks) -> Iterator[tuple[str, str]]:
    """The devices that the kernel serves to other machines, each with the means."""
    for pattern, whom in _EXPORTS:
        for place in sysfs.paths_if_there(root / _CONFIGFS, pattern):
            for name in disks.named(root, sysfs.attribute_if_there(place) or ""):
                yield name, whom


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
            if place.name in disks.own:
                yield place.name, f"a live {pattern.partition('/')[0]} file system"
    for journal in procfs.names_or_raise(root, _JOURNALS):
        if journal in disks.own:
            yield journal, "the journal of a live file system"


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
