"""Whether the boot VGA is the host's console. Reads only.

Sources: the kernel's Documentation/fb/fbcon.rst and Documentation/driver-api/console.rst.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from passthrough import pci_address
from passthrough.host import pci
from passthrough.host.uses import kinds
from passthrough.system import sysfs


def find(root: Path, host: pci.Host) -> Iterator[tuple[str, kinds.Use]]:
    """Find the function that the host's console is on, as a pair of address and use."""
    for function in host.functions.values():
        if function.boot_vga:
            what = _shows_console(root, function.address)
            if what:
                yield function.address, kinds.Use(kinds.Kind.CONSOLE, what)


def _shows_console(root: Path, address: str) -> str | None:
    consoles = _consoles(root)
    if any("VGA" in name and bound for name, bound in consoles):
        return "the text console is on it"
    buffers = {
        int(name[2:]): path
        for name, path in sysfs.links_or_raise(root / "sys/class/graphics").items()
        if name.startswith("fb") and name[2:].isdecimal()
    }
    # The kernel puts the console on the first framebuffer, with the first thing to show at the
    # latest; a console that somebody has unbound stays off.
    unbound = any("frame buffer" in name and not bound for name, bound in consoles)
    if not buffers or unbound:
        return None
    first = min(buffers)
    owners = pci_address.functions_on(buffers[first])
    # The firmware's framebuffer names no function: it is the boot VGA's.
    if not owners or address in owners:
        return f"the console is on its framebuffer fb{first}"
    return None


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
