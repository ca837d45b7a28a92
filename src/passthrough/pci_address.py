"""PCI addresses: ``DOMAIN:BUS:SLOT.FUNCTION`` in lower-case hex, as sysfs spells them."""

from __future__ import annotations

import re

_EXACT = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]")


def is_exact(address: str) -> bool:
    """Tell whether ``address`` is one full PCI address (``0000:83:00.0``), not a glob."""
    return _EXACT.fullmatch(address) is not None


def sort_key(address: str) -> tuple[int, str]:
    """Order addresses as numbers: domains may have more than four digits."""
    domain, _, rest = address.partition(":")
    return int(domain, 16), rest


def functions_on(path: str) -> frozenset[str]:
    """The PCI functions on a path below /sys/devices, the bridges among them.

    All of them, not the last one alone: what lies behind a controller with a bus of its own (Intel
    VMD) goes with that controller too.
    """
    return frozenset(part for part in path.split("/") if _EXACT.fullmatch(part))
