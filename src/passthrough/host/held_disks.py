"""What the kernel says of the disks below a function, past all that a list shows.

A list of uses is always shorter than what there is. So the last question is the kernel's own: can
the disk be had exclusively? It is asked where a list objects to nothing, and not for telling alone,
since somebody else's mount or import fails while it is asked. The answer is kept until the
function's driver has changed. Opens for reading; writes nothing.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Generator
from pathlib import Path

from passthrough.host import disks
from passthrough.host.uses import kinds
from passthrough.system import exclusive, quoting, sysfs

# Seconds in which the kernel answers for all disks of a function. One that it has not answered for
# by then, as on a path that is dead, is in use.
DEADLINE = 20.0
_REMOVABLE = "1"


@contextlib.contextmanager
def hold(root: Path, known: disks.Disks, address: str) -> Generator[tuple[kinds.Use, ...]]:
    """Keep the disks below a function from everybody while the block runs.

    Args:
        root: the host's root.
        known: its block devices.
        address: the function.

    Yields:
        The uses that this has found: disks that somebody has, and those that could not be asked
        for. Where there is none, nobody has a disk of the function nor gets one.
    """
    devices = _devices(root, known, address)
    with exclusive.hold([*devices], DEADLINE) as errors:
        found = {devices[each]: errors[each.path] for each in devices if each.path in errors}
        # Whoever has a partition keeps the whole disk from everybody; that says no more.
        told = {known.whole(name) for name in found if name != known.whole(name)}
        yield tuple(_use(name, found[name]) for name in found if name not in told)


def _devices(root: Path, known: disks.Disks, address: str) -> dict[exclusive.Device, str]:
    """The disks below a function, each with its name: partitions first, then whole ones.

    What is assembled is no disk of it; the kernel holds its members for it. A medium that can be
    taken out is not asked for: the drive may pull it in, or wait for one.
    """
    found: dict[exclusive.Device, str] = {}
    for number, name in known.numbers.items():
        whole = known.whole(name)
        if address not in known.own[name]:
            continue
        if sysfs.attribute_if_there(root / disks.BLOCK / whole / "removable") == _REMOVABLE:
            continue
        path = os.fspath(root / "dev" / name.replace("!", "/"))
        found[exclusive.Device(path, number, keep=name == whole)] = name
    return {each: found[each] for each in sorted(found, key=lambda each: (each.keep, each.path))}


def _use(name: str, error: int) -> kinds.Use:
    shown = quoting.plain(name)
    if error == errno.EBUSY:
        return kinds.Use(kinds.Kind.HELD, f"something in the kernel has {shown}")
    why = "no answer" if error == errno.ETIMEDOUT else os.strerror(error)
    return kinds.Use(kinds.Kind.UNKNOWN, f"it cannot be told whether {shown} is free ({why})")
