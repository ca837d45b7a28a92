"""Where the caretaker of an application stands on the host, and whether it is there. Reads only."""

from __future__ import annotations

import os
from pathlib import Path

from passthrough import naming
from passthrough.system import files

UNITS = "etc/systemd/system"
# systemd merges this folder into the target that every boot reaches, so that nothing else has to be
# enabled (systemd.unit(5)).
BOOT = f"{UNITS}/multi-user.target.d"
PROGRAMS = "var/lib/pci-passthrough"
# Whoever creates this file turns every caretaker of the host off.
SWITCH = "etc/pci-passthrough.keep"


def unit_name(application: str) -> str:
    """The stem of the caretaker's service and timer."""
    return f"{naming.name_for(application)}-caretaker"


def program_path(application: str) -> str:
    """The caretaker's program below the root; no application's name holds a dot."""
    return f"{PROGRAMS}/{application}.caretaker.pyz"


def service_path(application: str) -> str:
    """The caretaker's service below the root."""
    return f"{UNITS}/{unit_name(application)}.service"


def timer_path(application: str) -> str:
    """The caretaker's timer below the root."""
    return f"{UNITS}/{unit_name(application)}.timer"


def boot_path(application: str) -> str:
    """The file below the root by which each boot starts both."""
    return f"{BOOT}/{unit_name(application)}.conf"


def owned_files(application: str) -> tuple[str, ...]:
    """The caretaker's files below the root, in the order in which they are written."""
    return (
        program_path(application),
        service_path(application),
        timer_path(application),
        boot_path(application),
    )


def read(root: Path, application: str) -> dict[str, str | None]:
    """What each of the caretaker's files holds, in the manner of `files.read`; None where none is.

    Raises:
        OSError: when one is there and cannot be read.
    """
    found = {path: files.read(root / path) for path in owned_files(application)}
    return {path: present.content if present else None for path, present in found.items()}


def is_installed(root: Path, application: str) -> bool:
    """Tell by two of its files whether the caretaker is on the host."""
    return os.path.exists(root / program_path(application)) and os.path.exists(
        root / timer_path(application)
    )
