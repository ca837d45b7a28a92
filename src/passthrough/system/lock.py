"""One run at a time on a host: hooks, actions and applications of the charm take turns.

update-initramfs and update-grub serve the whole host, so there is one lock for all applications.
Whoever only reads does not take it.
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

# Not below /run/lock: everybody may create files there, and could hold this one for ever.
PATH = "run/pci-passthrough.lock"

# Longer than a bind or a release takes; a rebuild that an earlier run left behind may take longer,
# and the next hook tries again.
WAIT = 300.0
_PAUSE = 0.2

# Of this process: the lock files, with their descriptors.
_held: dict[Path, int] = {}


class LockError(PassthroughError):
    """Another run has the lock and did not end in time; nothing was touched."""


@contextlib.contextmanager
def hold(root: Path, purpose: str, seconds: float | None = None) -> Generator[None]:
    """Have the host's lock while the block runs; the kernel takes it back if we are killed.

    Within a block that has it, another one goes on at once.

    Args:
        root: the host's root.
        purpose: what we do, for the message that another run gives which waits in vain.
        seconds: how long to wait for another run; WAIT where it is not given.

    Raises:
        LockError: when another run still has it after that time.
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
            # The run before us took the file away with it, and somebody may have made a new one.
            os.close(handle)
            handle = _open(path)
            _acquire(handle, end, seconds)
        os.pwrite(handle, f"{purpose} (process {os.getpid()})\n".encode(), 0)
        _held[path] = handle
        try:
            yield
        finally:
            del _held[path]
            path.unlink(missing_ok=True)
    finally:
        os.close(handle)


def descriptors() -> tuple[int, ...]:
    """The open locks, to be handed down to a rebuild.

    Should this process be killed, the rebuild goes on without it; with the lock in its hands, no
    second one runs into it.
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
