"""Read from a block device itself, past what the kernel keeps in memory of it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
from pathlib import Path

# The kernel's include/uapi/linux/fs.h: _IO(0x12, 97).
_BLKFLSBUF = 0x1261


def read(path: Path, offset: int, length: int) -> bytes:
    """Read a part of a block device.

    Args:
        path: its node.
        offset: where the part begins, in bytes.
        length: its bytes. Both are multiples of the device's block size.

    Raises:
        OSError: when the device does not give all of it.
    """
    buffer = mmap.mmap(-1, length)  # O_DIRECT wants memory at the start of a page
    handle = _open(path)
    try:
        if os.preadv(handle, [buffer], offset) != length:
            raise OSError(errno.EIO, "it gives less than it has", os.fspath(path))
        return buffer[:]
    finally:
        os.close(handle)
        buffer.close()


def _open(path: Path) -> int:
    """Open for reading past the cache; where that is not to be had, empty the cache."""
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    with contextlib.suppress(OSError):  # a file that is no block device has no such cache
        fcntl.ioctl(handle, _BLKFLSBUF)
    return handle
