"""One use of a PCI function by the host, and the way from a device's path to the function."""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path

from passthrough import fields

MOUNT = "mount"
SWAP = "swap"
MEMBER = "member"
ADDRESS = "address"
ROUTE = "route"
PORT = "port"
NAMESPACE = "namespace"
CONSOLE = "console"
MEDIATED = "mediated"
PROGRAM = "program"

_ADDRESS = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]")
_PLAIN = re.compile(r"[A-Za-z0-9/._:@+-]{1,60}")


@dataclasses.dataclass(frozen=True)
class Use:
    """One use: its kind, one of the constants above, and in words what it is."""

    kind: str
    what: str


def functions_on(path: str) -> frozenset[str]:
    """The PCI functions on a path below /sys/devices, the bridges among them.

    All of them, not the last one alone: what lies behind a controller with a bus of its own (Intel
    VMD) goes with that controller too.
    """
    return frozenset(part for part in path.split("/") if _ADDRESS.fullmatch(part))


def read_links(directory: Path) -> dict[str, str]:
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


def read_lines(path: Path) -> list[str]:
    """The lines of a file of /proc or /run; empty where there is none.

    Raises:
        OSError: when it is there and cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []


def plain(name: str) -> str:
    """A name for a message: as it is where it is harmless, quoted where it is not."""
    return name if _PLAIN.fullmatch(name) else fields.show(name)
