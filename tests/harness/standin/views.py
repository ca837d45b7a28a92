"""What a test reads: statuses, databags, logs and calls; nothing here runs or changes anything.

Reading takes no lock: the model file is replaced as a whole, so a reader in another thread or
process sees the state before or after an event, never half of it.
"""

from __future__ import annotations

import json
import os
import pathlib
from typing import Any

from harness.standin import changes, model
from harness.standin.model import DEAD, Model, Status, app_of
from harness.standin.records import Call, LogLine


class Views:
    """Reading side of `standin.Agent`."""

    def __init__(self, directory: str | os.PathLike[str], manner: str = model.JUJU_3):
        self.directory = pathlib.Path(directory).resolve()
        self._manner = manner

    @property
    def manner(self) -> str:
        """Whose manner the agents have."""
        return self._load().manner

    def model(self) -> Model:
        """Everything there is to know; a copy, whose changes count nowhere."""
        return self._load()

    def _load(self) -> Model:
        return model.load(self.directory / "model.json", self._manner)

    def unit_directory(self, unit: str | None = None) -> pathlib.Path:
        """Directory of a unit's agent: ``charm``, ``log.jsonl`` and ``calls.jsonl`` lie in it.

        It is named as those below Juju's /var/lib/juju/agents.
        """
        return self._directory_of(self._load().unit(unit).name)

    def _directory_of(self, unit: str) -> pathlib.Path:
        name = f"unit-{unit.replace('/', '-')}"
        present = self.directory / name
        elsewhere = [*self.directory.glob(f"machine-*/{name}"), self.directory / "gone" / name]
        found = (path for path in (present, *elsewhere) if path.exists())
        return next(found, present)

    def status(self, unit: str | None = None) -> Status:
        """The unit's status as ``juju status`` shows it; ``error`` while a failed hook waits."""
        chosen = self._load().unit(unit)
        return Status("error", chosen.error) if chosen.error else chosen.status

    def app_status(self, app: str | None = None) -> Status:
        """The application's status as its leader set it."""
        return self._load().application(app).status

    def units(self, app: str | None = None) -> list[str]:
        """Names of the units that run a charm and are not removed."""
        return [unit.name for unit in self._load().local_units(app) if unit.life != DEAD]

    def reboot_due(self) -> str:
        """``"after-hook"`` or ``"now"`` when a unit asked for a reboot, else ``""``."""
        return next((unit.reboot for unit in self._load().local_units() if unit.reboot), "")

    def relation_data(
        self, endpoint: str, owner: str, *, app: str | None = None, remote: str | None = None
    ) -> dict[str, str]:
        """A databag as the controller holds it.

        Args:
            endpoint: of the application with the charm.
            owner: unit or application whose databag it is, of either side.
            app: the application with the charm.
            remote: the far side, when the endpoint has several relations.
        """
        state = self._load()
        name = app or (app_of(owner) if app_of(owner) in _local(state) else None)
        relation = changes.find_relation(state, state.application(name).name, endpoint, remote)
        return dict(relation.data.get(owner, {}))

    def calls(self, *tools: str, unit: str | None = None) -> list[Call]:
        """Every run of the named hook tools (of all of them by default), oldest first."""
        found = [
            Call(**{**raw, "args": tuple(raw["args"])}) for raw in self._records("calls", unit)
        ]
        return [call for call in found if not tools or call.tool in tools]

    def log(self, unit: str | None = None) -> list[LogLine]:
        """The unit's log, oldest first."""
        return [LogLine(**raw) for raw in self._records("log", unit)]

    def _records(self, kind: str, unit: str | None) -> list[dict[str, Any]]:
        path = self.unit_directory(unit) / f"{kind}.jsonl"
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _local(state: Model) -> set[str]:
    return {app.name for app in state.applications.values() if app.charm}
