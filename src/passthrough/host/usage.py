"""What the host itself uses of its PCI functions: disks, interfaces, the console, and programs.

Reads only, in one pass over the host. Each reader starts at the use and follows it down to the
function: from a mounted file system to its block device, from there to the disks below, and from a
disk or an interface to the functions on its path below /sys/devices.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Container, Iterable, Mapping
from pathlib import Path

from passthrough.host import pci
from passthrough.host.uses import console, kinds, network, programs, storage
from passthrough.host.uses.kinds import Use
from passthrough.system import procfs


@dataclasses.dataclass(frozen=True)
class Usage:
    """The uses of each function, by address; a function without an entry has none."""

    uses: Mapping[str, tuple[Use, ...]] = dataclasses.field(
        default_factory=dict[str, tuple[Use, ...]]
    )

    def of(self, address: str, kind: kinds.Kind) -> tuple[str, ...]:
        """The uses of one kind of a function, in words."""
        return tuple(use.what for use in self.uses.get(address, ()) if use.kind == kind)


def read(
    root: Path,
    host: pci.Host,
    ours: Container[str] = (),
    processes: procfs.Processes | None = None,
) -> Usage:
    """Find every use of the functions of ``host``.

    Args:
        root: the host's root.
        host: the host's functions.
        ours: addresses of functions that applications of this charm have taken.
        processes: the host's processes, where the caller asks more of them.

    Raises:
        OSError: when /proc or /sys cannot be read; a use that cannot be seen is not the same as
            none.
    """
    found: dict[str, set[Use]] = {}
    for address, use in itertools.chain(
        storage.find(root),
        network.find(root, host),
        console.find(root, host),
        programs.find(root, host, processes or procfs.Processes(root), ours),
    ):
        function = host.functions.get(address)
        # The host has given up a function on vfio-pci, unless one of its programs has it open.
        if function and (function.driver != pci.VFIO_PCI or use.kind == kinds.Kind.PROGRAM):
            found.setdefault(address, set()).add(use)
    return Usage({address: _in_order(found[address]) for address in sorted(found)})


def _in_order(uses: Iterable[Use]) -> tuple[Use, ...]:
    return tuple(sorted(uses, key=lambda use: (use.kind, use.what)))
