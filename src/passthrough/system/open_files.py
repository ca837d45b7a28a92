"""The device nodes that processes have open, told by their numbers. Reads only.

A path says little: a container has a node under another name, or a regular file that is called
``/dev/vfio/17``. The number is that of the file behind the descriptor. But to ask for it is to ask
the file system that the file lies on, and one whose server is gone never answers; so the
descriptor's mount is looked up first (proc(5), ``/proc/PID/fdinfo``). Where nobody may be asked,
the path has to do.
"""

from __future__ import annotations

import errno
import functools
import os
import stat
import struct
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from passthrough import frozen

# A guest under KVM has this open, whatever program runs it.
KVM_GUEST = "anon_inode:kvm-vm"

# The file system of containers' roots, which lies on others.
_OVERLAY = "overlay"
# Local file systems that can hold device nodes. Every other one is not asked.
_LOCAL = (
    "bcachefs",
    "btrfs",
    "devtmpfs",
    "ext2",
    "ext3",
    "ext4",
    "f2fs",
    "jfs",
    "nilfs2",
    _OVERLAY,
    "ramfs",
    "reiserfs",
    "rootfs",
    "squashfs",
    "tmpfs",
    "xfs",
    "zfs",
)
_NODE_PLACE = "/dev/"
_DELETED = " (deleted)"
_NETWORK = "net:["
# A process that has ended, and a descriptor that was closed, since they were listed.
_GONE = (errno.ENOENT, errno.ESRCH, errno.ENOTDIR)
_DENIED = (errno.EACCES, errno.EPERM)

# statx(2), linux/fcntl.h and linux/stat.h: an overlay asks the file systems below it, which are
# told not to ask their servers.
_AT_FDCWD, _AT_STATX_DONT_SYNC, _STATX_TYPE = -100, 0x4000, 0x1
_STATX_SIZE, _MODE_AT, _MAJOR_AT = 256, 28, 128
_MODE, _NUMBER = struct.Struct("=H"), struct.Struct("=II")
_KINDS = {stat.S_IFCHR: "c", stat.S_IFBLK: "b"}


class Opened(frozen.Value):
    """What processes have open; everywhere the sorted ids of who has it.

    ``numbers`` are device nodes by their number as udev spells it: ``c195:0``, ``b259:0``.
    ``paths`` are the same ones by their path, with KVM's guests. ``unasked`` are paths that look
    like a node's and could not be asked; they are among ``paths`` too. ``unread`` are the processes
    that have more which could not be seen, and ``hidden`` those of other users, which the kernel
    shows to root alone: a reader who is not root only looks, and sees what can be seen.
    ``networks`` are the network namespaces that are open, each with the files that stand for it.
    """

    numbers: Mapping[str, tuple[int, ...]]
    paths: Mapping[str, tuple[int, ...]]
    unasked: Mapping[str, tuple[int, ...]]
    unread: tuple[int, ...]
    hidden: tuple[int, ...] = ()
    networks: Mapping[str, tuple[str, ...]] = frozen.field(
        default_factory=dict[str, tuple[str, ...]]
    )


class _Found:
    """What one pass has come across so far."""

    def __init__(self, mounts: Iterable[str]):
        self.mounts = _mounts_to_ask(mounts)
        self.numbers: dict[str, set[int]] = {}
        self.paths: dict[str, set[int]] = {}
        self.unasked: dict[str, set[int]] = {}
        self.unread: set[int] = set()
        self.hidden: set[int] = set()
        self.networks: dict[str, list[str]] = {}

    def miss(self, process: int, error: OSError) -> None:
        """Note that a process could not be looked at, unless it is gone."""
        if error.errno in _DENIED and os.geteuid():
            self.hidden.add(process)
        elif error.errno not in _GONE:
            self.unread.add(process)


