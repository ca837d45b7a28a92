"""dpkg's locks: packages and the charm take turns at making images and grub.cfg.

A kernel's package and the triggers of others run update-initramfs and update-grub, which take no
lock of their own: two runs write one file at once. Whoever has the frontend lock and the database
lock keeps apt and dpkg out.

dpkg and apt lock by process (F_SETLK); such a lock is gone with its process. These here belong to
the open file description (F_OFD_SETLK): both kinds keep each other out, and a program that inherits
the descriptor has the lock until it ends, whatever becomes of its parent. Source: fcntl_locking(2)
of the Linux manual pages, dpkg's lib/dpkg/file.c and doc/frontend.txt.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
from collections.abc import Generator
from pathlib import Path
from typing import NamedTuple

from passthrough.system import lock

# In the order in which dpkg takes them.
FRONTEND = "var/lib/dpkg/lock-frontend"
DATABASE = "var/lib/dpkg/lock"

# struct flock: type, whence, start, length (0 is all of the file), process; padded at its end.
_FLOCK = "hhqqi0q"
# A disk that is read-only, a file system or a kernel without such locks: dpkg does not work there.
_CANNOT_LOCK = (errno.EROFS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


class Holder(NamedTuple):
    """Who has one of the locks.

    Attributes:
        process: its id; None where the kernel names none, as for an open file description's lock.
    """

    process: int | None


@contextlib.contextmanager
def attempt(root: Path) -> Generator[Holder | None]:
    """Have both locks while the block runs, if they are free.

    A rebuild within the block inherits them (`lock.descriptors`). They are free when the block
    ends, also where a program that it started lives on.

    Args:
        root: the host's root; one without dpkg, or on which nothing can be locked, has no locks.

    Yields:
        None where the block has the locks, else who has them.

    Raises:
        OSError: when a lock file cannot be opened.
    """
    with contextlib.ExitStack() as stack:
        for name in (FRONTEND, DATABASE):
            path = root / name
            handle = _open(path)
            if handle is None:
                continue
            stack.callback(os.close, handle)
            holder = _lock(handle)
            if holder:
                stack.close()  # whoever waits for the first must not wait for our block
                yield holder
                return
            stack.callback(_unlock, handle)
            stack.enter_context(lock.lent(path, handle))
        yield None


def _open(path: Path) -> int | None:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640)
    except FileNotFoundError:
        return None  # no folder of dpkg's
    except OSError as error:
        if error.errno in _CANNOT_LOCK:
            return None
        raise


def _lock(handle: int) -> Holder | None:
    """Try to lock a file; gives who has it where somebody else does."""
    wanted = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    try:
        fcntl.fcntl(handle, fcntl.F_OFD_SETLK, wanted)
    except OSError as error:
        if error.errno in _CANNOT_LOCK:
            return None
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        found = struct.unpack(_FLOCK, fcntl.fcntl(handle, fcntl.F_OFD_GETLK, wanted))
        return Holder(found[4] if found[4] > 0 else None)
    return None


def _unlock(handle: int) -> None:
    # Closing is not enough: a daemon that a rebuild has started may still have the descriptor.
    with contextlib.suppress(OSError):
        fcntl.fcntl(
            handle, fcntl.F_OFD_SETLK, struct.pack(_FLOCK, fcntl.F_UNLCK, os.SEEK_SET, 0, 0, 0)
        )
