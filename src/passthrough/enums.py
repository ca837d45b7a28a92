"""Kinds of things that more than one room speaks of, and what the Enums of every room build on.

A kind is known by one word wherever it is printed or stored; the code reaches it by its name.
"""

from __future__ import annotations

import enum


class StrEnum(str, enum.Enum):
    """An Enum whose members are their words: printed, compared and written to JSON as such.

    Python's own enum.StrEnum needs 3.11.
    """

    def __str__(self) -> str:
        return str(self.value)


class Rebuild(StrEnum):
    """What a change of boot files can make out of date, in the order in which it is rebuilt."""

    INITRAMFS = "initramfs"
    GRUB = "grub"
