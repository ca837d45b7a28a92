"""The processes of the host as /proc shows them. Reads only; see proc(5).

A process that ends, or a file that is closed, while it is looked at is passed over.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def numbers(root: Path) -> tuple[int, ...]:
    """The ids of all processes, sorted."""
    return tuple(sorted(int(name) for name in _listdir(root / "proc") if name.isdecimal()))


def open_files(root: Path) -> Iterator[tuple[int, str]]:
    """Every open file of every process: the process id and what the descriptor points to."""
    for process in numbers(root):
        directory = f"{root}/proc/{process}/fd"
        for descriptor in _listdir(directory):
            try:
                yield process, os.readlink(f"{directory}/{descriptor}")
            except OSError:
                continue  # closed since it was listed


def lines_or_raise(path: Path) -> list[str]:
    """The lines of a file of /proc or /run; empty where there is none.

    Raises:
        OSError: when it is there and cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []


def program(root: Path, process: int) -> str:
    """The file name of the program a process runs, or an empty string (a kernel thread)."""
    try:
        path = os.readlink(root / f"proc/{process}/exe")
    except OSError:
        return ""
    # The kernel says so of a program that an upgrade replaced while it runs.
    return os.path.basename(path.removesuffix(" (deleted)"))


def arguments(root: Path, process: int) -> tuple[str, ...]:
    """The command line of a process, empty for one without."""
    text = _read(root / f"proc/{process}/cmdline").rstrip("\0")
    return tuple(text.split("\0")) if text else ()


def started(root: Path, process: int) -> str | None:
    """When a process started, in clock ticks since boot: with its id this names it for good."""
    # The second field is a name in parentheses, which can hold anything.
    _, _, rest = _read(root / f"proc/{process}/stat").rpartition(")")
    values = rest.split()
    return values[19] if len(values) > 19 else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _listdir(path: str | Path) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []
