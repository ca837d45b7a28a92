"""What the host itself uses of its PCI functions: disks, interfaces, the console, and programs.

Reads only, in one pass over the host. Each reader starts at the use and follows it down to the
function: from a mounted file system to its block device, from there to the disks below, and from a
disk or an interface to the functions on its path below /sys/devices.
"""

from __future__ import annotations

import itertools
from collections.abc import Container, Iterable, Mapping
from pathlib import Path

from passthrough import frozen
from passthrough.host import disks, nodes, pci, vfio_users
from passthrough.host.uses import (
    at_rest,
    coming_up,
    console,
    dpdk,
    kinds,
    network,
    programs,
    storage,
)
from passthrough.host.uses.kinds import Use
from passthrough.system import procfs


class Openers:
    """Who has functions open, and what uses their interfaces that no file shows.

    The processes, and the kernel, are asked when a function is asked for. Most looks at a host ask
    for none that somebody could have open, and then nothing is read.

    Args:
        root: the host's root; None for a host where nobody has anything open.
        host: the functions that are there.
        found: the device nodes of functions.
        processes: the host's processes.
        ours: addresses of functions that applications of this charm have taken.
    """

    def __init__(
        self,
        root: Path | None = None,
        host: pci.Host | None = None,
        found: nodes.Nodes | None = None,
        processes: procfs.Processes | None = None,
        ours: Container[str] = (),
    ):
        self._given = (root, host, found, processes)
        self._ours = ours
        self._unseen = network.Unseen(root, processes)
        self._known: dict[str, tuple[Use, ...]] = {}

    def of(self, address: str) -> tuple[Use, ...]:
        """Who has a function open, as its uses.

        Raises:
            OSError: when that cannot be told.
        """
        if address not in self._known:
            self._known[address] = self._ask(address)
        return self._known[address]

    def of_host(self, host: pci.Host) -> Openers:
        """The same, about the functions as another look has seen them."""
        root, _, found, processes = self._given
        return Openers(root, host, found, processes, self._ours)

    def _ask(self, address: str) -> tuple[Use, ...]:
        root, host, found, processes = self._given
        function = host.functions.get(address) if host else None
        if root is None or function is None or found is None or processes is None:
            return ()
        uses = set(programs.find_open(function, found, processes, self._ours))
        if function.driver != pci.VFIO_PCI:
            uses.update(self._unseen.of(function))
        return _in_order(uses)


class Usage(frozen.Value):
    """The uses of each function, by address. A function that is not there has none.

    ``openers`` are those who have functions open, which are uses as well; `all_of` has both.
    ``blocks`` are the host's block devices.
    """

    uses: Mapping[str, tuple[Use, ...]] = frozen.field(default_factory=dict[str, tuple[Use, ...]])
    openers: Openers = frozen.field(default_factory=Openers, compare=False)
    blocks: disks.Disks = frozen.field(default_factory=disks.Disks.none, compare=False)

    def all_of(self, address: str) -> tuple[Use, ...]:
        """Every use of a function; one on a native driver may cost a look at all processes."""
        return (*self.uses.get(address, ()), *self.openers.of(address))

    def with_more(self, more: Mapping[str, Iterable[Use]]) -> Usage:
        """The same with uses that were found elsewhere, by address."""
        added = {
            address: _in_order({*self.uses.get(address, ()), *uses})
            for address, uses in more.items()
            if uses
        }
        return frozen.replace(self, uses={**self.uses, **added})

    def of(self, address: str, kind: kinds.Kind) -> tuple[str, ...]:
        """What a function is used for, in words; only uses of one kind."""
        return tuple(each.what for each in self.all_of(address) if each.kind == kind)


def read(
    root: Path,
    host: pci.Host,
    ours: Container[str] = (),
    processes: procfs.Processes | None = None,
    accounts: vfio_users.Accounts | None = None,
) -> Usage:
    """Find every use of the functions of ``host``.

    Args:
        root: the host's root.
        host: the host's functions.
        ours: addresses of functions that applications of this charm have taken.
        processes: the host's processes, where the caller asks more of them.
        accounts: what is told of functions on vfio-pci without a pass over the processes; None
            before a driver changes.

    Raises:
        OSError: when /proc or /sys cannot be read; a use that cannot be seen is not the same as
            none.
    """
    processes = processes or procfs.Processes(root)
    known = disks.read(root)
    mounted = storage.find_mounts(root, known, processes.mounts)
    swaps = frozenset(storage.find_swaps(root, known))
    found: dict[str, set[Use]] = {}
    for address, each in itertools.chain(
        storage.find(root, known, mounted, swaps),
        at_rest.find(root, known, ours, mounted.keys() | swaps),
        network.find(root, host),
        dpdk.find(root, host, ours),
        coming_up.find(root),
        console.find(root, host),
        programs.find(root),
    ):
        function = host.functions.get(address)
        # What is on vfio-pci or a variant the host has given up already, unless that is DPDK's.
        if function and (not function.is_on_vfio or each.kind == kinds.Kind.DPDK):
            found.setdefault(address, set()).add(each)
    openers = Openers(root, host, nodes.Nodes(root, host, known, accounts), processes, ours)
    uses = {address: _in_order(found[address]) for address in sorted(found)}
    return Usage(uses, openers, known)


def _in_order(uses: Iterable[Use]) -> tuple[Use, ...]:
    return tuple(sorted(uses, key=lambda use: (use.kind, use.what)))
