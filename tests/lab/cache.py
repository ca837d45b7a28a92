"""Where the lab keeps what is slow to make, shared safely by several runs at once."""

import contextlib
import fcntl
import os
import pathlib
import re
import shutil
from collections.abc import Callable, Iterator

from lab import errors

CACHE_VARIABLE = "PCI_PASSTHROUGH_CACHE"


def root() -> pathlib.Path:
    """Return the project's cache folder, created when it is not there."""
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    folder = pathlib.Path(os.environ.get(CACHE_VARIABLE) or pathlib.Path(base) / "pci-passthrough")
    folder.mkdir(parents=True, exist_ok=True)
    return folder.resolve()


@contextlib.contextmanager
def lock(path: pathlib.Path, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold a file's exclusive lock; `on_wait` is called once if another process has it.

    The kernel drops the lock with the process, so a killed run blocks nobody.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as handle:
        if not _try_lock(handle.fileno()):
            if on_wait:
                on_wait()
            fcntl.flock(handle.fileno(), fcntl.LOCK_EX)
        yield


def is_locked(path: pathlib.Path) -> bool:
    """Say whether another open handle holds the file's lock."""
    if not path.exists():
        return False
    with path.open("a") as handle:
        return not _try_lock(handle.fileno())


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def scratch(parent: pathlib.Path, prefix: str) -> Iterator[pathlib.Path]:
    """Make a folder for one run and delete it afterwards.

    Folders with the same parent and prefix whose owner was killed are deleted first: their lock
    is free.
    """
    parent.mkdir(parents=True, exist_ok=True)
    with lock(parent / f"{prefix}.lock"):
        for leftover in sorted(parent.iterdir()):
            if _is_scratch(leftover, prefix) and not is_locked(leftover / "in-use"):
                shutil.rmtree(leftover)
        folder = parent / f"{prefix}-{os.getpid()}-{os.urandom(3).hex()}"
        folder.mkdir()
        handle = (folder / "in-use").open("a")
        fcntl.flock(handle.fileno(), fcntl.LOCK_EX)
    try:
        yield folder
    finally:
        handle.close()
        shutil.rmtree(folder)


def _is_scratch(path: pathlib.Path, prefix: str) -> bool:
    """Say whether `scratch` made it for just this prefix: "nova" is the start of "nova-vfs" too."""
    named = re.fullmatch(rf"{re.escape(prefix)}-\d+-[0-9a-f]+", path.name)
    return named is not None and path.is_dir()


def free_bytes(folder: pathlib.Path) -> int:
    """Return the bytes that a user without privileges may still write there."""
    usage = os.statvfs(folder)
    return usage.f_bavail * usage.f_frsize


def need_space(folder: pathlib.Path, needed: int) -> None:
    """Refuse early when the cache's disk is too small for what comes.

    Raises:
        LabError: names the folder and the variable that moves the cache elsewhere.
    """
    if free_bytes(folder) < needed:
        raise errors.LabError(
            f"{folder} has {free_bytes(folder) >> 20} MiB free and {needed >> 20} MiB are needed: "
            f"free some, or point {CACHE_VARIABLE} at another disk"
        )
