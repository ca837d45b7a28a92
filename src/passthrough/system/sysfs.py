"""Readers of sysfs; the name of each says what becomes of what cannot be read."""

from __future__ import annotations

import os
from pathlib import Path

_CHUNK = 1 << 16


def attribute_if_there(path: str | Path) -> str | None:
    """Read a small file of /sys or /proc without its last newline; None when it cannot be read.

    A function can vanish between two reads, and some attributes answer EINVAL or EIO.
    """
    return _read(path, once=False)


def value_if_there(path: str) -> str | None:
    """`attribute_if_there` of a value in sysfs, of which the kernel gives a first read all.

    It is a page at most, says Documentation/filesystems/sysfs.rst.
    """
    return _read(path, once=True)


def link_name_if_there(path: str) -> str | None:
    """Give the last part of what a link points to; None where there is no link to be read."""
    try:
        return os.readlink(path).rpartition("/")[2]
    except OSError:
        return None


def links_or_raise(directory: Path) -> dict[str, str]:
    """What the links in a directory point to, by name, sorted; empty where there is none.

    Raises:
        OSError: when the directory is there and cannot be read.
    """
    try:
        names = sorted(os.listdir(directory))
    except FileNotFoundError:
        return {}
    found = {}
    for name in names:
        try:
            found[name] = os.readlink(os.path.join(directory, name))
        except OSError:
            continue  # not a link, such as bonding_masters; or gone since it was listed
    return found


def _read(path: str | Path, *, once: bool) -> str | None:
    try:
        # Not open(): on a host with thousands of functions, its objects cost more than the reads.
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        content = os.read(handle, _CHUNK)
        while not once and (chunk := os.read(handle, _CHUNK)):
            content += chunk
    except OSError:
        return None
    finally:
        os.close(handle)
    return content.decode("utf-8", "replace").rstrip("\n")
