"""Who else makes an initramfs or grub.cfg at this moment. Reads only.

The programs take no lock, so their processes are all there is to see.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from passthrough.system import procfs

# All but a dracut that is no script are scripts, whose process runs an interpreter.
_PROGRAMS = frozenset(
    {
        "dracut",
        "grub-mkconfig",
        "mkinitramfs",
        "update-grub",
        "update-grub2",
        "update-initramfs",
    }
)
_INTERPRETERS = frozenset({"ash", "bash", "busybox", "dash", "sh"})


class Rebuilder(NamedTuple):
    """A process that makes an image or grub.cfg, by its id and its program."""

    process: int
    program: str


def find(root: Path) -> Rebuilder | None:
    """Find a process that makes images or grub.cfg on this /boot.

    A container's has a /boot of its own, and is nobody's concern. A process that ends meanwhile is
    none.

    Args:
        root: the host's root.
    """
    processes = procfs.Processes(root)
    for number in processes.numbers:
        program = _program(processes.arguments(number))
        # Where it cannot be told whose /boot a process has, it may be the host's.
        if program and procfs.sees_same(root, number, "boot") is not False:
            return Rebuilder(number, program)
    return None


def _program(arguments: Sequence[str]) -> str:
    """The one of the programs that a process runs, empty for any other."""
    rest = list(arguments)
    while rest and os.path.basename(rest[0]) in _INTERPRETERS:
        rest = rest[1:]
        while rest and rest[0].startswith("-"):
            rest = rest[1:]
    name = os.path.basename(rest[0]) if rest else ""
    return name if name in _PROGRAMS else ""
