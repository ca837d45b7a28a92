"""A busy host: what a look, a list and an update-status cost beside all that runs there.

The peers are lspci, one bare pass over what the processes have open, an empty charm's hook, and for
growth the same on a host with a tenth of one thing. See crowds.py for what the host has.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from bench import crowds, inventory, pairs
from passthrough import survey
from passthrough.config import options
from passthrough.host import pci
from passthrough.reporting import inventory as listing
from passthrough.site import Site
from passthrough.state import record
from passthrough.system import procfs

# The host that the goals are about, without and with what may be looked at beside its processes.
BUSY = crowds.Size(processes=1000, files=50, namespaces=20)
FULL = dataclasses.replace(BUSY, interfaces=1000, disks=500)
LISTING = "-Dnnk"
GOAL_LIST, GOAL_PASS, GOAL_GROWTH, GOAL_SETTLED = 3, 1.2, 11, 0
_BY_PROGRAMS = {"is_open": True, "by_guests": False}
# What grows, each alone: a host with a tenth of it, and ten times that.
_GROWTH = (
    ("processes", crowds.Size(processes=1000, files=50), {"processes": 100}),
    ("files of 100 processes", crowds.Size(processes=100, files=500), {"files": 50}),
    ("mount namespaces", crowds.Size(processes=500, files=3, namespaces=500), {"namespaces": 50}),
    ("interfaces", crowds.Size(interfaces=2000), {"interfaces": 200}),
    ("disks", crowds.Size(disks=1000), {"disks": 100}),
    ("functions", crowds.Size(functions=1280), {"functions": 128}),
    (
        "functions of one IOMMU group",
        crowds.Size(functions=1280, in_one_group=True),
        {"functions": 128},
    ),
)
_BARE = pathlib.Path(__file__).with_name("bare.py")
_APPLICATION = "pci-passthrough"
_DEVICES = "gpu=10de:1bb0"


def compare(
    command: pathlib.Path, rounds: int, progress: Callable[[str], object], *, quick: bool
) -> list[pairs.Comparison]:
    """Compare whole processes: the list with lspci and with one bare pass.

    Args:
        command: the program ``pci-passthrough``.
        rounds: pairs for each comparison.
        progress: told what is under way.
        quick: whether a host with a tenth of everything has to do, for which there are no goals.

    Raises:
        BenchError: when there is no lspci, or a program fails.
    """
    inventory.check_lspci()
    found: list[pairs.Comparison] = []

    def add(name: str, ours: list[str], theirs: list[str], goal: float) -> None:
        limit = None if quick else goal
        compared = inventory.compare(name, ours, theirs, rounds, limit)
        found.append(dataclasses.replace(compared, judged="cpu"))

    for name, size in (
        ("none open", BUSY),
        ("all guests'", dataclasses.replace(BUSY, is_open=True)),
        ("all programs'", dataclasses.replace(BUSY, **_BY_PROGRAMS)),
        ("all programs', interfaces and disks", dataclasses.replace(FULL, **_BY_PROGRAMS)),
    ):
        made = _tenth(size) if quick else size
        with pairs.scratch() as root:
            progress(f"busy: {describe(made)}, {name}")
            crowds.write(pathlib.Path(root), made)
            ours, bare = inventory.list_command(command, root), [sys.executable, "-IS", str(_BARE)]
            title = f"list, busy host, {made.on_vfio} on vfio-pci, {name}"
            asks = size.is_open and not size.by_guests
            if not asks:
                theirs = inventory.lspci(LISTING, root)
                add(f"{title} / lspci {LISTING}", ours, theirs, GOAL_LIST)
            if asks:
                add(f"{title} / one bare pass", ours, [*bare, root], GOAL_PASS)
    return found


def describe(size: crowds.Size) -> str:
    """What a host has, in words."""
    counts = {
        "functions": size.functions,
        "processes": size.processes,
        "open files": size.processes * size.files,
        "interfaces": size.interfaces,
        "disks": size.disks,
    }
    return ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)


def _tenth(size: crowds.Size) -> crowds.Size:
    fewer = {name: getattr(size, name) // 10 for name in ("processes", "interfaces", "disks")}
    return dataclasses.replace(size, **fewer)


def grow(rounds: int, progress: Callable[[str], object]) -> list[dict[str, Any]]:
    """Compare one look with itself on a host that has a tenth of one thing.

    Returns:
        Rows with what grows, from how many to how many, and the ratio of the processor times.
    """
    rows: list[dict[str, Any]] = []
    for name, large, less in _GROWTH:
        small = dataclasses.replace(large, **less)
        ((field, fewer),) = less.items()
        progress(f"busy: growth by {name}")
        with pairs.scratch() as first, pairs.scratch() as second:
            roots = pathlib.Path(first), pathlib.Path(second)
            crowds.write(roots[0], large)
            crowds.write(roots[1], small)
            sides = [lambda root=root: _timed(lambda: look(root)) for root in roots]
            compared = pairs.compare(name, sides[0], sides[1], rounds)
        spread = compared.ratio("cpu")
        rows.append(
            {
                "name": name,
                "from": fewer,
                "to": getattr(large, field),
                "ratio": round(spread.median, 2),
                "goal": GOAL_GROWTH,
                "verdict": "met" if spread.median <= GOAL_GROWTH else "MISSED",
            }
        )
    return rows


def count(progress: Callable[[str], object], *, quick: bool) -> list[dict[str, Any]]:
    """Count the passes over what processes have open.

    Returns:
        Rows with what was asked, and how often each process's descriptors were listed for it.
    """
    rows: list[dict[str, Any]] = []
    for state, opened in (
        ("none open", {}),
        ("all guests'", {"is_open": True}),
        ("all programs'", _BY_PROGRAMS),
    ):
        size = dataclasses.replace(BUSY, **opened)
        size = _tenth(size) if quick else size
        with pairs.scratch() as place:
            root = pathlib.Path(place)
            made = crowds.write(root, size)
            progress(f"busy: passes, {describe(size)}, {state}")
            rows.append(_row(f"list, {state}", size, lambda root=root: show(root)))
            rows.append(_row(f"plan, {state}", size, lambda root=root: decide(root)))
            with record.open(Site(root, _APPLICATION)) as ledger:
                taken = {each.address: "nouveau" for each in made if each.driver == "vfio-pci"}
                ledger.update(taken=taken)
            name = f"update-status, settled, {state}"
            rows.append(_row(name, size, lambda root=root: decide(root), GOAL_SETTLED))
    return rows


def _row(
    name: str, size: crowds.Size, do: Callable[[], object], goal: int | None = None
) -> dict[str, Any]:
    with counted() as listed:
        do()
    passes = round(len(listed) / size.processes, 2)
    verdict = "" if goal is None else "met" if passes <= goal else "MISSED"
    return {"name": name, "passes": passes, "goal": goal, "verdict": verdict}


@contextlib.contextmanager
def counted() -> Iterator[list[str]]:
    """Note each directory of descriptors that is listed."""
    listed: list[str] = []
    genuine = os.listdir

    def listdir(path: Any = ".") -> list[str]:
        if os.fspath(path).endswith("/fd"):
            listed.append(path)
        return genuine(path)

    os.listdir = listdir
    try:
        yield listed
    finally:
        os.listdir = genuine


def look(root: pathlib.Path) -> None:
    """All that any hook or action wants to know of a host."""
    decide(root)
    show(root)


def decide(root: pathlib.Path) -> survey.Decision:
    """Look at a host, and decide as a hook does."""
    wanted = options.parse({"devices": _DEVICES})
    return survey.decide(wanted, survey.look(Site(root, _APPLICATION)))


def show(root: pathlib.Path) -> list[dict[str, Any]]:
    """What `list` shows."""
    return list(listing.describe(root, pci.read(root, overrides=False), procfs.Processes(root)))


def _timed(do: Callable[[], object]) -> pairs.Run:
    clock, cpu = time.perf_counter(), time.process_time()
    do()
    return pairs.Run(time.perf_counter() - clock, time.process_time() - cpu, 1)
