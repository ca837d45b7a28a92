"""What an operator changes in the model; no hook runs here.

Every function checks before it changes anything, so that a refusal leaves the model as it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from harness.standin import charmdir, declared, resolver
from harness.standin.errors import ModelError, NotModelledError
from harness.standin.model import (
    ALIVE,
    DEAD,
    DYING,
    JUJU_3,
    Application,
    Model,
    Relation,
    Unit,
    app_of,
)

_OPPOSITE = {"provides": "requires", "requires": "provides"}


def add_application(
    model: Model, name: str, charm: str, declarations: dict[str, Any]
) -> Application:
    """Add an application with a charm, or give the existing one back.

    Raises:
        ModelError: it exists with another charm, or is a simulated one.
        NotModelledError: the charm has peer relations.
    """
    if declarations["metadata"].get("peers"):
        raise NotModelledError(f"{charm}: peer relations")
    _forget(model, name)
    if name not in model.applications:
        model.applications[name] = Application(name, charm, declarations)
    app = model.applications[name]
    if app.charm != charm:
        raise ModelError(f"application {name!r} exists with the charm {app.charm or '(simulated)'}")
    return app


def _forget(model: Model, name: str) -> None:
    """Forget an application that was removed, once the last of its units has gone."""
    app = model.applications.get(name)
    units = [unit for unit in model.units.values() if unit.app == name]
    if app and app.charm and app.life != ALIVE and all(unit.life == DEAD for unit in units):
        del model.applications[name]
        for unit in units:
            del model.units[unit.name]


def add_unit(model: Model, app: Application, principal: str, number: int | None = None) -> Unit:
    """Add a unit that runs the application's charm; the first one leads."""
    number = app.next_unit if number is None else number
    name = f"{app.name}/{number}"
    if name in model.units:
        raise ModelError(f"unit {name!r} exists")
    app.next_unit = max(app.next_unit, number + 1)
    app.leader = app.leader or name
    model.units[name] = Unit(name, principal)
    return model.units[name]


def simulate_units(model: Model, names: Iterable[str], principal: str = "") -> None:
    """Add simulated units, and their applications, where they do not exist.

    Args:
        model: the model.
        names: the units.
        principal: of each, where they are subordinates.
    """
    for name in names:
        model.applications.setdefault(app_of(name), Application(app_of(name)))
        model.units.setdefault(name, Unit(name, principal))


def set_config(app: Application, values: Mapping[str, Any], reset: Iterable[str] = ()) -> None:
    """Set and reset options as ``juju config`` does.

    Raises:
        ModelError: an unknown option or a value of the wrong type; nothing is set then.
    """
    config_yaml = app.declared["config"]
    parsed = {name: declared.parse_option(config_yaml, name, v) for name, v in values.items()}
    for name in reset:
        declared.parse_option(config_yaml, name, "")
        parsed[name] = None
    for name, value in parsed.items():
        if value is None:
            app.config.pop(name, None)
        else:
            app.config[name] = value
    app.config_version += 1


def container_endpoint(app: Application, wanted: str | None) -> str:
    """The charm's container-scoped endpoint of that name or interface; juju-info by default.

    Raises:
        ModelError: there is no such, or no single one to choose.
    """
    ends = charmdir.endpoints(app.declared)
    container = [name for name, end in ends.items() if end["scope"] == "container"]
    if wanted in container:
        return str(wanted)
    found = [name for name in container if ends[name]["interface"] == (wanted or "juju-info")]
    if not found and wanted is None:
        found = container
    if len(found) != 1:
        raise ModelError(
            f"{app.name}: {wanted or 'container-scoped endpoint'}: one of {container}?"
        )
    return found[0]


