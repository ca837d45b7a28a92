"""Readers of sysfs, and of what udev adds to it. The name of each says what happens to an error.

``…_if_there`` takes every error for absence: functions vanish between two reads, and some
attributes answer EINVAL or EIO. ``…_or_raise`` takes a missing path alone for absence, and lets
every other error through: a use that cannot be seen is not the same as none.

``at`` is the descriptor of a directory that a path begins in, as of `directory_if_there`.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

_CHUNK = 1 << 16


def attribute_if_there(path: str | Path) -> str | None:
    """Read a file as text without its last newline; None when it cannot be read.

    Bytes that are no UTF-8 become U+FFFD.
    """
    return _read(path, once=False)


def directory_if_there(path: str) -> int | None:
    """Open a directory to read what is in it; None when it cannot be opened.

    A path below /sys/devices is long, and to walk it anew for each attribute of a function takes a
    third of the time in which all of them are read. Whoever asks closes it.
    """
    try:
        return os.open(path, os.O_PATH | os.O_DIRECTORY)
    except OSError:
        return None


def value_if_there(path: str, at: int | None = None) -> str | None:
    """Read an attribute that fits one read(2), as `attribute_if_there` does.

    The kernel gives a value in sysfs whole at the first read, a page at most
    (Documentation/filesystems/sysfs.rst).
    """
    return _read(path, once=True, at=at)


def regular_value_if_there(path: str) -> str | None:
    """Read an attribute as `value_if_there` does; None for what is no regular file, too.

    For a value that something is left undone for: it has to be the kernel's own.
    """
    content = regular_bytes_if_there(path)
    return None if content is None else content.decode("utf-8", "replace").rstrip("\n")


def regular_bytes_if_there(path: str, number: int = _CHUNK) -> bytes | None:
    """Read up to ``number`` bytes of a regular file at once; None when that is not possible."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        return os.read(handle, number) if stat.S_ISREG(os.fstat(handle).st_mode) else None
    except OSError:
        return None
    finally:
        os.close(handle)


def link_target_if_there(path: str, at: int | None = None) -> str | None:
    """Give a link's target; None when the link cannot be read, or is none."""
    try:
        return os.readlink(path, dir_fd=at)
    except OSError:
        return None


def link_name_if_there(path: str, at: int | None = None) -> str | None:
    """Give the last part of a link's target; None when the link cannot be read."""
    target = link_target_if_there(path, at)
    return None if target is None else target.rpartition("/")[2]


def link_name_or_raise(path: str) -> str | None:
    """Give the last part of a link's target; None where nothing is at ``path``.

    Raises:
        OSError: when the link cannot be read.
    """
    try:
        return os.readlink(path).rpartition("/")[2]
    except FileNotFoundError:
        return None


def links_or_raise(directory: str | Path) -> dict[str, str]:
    """Map the names of a directory's links to their targets, sorted; empty where there is none.

    Entries that are no links, such as bonding_masters, are left out, and so are links that vanish
    meanwhile.

    Raises:
        OSError: when the directory is there and cannot be read.
    """
    links: dict[str, str] = {}
    for name in sorted(names_or_raise(directory)):
        try:
            links[name] = os.readlink(os.path.join(directory, name))
        except OSError:
            continue
    return links


def names_if_there(directory: str | Path) -> list[str]:
    """List a directory in the kernel's order; empty when it cannot be read."""
    try:
        return os.listdir(directory)
    except OSError:
        return []


def names_or_raise(directory: str | Path) -> list[str]:
    """List a directory in the kernel's order; empty where there is none.

    Raises:
        OSError: when it is there and cannot be read, or is no directory.
    """
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []


def directories_or_raise(directory: str) -> list[str]:
    """List the directories of one, without links to others; empty where there is none.

    Raises:
        OSError: when it is there and cannot be read, or is no directory.
    """
    try:
        with os.scandir(directory) as entries:
            return [each.name for each in entries if each.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []


def names_if_directory_or_raise(directory: str | Path) -> list[str]:
    """List a directory in the kernel's order; empty where none is, or something else.

    Raises:
        OSError: when it is there and cannot be read.
    """
    try:
        return os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return []


def paths_if_there(directory: str | Path, pattern: str) -> list[str]:
    """Find the paths below a directory that match a glob, sorted; what cannot be read is not.

    Not pathlib's, which compiles an expression of each part anew: that was two thirds of what a
    look at a host's uses cost where nothing of the kind is there.

    Args:
        directory: where to look.
        pattern: names with slashes between; ``*`` stands for any characters of a name.
    """
    found = [os.fspath(directory)]
    is_glob = False
    for part in pattern.split("/"):
        is_glob = "*" in part
        found = [
            os.path.join(place, name)
            for place in found
            for name in (names_if_there(place) if is_glob else (part,))
            if not is_glob or _fits(name, part)
        ]
    return sorted(found if is_glob else filter(os.path.exists, found))


def _fits(name: str, pattern: str) -> bool:
    start, *between, end = pattern.split("*")
    at = len(start)
    for piece in between:
        place = name.find(piece, at)
        if place < 0:
            return False
        at = place + len(piece)
    return name.startswith(start) and name.endswith(end) and at <= len(name) - len(end)


def files_below_or_raise(directory: str, name: str) -> list[str]:
    """Find the files of one name at any depth below a directory, which may be a link itself.

    Links below it are not followed.

    Raises:
        OSError: when a directory is there and cannot be read.
    """

    def fail(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise error

    walk = os.walk(directory, onerror=fail)
    return sorted(f"{place}/{name}" for place, _, names in walk if name in names)


def is_there_or_raise(path: str | Path, at: int | None = None) -> bool:
    """Tell whether something is at ``path``.

    Raises:
        OSError: when that cannot be told.
    """
    try:
        os.stat(path, dir_fd=at)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def hides_some_or_raise(directory: str) -> bool:
    """Tell whether a directory of sysfs has directories that belong to another network namespace.

    The kernel lists those of the namespace that sysfs was mounted in, and counts all in the
    directory's links (kernfs_refresh_inode() of fs/kernfs/inode.c). It keeps no directory of a
    class, such as ``net``, that is empty.

    Raises:
        OSError: when it is there and cannot be read, or is no directory.
    """
    try:
        links, names = _links_and_names(directory)
    except FileNotFoundError:
        return False
    # Itself and its parent's entry are two links.
    return not names or links - 2 > len(names)


def lines_or_raise(path: str | Path) -> list[str]:
    """Read a file's lines without their ends; empty where there is no file.

    Bytes that are no UTF-8 become U+FFFD.

    Raises:
        OSError: when it is there and cannot be read.
    """
    try:
        return _content(path, once=False).decode("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error  # read(2) names none


def _read(path: str | Path, *, once: bool, at: int | None = None) -> str | None:
    try:
        return _content(path, once=once, at=at).decode("utf-8", "replace").rstrip("\n")
    except OSError:
        return None


def _content(path: str | Path, *, once: bool, at: int | None = None) -> bytes:
    # Not open(): on a host with thousands of functions, its objects cost more than the reads.
    handle = os.open(path, os.O_RDONLY, dir_fd=at)
    try:
        content = os.read(handle, _CHUNK)
        while not once and (chunk := os.read(handle, _CHUNK)):
            content += chunk
    finally:
        os.close(handle)
    return content


def _links_and_names(directory: str) -> tuple[int, list[str]]:
    return os.stat(directory).st_nlink, os.listdir(directory)
