"""The note of an unbind that sleeps in the kernel: a file below /run, which a boot empties.

It has no number for its format, as it can have no other one: a revision of the charm that could not
read the note of another would sleep beside that unbind.
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

    Whoever reads that function's driver_override would sleep with it (drivers/pci/pci-sysfs.c
    takes the device's lock), and a hook that sleeps stops every unit on the machine.

    Raises:
        StuckError: naming the function.
    """
    note = files.read(root / PATH)
    found = _NOTE.fullmatch(note.content) if note else None
    if found and procfs.started_if_there(root, int(found["process"])) == found["started"]:
        raise StuckError(found["address"], FACT, WAY_OUT)