def relate(model: Model, local: str, remote: str) -> Relation:
    """Add a relation, or give the existing one back.

    Args:
        model: the model.
        local: ``APP:ENDPOINT``, or ``APP`` alone where the far side is local and decides it.
        remote: ``APP`` or ``APP:ENDPOINT``; simulated unless an application with a charm has it.

    Raises:
        ModelError: no such application or endpoint, or no single matching pair of endpoints.
    """
    local_name, _, local_end = local.partition(":")
    remote_name, _, remote_end = remote.partition(":")
    ours = charmdir.endpoints(model.application(local_name).declared)
    if local_end and local_end not in ours:
        raise ModelError(f"application {local_name!r} has no endpoint {local_end!r}")
    far = model.applications.setdefault(remote_name, Application(remote_name))
    if far.charm:
        local_end, remote_end = _match(
            ours, local_end, charmdir.endpoints(far.declared), remote_end, model.manner
        )
        scopes = {ours[local_end]["scope"], charmdir.endpoints(far.declared)[remote_end]["scope"]}
    else:
        if not local_end:
            raise ModelError(f"name the endpoint: {local_name}:ENDPOINT, one of {sorted(ours)}")
        remote_end = remote_end or ours[local_end]["interface"]
        scopes = {ours[local_end]["scope"]}
    sides = {local_name: local_end, remote_name: remote_end}
    for relation in model.relations.values():
        if relation.sides == sides and relation.life == ALIVE:
            return relation
    scope = "container" if "container" in scopes else "global"
    relation = Relation(model.next_relation, sides, ours[local_end]["interface"], scope)
    model.next_relation += 1
    model.relations[relation.id] = relation
    return relation


def _match(
    ours: dict, local_end: str, theirs: dict, remote_end: str, manner: str
) -> tuple[str, str]:
    return match_endpoints((ours, local_end), (theirs, remote_end), manner)


def match_endpoints(
    near_side: tuple[dict, str], far_side: tuple[dict, str], manner: str
) -> tuple[str, str]:
    """Find the one pair of endpoints that a relation can have.

    Args:
        near_side: endpoints, as `charmdir.endpoints` gives them, and the one that is named or "".
        far_side: the same of the other application.
        manner: JUJU_3 leaves the implicit juju-info out where there is an explicit pair; JUJU_4
            counts it.

    Raises:
        ModelError: there is none, or more than one.
    """
    (ours, local_end), (theirs, remote_end) = near_side, far_side
    pairs = [
        (near, far)
        for near, a in ours.items()
        for far, b in theirs.items()
        if a["interface"] == b["interface"] and _OPPOSITE.get(a["role"]) == b["role"]
        if local_end in ("", near) and remote_end in ("", far)
    ]
    explicit = pairs
    if manner == JUJU_3:
        explicit = [pair for pair in pairs if "juju-info" not in pair] or pairs
    if len(explicit) > 1:
        raise ModelError(f"ambiguous relation: no single pair of endpoints to relate: {explicit}")
    if not explicit:
        raise ModelError(f"no relations found: no single pair of endpoints to relate: {explicit}")
    return explicit[0]


def find_relation(model: Model, app: str, endpoint: str, remote: str | None = None) -> Relation:
    """The alive relation of an application on an endpoint (to ``remote``, if there are several)."""
    found = [
        relation
        for relation in model.relations_of(app)
        if relation.sides[app] == endpoint
        and relation.life == ALIVE
        and remote in (None, relation.other(app))
    ]
    if len(found) != 1:
        raise ModelError(f"{app}:{endpoint}: {len(found)} relations, name the remote application")
    return found[0]


def join_simulated(model: Model, relation: Relation, names: Iterable[str]) -> None:
    """Let simulated units enter the relation's scope; local ones enter by themselves."""
    for name in names:
        if not model.applications[app_of(name)].charm:
            resolver.join_scope(relation, name)


def drop_relation(relation: Relation) -> None:
    """Remove a relation: its units are told to leave."""
    relation.life = DYING


def drop_application(model: Model, app: Application, *, force: bool = False) -> None:
    """Remove an application with its units and relations."""
    app.life = DYING
    for relation in model.relations_of(app.name):
        relation.life = DYING
    for unit in model.local_units(app.name):
        _doom(model, unit, force=force)


def drop_unit(model: Model, unit: Unit, *, force: bool = False) -> None:
    """Remove a unit; a principal takes its subordinate units along."""
    _doom(model, unit, force=force)
    if not model.applications[unit.app].charm:
        for relation in model.relations_of(unit.app):
            relation.members.pop(unit.name, None)
        unit.life = DEAD


def _doom(model: Model, unit: Unit, *, force: bool) -> None:
    """Have a unit leave, and those beside it."""
    for other in model.below(unit):
        _doom(model, other, force=force)
    if model.applications[unit.app].charm and unit.life != DEAD:
        unit.life, unit.removed, unit.forced = DYING, True, force
