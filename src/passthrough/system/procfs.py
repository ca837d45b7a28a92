"""Readers of /proc, see proc(5). The name of each says what happens to an error.

``…_if_there`` takes every error for absence: processes end, and files are closed, while they are
looked at. ``…_or_raise`` takes a missing file alone for absence, and lets every other error
through.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from passthrough.system import sysfs


def text_if_there(root: Path, name: str) -> str:
    """Read a file of /proc, such as ``cmdline``, as text; empty when it cannot be read."""
    try:
        with open(f"{root}/proc/{name}", encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def lines_or_raise(root: Path, name: str) -> list[str]:
    """Read the lines of a file of /proc, such as ``net/route``; empty where there is none.

    Raises:
        OSError: when it is there and cannot be read.
    """
    return sysfs.lines_or_raise(os.path.join(root, "proc", name))


def processes_if_there(root: Path) -> tuple[int, ...]:
    """List the ids of all processes, sorted."""
    names = sysfs.names_if_there(f"{root}/proc")
    return tuple(sorted(int(name) for name in names if name.isdecimal()))


def open_files_if_there(root: Path) -> Iterator[tuple[int, str]]:
    """List every open file of every process: the process id and what the descriptor points to."""
    for process in processes_if_there(root):
        directory = f"{root}/proc/{process}/fd"
        for descriptor in sysfs.names_if_there(directory):
            try:
                yield process, os.readlink(f"{directory}/{descriptor}")
            except OSError:
                continue  # closed since it was listed


def mount_namespace_or_raise(root: Path, process: int | str) -> str:
    """Name the mount namespace of a process, or of the reader as ``self``: ``mnt:[4026531841]``.

    Raises:
        OSError: when the process has ended, or is another user's and the reader is not root.
    """
    return os.readlink(f"{root}/proc/{process}/ns/mnt")


def program_if_there(root: Path, process: int) -> str:
    """Give the file name of the program a process runs; empty for a kernel thread."""
    try:
        path = os.readlink(f"{root}/proc/{process}/exe")
    except OSError:
        return ""
    # The kernel says so of a program that an upgrade replaced while it runs.
    return os.path.basename(path.removesuffix(" (deleted)"))


def arguments_if_there(root: Path, process: int) -> tuple[str, ...]:
    """Give the command line of a process; empty for a kernel thread."""
    text = text_if_there(root, f"{process}/cmdline").rstrip("\0")
    return tuple(text.split("\0")) if text else ()


def started_if_there(root: Path, process: int) -> str | None:
    """Give the start of a process in clock ticks since boot; with its id this names it for good."""
    # The second field is a name in parentheses, which can hold anything.
    _, _, rest = text_if_there(root, f"{process}/stat").rpartition(")")
    values = rest.split()
    return values[19] if len(values) > 19 else None


def command_line_if_there(root: Path) -> tuple[str, ...]:
    """Give the tokens of the running kernel's command line, in order."""
    return tuple(text_if_there(root, "cmdline").split())


def boot_id_if_there(root: Path) -> str:
    """Give the id of this boot, another one after every boot; empty where there is none."""
    return text_if_there(root, "sys/kernel/random/boot_id").rstrip("\n")


def release_if_there(root: Path) -> str:
    """Give the running kernel's release, such as ``6.8.0-31-generic``; empty where none is told."""
    return text_if_there(root, "sys/kernel/osrelease").rstrip("\n")
