"""Pairs of runs, ours and theirs, one right after the other: what is left is their ratio.

Whatever else the machine does slows both sides of a pair alike, and who goes first changes from
pair to pair. So ratios of two runs on different days can be compared, and times cannot.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

HERE = pathlib.Path(__file__).parent
# Files in memory cost the least, so that a program's own time is the larger part.
_IN_MEMORY = pathlib.Path("/dev/shm")  # noqa: S108 - a directory of our own is made in it


class BenchError(Exception):
    """A benchmark cannot be run; the message says why, and the way out."""


@dataclasses.dataclass(frozen=True)
class Run:
    """One run: seconds by the clock, seconds of processors, and the most memory in KiB.

    Processor time and memory are those of the process and of what it waited for.
    """

    seconds: float
    cpu: float
    peak_kib: int


@dataclasses.dataclass(frozen=True)
class Spread:
    """The median of some numbers, and their first and third quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Sum up; a single number is its own quartiles.

        Raises:
            ValueError: for no number at all.
        """
        if not values:
            raise ValueError("nothing was measured")
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(middle, low, high)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Pairs of one kind.

    ``goal`` is what the ratio of the times should not exceed, None where there is none; ``judged``
    says which times those are, a field of `Run`.
    """

    name: str
    ours: tuple[Run, ...]
    theirs: tuple[Run, ...]
    goal: float | None = None
    judged: str = "seconds"

    def ratio(self, of: str = "seconds") -> Spread:
        """Ours over theirs, pair by pair, for a field of `Run`."""
        pairs = zip(self.ours, self.theirs, strict=True)
        return Spread.of([getattr(mine, of) / getattr(other, of) for mine, other in pairs])

    @property
    def verdict(self) -> str:
        """``met`` or ``MISSED``; empty without a goal."""
        if self.goal is None:
            return ""
        return "met" if self.ratio(self.judged).median <= self.goal else "MISSED"

    def as_row(self) -> dict[str, Any]:
        """Everything of it that a table or a program wants, as plain values."""
        return {
            "name": self.name,
            "pairs": len(self.ours),
            "ours-seconds": round(Spread.of([run.seconds for run in self.ours]).median, 4),
            "ours-cpu-seconds": round(Spread.of([run.cpu for run in self.ours]).median, 4),
            "theirs-seconds": round(Spread.of([run.seconds for run in self.theirs]).median, 4),
            "ratio": _rounded(self.ratio()),
            "cpu-ratio": _rounded(self.ratio("cpu")),
            "memory-ratio": _rounded(self.ratio("peak_kib")),
            "ours-peak-mib": round(Spread.of([run.peak_kib for run in self.ours]).median / 1024, 1),
            "theirs-peak-mib": round(
                Spread.of([run.peak_kib for run in self.theirs]).median / 1024, 1
            ),
            "goal": self.goal,
            "verdict": self.verdict,
        }


def _rounded(spread: Spread) -> dict[str, float]:
    return {key: round(value, 3) for key, value in dataclasses.asdict(spread).items()}


def compare(
    name: str,
    ours: Callable[[], Run],
    theirs: Callable[[], Run],
    pairs: int,
    goal: float | None = None,
) -> Comparison:
    """Run both alternately, after one pair that is not counted: it fills the caches."""
    for side in (ours, theirs):
        side()
    found: tuple[list[Run], list[Run]] = ([], [])
    for number in range(pairs):
        sides = ((ours, found[0]), (theirs, found[1]))
        for side, runs in sides if number % 2 else reversed(sides):
            runs.append(side())
    return Comparison(name, tuple(found[0]), tuple(found[1]), goal)


def scratch() -> tempfile.TemporaryDirectory[str]:
    """A directory for made-up hosts, in memory where this machine has that."""
    place = _IN_MEMORY if os.access(_IN_MEMORY, os.W_OK) else None
    return tempfile.TemporaryDirectory(dir=place, prefix="bench-")


def measuring(report: pathlib.Path) -> list[str]:
    """What to put before a command so that it leaves a `Run` in the file ``report``."""
    return [sys.executable, "-IS", str(HERE / "measure.py"), str(report)]


def read(report: pathlib.Path) -> Run:
    """Read what a command behind `measuring` left."""
    return Run(**json.loads(report.read_text(encoding="utf-8")))


def run(command: Sequence[str], env: Mapping[str, str] | None = None) -> Run:
    """Run a command to its end, its output thrown away.

    Raises:
        BenchError: when it fails, with the last line that it wrote to standard error.
    """
    with tempfile.TemporaryDirectory() as place:
        report = pathlib.Path(place, "run.json")
        done = subprocess.run(
            [*measuring(report), *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8", **(env or {})},
            text=True,
            check=False,
        )
        if done.returncode:
            said = done.stderr.strip().splitlines()[-1:] or ["it said nothing"]
            raise BenchError(f"{' '.join(command)}: exit code {done.returncode}: {said[0]}")
        return read(report)
