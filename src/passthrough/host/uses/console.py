"""What carries the host's console: a display, or a serial port. Reads only.

Sources: the kernel's Documentation/fb/fbcon.rst, Documentation/driver-api/console.rst, and
fs/proc/consoles.c for /proc/consoles.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from passthrough import pci_address
from passthrough.host import pci
from passthrough.host.uses import kinds
from passthrough.system import procfs, sysfs

_TEXT_CONSOLE = r"tty[0-9]+"


def find(root: Path, host: pci.Host) -> Iterator[tuple[str, kinds.Use]]:
    """Find the functions that the host's console is on, as pairs of address and use."""
    boot_vgas = [each.address for each in host.functions.values() if each.boot_vga]
    for address in boot_vgas:
        what = _shows_console(root, address)
        if what:
            yield address, kinds.Use(kinds.Kind.CONSOLE, what)
    written = [line.split()[0] for line in procfs.lines_or_raise(root, "consoles") if line.strip()]
    # A kernel that writes to serial ports alone leaves its displays to whoever wants them.
    if any(re.fullmatch(_TEXT_CONSOLE, name) for name in written):
        first, owners = _first_buffer(root)
        for address in sorted(owners.difference(boot_vgas)):
            what = f"the console is on its framebuffer {first}"
            yield address, kinds.Use(kinds.Kind.HOST_CONSOLE, what)
    ports = sysfs.links_or_raise(root / "sys/class/tty")
    for name in written:
        for address in sorted(pci_address.functions_on(ports.get(name, ""))):
            yield address, kinds.Use(kinds.Kind.HOST_CONSOLE, f"the kernel writes to {name}")


def _shows_console(root: Path, address: str) -> str | None:
    if any("VGA" in name and bound for name, bound in _consoles(root)):
        return "the text console is on it"
    first, owners = _first_buffer(root)
    # The firmware's framebuffer names no function: it is the boot VGA's.
    if first and (not owners or address in owners):
        return f"the console is on its framebuffer {first}"
    return None


def _first_buffer(root: Path) -> tuple[str, frozenset[str]]:
    """The framebuffer that the console is on, empty for none, and the functions that it shows.

    The kernel puts the console on the first one, with the first thing to show at the latest; a
    console that somebody has unbound stays off.
    """
    buffers = {
        int(name[2:]): path
        for name, path in sysfs.links_or_raise(root / "sys/class/graphics").items()
        if name.startswith("fb") and name[2:].isdecimal()
    }
    unbound = any("frame buffer" in name and not bound for name, bound in _consoles(root))
    if not buffers or unbound:
        return "", frozenset()
    first = min(buffers)
    return f"fb{first}", frozenset(pci_address.functions_on(buffers[first]))


def _consoles(root: Path) -> list[tuple[str, bool]]:
    """Read the console drivers: name, such as ``(M) frame buffer device``, and whether bound."""
    directory = root / "sys/class/vtconsole"
    return [
        (
            sysfs.attribute_if_there(directory / name / "name") or "",
            sysfs.attribute_if_there(directory / name / "bind") == "1",
        )
        for name in sysfs.links_or_raise(directory)
    ]
