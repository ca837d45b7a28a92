"""Ensure that a file we own holds what it should, or that it is gone.

A reader, or the next boot after a power cut, sees the old content or the new, never a part.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
from collections.abc import Iterable
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Present:
    """What a path holds: its text and its permission bits; ``group`` is the number of its group."""

    content: str
    mode: int
    group: int | None = dataclasses.field(default=None, compare=False)


def read(path: Path) -> Present | None:
    """Read a text file; None when there is none.

    Raises:
        OSError: for anything but absence; an unreadable file is not an absent one.
    """
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            status = os.fstat(file.fileno())
            return Present(file.read(), status.st_mode & 0o7777, status.st_gid)
    except (FileNotFoundError, NotADirectoryError):
        return None


def ensure(path: Path, content: str | None, mode: int = 0o644, group: int | None = None) -> bool:
    """Make ``path`` hold ``content`` with permission bits ``mode``; None removes it.

    A ``group`` is the number of the group that the file shall belong to; None leaves it alone.

    Returns:
        True if anything was changed; an unchanged file keeps its inode and times.

    Raises:
        OSError: when it cannot be written; the old content is then still there.
    """
    present = read(path)
    if present == (None if content is None else Present(content, mode)) and (
        present is None or group in (None, present.group)
    ):
        return False
    if content is None:
        path.unlink(missing_ok=True)
    else:
        _replace(path, content, mode, group)
    _sync_directory(path.parent)
    return True


def sweep(paths: Iterable[Path]) -> None:
    """Remove what a killed `ensure` of these paths may have left behind beside them.

    Raises:
        OSError: when a left-over cannot be removed.
    """
    for path in paths:
        with contextlib.suppress(NotADirectoryError):
            _unfinished(path).unlink(missing_ok=True)


def drop_empty(folder: Path) -> None:
    """Remove a folder of our own once nothing is in it any more.

    Raises:
        OSError: when it is empty and cannot be removed.
    """
    if not folder.is_dir():
        return  # on a read-only file system rmdir fails also for what is not there
    try:
        folder.rmdir()
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ENOTEMPTY):
            raise
    else:
        _sync_directory(folder.parent)


def move_into_place(new: Path, path: Path) -> None:
    """Put a whole file that another program wrote in the place of ``path``, with its mode.

    Raises:
        OSError: when that fails; the old content is then still there.
    """
    handle = os.open(new, os.O_RDWR)
    try:
        with contextlib.suppress(FileNotFoundError):  # the first one keeps the mode it has
            old = path.stat()
            os.fchmod(handle, old.st_mode & 0o7777)
            os.fchown(handle, old.st_uid, old.st_gid)
        os.fsync(handle)
    finally:
        os.close(handle)
    os.replace(new, path)
    _sync_directory(path.parent)


def settle(path: Path) -> None:
    """Wait until a file that another program wrote, and its name, are on the disk.

    Raises:
        OSError: when the disk does not take it.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    _sync_directory(path.parent)


def _replace(path: Path, content: str, mode: int, group: int | None) -> None:
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    unfinished = _unfinished(path)
    unfinished.unlink(missing_ok=True)
    try:
        # O_EXCL: nobody's link is followed, and the file is ours alone until it is whole.
        handle = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(handle, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            file.write(content)
            if group is not None:
                os.fchown(handle, -1, group)
            os.fchmod(handle, mode)
            file.flush()
            os.fsync(handle)
        os.replace(unfinished, path)
    except BaseException:
        with contextlib.suppress(OSError):  # what went wrong before is the error to tell
            unfinished.unlink(missing_ok=True)
        raise


def _unfinished(path: Path) -> Path:
    # A leading dot and no known suffix: grub.d, modprobe.d, initramfs hooks and rules.d all pass
    # over such a name, should a crash leave one behind. The next `ensure` or `sweep` removes it.
    return path.with_name(f".{path.name}.new")


def _sync_directory(directory: Path) -> None:
    if not directory.is_dir():
        return
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
