"""Functions that programs have open, past the host's own use of them. Reads only.

Open vSwitch with DPDK drives NICs through uio, vfio or /dev/infiniband, a daemon has a GPU's node,
a guest has a disk whole, and a card that is cut up into mediated devices (vGPUs) is its guests'.
Sources: the kernel's Documentation/driver-api/uio-howto.rst, vfio.rst and
vfio-mediated-device.rst.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from pathlib import Path

from passthrough.host import pci
from passthrough.host.nodes import Node, Nodes, mediated
from passthrough.host.uses import kinds
from passthrough.system import procfs, quoting


def find(root: Path) -> Iterator[tuple[str, kinds.Use]]:
    """Find the functions that are cut up into mediated devices, as pairs of address and use."""
    for name, addresses in mediated(root).items():
        for address in sorted(addresses):
            yield address, kinds.Use(kinds.Kind.MEDIATED, quoting.plain(name))


def find_open(
    function: pci.Function,
    nodes: Nodes,
    processes: procfs.Processes,
    ours: Container[str],
) -> Iterator[kinds.Use]:
    """Find who has a function open; asks the processes only where it has a node.

    Args:
        function: which one.
        nodes: the device nodes of functions.
        processes: the host's processes.
        ours: addresses of functions that the charm has put on vfio-pci: guests have those open,
            which is no use by the host.
    """
    on_vfio = function.driver == pci.VFIO_PCI
    if function.is_on_vfio and function.address in ours:
        return
    mine = nodes.of_vfio(function) if on_vfio else nodes.of(function)
    if not mine:
        return
    unread = processes.opened.unread
    if unread:
        who = f"process {unread[0]} ({_program(processes, unread[0])})"
        more = f" and {len(unread) - 1} more processes" if len(unread) > 1 else ""
        what = f"it cannot be told what {who}{more} has open"
        yield kinds.Use(kinds.Kind.UNKNOWN, what)
    guests = None
    for node in mine:
        for path, process in _holders(node, processes):
            if guests is None:
                from passthrough.host import guests as module  # not for `list` on most hosts

                guests = module.certain(processes)
            if function.is_on_vfio and process in guests:
                continue  # a guest may keep what it has: nothing is taken from it
            is_guests = node.of_guests or process in guests
            kind = kinds.Kind.GUEST if is_guests else kinds.Kind.PROGRAM
            shown, program = quoting.plain(path), _program(processes, process)
            yield kinds.Use(kind, f"{shown} is open in process {process} ({program})")


def _holders(node: Node, processes: procfs.Processes) -> Iterator[tuple[str, int]]:
    """Who has a node open, and under which name: pairs of path and process."""
    opened = processes.opened
    unasked = {path: who for path, who in opened.unasked.items() if node.is_called(path)}
    numbered = opened.numbers.get(node.number, ()) if node.number else ()
    if not node.number:
        unasked.update({path: who for path, who in opened.paths.items() if node.is_called(path)})
    path = node.path if node.path.startswith("/") else f"/dev/{node.path}"
    yield from ((path, process) for process in numbered)
    for path, who in unasked.items():
        yield from ((path, process) for process in who if process not in numbered)


def _program(processes: procfs.Processes, process: int) -> str:
    return quoting.bare(processes.program(process)) or "a program"
