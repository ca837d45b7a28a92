"""`pci-passthrough --json list` against lspci, as whole processes on trees of any size."""

from __future__ import annotations

import pathlib
import shutil
import sys
from collections.abc import Callable, Sequence

from bench import pairs, trees

SIZES = (64, 1024, 4096, 16384)
# What the ratio to the first listing should not exceed, by the number of functions.
GOALS = {64: 1.5, 1024: 0.8, 4096: 0.6}
LEAST_SIZE = 4096  # where Python's own least is measured
_ROUNDS_OF_LARGE = 3  # a run takes seconds there, and varies less
LISTINGS = ("-Dnnk", "-Dn")
_FLOOR = pathlib.Path(__file__).with_name("floor.py")


def measure(
    command: pathlib.Path,
    sizes: Sequence[int],
    rounds: int,
    progress: Callable[[str], object],
    former: tuple[str, pathlib.Path] | None = None,
) -> list[pairs.Comparison]:
    """Compare on a tree of each size.

    Args:
        command: the program ``pci-passthrough``.
        sizes: numbers of functions.
        rounds: pairs for each comparison.
        progress: told what is under way.
        former: the name of another revision, and its program; None for no such comparison.

    Raises:
        BenchError: when there is no lspci, or a program fails.
    """
    check_lspci()
    found = []
    for size in sizes:
        with pairs.scratch() as root:
            progress(f"inventory: a tree of {size:,} functions")
            trees.write(pathlib.Path(root), trees.functions(size))
            ours = list_command(command, root)
            for listing in LISTINGS:
                theirs = lspci(listing, root)
                goal = GOALS.get(size) if listing == LISTINGS[0] else None
                found.append(
                    compare(
                        f"list, {size:,} functions / lspci {listing}", ours, theirs, rounds, goal
                    )
                )
            if size == LEAST_SIZE:
                least = [sys.executable, "-IS", str(_FLOOR), root]
                name = f"the least that Python needs, {size:,} functions / lspci {LISTINGS[0]}"
                found.append(compare(name, least, lspci(LISTINGS[0], root), rounds, None))
            if former:
                name = f"list, {size:,} functions / the same at {former[0]}"
                found.append(compare(name, ours, list_command(former[1], root), rounds, None))
    return found


def check_lspci() -> None:
    """Make sure that there is something to compare with.

    Raises:
        BenchError: when there is no lspci.
    """
    if not shutil.which("lspci"):
        raise pairs.BenchError("there is no lspci to compare with: apt-get install pciutils")


def list_command(command: pathlib.Path, root: str) -> list[str]:
    """What lists the functions of a tree; Python starts as the program's first line has it."""
    with command.open(encoding="utf-8") as file:
        flags = "-IS" if file.readline().endswith("-IS\n") else "-I"
    return [sys.executable, flags, str(command), "--root", root, "--json", "list"]


def lspci(listing: str, root: str) -> list[str]:
    """What has lspci list the same tree."""
    return ["lspci", "-O", f"sysfs.path={root}/sys/bus/pci", listing]


def compare(
    name: str, ours: list[str], theirs: list[str], rounds: int, goal: float | None
) -> pairs.Comparison:
    """Run two programs in pairs."""
    return pairs.compare(name, lambda: pairs.run(ours), lambda: pairs.run(theirs), rounds, goal)
