"""The model: applications, units and relations, kept as one JSON file and nothing else.

Applications and units are either local (they have a charm, which the agent runs) or simulated
(``charm`` is empty: a principal such as nova-compute, whose databags the test writes).
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import uuid
from typing import Any

from harness.standin.errors import ModelError

ALIVE, DYING, DEAD = "alive", "dying", "dead"
# The manners in which a unit is told of relations and of its end, by the Juju that has them.
JUJU_3, JUJU_4 = "3.6", "4.0"
FIRST = "0"  # the machine of units whose machine nobody names
VERSIONS = {JUJU_3: "3.6.8", JUJU_4: "4.0.15"}


@dataclasses.dataclass(frozen=True)
class Status:
    """A workload status; ``str()`` gives ``name: message`` as people read it."""

    name: str
    message: str = ""

    def __str__(self) -> str:
        return f"{self.name}: {self.message}" if self.message else self.name


@dataclasses.dataclass(frozen=True)
class Event:
    """What a unit has to run next.

    ``kind`` is the hook's name, without the endpoint for relation hooks (``relation-joined``); the
    remote fields and ``relation`` are set for those alone. ``departing`` is Juju's
    JUJU_DEPARTING_UNIT.
    """

    kind: str
    relation: int | None = None
    remote_app: str = ""
    remote_unit: str = ""
    departing: str = ""


@dataclasses.dataclass
class Seen:
    """What one unit knows of one relation: the version of each databag its hooks have seen."""

    created: bool = False
    app: int = 0
    units: dict[str, int] = dataclasses.field(default_factory=dict)
    changed_pending: str = ""


@dataclasses.dataclass
class Application:
    """An application; ``declared`` holds its charm's YAML files as data, empty when simulated."""

    name: str
    charm: str = ""
    declared: dict[str, Any] = dataclasses.field(default_factory=dict)
    charm_version: int = 1
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    config_version: int = 1
    leader: str = ""
    life: str = ALIVE
    next_unit: int = 0
    status: Status = Status("unknown")
    workload_version: str = ""


@dataclasses.dataclass
class Unit:
    """A unit and what its agent remembers between hooks.

    An operator has ``removed`` it, or its principal or application; ``forced`` is with --force. One
    that is ``cut`` is out of the model while its agent still runs. Its ``machine`` is that of its
    principal.
    """

    name: str
    principal: str = ""
    life: str = ALIVE
    installed: bool = False
    started: bool = False
    led_by: str = ""
    charm_seen: int = 0
    config_seen: int = 0
    seen: dict[int, Seen] = dataclasses.field(default_factory=dict)
    pending: Event | None = None
    error: str = ""
    reboot: str = ""
    status: Status = Status("waiting", "agent initialising")
    state: dict[str, str] = dataclasses.field(default_factory=dict)
    ports: list[str] = dataclasses.field(default_factory=list)
    removed: bool = False
    forced: bool = False
    cut: bool = False
    machine: str = FIRST

    @property
    def app(self) -> str:
        """Name of the unit's application."""
        return app_of(self.name)


@dataclasses.dataclass
class Relation:
    """A relation.

    Attributes:
        id: its number, as in ``endpoint:number``.
        sides: application to its endpoint; always two, peer relations are not modelled.
        interface: of both endpoints.
        scope: ``global`` or ``container``.
        life: ``alive`` or ``dying``.
        members: units in scope, to the versions of their databags.
        app_versions: applications to the versions of their databags; 0 or absent: never written.
        data: the databags, by unit or application.
    """

    id: int
    sides: dict[str, str]
    interface: str
    scope: str
    life: str = ALIVE
    members: dict[str, int] = dataclasses.field(default_factory=dict)
    app_versions: dict[str, int] = dataclasses.field(default_factory=dict)
    data: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)

    def other(self, app: str) -> str:
        """Name of the application on the far side as seen from ``app``."""
        return next(name for name in self.sides if name != app)

    def write(self, owner: str, changes: dict[str, str]) -> bool:
        """Merge changes into a databag; an empty value deletes. True when that changed it."""
        bag = self.data.setdefault(owner, {})
        before = dict(bag)
        for key, value in changes.items():
            if value:
                bag[key] = value
            else:
                bag.pop(key, None)
        if bag == before:
            return False
        versions = self.members if "/" in owner else self.app_versions
        versions[owner] = versions.get(owner, 0) + 1
        return True


