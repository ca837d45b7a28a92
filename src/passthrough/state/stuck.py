"""The note about an unbind that sleeps in the kernel: a file below /run, which a boot empties.

The note has no number for its format, because the format never changes: a revision of the charm
that could not read it would ask for the same function, and sleep too.
"""

from __future__ import annotations

import re
from pathlib import Path

from passthrough.errors import StuckError
from passthrough.system import files, procfs

PATH = "run/pci-passthrough.stuck"
_NOTE = re.compile(r"(?P<address>[0-9a-f:.]{12,16}) (?P<process>[0-9]{1,10}) (?P<started>[0-9]+)\n")
FACT = "its driver was told to let go and sleeps in the kernel"
WAY_OUT = "stop what uses the device, or reboot the host"


def check_responsive(root: Path) -> None:
    """Make sure that no unbind of an earlier run still sleeps in the kernel.

    That unbind holds the device's lock, for which a reader of the function's driver_override waits
    (drivers/pci/pci-sysfs.c), and a hook that waits stops every unit on the machine.

    Args:
        root: the host's root.

    Raises:
        StuckError: when one sleeps, naming the function.
        OSError: when the note is there and cannot be read.
    """
    note = files.read(root / PATH)
    found = _NOTE.fullmatch(note.content) if note else None
    if found and procfs.started_if_there(root, int(found["process"])) == found["started"]:
        raise StuckError(found["address"], FACT, WAY_OUT)
