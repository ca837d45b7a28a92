"""One run of a hook or action as the hook tools see it: what they read, what they buffer.

As in Juju, what a hook writes to relations, server-side state and ports takes effect when it
succeeds and is dropped when it fails; statuses, log lines and action results count at once.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

from harness.standin.model import ALIVE, JUJU_4, Application, Event, Model, Relation, Unit, app_of
from harness.standin.records import Call, LogLine


class ToolError(Exception):
    """A hook tool refuses: printed as ``ERROR …``, exit code 1 (2 for wrong usage)."""

    def __init__(self, message: str, code: int = 1):
        super().__init__(message)
        self.code = code


@dataclasses.dataclass
class HookContext:
    """State of one run.

    Attributes:
        model: the model; tools read it and write only what takes effect at once.
        unit: the unit the charm runs as.
        event: the event; of kind ``action`` for actions.
        name: the hook's full name, or ``actions/NAME``.
        parameters: of the action, else None.
        kill: ends the charm's process at once, for juju-reboot --now.
        on_log: called with every log line as it comes.
        relation_writes: buffered databag changes by relation and owner.
        state_writes: buffered server-side state; None deletes.
        not_modelled: what the charm asked for that is not modelled.
        fail_after: how many calls are answered; then all fail. None for no such end.
        command: what `juju exec` runs instead of ``dispatch``.
    """

    model: Model
    unit: Unit
    event: Event
    name: str
    kill: Callable[[], None]
    on_log: Callable[[LogLine], None]
    parameters: dict[str, Any] | None = None
    relation_writes: dict[tuple[int, str], dict[str, str]] = dataclasses.field(default_factory=dict)
    state_writes: dict[str, str | None] = dataclasses.field(default_factory=dict)
    ports: list[str] | None = None
    results: dict[str, Any] = dataclasses.field(default_factory=dict)
    action_log: list[str] = dataclasses.field(default_factory=list)
    failure: str | None = None
    reboot: str = ""
    log: list[LogLine] = dataclasses.field(default_factory=list)
    calls: list[Call] = dataclasses.field(default_factory=list)
    not_modelled: list[str] = dataclasses.field(default_factory=list)
    fail_after: int | None = None
    command: Sequence[str] = ()

    @property
    def is_cut_off(self) -> bool:
        """Whether Juju answers no hook tool any more."""
        late = self.fail_after is not None and len(self.calls) >= self.fail_after
        return self.unit.cut or late

    @property
    def app(self) -> Application:
        """The unit's application."""
        return self.model.applications[self.unit.app]

    @property
    def is_leader(self) -> bool:
        """True when the unit leads its application."""
        return self.app.leader == self.unit.name

    def add_log(self, level: str, message: str) -> None:
        """Keep one line of log."""
        line = LogLine(time.time(), self.unit.name, self.name, level, message)
        self.log.append(line)
        self.on_log(line)

    def relation(self, reference: str | None) -> Relation:
        """The relation of a ``-r`` argument (``3`` or ``endpoint:3``), or the event's own.

        Raises:
            ToolError: there is none, or the unit does not know it, or it is of another endpoint.
        """
        if reference is None:
            if self.event.relation is None:
                raise ToolError("no relation id specified", 2)
            return self.model.relations[self.event.relation]
        endpoint, _, number = reference.rpartition(":")
        refusal = ToolError(f'invalid value "{reference}" for option -r: relation not found', 2)
        if not number.isdigit() or int(number) not in self.unit.seen:
            raise refusal
        relation = self.model.relations[int(number)]
        if endpoint and relation.sides[self.unit.app] != endpoint:
            raise refusal
        return relation

    def joined_units(self, relation: Relation) -> list[str]:
        """Remote units whose relation-joined ran or runs, and whose relation-departed did not.

        So the list is empty in hooks before the first join (install, config-changed, start).
        """
        if self.model.manner == JUJU_4 and self.unit.life != ALIVE:
            return []
        names = set(self.unit.seen[relation.id].units)
        if self.event.relation == relation.id and self.event.remote_unit:
            if self.event.kind == "relation-departed":
                names.discard(self.event.remote_unit)
            else:
                names.add(self.event.remote_unit)
        return sorted(names)

    def databag(self, relation: Relation, owner: str) -> dict[str, str]:
        """What the unit may read of a databag, its own unwritten changes included.

        Readable are the unit's own databag, every remote one in the same scope, and the databag of
        the own application by the leader alone.

        Raises:
            ToolError: Juju refuses this unit this databag, or no such unit is in the relation.
        """
        if owner == self.unit.app and not self.is_leader:
            raise ToolError("permission denied")
        if owner not in (self.unit.name, self.unit.app):
            if app_of(owner) != relation.other(self.unit.app):
                raise ToolError("permission denied")
            if "/" in owner and not self._shares_scope(relation, owner):
                raise ToolError(f'cannot read settings for unit "{owner}" in relation: not found')
        bag = dict(relation.data.get(owner, {}))
        for key, value in self.relation_writes.get((relation.id, owner), {}).items():
            if value:
                bag[key] = value
            else:
                bag.pop(key, None)
        return bag

    def _shares_scope(self, relation: Relation, owner: str) -> bool:
        # A unit that has left stays readable until relation-departed ended: Juju keeps its data.
        known = {*self.unit.seen[relation.id].units, self.event.remote_unit}
        return owner in known or owner in self.model.remote_units(relation, self.unit)

    def write_databag(self, relation: Relation, owner: str, changes: dict[str, str]) -> None:
        """Buffer changes to the databag of the unit or its application."""
        self.relation_writes.setdefault((relation.id, owner), {}).update(changes)

    def flush(self) -> None:
        """Let the buffered writes take effect: the hook succeeded."""
        for (number, owner), changes in self.relation_writes.items():
            if number in self.model.relations:
                self.model.relations[number].write(owner, changes)
        for key, value in self.state_writes.items():
            if value is None:
                self.unit.state.pop(key, None)
            else:
                self.unit.state[key] = value
        if self.ports is not None:
            self.unit.ports = self.ports
