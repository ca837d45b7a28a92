"""The guests that libvirt has defined, and the functions that they name. Reads only.

libvirt keeps a file for each persistent domain, and another one while a domain runs. It names a
host's function in them by its numbers
(https://libvirt.org/formatdomain.html#host-device-assignment).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from passthrough.system import files

DIRECTORY = "etc/libvirt/qemu"
RUNNING = "run/libvirt/qemu"
_SOURCE = re.compile(r"<source\b[^>]*(?<!/)>\s*<address\b([^>]*)>")
_NUMBER = re.compile(r"\b(domain|bus|slot|function)=['\"](?:0x)?([0-9a-fA-F]{1,8})['\"]")


def named(root: Path, directory: str = DIRECTORY) -> dict[str, tuple[str, ...]]:
    """Map the address of every function that a defined domain names to those domains' names.

    Args:
        root: the host's root.
        directory: RUNNING for the domains that run, be they persistent or not.

    Raises:
        OSError: when a domain's file is there and cannot be read.
    """
    found: dict[str, set[str]] = {}
    for path in sorted((root / directory).glob("*.xml")):
        present = files.read(path)
        for address in functions_in(present.content) if present else ():
            found.setdefault(address, set()).add(path.stem)
    return {address: tuple(sorted(found[address])) for address in sorted(found)}


def functions_in(text: str) -> frozenset[str]:
    """The addresses of the host's functions that a domain's XML names."""
    sources = _SOURCE.findall(text)
    return frozenset(filter(None, (_address(dict(_NUMBER.findall(each))) for each in sources)))


def _address(numbers: Mapping[str, str]) -> str | None:
    if not {"bus", "slot", "function"} <= numbers.keys():
        return None
    domain, bus, slot, function = (
        int(numbers.get(key, "0"), 16) for key in ("domain", "bus", "slot", "function")
    )
    return f"{domain:04x}:{bus:02x}:{slot:02x}.{function:x}"
