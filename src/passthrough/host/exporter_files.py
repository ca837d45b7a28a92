"""Where the exporter of an application's metrics stands on the host, and whether it is there."""

from __future__ import annotations

import os
import re
from pathlib import Path

from passthrough import naming
from passthrough.host import watch
from passthrough.system import files

# The loopback address is always the first.
_LISTENS = re.compile(r"(?m)^ListenStream=127\.0\.0\.1:([0-9]{1,5})$")


def unit_name(application: str) -> str:
    """The stem of the exporter's service and socket."""
    return f"{naming.name_for(application)}-exporter"


def program_path(application: str) -> str:
    """The exporter's program below the root; no application's name holds a dot."""
    return f"{watch.PROGRAMS}/{application}.exporter.pyz"


def service_path(application: str) -> str:
    """The exporter's service below the root."""
    return f"{watch.UNITS}/{unit_name(application)}.service"


def socket_path(application: str) -> str:
    """The exporter's socket below the root: systemd listens, and starts the service."""
    return f"{watch.UNITS}/{unit_name(application)}.socket"


def boot_path(application: str) -> str:
    """The file below the root by which each boot has systemd listen."""
    return f"{watch.BOOT}/{unit_name(application)}.conf"


def owned_files(application: str) -> tuple[str, ...]:
    """The exporter's files below the root, in the order in which they are written."""
    return (
        program_path(application),
        service_path(application),
        socket_path(application),
        boot_path(application),
    )


def read(root: Path, application: str) -> dict[str, str | None]:
    """What each of the exporter's files holds, by its path below the root; None for no file.

    Raises:
        OSError: when one of them is there and cannot be read.
    """
    found = {path: files.read(root / path) for path in owned_files(application)}
    return {path: present.content if present else None for path, present in found.items()}


def port_of(socket: str) -> int | None:
    """The port that the text of a socket's file has systemd listen on; None for none."""
    found = _LISTENS.search(socket)
    return int(found[1]) if found else None


def is_installed(root: Path, application: str) -> bool:
    """Tell by its program, which comes first and goes last, whether the exporter is on the host."""
    return os.path.exists(root / program_path(application))