@dataclasses.dataclass
class Model:
    """Everything the stand-in knows; `load` and `save` it as JSON.

    Attributes:
        manner: whose manner the agents have: JUJU_3 or JUJU_4.
        late_stop: whether JUJU_4 comes to run stop after all, with hook tools that fail.
        late_death: whether JUJU_3 still calls a unit alive that leaves with its last relation.
        own_first: whether JUJU_4 begins with the relation to the unit's own principal.
        chain: how many units JUJU_4 makes below units of subordinates, where Juju would go on; None
            ends the test with NotModelledError before the first one.
    """

    name: str = "standin"
    manner: str = JUJU_3
    late_stop: bool = False
    late_death: bool = False
    own_first: bool = False
    chain: int | None = None
    uuid: str = dataclasses.field(default_factory=lambda: str(uuid.uuid4()))
    next_relation: int = 0
    next_action: int = 1
    applications: dict[str, Application] = dataclasses.field(default_factory=dict)
    units: dict[str, Unit] = dataclasses.field(default_factory=dict)
    relations: dict[int, Relation] = dataclasses.field(default_factory=dict)

    def application(self, name: str | None) -> Application:
        """The named application, or the only local one.

        Raises:
            ModelError: there is no such application, or not just one to choose.
        """
        if name is None:
            local = [app for app in self.applications.values() if app.charm]
            if len(local) != 1:
                raise ModelError(f"name the application: there are {len(local)} with a charm")
            return local[0]
        if name not in self.applications:
            raise ModelError(f"application {name!r} not found")
        return self.applications[name]

    def unit(self, name: str | None, app: str | None = None) -> Unit:
        """The named unit, or the only local one (of ``app``).

        Raises:
            ModelError: there is no such unit, or not just one to choose.
        """
        if name is None:
            local = self.local_units(app)
            if len(local) > 1:
                local = [unit for unit in local if unit.life != DEAD]
            if len(local) != 1:
                raise ModelError(f"name the unit: there are {len(local)} to choose from")
            return local[0]
        if name not in self.units:
            raise ModelError(f"unit {name!r} not found")
        return self.units[name]

    def local_units(self, app: str | None = None) -> list[Unit]:
        """Units that run a charm, in order of name and number; dead ones included."""
        found = [
            unit for unit in self.units.values() if self._is_local(unit) and app in (None, unit.app)
        ]
        return sorted(found, key=lambda unit: unit_order(unit.name))

    def _is_local(self, unit: Unit) -> bool:
        app = self.applications.get(unit.app)
        return app is not None and bool(app.charm)

    def relations_of(self, app: str) -> list[Relation]:
        """Relations of an application, oldest first."""
        return [relation for _, relation in sorted(self.relations.items()) if app in relation.sides]

    def remote_units(self, relation: Relation, unit: Unit) -> list[str]:
        """Units of the far side that a unit is told of.

        In a container those are its principal, subordinates, and the other subordinates of its
        principal; JUJU_4 tells of all the others too.
        """
        other = relation.other(unit.app)
        found = [name for name in relation.members if app_of(name) == other and name != unit.name]
        if relation.scope == "container" and self.manner == JUJU_3:
            found = [name for name in found if share_container(unit, self.units[name])]
        return sorted(found, key=unit_order)

    def is_subordinate(self, app: str) -> bool:
        """Whether the units of an application live beside those of others, by its charm."""
        metadata = self.applications[app].declared.get("metadata", {})
        return bool(metadata.get("subordinate"))

    def reboots(self, machine: str) -> bool:
        """Whether a unit has asked for a reboot of its machine, which has not come yet."""
        return any(unit.reboot and unit.machine == machine for unit in self.local_units())

    def below(self, unit: Unit) -> list[Unit]:
        """The local units beside a unit that are not gone; a principal outlives them."""
        return [
            other
            for other in self.local_units()
            if other.principal == unit.name and other.life != DEAD
        ]

    def is_in_chain(self, unit: Unit) -> bool:
        """Whether a unit lives beside one of a subordinate, which JUJU_4 alone has."""
        principal = self.units.get(unit.principal)
        return principal is not None and bool(principal.principal)

    def hook_name(self, unit: Unit, event: Event) -> str:
        """Full name of the hook of an event, as in JUJU_HOOK_NAME."""
        if event.relation is None:
            return event.kind
        return f"{self.relations[event.relation].sides[unit.app]}-{event.kind}"


def share_container(unit: Unit, other: Unit) -> bool:
    """Whether two units of different applications have the same principal, or one the other."""
    return (unit.principal or unit.name) == (other.principal or other.name)


def is_own(relation: Relation, unit: Unit) -> bool:
    """Whether a relation leads to a subordinate's own principal."""
    return relation.scope == "container" and app_of(unit.principal) == relation.other(unit.app)


def app_of(unit_name: str) -> str:
    """Application name of a unit (or of an application)."""
    return unit_name.partition("/")[0]


def unit_order(unit_name: str) -> tuple[str, int]:
    """Sort key that puts app/10 after app/9."""
    app, _, number = unit_name.partition("/")
    return app, int(number or 0)


def load(path: pathlib.Path, manner: str = JUJU_3) -> Model:
    """Read the model, or start an empty one of that manner when the file does not exist."""
    if not path.exists():
        return Model(manner=manner)
    raw = json.loads(path.read_text(encoding="utf-8"))
    raw["applications"] = {
        name: Application(**{**app, "status": Status(**app["status"])})
        for name, app in raw["applications"].items()
    }
    raw["units"] = {name: _unit(unit) for name, unit in raw["units"].items()}
    raw["relations"] = {
        int(key): Relation(**relation) for key, relation in raw["relations"].items()
    }
    return Model(**raw)


def _unit(raw: dict[str, Any]) -> Unit:
    raw["seen"] = {int(key): Seen(**seen) for key, seen in raw["seen"].items()}
    raw["pending"] = Event(**raw["pending"]) if raw["pending"] else None
    raw["status"] = Status(**raw["status"])
    return Unit(**raw)


def save(model: Model, path: pathlib.Path) -> None:
    """Write the model so that a reader, or a crash, sees the old file or the new one."""
    scratch = path.with_name(path.name + ".new")
    scratch.write_text(
        json.dumps(dataclasses.asdict(model), indent=1, sort_keys=True), encoding="utf-8"
    )
    os.replace(scratch, path)
