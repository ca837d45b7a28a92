"""What the lab is doing, for how long, and where the time went.

Everything here is slow (software emulation), so every wait says what it waits for.
"""

import contextlib
import dataclasses
import sys
import threading
import time
from collections.abc import Iterator
from typing import TextIO

HEARTBEAT_SECONDS = 15.0


@dataclasses.dataclass(frozen=True)
class Step:
    """One finished step: its title and how many seconds it took."""

    title: str
    seconds: float


class Progress:
    """Print the steps as they happen, one plain line each, and remember how long each took."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.steps: list[Step] = []
        self._stream = stream or sys.stderr
        self._started = time.monotonic()
        self._waiting_for = ""

    def say(self, text: str) -> None:
        """Print a line under the time since the start, in seconds."""
        print(f"[{self._elapsed():6.1f} s] {text}", file=self._stream, flush=True)

    def waiting(self, what: str) -> None:
        """Tell what the current step waits for; the next heartbeat prints it."""
        self._waiting_for = what

    @contextlib.contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Announce a step, say every few seconds that it still runs, and record how long it took.

        A step that fails is recorded too, so that the table of times stays complete.
        """
        self.say(f"{title} …")
        self._waiting_for = ""
        begin = time.monotonic()
        done = threading.Event()
        heart = threading.Thread(target=self._beat, args=(title, begin, done), daemon=True)
        heart.start()
        outcome = "failed after"
        try:
            yield
            outcome = "done in"
        finally:
            done.set()
            heart.join()
            seconds = time.monotonic() - begin
            self.say(f"{title}: {outcome} {seconds:.1f} s")
            self.steps.append(Step(title, seconds))

    def table(self) -> str:
        """Return where the time went, in seconds: each step, what lay between them, and all."""
        total = self._elapsed()
        between = total - sum(step.seconds for step in self.steps)
        rows = [*self.steps, Step("in between", between), Step("in all", total)]
        width = max(len(row.title) for row in rows)
        return "\n".join(f"{row.title:<{width}}  {row.seconds:7.1f} s" for row in rows)

    def _elapsed(self) -> float:
        return time.monotonic() - self._started

    def _beat(self, title: str, begin: float, done: threading.Event) -> None:
        while not done.wait(HEARTBEAT_SECONDS):
            detail = f", waiting for {self._waiting_for}" if self._waiting_for else ""
            self.say(f"    {title}: {time.monotonic() - begin:.0f} s{detail}")
