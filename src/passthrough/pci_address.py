"""PCI addresses: ``DOMAIN:BUS:SLOT.FUNCTION`` in lower-case hex, as sysfs spells them."""

from __future__ import annotations

import re

MAX_DOMAIN = 0xFFFF  # of those that the firmware numbers, and that Nova takes
_EXACT = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]")


def is_exact(address: str) -> bool:
    """Tell whether ``address`` is one full PCI address (``0000:83:00.0``), not a glob."""
    return _EXACT.fullmatch(address) is not None


def canonical(address: str) -> str:
    """Write a full address as the kernel does: a domain of four digits, or more where it needs."""
    domain, rest = sort_key(address)
    return f"{domain:04x}:{rest}"


def sort_key(address: str) -> tuple[int, str]:
    """Order addresses as numbers: domains may have more than four digits."""
    domain, _, rest = address.partition(":")
    return int(domain, 16), rest


def is_beyond_nova(address: str) -> bool:
    """Tell whether a function is in a PCI domain that Nova never takes: above ffff.

    There begin Intel VMD's. Source: MAX_DOMAIN in nova/pci/devspec.py, and the kernel's
    drivers/pci/controller/vmd.c.
    """
    return sort_key(address)[0] > MAX_DOMAIN


def about_domain(address: str) -> str:
    """An aside on an address that somebody has given; empty but for one behind Intel VMD."""
    if is_exact(address) and is_beyond_nova(address):
        return " (PCI domains above ffff are Intel VMD's, and Nova takes none of them)"
    return ""


def functions_on(path: str) -> frozenset[str]:
    """The PCI functions on a path below /sys/devices, the bridges among them.

    All of them, not the last one alone: what lies behind a controller with a bus of its own (Intel
    VMD) goes with that controller too.
    """
    return frozenset(part for part in path.split("/") if _EXACT.fullmatch(part))
