"""Which card stands at an address: its id, and the serial number that it tells. Reads only."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from passthrough.host import pci

# Extended capabilities begin behind the 256 bytes of the old configuration space; that of the
# device serial number holds eight bytes (include/uapi/linux/pci_regs.h, PCI_EXT_CAP_ID_DSN).
_FIRST, _SERIAL = 0x100, 0x0003
_MOST = (4096 - _FIRST) // 8


class Identity(NamedTuple):
    """One card's function: ``vendor:product``, and the serial number; empty where none is told.

    ``is_vf`` tells a VF, which goes with a number in sysfs and not with a card.
    """

    id: str
    serial: str = ""
    is_vf: bool = False

    @property
    def told(self) -> str:
        """The id, and the serial number where one is told, for a message."""
        return f"{self.id} {self.serial}".strip()

    def is_other(self, now: Identity) -> bool:
        """Tell whether another card stands there ``now``; a serial that is not told is no sign."""
        return self.id != now.id or bool(self.serial and now.serial and self.serial != now.serial)


def read(root: Path, address: str) -> Identity | None:
    """Read which function stands at an address; None where there is none."""
    function = pci.read_some(root, [address]).functions.get(address)
    if function is None:
        return None
    serial = _serial(root / pci.DEVICES / address / "config")
    return Identity(function.id, serial, function.physfn is not None)


class Serials:
    """The serial numbers of functions, each read when somebody asks.

    Args:
        root: the host's root; None for a host whose cards tell none.
    """

    def __init__(self, root: Path | None):
        self._root = root

    @classmethod
    def none(cls) -> Serials:
        """A host whose cards tell none."""
        return cls(None)

    def of(self, address: str) -> str:
        """The serial number of the function at an address; empty where none is told."""
        return _serial(self._root / pci.DEVICES / address / "config") if self._root else ""


def _serial(path: Path) -> str:
    """Read the serial number out of a function's configuration space, which root alone sees."""
    try:
        with open(path, "rb", buffering=0) as file:
            space = file.read(4096)
    except OSError:
        return ""
    at = _FIRST
    for _ in range(_MOST):
        header = int.from_bytes(space[at : at + 4], "little")
        if len(space) < at + 12 or header in (0, 0xFFFFFFFF):
            return ""
        if header & 0xFFFF == _SERIAL:
            return space[at + 4 : at + 12][::-1].hex("-")
        at = header >> 20
        if at < _FIRST:
            return ""
    return ""
