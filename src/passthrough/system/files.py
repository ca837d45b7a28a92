"""Ensure that a file we own holds what it should, or that it is gone.

A reader, or the next boot after a power cut, sees the old content or the new, never a part.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import os
import struct
from collections.abc import Generator, Iterable
from pathlib import Path

# EXT4_IOC_CHECKPOINT of fs/ext4/ext4.h (Linux 5.14): _IOW('f', 43, __u32), the value being flags.
_CHECKPOINT, _NO_FLAGS = 0x4004662B, struct.pack("I", 0)
# Another file system or an older kernel, one without a journal, one that is not ours to flush.
NO_CHECKPOINT = (errno.ENOTTY, errno.EOPNOTSUPP, errno.ENODEV, errno.EINVAL, errno.EPERM)


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
        with _named(path):
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
    """Put a whole file that a boot loader reads in the place of ``path``, with its mode.

    The former file keeps a second name until the disk has the new one under ``path``: a boot loader
    that does not replay the journal finds either of them then, whenever the power fails. Were the
    former one free before, its place could hold something else by then.

    Raises:
        OSError: when that fails. The old content is then still there, or, when it was the last step
            that failed, stands under that second name.
    """
    former = former_of(path)
    former.unlink(missing_ok=True)
    with _opened(new, os.O_RDWR) as handle:
        with contextlib.suppress(FileNotFoundError):  # the first one keeps the mode it has
            old = path.stat()
            os.fchmod(handle, old.st_mode & 0o7777)
            os.fchown(handle, old.st_uid, old.st_gid)
        os.fsync(handle)
    checkpoint(path.parent)
    with contextlib.suppress(OSError):  # there is none yet, or the file system has no such links
        os.link(path, former)
    os.replace(new, path)
    _sync_directory(path.parent)
    checkpoint(path.parent)
    former.unlink(missing_ok=True)


def former_of(path: Path) -> Path:
    """The second name that `move_into_place` gives a former file; a kill may leave it behind."""
    return path.with_name(f"{path.name}.pci-passthrough.former")


def settle(path: Path) -> None:
    """Wait until a file that another program wrote, and its name, are on the disk.

    Raises:
        OSError: when the disk does not take it.
    """
    with _opened(path, os.O_RDONLY) as handle:
        os.fsync(handle)
    _sync_directory(path.parent)


def checkpoint(directory: Path) -> bool:
    """Have a file system move what only its journal holds to where it belongs.

    Everything that is on the disk is found there by a kernel, which replays the journal first. GRUB
    does not: it may find names that lead to files of before, or to what has taken their place.

    Returns:
        Whether it was done. Only ext4 can, from Linux 5.14 on.

    Raises:
        OSError: when the disk does not take it.
    """
    with _opened(directory, os.O_RDONLY | os.O_DIRECTORY) as handle:
        try:
            fcntl.ioctl(handle, _CHECKPOINT, _NO_FLAGS)
        except OSError as error:
            if error.errno in NO_CHECKPOINT:
                return False
            raise
    return True


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
    with _opened(directory, os.O_RDONLY | os.O_DIRECTORY) as handle:
        os.fsync(handle)


@contextlib.contextmanager
def _opened(path: Path, flags: int) -> Generator[int]:
    """A descriptor of a file or directory, while the block runs."""
    handle = os.open(path, flags)
    try:
        with _named(path):
            yield handle
    finally:
        os.close(handle)


@contextlib.contextmanager
def _named(path: Path) -> Generator[None]:
    """Have an error in the block say which file it is about: one of a descriptor names none."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = os.fspath(path)
        raise
