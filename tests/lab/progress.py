"""What the lab is doing, for how long, and where the time went.

Everything here is slow (software emulation), so every wait says what it waits for.
"""

import contextlib
import dataclasses
import sys
import threading
import time
from collections.abc import Iterator

HEARTBEAT_SECONDS = 15.0


@dataclasses.dataclass(frozen=True)
class Step:
    """One finished step: its title and how many seconds it took."""

    title: str
    seconds: float


class Progress:
    """Print the steps as they happen, one plain line each, and remember how long each took."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self._started = time.monotonic()
        self._waiting_for = ""

    def say(self, text: str) -> None:
        """Print a line under the time since the start, in seconds."""
        print(f"[{time.monotonic() - self._started:6.1f} s] {text}", file=sys.stderr, flush=True)

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
        try:
            yield
        except BaseException:
            self.say(f"{title}: failed after {time.monotonic() - begin:.1f} s")
            raise
        else:
            self.say(f"{title}: done in {time.monotonic() - begin:.1f} s")
        finally:
            done.set()
            heart.join()
            self.steps.append(Step(title, time.monotonic() - begin))

    def _beat(self, title: str, begin: float, done: threading.Event) -> None:
        while not done.wait(HEARTBEAT_SECONDS):
            detail = f", waiting for {self._waiting_for}" if self._waiting_for else ""
            self.say(f"    {title}: {time.monotonic() - begin:.0f} s{detail}")

    def table(self) -> str:
        """Return where the time went: one line per step and the sum, in seconds."""
        total = sum(step.seconds for step in self.steps)
        rows = [*((step.title, step.seconds) for step in self.steps), ("total", total)]
        width = max(len(title) for title, _ in rows)
        return "\n".join(f"{title:<{width}}  {seconds:7.1f} s" for title, seconds in rows)
