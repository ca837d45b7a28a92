"""One run at a time on a host: hooks, actions and applications of the charm take turns.

update-initramfs and update-grub serve the whole host, so all applications share one lock. A run
that only reads does not take it.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import time
from collections.abc import Generator
from pathlib import Path

from passthrough.errors import PassthroughError
from passthrough.system import quoting

logger = logging.getLogger(__name__)

# Not below /run/lock, where every user can create files, and so could hold this one for ever.
PATH = "run/pci-passthrough.lock"

# Seconds: longer than a bind or a release takes. A rebuild that a killed run left behind can take
# longer still; then the next hook tries again.
WAIT = 300.0
_PAUSE = 0.2

# The locks that this process holds: lock file → descriptor.
_held: dict[Path, int] = {}


class LockError(PassthroughError):
    """Another run held the lock for too long; this one has changed nothing."""


@contextlib.contextmanager
def hold(root: Path, purpose: str, seconds: float | None = None) -> Generator[None]:
    """Hold the host's lock while the block runs; the kernel frees it when this process ends.

    A block inside one that holds the lock goes on at once.

    Args:
        root: the host's root.
        purpose: what the block does; another run that waits in vain says so in its error.
        seconds: how long to wait for another run; WAIT when not given.

    Raises:
        LockError: when another run still holds the lock after that time.
        OSError: when the lock file cannot be opened.
    """
    path = root / PATH
    if path in _held:
        yield
        return
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    seconds = WAIT if seconds is None else seconds
    end = time.monotonic() + seconds
    handle = _open(path)
    try:
        _acquire(handle, end, seconds)
        while not _is_at(handle, path):
            # The run before this one has removed the file, and a third may have made a new one.
            os.close(handle)
            handle = _open(path)
            _acquire(handle, end, seconds)
        os.pwrite(handle, f"{purpose} (process {os.getpid()})\n".encode(), 0)
        with lent(path, handle):
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
    finally:
        os.close(handle)


@contextlib.contextmanager
def lent(path: Path, handle: int) -> Generator[None]:
    """Have a lock's descriptor among those that a rebuild inherits, while the block runs.

    Args:
        path: the lock file.
        handle: its open descriptor, whose open file description has the lock.
    """
    _held[path] = handle
    try:
        yield
    finally:
        del _held[path]


def descriptors() -> tuple[int, ...]:
    """Give the descriptors of the held locks, for a rebuild to inherit.

    When this process is killed, its rebuild goes on. The rebuild then still holds the lock, so no
    second one starts beside it.
    """
    return tuple(sorted(_held.values()))


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def _acquire(handle: int, end: float, seconds: float) -> None:
    told = False
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(handle, 200, 0).decode("utf-8", "replace").strip()
            who = quoting.bare(holder, 198) if holder else "another run"
            if time.monotonic() >= end:
                raise LockError(
                    f"{who} is at work on this host and has not ended within {seconds:.0f} s",
                    "nothing was changed, and the next hook tries again",
                ) from None
            if not told:
                logger.info("waiting for %s", who)
                told = True
            time.sleep(_PAUSE)
        else:
            return
