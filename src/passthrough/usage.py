"""What the host itself uses of its PCI functions: disks, interfaces, the console. Reads only.

One pass over the host. Every use is found from the top, and followed down to the function: a
mounted file system to its block device, that one to the disks it stands on, and a disk or an
interface to the functions on its path below /sys/devices.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path

from passthrough import console, network, pci, storage
from passthrough.use import Use


@dataclasses.dataclass(frozen=True)
class Usage:
    """The uses of each function, by address. A function that is not there has none."""

    uses: Mapping[str, tuple[Use, ...]] = dataclasses.field(default_factory=dict)

    def of(self, address: str, kind: str) -> tuple[str, ...]:
        """What a function is used for, in words; only uses of one kind."""
        return tuple(use.what for use in self.uses.get(address, ()) if use.kind == kind)


def read(root: Path, host: pci.Host) -> Usage:
    """Find every use of the functions of ``host``.

    Raises:
        OSError: when /proc or /sys cannot be read; a use that cannot be seen is not the same as
            none.
    """
    found: dict[str, set[Use]] = {}
    for source in (storage, network, console):
        for address, use in source.find(root, host):
            function = host.functions.get(address)
            # What is on vfio-pci the host has given up already.
            if function and function.driver != pci.VFIO_PCI:
                found.setdefault(address, set()).add(use)
    return Usage({address: _in_order(found[address]) for address in sorted(found)})


def _in_order(uses: Iterable[Use]) -> tuple[Use, ...]:
    return tuple(sorted(uses, key=lambda use: (use.kind, use.what)))
