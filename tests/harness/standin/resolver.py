"""Which event a unit runs next: Juju's own order, derived from the model alone.

The order is that of Juju's uniter (worker/uniter/resolver.go and
worker/uniter/relation/resolver.go in juju/juju): a failed or interrupted hook first, then install,
upgrade-charm, relation-created, leadership, config-changed, start, then departures, application
data, joins and changed data of each relation; a dying unit leaves its relations before stop and
remove.
"""

from __future__ import annotations

from harness.standin.errors import NotModelledError
from harness.standin.model import (
    ALIVE,
    DEAD,
    DYING,
    JUJU_3,
    JUJU_4,
    Application,
    Event,
    Model,
    Relation,
    Seen,
    Status,
    Unit,
    app_of,
    is_own,
    share_container,
)

# What EnterScope puts into a unit's databag before any hook runs (apiserver/facades/agent/uniter).
UNIT_ADDRESS = "10.0.0.10"
SCOPE_SETTINGS = {
    "egress-subnets": f"{UNIT_ADDRESS}/32",
    "ingress-address": UNIT_ADDRESS,
    "private-address": UNIT_ADDRESS,
}


def enter_scopes(model: Model, unit: Unit) -> None:
    """Let a unit learn of its application's relations, as the agent does after install.

    A subordinate unit is told of every container-scoped relation of its application, that of
    another principal included, but enters the scope only of its own principal's: Juju ignores
    EnterScope of a unit with another principal without an error. So the mere existence of a
    relation id tells such a unit nothing. JUJU_4 lets it enter a relation of two subordinates.

    Raises:
        NotModelledError: as `put_beside`.
    """
    if not unit.installed or unit.life != ALIVE:
        return
    for relation in model.relations_of(unit.app):
        if relation.life != ALIVE or relation.id in unit.seen:
            continue
        unit.seen[relation.id] = Seen()
        other = relation.other(unit.app)
        foreign = relation.scope == "container" and not (
            unit.principal.partition("/")[0] == other
            or any(
                app_of(each.name) == other and share_container(unit, each)
                for each in model.units.values()
            )
            or (model.manner == JUJU_4 and model.is_subordinate(other))
        )
        if not (foreign and unit.principal):
            join_scope(relation, unit.name)
            put_beside(model, relation, unit)


def put_beside(model: Model, relation: Relation, unit: Unit) -> None:
    """Add the subordinate that a unit gets when it enters the scope of a relation.

    JUJU_3 gives one to a principal alone. JUJU_4 gives one to a subordinate's unit, too, whose own
    unit enters and gets one in turn: units without end.

    Raises:
        NotModelledError: before the first unit of a chain, where no test has set a bound.
    """
    name = relation.other(unit.app)
    other = model.applications[name]
    if relation.scope != "container" or not (other.charm and model.is_subordinate(name)):
        return
    if any(each.app == name for each in model.below(unit)):
        return
    if unit.principal:
        if model.manner == JUJU_3:
            return
        if model.chain is None:
            raise NotModelledError(
                f"{name} beside {unit.name}, a subordinate's unit: units without end;"
                " adopt(chain=N) says how many are enough"
            )
        if sum(model.is_in_chain(each) for each in model.units.values()) >= model.chain:
            return
    number = other.next_unit
    other.next_unit += 1
    added = Unit(f"{name}/{number}", unit.name, machine=unit.machine)
    other.leader = other.leader or added.name
    model.units[added.name] = added


def join_scope(relation: Relation, unit_name: str) -> None:
    """Make a unit a member of the relation, with the addresses Juju puts into its databag."""
    relation.data.setdefault(unit_name, dict(SCOPE_SETTINGS))
    relation.members.setdefault(unit_name, 1)


def next_event(model: Model, unit: Unit) -> Event | None:
    """The event a local unit has to run now, or None when it is settled."""
    if unit.life == DEAD:
        return None
    if unit.pending:
        return unit.pending
    if unit.life == DYING:
        return _next_when_dying(model, unit)
    app = model.applications[unit.app]
    if not unit.installed:
        return Event("install")
    if unit.charm_seen != app.charm_version:
        return Event("upgrade-charm")
    new = _next_created(model, unit)
    if new:
        return new
    if unit.led_by != app.leader:
        return Event("leader-elected" if app.leader == unit.name else "leader-settings-changed")
    if unit.config_seen != app.config_version:
        return Event("config-changed")
    if not unit.started:
        return Event("start")
    events = (
        _next_of_relation(model, unit, relation, broken=relation.life != ALIVE)
        for relation in _known(model, unit)
    )
    return next(filter(None, events), None)


def _next_created(model: Model, unit: Unit) -> Event | None:
    for relation in _known(model, unit):
        if relation.life == ALIVE and not unit.seen[relation.id].created:
            return Event("relation-created", relation.id, relation.other(unit.app))
    return None


def _next_when_dying(model: Model, unit: Unit) -> Event | None:
    for relation in () if unit.cut else _known_when_dying(model, unit):
        if not unit.seen[relation.id].created:
            continue
        event = _next_of_relation(model, unit, relation, broken=True)
        if event:
            return event
    if model.below(unit):
        return None  # a principal waits for the last of its subordinates
    if unit.started and not unit.forced:
        return Event("stop")
    ends = unit.forced or model.manner == JUJU_4
    return Event("remove") if unit.installed and not ends else None


