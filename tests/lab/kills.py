"""Kills of the charm's runs on a machine: inside/crashing.py does them, this tells it which."""

import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from lab import guest, unit

SECONDS = 3600.0
_SCRIPT = pathlib.Path(__file__).with_name("inside") / "crashing.py"


def list_wrong(kills: Iterable[Mapping[str, Any]]) -> list[str]:
    """Say what was wrong after each of some kills, and after the run that followed it."""
    return [
        f"before {kill['step']}: {found}"
        for kill in kills
        for found in (*kill["torn"], *kill["not mended"], *kill["not put back"])
    ]


class Kills:
    """Kills of runs that bring a host, configured as it is now, to other options.

    Without options they give everything back, as a unit that leaves does, and the caretaker.
    """

    def __init__(self, host: guest.Guest, options: Mapping[str, str] | None) -> None:
        self._host, self._options = host, None if options is None else dict(options)
        self._script = f"{unit.LIBRARY}/{_SCRIPT.name}"
        host.put(_SCRIPT, self._script)

    def learn(self) -> list[str]:
        """Remember the host as it is, let a run come to its end, and return that run's steps."""
        (row,) = self._tell("learn")
        return row["steps"]

    def kill(self, where: int | str) -> dict[str, Any]:
        """Put the host back as it was, and kill a run before a step, by its number or name.

        Returns:
            The step, or "" when the run came to its end first; `not put back` and `torn`, two lists
            of what is wrong; and whether the run left the `new images`.
        """
        (row,) = self._tell("kill", str(where))
        return row

    def mend(self) -> list[str]:
        """Let a run come to its end; return what differs from the end of the first one."""
        (row,) = self._tell("mend")
        return row["not mended"]

    def visit(self) -> list[dict[str, Any]]:
        """Kill before every step in turn, and mend: what `kill` gives, and `not mended`."""
        return self._tell("visit")

    def _tell(self, *words: str) -> list[dict[str, Any]]:
        command = ["python3", self._script, unit.CHARM_FOLDER, json.dumps(self._options), *words]
        printed = self._host.run(command, timeout=SECONDS, on_line=self._host.progress.waiting)
        return [json.loads(line) for line in printed.stdout.splitlines()]
