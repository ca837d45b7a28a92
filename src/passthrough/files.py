"""Ensure that a file we own holds what it should, or that it is gone.

A reader, or the next boot after a power cut, sees the old content or the new, never a part.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import tempfile
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Present:
    """What a path holds: its text and its permission bits."""

    content: str
    mode: int


def read(path: Path) -> Present | None:
    """Read a text file; None when there is none.

    Raises:
        OSError: for anything but absence; an unreadable file is not an absent one.
    """
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            return Present(file.read(), os.fstat(file.fileno()).st_mode & 0o7777)
    except (FileNotFoundError, NotADirectoryError):
        return None


def ensure(path: Path, content: str | None, mode: int = 0o644) -> bool:
    """Make ``path`` hold ``content`` with permission bits ``mode``; None removes it.

    Returns:
        True if anything was changed; an unchanged file keeps its inode and times.

    Raises:
        OSError: when it cannot be written; the old content is then still there.
    """
    if read(path) == (None if content is None else Present(content, mode)):
        return False
    if content is None:
        path.unlink(missing_ok=True)
    else:
        _replace(path, content, mode)
    _sync_directory(path.parent)
    return True


def _replace(path: Path, content: str, mode: int) -> None:
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    # A leading dot and no suffix: grub.d, modprobe.d, initramfs hooks and rules.d all pass over
    # such a name, should a crash leave one behind.
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(handle, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise


def _sync_directory(directory: Path) -> None:
    if not directory.is_dir():
        return
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