def _known_when_dying(model: Model, unit: Unit) -> list[Relation]:
    """JUJU_4 has no order of its own: that to the unit's own principal comes first, or last."""
    known = _known(model, unit)
    if model.manner == JUJU_3:
        return known
    return sorted(known, key=lambda each: is_own(each, unit) is not model.own_first)


def _known(model: Model, unit: Unit) -> list[Relation]:
    return [model.relations[number] for number in sorted(unit.seen)]


def _next_of_relation(
    model: Model, unit: Unit, relation: Relation, *, broken: bool
) -> Event | None:
    seen = unit.seen[relation.id]
    other = relation.other(unit.app)
    if seen.changed_pending:  # Juju guarantees a changed right behind each joined.
        return Event("relation-changed", relation.id, other, seen.changed_pending)
    current = (
        {}
        if broken
        else {name: relation.members[name] for name in model.remote_units(relation, unit)}
    )
    for name in sorted(seen.units):
        if name not in current:
            alive = unit.life == ALIVE or (model.late_death and not unit.removed)
            leaving = not alive or model.applications[unit.app].life != ALIVE
            return Event(
                "relation-departed", relation.id, other, name, unit.name if leaving else name
            )
    if broken:
        return Event("relation-broken", relation.id, other)
    if relation.app_versions.get(other, 0) != seen.app:
        return Event("relation-changed", relation.id, other)
    for name in current:
        if name not in seen.units:
            return Event("relation-joined", relation.id, other, name)
    for name, version in current.items():
        if seen.units[name] != version:
            return Event("relation-changed", relation.id, other, name)
    return None


def commit(model: Model, unit: Unit, event: Event) -> None:
    """Record that an event succeeded."""
    app: Application = model.applications[unit.app]
    unit.pending, unit.error = None, ""
    if event.kind == "install":
        unit.installed, unit.charm_seen = True, app.charm_version
    elif event.kind == "upgrade-charm":  # Juju runs config-changed behind every upgrade-charm.
        unit.charm_seen, unit.config_seen = app.charm_version, 0
    elif event.kind in ("leader-elected", "leader-settings-changed"):
        unit.led_by = app.leader
    elif event.kind == "config-changed":
        unit.config_seen = app.config_version
    elif event.kind in ("start", "stop"):
        unit.started = event.kind == "start"
        if event.kind == "stop":
            unit.status = Status("maintenance", "cleaning up prior to charm deletion")
    elif event.kind == "remove":
        bury(model, unit)
    elif event.relation is not None:
        relation = model.relations[event.relation]
        _commit_relation(unit, event, relation)
        last = event.kind == "relation-broken" and is_own(relation, unit)
        if last and unit.life == DYING and model.manner == JUJU_4:
            _cut(model, unit)


def _cut(model: Model, unit: Unit) -> None:
    """JUJU_4 takes a unit out of the model once it has left the scope of its principal."""
    if model.late_stop and not unit.forced:
        unit.cut = True
    else:
        bury(model, unit)


def _commit_relation(unit: Unit, event: Event, relation: Relation) -> None:
    seen = unit.seen[relation.id]
    if event.kind == "relation-created":
        seen.created = True
    elif event.kind == "relation-joined":
        seen.units[event.remote_unit] = relation.members[event.remote_unit]
        seen.changed_pending = event.remote_unit
    elif event.kind == "relation-changed" and event.remote_unit:
        seen.changed_pending = ""
        seen.units[event.remote_unit] = relation.members.get(event.remote_unit, 0)
    elif event.kind == "relation-changed":
        seen.app = relation.app_versions.get(event.remote_app, 0)
    elif event.kind == "relation-departed":
        seen.units.pop(event.remote_unit, None)
    elif event.kind == "relation-broken":
        del unit.seen[relation.id]
        relation.members.pop(unit.name, None)


def bury(model: Model, unit: Unit) -> None:
    """Take a unit out of the model's relations; its log and calls stay to be read."""
    unit.life, unit.installed, unit.started, unit.seen = DEAD, False, False, {}
    unit.pending, unit.error, unit.status = None, "", Status("terminated")
    for relation in model.relations_of(unit.app):
        relation.members.pop(unit.name, None)
    app = model.applications[unit.app]
    if app.leader == unit.name:
        heirs = [other.name for other in model.local_units(unit.app) if other.life == ALIVE]
        app.leader = heirs[0] if heirs else ""


def doom_orphans(model: Model) -> bool:
    """Make every subordinate unit dying that no alive container relation ties to its principal.

    That is how Juju removes a subordinate after ``juju remove-relation``
    (relationStateTracker.SynchronizeScopes).
    """
    doomed = False
    for unit in model.local_units():
        if unit.life != ALIVE or not unit.principal or model.is_in_chain(unit):
            continue  # the units of a chain stay when the relation goes
        principal_app = unit.principal.partition("/")[0]
        ties = [
            r
            for r in model.relations_of(unit.app)
            if r.scope == "container" and principal_app in r.sides
        ]
        if not any(relation.life == ALIVE for relation in ties):
            unit.life, doomed = DYING, True
    return doomed


def sweep(model: Model) -> None:
    """Drop relations that are dying and that no unit remembers."""
    for number, relation in list(model.relations.items()):
        if relation.life != ALIVE and not any(number in unit.seen for unit in model.units.values()):
            del model.relations[number]
