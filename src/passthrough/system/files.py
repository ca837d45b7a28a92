"""Ensure that a file of the charm's holds what it should, or that it is gone.

A reader, and the next boot after a power cut, see the old content or the new, never a part.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import struct
from collections.abc import Generator, Iterable
from pathlib import Path

from passthrough import TYPE_CHECKING, frozen

if TYPE_CHECKING:
    from typing import BinaryIO

# EXT4_IOC_CHECKPOINT of fs/ext4/ext4.h (Linux 5.14): _IOW('f', 43, __u32), the value being flags.
_CHECKPOINT, _NO_FLAGS = 0x4004662B, struct.pack("I", 0)
# The answers of other file systems, of older kernels, of an ext4 without a journal, and of one that
# this process may not flush.
NO_CHECKPOINT = (errno.ENOTTY, errno.EOPNOTSUPP, errno.ENODEV, errno.EINVAL, errno.EPERM)

# Beyond any configuration, record or grub.cfg.
LARGEST = 16 << 20
_NULL = os.makedev(1, 3)


class Present(frozen.Value):
    """What a path holds: its text, its permission bits, and the number of its group.

    Two with the same text and bits are equal, whatever their groups.
    """

    content: str
    mode: int
    group: int | None = frozen.field(default=None, compare=False)


def read(path: Path) -> Present | None:
    """Read a text file; None where there is none.

    Bytes that are no UTF-8 survive as surrogates, and line ends as they are.

    Takes regular files of up to LARGEST bytes, and a link to /dev/null for an empty file, as
    systemd and modprobe do. Others may write where we read, as nova does in /etc/nova: opening a
    FIFO would wait for ever, and so would reading a device to its end.

    Raises:
        OSError: when a file is there and cannot be read.
    """
    try:
        # Opening a device can have an effect of its own, so it is asked for before.
        _check_kind(path, os.stat(path))
        with _opened(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC) as handle:
            status = os.fstat(handle)
            _check_kind(path, status)
            with open(handle, "rb", closefd=False) as file:
                content = _content(file)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if content is None:
        raise OSError(errno.EINVAL, "no regular file, so not read", os.fspath(path))
    if len(content) > LARGEST:
        raise OSError(errno.EFBIG, f"larger than {LARGEST >> 20} MiB, so not read", os.fspath(path))
    text = content.decode("utf-8", "surrogateescape")
    return Present(text, status.st_mode & 0o7777, status.st_gid)


def _content(file: BinaryIO) -> bytes | None:
    """Read a file; None of one that has no end, and nothing to give yet, as /proc/kmsg."""
    return file.read(LARGEST + 1)


def _check_kind(path: Path, status: os.stat_result) -> None:
    if stat.S_ISREG(status.st_mode):
        return
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if not (stat.S_ISCHR(status.st_mode) and status.st_rdev == _NULL):
        raise OSError(errno.EINVAL, "no regular file, so not read", os.fspath(path))


def ensure(path: Path, content: str | None, mode: int = 0o644, group: int | None = None) -> bool:
    """Make a file hold a text, or remove it; the change is on the disk afterwards.

    Args:
        path: the file. Directories above it are made where they are missing.
        content: what the file should hold; None removes it.
        mode: the permission bits that it should have.
        group: the number of the group that it should belong to; None accepts any.

    Returns:
        True if anything changed; an unchanged file keeps its inode and times.

    Raises:
        OSError: when the file cannot be written; it then still holds the old content.
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
    """Remove the unfinished files that a killed `ensure` of these paths left beside them.

    Raises:
        OSError: when one of them cannot be removed.
    """
    for path in paths:
        with contextlib.suppress(NotADirectoryError):
            _unfinished(path).unlink(missing_ok=True)


def drop_empty(folder: Path) -> None:
    """Remove a folder if it is there and empty.

    Raises:
        OSError: when the folder is empty and cannot be removed.
    """
    if not folder.is_dir():
        return  # rmdir on a read-only file system fails for missing folders, too
    try:
        folder.rmdir()
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ENOTEMPTY):
            raise
    else:
        _sync_directory(folder.parent)


def move_into_place(new: Path, path: Path) -> None:
    """Put a whole file that a boot loader reads in the place of ``path``, with its mode and owner.

    The former file keeps a second name until the disk has the new one under ``path``. Whenever the
    power fails, a boot loader that does not replay the journal then finds either file whole;
    without the second name, other data could stand where the former file was.

    Raises:
        OSError: when that fails. The old content then still stands under ``path``, or, where the
            last step failed, under the second name.
    """
    former = former_of(path)
    former.unlink(missing_ok=True)
    with _opened(new, os.O_RDWR) as handle:
        with contextlib.suppress(FileNotFoundError):  # a first file keeps its own mode
            old = path.stat()
            os.fchmod(handle, old.st_mode & 0o7777)
            os.fchown(handle, old.st_uid, old.st_gid)
        os.fsync(handle)
    checkpoint(path.parent)
    with contextlib.suppress(OSError):  # no former file, or a file system without hard links
        os.link(path, former)
    os.replace(new, path)
    _sync_directory(path.parent)
    checkpoint(path.parent)
    former.unlink(missing_ok=True)


def former_of(path: Path) -> Path:
    """Give the second name by which `move_into_place` keeps a former file; a kill can leave it."""
    return path.with_name(f"{path.name}.pci-passthrough.former")


def settle(path: Path) -> None:
    """Wait until a file that another program wrote is on the disk, under its name.

    Raises:
        OSError: when the disk does not take the file, or the file is not there.
    """
    with _opened(path, os.O_RDONLY) as handle:
        os.fsync(handle)
    _sync_directory(path.parent)


def checkpoint(directory: Path) -> bool:
    """Have a file system move everything from its journal to its final place.

    A kernel replays the journal before it reads. GRUB does not: without a checkpoint, a name can
    lead it to the former file, or to whatever has taken that file's blocks.

    Args:
        directory: any directory of the file system.

    Returns:
        True if the file system did; only ext4 can, from Linux 5.14 on.

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
        # O_EXCL follows nobody's link, and the mode keeps others out until the file is whole.
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
        with contextlib.suppress(OSError):  # the first error is the one to raise
            unfinished.unlink(missing_ok=True)
        raise


def _unfinished(path: Path) -> Path:
    # A crash can leave this file behind. The readers of grub.d, modprobe.d, rules.d and initramfs
    # hooks all skip a name with a leading dot and no known suffix; the next `ensure` or `sweep`
    # removes it.
    return path.with_name(f".{path.name}.new")


def _sync_directory(directory: Path) -> None:
    if not directory.is_dir():
        return
    with _opened(directory, os.O_RDONLY | os.O_DIRECTORY) as handle:
        os.fsync(handle)


@contextlib.contextmanager
def _opened(path: Path, flags: int) -> Generator[int]:
    """Open a file or directory while the block runs; gives the descriptor."""
    handle = os.open(path, flags)
    try:
        with _named(path):
            yield handle
    finally:
        os.close(handle)


@contextlib.contextmanager
def _named(path: Path) -> Generator[None]:
    """Name the file in the errors of the block: those of a descriptor name none."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = os.fspath(path)
        raise
