"""Data at rest: what is written on a disk, or configured for it, while nothing has it open.

Reads only. A disk that waits for its key, its pool or its first access is not an empty disk.
Sources: udev's database, which has libblkid's names (util-linux, libblkid/src/superblocks),
fstab(5), crypttab(5) and systemd.mount(5).
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Container, Iterable, Iterator
from pathlib import Path

from passthrough import frozen
from passthrough.host import disks
from passthrough.host.uses import kinds
from passthrough.system import quoting, sysfs

# What libblkid says of a signature: that it is part of something (raid), locked (crypto), or helps
# something else (other). A file system by itself says that of nothing, but for the types below.
_RAID, _CRYPTO, _OTHER = "raid", "crypto", "other"
_NOT_FREE = (_RAID, _CRYPTO, _OTHER)
# Words for the types that people know. They need no ID_FS_USAGE: ZFS and btrfs have another one
# than their members are used by, and an old database may have none.
_PARTS = {
    "DM_integrity": "a device-mapper integrity target",
    "DM_snapshot_cow": "a device-mapper snapshot",
    "DM_verity_hash": "a device-mapper verity target",
    "LVM1_member": "an LVM volume group",
    "LVM2_member": "an LVM volume group",
    "VMFS_volume_member": "a VMFS datastore",
    "bcache": "a bcache set",
    "bcachefs": "a bcachefs file system",
    "ceph_bluestore": "a Ceph OSD",
    "dm-integrity": "a device-mapper integrity target",
    "drbd": "a DRBD resource",
    "drbdmanage_control_volume": "a DRBD resource",
    "drbdproxy_datalog": "a DRBD resource",
    "jbd": "an ext4 file system, whose journal it is",
    "linux_raid_member": "a RAID array",
    "mpath_member": "a multipath device",
    "oracleasm": "an Oracle ASM disk group",
    "stratis": "a Stratis pool",
    "ubi": "a UBI volume",
    "vdo": "a VDO volume",
    "xfs_external_log": "an XFS file system, whose log it is",
    "zfs_member": "a ZFS pool",
}
_LOCKED = {
    "BitLocker": "a BitLocker volume",
    "FVE": "a BitLocker volume",
    "crypto_LUKS": "a LUKS volume",
    "cs_fvault2": "a FileVault volume",
}
_KEPT = {"swap": "swap space", "swsuspend": "a hibernated system"}
_WORDS = {
    **{kind: f"is part of {what}" for kind, what in _PARTS.items()},
    **{kind: f"is {what}, which may be locked" for kind, what in _LOCKED.items()},
}
# By usage, for a type that has no words of its own.
_WORDS_OF_USAGE = {
    _RAID: "is part of something larger ({})",
    _CRYPTO: "is an encrypted volume ({})",
    _OTHER: "belongs to something else ({})",
}
# A partition says by its type whose it is, whatever its content looks like.
_PARTITION_TYPES = {
    "0x8e": "is part of an LVM volume group",
    "0xe8": "is a LUKS volume, which may be locked",
    "0xfd": "is part of a RAID array",
    "6a898cc3-1dd2-11b2-99a6-080020736631": "is part of a ZFS pool",
    "a19d880f-05fc-4d3b-a006-743f0f84911e": "is part of a RAID array",
    "ca7d7ccb-63ed-4c53-861c-1742536059cc": "is a LUKS volume, which may be locked",
    "e6d6d379-f507-44c2-a23c-238f2a3df928": "is part of an LVM volume group",
}
# Ceph's begin like these, for an OSD's data, journal, block device and lockbox; the rest tells how
# it is encrypted. Its database and its log have one each, plain and in LUKS.
_CEPH = (
    "4fbd7e29-9d25-41b8-afd0-",
    "45b0969e-9b03-4f30-b4c6-",
    "cafecafe-9b03-4f30-b4c6-",
    "fb3aabf9-d25f-47cc-bf5e-721d1816496b",
    "30cd0809-c2b2-499c-8879-2d6b78529876",
    "166418da-c469-4022-adf4-b30afd37f176",
    "5ce17fce-4087-4169-b7ff-056cc58473f9",
    "86a32090-3647-40b9-bbbd-38d8c573aa86",
)
_TYPE, _USAGE = "E:ID_FS_TYPE", "E:ID_FS_USAGE"
# For a disk with several signatures, such as a pool's over an older file system's: USAGE:TYPE of
# each, perhaps with a version behind it; and then there is no _TYPE.
_AMBIVALENT = "E:ID_FS_AMBIVALENT"
_PARTITION = "E:ID_PART_ENTRY_TYPE"

# How fstab and crypttab name a device, and where udev keeps what they mean.
_TAGS = {
    "UUID": ("E:ID_FS_UUID", "E:ID_FS_UUID_ENC"),
    "LABEL": ("E:ID_FS_LABEL", "E:ID_FS_LABEL_ENC"),
    "PARTUUID": ("E:ID_PART_ENTRY_UUID",),
    "PARTLABEL": ("E:ID_PART_ENTRY_NAME",),
}
_LINKS = {
    "UUID": "disk/by-uuid",
    "LABEL": "disk/by-label",
    "PARTUUID": "disk/by-partuuid",
    "PARTLABEL": "disk/by-partlabel",
    "ID": "disk/by-id",
}
_QUOTES = "'\""
# Where systemd looks for units (systemd.unit(5)), but for those that it makes of fstab itself.
_UNITS = (
    "etc/systemd/system",
    "run/systemd/system",
    "usr/local/lib/systemd/system",
    "usr/lib/systemd/system",
)
_UNIT_KINDS, _DROP_IN_KINDS = (".mount", ".swap"), (".mount.d", ".swap.d")
# What is had when its service, or a guest, starts: targets of LIO, nvmet, tgt and SCST, DRBD,
# autofs' maps, and the disks and pools of libvirt's guests that are shut off.
_SERVICES = (
    "etc/auto.*",
    "etc/libvirt/qemu/*.xml",
    "etc/libvirt/storage/*.xml",
    "etc/scst.conf",
    "etc/rtslib-fb-target/saveconfig.json",
    "etc/target/saveconfig.json",
    "etc/nvmet/config.json",
    "etc/tgt/targets.conf",
    "etc/tgt/conf.d/*.conf",
    "etc/drbd.conf",
    "etc/drbd.d/*.res",
)
_DEV = "/dev/"  # guests of libvirt have long files, of which few lines name a device
_NODE = r"""/dev/[^\s"';,<>]+"""
# Where Ceph's OSDs, also down ones, have links to their devices: Debian's, cephadm's, MicroCeph's.
_OSDS = (
    "var/lib/ceph/osd/*/block*",
    "var/lib/ceph/osd/*/journal*",
    "var/lib/ceph/*/osd.*/block*",
    "var/snap/microceph/common/data/osd/*/block*",
)
# What udev keeps of a name's characters in a link; the others become \xNN (encode_devnode_name()).
_ENCODED = r"(?![0-9A-Za-z#+.:=@_-])[\x00-\x7f]"


class _Entry(frozen.Value):
    """One configured device: where and for what, and all that may name it.

    ``names`` are kernel names, ``links`` are udev's, such as ``disk/by-uuid/…``, and ``values`` are
    pairs of a key of udev's database and what it has to hold, in lower case. ``written`` tells that
    the device is named by what is written on it, not by what it is.
    """

    what: str
    names: frozenset[str]
    links: frozenset[str]
    values: frozenset[tuple[str, str]]
    written: bool

    def means(self, name: str, said: Iterable[tuple[str, str]]) -> bool:
        """Tell whether it means the device of that name, of which udev's database says that."""
        return name in self.names or any(
            value in self.links if key == "S" else (key, value.lower()) in self.values
            for key, value in said
        )


def find(
    root: Path, known: disks.Disks, ours: Container[str], busy: Container[str]
) -> Iterator[tuple[str, kinds.Use]]:
    """Find the functions whose disks hold or are meant for something, as address and use.

    Args:
        root: the host's root.
        known: its block devices.
        ours: addresses of functions that guests had by the charm's doing. What is written on their
            disks is guests' own, and says nothing about the host.
        busy: devices that are mounted or swapped to; that they are configured says no more.

    Raises:
        OSError: when a file of the host's configuration is there and cannot be read.
    """
    entries = [_resolve(root, known, *each) for each in _entries(root)]
    for name in known.numbers.values():
        functions = known.functions(name)
        if not functions:
            continue
        said = known.said[name]
        # What is assembled carries what its members are part of already.
        signature = _signature(said) if known.own[name] else None
        meant = [each for each in entries if name not in busy and each.means(name, said)]
        for address in sorted(functions):
            mine = address in ours
            if signature and not mine:
                yield address, kinds.Use(kinds.Kind.MEMBER, f"{name} {signature}")
            for entry in meant:
                if not (entry.written and mine):
                    what = f"{entry.what} on {known.label(name)}"
                    yield address, kinds.Use(kinds.Kind.CONFIGURED, what)


def _signature(said: Iterable[tuple[str, str]]) -> str | None:
    """What the signatures of a device say, as what it is; None where it may be free."""
    values = dict(said)
    kind = values.get(_PARTITION, "").lower()
    if kind in _PARTITION_TYPES:
        return _PARTITION_TYPES[kind]
    if kind.startswith(_CEPH):
        return "is part of a Ceph OSD"
    signatures = [(values.get(_USAGE, ""), values.get(_TYPE, ""))]
    for word in values.get(_AMBIVALENT, "").split():
        usage, _, rest = word.partition(":")
        signatures.append((usage, rest.partition(":")[0]))
    return next(filter(None, map(_describe, signatures)), None)


def _describe(signature: tuple[str, str]) -> str | None:
    usage, kind = signature
    if kind.endswith("_raid_member"):
        return "is part of a RAID array"
    if kind in _KEPT:
        return f"holds {_KEPT[kind]}"
    if kind in _WORDS:
        return _WORDS[kind]
    # libblkid's own convention, for those that come after this table.
    if usage not in _NOT_FREE and kind.lower().endswith(("_member", "_luks")):
        usage = _RAID
    if usage in _NOT_FREE:
        return _WORDS_OF_USAGE[usage].format(quoting.plain(kind or usage))
    return None


def _entries(root: Path) -> Iterator[tuple[str, str]]:
    """The devices that the host's configuration names, each with where and for what.

    Raises:
        OSError: when a file is there and cannot be read.
    """
    for words in _rows(root / "etc/fstab"):
        place = "swap" if words[2:3] == ["swap"] else _unescape(words[1])
        for device in (_unescape(words[0]), *_options(words[3:4])):
            yield device, f"{quoting.plain(place)} in /etc/fstab"
    for words in _rows(root / "etc/crypttab"):
        key = "".join(words[2:3]).partition(":")[2]  # what a key file lies on
        for device in (words[1], key, *_options(words[3:4])):
            yield device, f"{quoting.plain(words[0])} in /etc/crypttab"
    yield from _units(root)
    yield from _services(root)


def _units(root: Path) -> Iterator[tuple[str, str]]:
    for place in _UNITS:
        directory = os.path.join(root, place)
        for name in sysfs.names_if_there(directory):
            path = f"{directory}/{name}"
            if name.endswith(_UNIT_KINDS):
                files = [path]
            elif name.endswith(_DROP_IN_KINDS):
                files = sysfs.paths_if_there(path, "*.conf")
            else:
                continue
            what = f"{quoting.plain(name.removesuffix('.d'))} of systemd"
            for key, _, value in (line.partition("=") for file in files for line in _lines(file)):
                if key.strip() == "What":
                    yield value.strip(), what


def _services(root: Path) -> Iterator[tuple[str, str]]:
    for pattern in _SERVICES:
        for path in sysfs.paths_if_there(root, pattern):
            what = f"an entry of /{quoting.plain(os.path.relpath(path, root))}"
            for line in _lines(path) if not os.path.isdir(path) else ():  # autofs has auto.master.d
                for device in re.findall(_NODE, line.partition("#")[0]) if _DEV in line else ():
                    yield device, what
    for pattern in _OSDS:
        for path in sysfs.paths_if_there(root, pattern):
            place = f"/{os.path.relpath(path, root)}"
            if sysfs.link_target_if_there(path):
                yield place, f"the device of Ceph's {quoting.plain(place)}"


def _rows(path: str | Path) -> Iterator[list[str]]:
    """The rows of fstab or crypttab that name something."""
    for line in _lines(path):
        words = line.split()
        if len(words) > 1 and not words[0].startswith("#"):
            yield words


def _lines(path: str | Path) -> list[str]:
    # crypttab may be root's alone, and a reader who is not root only looks.
    readable = not os.geteuid() or os.access(path, os.R_OK)
    return sysfs.lines_or_raise(path) if readable else []


def _options(column: Iterable[str]) -> Iterator[str]:
    """The devices that options name, such as ``logdev=/dev/sdb1`` and ``header=FILE:UUID=…``."""
    for option in ",".join(column).split(","):
        value = option.partition("=")[2]
        for each in (value, value.partition(":")[2]):
            if each.startswith("/dev/") or each.partition("=")[0] in _LINKS:
                yield each


def _resolve(root: Path, known: disks.Disks, device: str, what: str) -> _Entry:
    """Work out what a device may be called that is named in fstab's way: a tag or a path."""
    tag, is_tag, value = device.partition("=")
    value = value.strip(_QUOTES)
    link = ""
    if is_tag and tag in _LINKS:
        link = f"{_LINKS[tag]}/{_encode(value)}"
    elif device.startswith("/"):
        path = device if device.startswith("/dev/") else disks.follow(root, device)
        link = path.removeprefix("/dev/") if path.startswith("/dev/") else ""
        found = (each for each, place in _LINKS.items() if link.startswith(f"{place}/"))
        tag = next(found, "")
        value = link.rpartition("/")[2]
    spellings = {each.lower() for each in (value, _encode(value)) if each}
    return _Entry(
        what,
        names=frozenset(known.named(root, f"/dev/{link}")) if link else frozenset(),
        links=frozenset({link} - {""}),
        values=frozenset(itertools.product(_TAGS.get(tag, ()), spellings)),
        written=tag in _TAGS,
    )


def _encode(text: str) -> str:
    """Spell a label as udev does in a link."""
    return re.sub(_ENCODED, lambda found: f"\\x{ord(found[0]):02x}", text)


def _unescape(text: str) -> str:
    """Undo the escapes of fstab: blank, tab and backslash (fstab(5))."""
    for code, character in (("040", " "), ("011", "\t"), ("134", "\\")):
        text = text.replace(f"\\{code}", character)
    return text
