"""Whether a machine still runs: the processor time of its virtual processors.

A guest that waits for something runs on: its kernel takes ticks. Seen under software emulation:
idle at its prompt, the two processors of a machine together use 150 ms in any 30 s, one alone
may use none for 10 s. A machine whose processors use none at all never does anything again, and
whoever waits for it waits for a deadline. QEMU's own loop still uses some, so it does not count.
"""

import os
import pathlib
import time
from collections.abc import Callable

from lab import errors

STILL_SECONDS = 30.0
# A longer time between two looks counts as this much: whoever looks may have been stopped himself.
LOOK_SECONDS = 6.0
# A machine that boots works or says something: one that did neither for so long, but for its ticks,
# has lost an interrupt and waits for it for ever. Seen: 1 % of one processor, under a busy host.
IDLE_SECONDS = 90.0
IDLE_SHARE = 0.02
# What QEMU calls these threads, where it is told to name them: "CPU 0/TCG", "CPU 1/KVM".
PROCESSOR = "(CPU "
# How QEMU is told.
ARGUMENTS = ("-name", "lab,debug-threads=on")


class _Watch:
    """Looks at one machine again and again.

    Args:
        process: the folder of its process in /proc.
        clock: gives the seconds since some time.
    """

    def __init__(
        self, process: pathlib.Path, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._process = process
        self._clock = clock
        self._looked = clock()
        self._used = read_ticks(process)
        self._still = 0.0

    def _look(self, *, moves: bool, used: int) -> float:
        """Note what a look has found; returns for how many seconds nothing has moved."""
        now = self._clock()
        self._still += min(now - self._looked, LOOK_SECONDS)
        self._looked = now
        if moves:
            self._used, self._still = used, 0.0
        return self._still


class Pulse(_Watch):
    """Whether a machine's processors run at all."""

    def check(self) -> None:
        """Look once more. Whoever waits for the machine calls this every few seconds.

        Raises:
            StillError: its processors have used no time for `STILL_SECONDS`.
        """
        used = read_ticks(self._process)
        still = self._look(moves=used != self._used, used=used)
        if still >= STILL_SECONDS:
            raise errors.StillError(
                f"the machine stands still: its processors have used no time for {still:.0f} s"
            )


class BootPulse(_Watch):
    """Whether a machine that boots works or says anything."""

    _said = 0

    def check(self, said: int) -> None:
        """Look once more; `said` is how much the console has said so far.

        Raises:
            StillError: for `IDLE_SECONDS` it has said nothing, and used less than `IDLE_SHARE` of
                one processor.
        """
        used = read_ticks(self._process)
        work = IDLE_SECONDS * IDLE_SHARE * os.sysconf("SC_CLK_TCK")
        moves = said != self._said or used - self._used > work
        self._said = said
        idle = self._look(moves=moves, used=used)
        if idle >= IDLE_SECONDS:
            raise errors.StillError(
                f"the machine does not get on: for {idle:.0f} s it has said nothing and done"
                " next to nothing"
            )


def read_ticks(process: pathlib.Path) -> int:
    """Return what a machine's processors used, in clock ticks: utime and stime of proc_pid_stat(5).

    All threads count where none is named as a processor: while QEMU starts.
    """
    texts = []
    for thread in sorted(process.glob("task/*/stat")):
        try:
            texts.append(thread.read_text())
        except (FileNotFoundError, ProcessLookupError):  # the thread has ended
            continue
    chosen = [text for text in texts if PROCESSOR in text] or texts
    # The name, in parentheses, may hold blanks and parentheses of its own.
    rows = [text.rpartition(")")[2].split() for text in chosen]
    return sum(int(row[11]) + int(row[12]) for row in rows)
