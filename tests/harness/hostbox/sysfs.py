"""A made-up /sys as a file system: FUSE over the tree, with `hosttree.kernel` behind the writes.

A tree of plain files keeps what is written and nothing happens. Here a write to ``drivers_probe``
binds the driver before the write returns, or fails with the kernel's errno, as in the real sysfs.
The protocol is that of include/uapi/linux/fuse.h, as far as sysfs needs it; nothing that can change
is cached.
"""

from __future__ import annotations

import errno
import os
import pathlib
import re
import stat
import struct

from harness.hosttree import kernel

MAX_WRITE = 65536
KMSG = ".kmsg"
_HEADER = struct.Struct("<IIQQIIIHH")
_ATTR = struct.Struct("<6Q10I")
_VERSION = (7, 31)
_DIRECT_IO = 1
# Directories that stay while a host runs: the kernel keeps their names, and need not ask for them
# on its way to a file. What stands in them is asked for as ever, and so are their attributes.
_STAYS = re.compile(
    "sys/(?:bus(?:/pci(?:/devices|/drivers)?)?|class|devices(?:/pci[0-9a-f:]+)?|kernel|module)"
)
_LONG = 3600  # seconds

(
    _LOOKUP,
    _FORGET,
    _GETATTR,
    _SETATTR,
    _READLINK,
) = range(1, 6)
_OPEN, _READ, _WRITE, _STATFS, _RELEASE = range(14, 19)
_FLUSH, _INIT, _OPENDIR, _READDIR, _RELEASEDIR = range(25, 30)
_ACCESS, _INTERRUPT, _DESTROY, _BATCH_FORGET = 34, 36, 38, 42


def open_device() -> int:
    """Open /dev/fuse; the descriptor goes into the mount options and to `serve`."""
    return os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)


def mount_options(device: int) -> str:
    """Options of mount(2) for the descriptor."""
    return f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other"


def serve(device: int, tree: pathlib.Path, complaints: pathlib.Path) -> None:
    """Answer the kernel until the file system is unmounted.

    Args:
        device: the descriptor of /dev/fuse.
        tree: the host tree; its ``sys`` is shown.
        complaints: file that gets a line for every write whose effect is not modelled.
    """
    server = _Server(tree, complaints)
    while True:
        try:
            message = os.read(device, MAX_WRITE + 4096)
        except OSError as error:
            if error.errno == errno.ENODEV:  # unmounted
                return
            raise
        _, opcode, unique, node, *_ = _HEADER.unpack_from(message)
        if opcode in (_FORGET, _BATCH_FORGET, _INTERRUPT):
            continue  # these have no answer
        try:
            number, body = 0, server.answer(opcode, node, message[_HEADER.size :])
        except OSError as error:
            number, body = error.errno or errno.EIO, b""
        os.write(device, struct.pack("<IiQ", 16 + len(body), -number, unique) + body)


_ALWAYS_THE_SAME = {
    _INIT: struct.pack("<4I2H2I2H8I", *_VERSION, 0, 0, 0, 0, MAX_WRITE, 1, 1, 0, *[0] * 8),
    _STATFS: struct.pack("<5Q4I6I", 0, 0, 0, 0, 0, 4096, 255, 4096, 0, *[0] * 6),
    **dict.fromkeys((_RELEASE, _RELEASEDIR, _FLUSH, _ACCESS, _DESTROY), b""),
}


class _Server:
    """Answers single requests; nodes are numbered as they are looked up and never forgotten."""

    def __init__(self, tree: pathlib.Path, complaints: pathlib.Path):
        self._tree = tree
        self._complaints = complaints
        self._paths = {1: "sys"}
        self._numbers = {"sys": 1}
        # Reachable for the bind mount at /dev/kmsg, listed nowhere: a plain file there would be
        # truncated by every `echo … >/dev/kmsg`.
        self._aliases = {f"sys/{KMSG}": kernel.KMSG}

    def answer(self, opcode: int, node: int, body: bytes) -> bytes:
        """The answer to one request; raises OSError for an error number."""
        if opcode in _ALWAYS_THE_SAME:
            return _ALWAYS_THE_SAME[opcode]
        path = self._paths[node]
        if opcode == _LOOKUP:
            name = f"{path}/{body.rstrip(bytes(1)).decode()}"
            return self._entry(self._aliases.get(name, name))
        if opcode in (_GETATTR, _SETATTR):  # sysfs ignores truncation
            return struct.pack("<QII", 0, 0, 0) + self._attributes(path)
        if opcode == _READLINK:
            return os.fsencode(os.readlink(self._tree / path))
        if opcode in (_OPEN, _OPENDIR):
            return self._open(path, struct.unpack_from("<I", body)[0])
        if opcode == _READ:
            return self._read(path, *struct.unpack_from("<8xQI", body))
        if opcode == _WRITE:
            return self._write(path, body)
        if opcode == _READDIR:
            return self._list(path, *struct.unpack_from("<8xQI", body))
        # Creating, deleting and renaming too: nobody but the kernel does that in sysfs.
        raise OSError(errno.EPERM if 6 <= opcode <= 13 or opcode == 35 else errno.ENOSYS, "")

    def _entry(self, path: str) -> bytes:
        attributes = self._attributes(path)
        number = self._numbers.setdefault(path, len(self._numbers) + 1)
        self._paths[number] = path
        valid = _LONG if _STAYS.fullmatch(path) else 0
        return struct.pack("<QQQQII", number, 0, valid, 0, 0, 0) + attributes

    def _attributes(self, path: str) -> bytes:
        found = os.lstat(self._tree / path)
        # sysfs says that every text file is one page long.
        size = max(found.st_size, 4096) if stat.S_ISREG(found.st_mode) else found.st_size
        times = [int(found.st_mtime)] * 3
        nanoseconds = [found.st_mtime_ns % 10**9] * 3
        mode, links = found.st_mode, found.st_nlink
        return _ATTR.pack(
            found.st_ino, size, 0, *times, *nanoseconds, mode, links, 0, 0, 0, 4096, 0
        )

    def _open(self, path: str, flags: int) -> bytes:
        # As kernfs does, for root too: no reading or writing where the mode has no such bit.
        mode = os.lstat(self._tree / path).st_mode
        access = flags & os.O_ACCMODE
        if stat.S_ISREG(mode):
            if access != os.O_WRONLY and not mode & 0o444:
                raise OSError(errno.EACCES, path)
            if access != os.O_RDONLY and not mode & 0o222:
                raise OSError(errno.EACCES, path)
        return struct.pack("<QII", 0, _DIRECT_IO if stat.S_ISREG(mode) else 0, 0)

    def _read(self, path: str, offset: int, size: int) -> bytes:
        with open(self._tree / path, "rb") as file:
            file.seek(offset)
            return file.read(size)

    def _write(self, path: str, body: bytes) -> bytes:
        size = struct.unpack_from("<16xI", body)[0]
        try:
            kernel.store(self._tree, path, body[40 : 40 + size])
        except OSError as error:
            if error.errno == errno.EIO:
                with self._complaints.open("a") as file:
                    file.write(f"{error.strerror}\n")
            raise
        return struct.pack("<II", size, 0)

    def _list(self, path: str, offset: int, size: int) -> bytes:
        answer = b""
        names = [".", "..", *sorted(os.listdir(self._tree / path))]
        for number, name in enumerate(names[offset:], offset + 1):
            raw = os.fsencode(name)
            entry = struct.pack("<QQII", number, number, len(raw), 0) + raw
            entry += bytes(-len(entry) % 8)
            if len(answer) + len(entry) > size:
                break
            answer += entry
        return answer
