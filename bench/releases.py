"""Giving functions back on a busy host, against one bare pass over what its processes have open.

The whole run of a hook whose options ask for nothing any more: look, decide, and give back. The
kernel is made up, and what it takes to answer is no part of the time, nor is what tools take.
"""

from __future__ import annotations

import dataclasses
import io
import os
import pathlib
import time
from collections.abc import Callable

from bench import bare, busy, crowds, pairs, plans
from passthrough import reconcile
from passthrough.config import options
from passthrough.effects import drivers
from passthrough.host import pci
from passthrough.site import Site
from passthrough.state import record

GOAL = 2
_SITE_NAME, _NATIVE = "pci-passthrough", "nouveau"
_NODE, _NUMBER = "/dev/full", "1:7"  # opens, and no process has it


class Host:
    """A busy host whose functions on vfio-pci are to be given back, again and again.

    Args:
        root: where to write it.
        size: how much of everything it has.
        has_own_nodes: whether its kernel has a node for each function, as iommufd needs it.
    """

    def __init__(self, root: pathlib.Path, size: crowds.Size, *, has_own_nodes: bool):
        self.root = root
        made = crowds.write(root, size)
        self.addresses = [each.address for each in made if each.driver == pci.VFIO_PCI]
        self._spent = 0.0
        (root / "dev/vfio").mkdir(parents=True, exist_ok=True)
        (root / "sys/class/vfio").mkdir(parents=True, exist_ok=True)
        (root / f"{pci.DRIVERS}/{_NATIVE}").mkdir(exist_ok=True)
        for group in {each.group for each in made if each.driver == pci.VFIO_PCI}:
            # A node that opens, and whose number is what the kernel shows: as a group's own does.
            (root / f"dev/vfio/{group}").symlink_to(_NODE)
            (root / f"sys/class/vfio/{group}").mkdir()
            (root / f"sys/class/vfio/{group}/dev").write_text(f"{_NUMBER}\n")
        for number, address in enumerate(self.addresses if has_own_nodes else ()):
            node = root / f"{pci.DEVICES}/{address}/vfio-dev/vfio{number}"
            node.mkdir(parents=True)
            (node / "dev").write_text(f"511:{number}\n")
            (root / "sys/class/vfio-dev").mkdir(exist_ok=True)
            (root / f"sys/class/vfio-dev/vfio{number}").symlink_to(node)

    def release(self) -> pairs.Run:
        """Let a hook give all of them back, and put them on vfio-pci again."""
        site, tools = Site(self.root, _SITE_NAME), plans.MadeUpTools(self.root)
        with record.open(site) as ledger:
            ledger.update(taken=dict.fromkeys(self.addresses, _NATIVE))
        genuine, drivers.write, self._spent = drivers.write, self._write, 0.0
        clock, cpu = time.perf_counter(), time.process_time()
        try:
            wanted = options.parse({"devices": ""})
            done = reconcile.reconcile(site, wanted, tools, io.StringIO().write)
        finally:
            drivers.write = genuine
        spent = self._spent + tools.spent
        run = pairs.Run(time.perf_counter() - clock - spent, time.process_time() - cpu - spent, 1)
        left = [each for each in self.addresses if pci.driver_of(self.root, each) != _NATIVE]
        if left or done.outcome.failed:
            raise pairs.BenchError(f"not given back: {', '.join(left)} {done.outcome.failed}")
        for address in self.addresses:
            self._bind(address, pci.VFIO_PCI)
            (self.root / f"{pci.DEVICES}/{address}/driver_override").write_text(pci.VFIO_PCI)
        return run

    def _write(self, path: pathlib.Path, text: str) -> None:
        """Do what the kernel does on a write to a file of a function."""
        began = time.process_time()
        if path.name == "unbind":
            os.unlink(self.root / f"{pci.DEVICES}/{text}/driver")
        elif path.name == "drivers_probe":
            self._bind(text, _NATIVE)
        else:
            path.write_text(text)
        self._spent += time.process_time() - began

    def _bind(self, address: str, driver: str) -> None:
        link = self.root / f"{pci.DEVICES}/{address}/driver"
        link.unlink(missing_ok=True)
        link.symlink_to(self.root / pci.DRIVERS / driver)


def compare(
    rounds: int, progress: Callable[[str], object], size: crowds.Size = busy.BUSY
) -> list[pairs.Comparison]:
    """Compare a release with a bare pass, both in this process.

    Args:
        rounds: pairs for each comparison.
        progress: told what is under way.
        size: how much the host has; without the default's, there is no goal.
    """
    found: list[pairs.Comparison] = []
    for has_own_nodes, kernel in ((False, "groups alone"), (True, "own nodes")):
        with pairs.scratch() as place:
            host = Host(pathlib.Path(place), size, has_own_nodes=has_own_nodes)
            count = len(host.addresses)
            files = size.processes * size.files
            progress(f"busy: release of {count}, {kernel}")
            name = f"release of {count} functions, {files:,} open files, {kernel} / one bare pass"
            theirs = _timed(lambda place=place: bare.count(place))
            goal = GOAL if size == busy.BUSY else None
            compared = pairs.compare(name, host.release, theirs, rounds, goal)
            found.append(dataclasses.replace(compared, judged="cpu"))
    return found


def _timed(do: Callable[[], object]) -> Callable[[], pairs.Run]:
    def run() -> pairs.Run:
        clock, cpu = time.perf_counter(), time.process_time()
        do()
        return pairs.Run(time.perf_counter() - clock, time.process_time() - cpu, 1)

    return run