def look(root: Path, processes: Iterable[int], mounts: Iterable[str]) -> Opened:
    """Look through the descriptors of processes, in one pass.

    Args:
        root: the host's root.
        processes: which ones.
        mounts: the lines of mountinfo of all their mount namespaces.
    """
    found = _Found(mounts)
    for process in processes:
        directory = f"{root}/proc/{process}"
        try:
            descriptors = os.listdir(f"{directory}/fd")
        except OSError as error:
            found.miss(process, error)
            continue
        for descriptor in descriptors:
            try:
                _look_at(found, process, directory, descriptor)
            except OSError as error:
                found.miss(process, error)
    return Opened(
        {number: tuple(sorted(who)) for number, who in found.numbers.items()},
        {path: tuple(sorted(found.paths[path])) for path in sorted(found.paths)},
        {path: tuple(sorted(found.unasked[path])) for path in sorted(found.unasked)},
        tuple(sorted(found.unread)),
        tuple(sorted(found.hidden)),
        {name: tuple(paths) for name, paths in found.networks.items()},
    )


def is_local(kind: str) -> bool:
    """Tell whether a file system has no server, which might never answer."""
    return kind in _LOCAL


def _look_at(found: _Found, process: int, directory: str, descriptor: str) -> None:
    target = os.readlink(f"{directory}/fd/{descriptor}")
    if "/" not in target:  # a socket, a pipe, or another file without a place
        if target == KVM_GUEST:
            found.paths.setdefault(target, set()).add(process)
        elif target.startswith(_NETWORK):
            found.networks.setdefault(target, []).append(f"{directory}/fd/{descriptor}")
        return
    kind = found.mounts.get(_mount_of(f"{directory}/fdinfo/{descriptor}") or "")
    if kind is not None:
        number = _number_of(f"{directory}/fd/{descriptor}", kind)
        if number:
            found.numbers.setdefault(number, set()).add(process)
            found.paths.setdefault(target, set()).add(process)
    elif _NODE_PLACE in target:
        path = target.removesuffix(_DELETED)
        found.paths.setdefault(path, set()).add(process)
        found.unasked.setdefault(path, set()).add(process)


def _mounts_to_ask(lines: Iterable[str]) -> Mapping[str, str]:
    """The mounts whose files may be asked, and can be device nodes: id and file system."""
    found: dict[str, str] = {}
    for line in lines:
        before, _, after = line.partition(" - ")
        words = before.split(" ")
        kind = after.partition(" ")[0]
        if len(words) > 5 and kind in _LOCAL and "nodev" not in words[5].split(","):
            found[words[0]] = kind
    return found


def _mount_of(path: str) -> str | None:
    """The id of the mount that a descriptor's file lies on; None when it cannot be told."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        text = os.read(handle, 4096)
    except OSError:
        return None
    finally:
        os.close(handle)
    _, found, rest = text.partition(b"mnt_id:")
    return rest.partition(b"\n")[0].strip().decode("ascii", "replace") if found else None


def _number_of(path: str, kind: str) -> str | None:
    """The number of the device node that a descriptor leads to; None where it is no such node.

    Args:
        path: the descriptor.
        kind: the file system that the file lies on.

    Raises:
        OSError: when that cannot be told.
    """
    mode, major, minor = _ask_on_overlay(path) if kind == _OVERLAY else _ask(path)
    node = _KINDS.get(stat.S_IFMT(mode))
    return f"{node}{major}:{minor}" if node else None


def _ask(path: str) -> tuple[int, int, int]:
    """The mode of what a descriptor leads to, and its major and minor number as a device node."""
    found = os.stat(path)
    return found.st_mode, os.major(found.st_rdev), os.minor(found.st_rdev)


def _ask_on_overlay(path: str) -> tuple[int, int, int]:
    """The same by statx(2), which os.stat() makes without a way to say that no server is asked."""
    import ctypes  # half of what imports cost here, and a host without containers asks for none

    answer = ctypes.create_string_buffer(_STATX_SIZE)
    arguments = (_AT_FDCWD, os.fsencode(path), _AT_STATX_DONT_SYNC, _STATX_TYPE, answer)
    if _statx()(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    (mode,) = _MODE.unpack_from(answer, _MODE_AT)
    major, minor = _NUMBER.unpack_from(answer, _MAJOR_AT)
    return mode, major, minor


@functools.cache
def _statx() -> Callable[..., int]:
    import ctypes

    return ctypes.CDLL(None, use_errno=True).statx
