"""Hook tools around relations; formats as ``ops.hookcmds`` parses them.

Arguments and refusals follow Juju's commands (worker/uniter/runner/jujuc in juju/juju).
"""

from __future__ import annotations

from typing import Any

from harness.standin.context import HookContext, ToolError
from harness.standin.model import ALIVE, JUJU_4, is_own
from harness.standin.resolver import UNIT_ADDRESS
from harness.standin.toolbox import Request, tool


@tool("relation-ids", format=True)
def relation_ids(context: HookContext, request: Request) -> list[str]:
    """Ids of the relations the unit knows on an endpoint, as ``endpoint:number``."""
    app = context.unit.app
    if request.args:
        endpoint = request.args[0]
    elif context.event.relation is not None:
        endpoint = context.model.relations[context.event.relation].sides[app]
    else:
        raise ToolError("no endpoint name specified", 2)
    event = context.event
    if context.model.manner == JUJU_4 and event.kind == "relation-broken":
        own = is_own(context.model.relations[event.relation or 0], context.unit)
        if own and context.unit.life != ALIVE:
            return []
    known = [context.model.relations[number] for number in sorted(context.unit.seen)]
    return [f"{endpoint}:{item.id}" for item in known if item.sides[app] == endpoint]


@tool("relation-list", r=True, relation=True, app=False, format=True)
def relation_list(context: HookContext, request: Request) -> Any:
    """Remote units that have joined, or the remote application's name with ``--app``."""
    relation = context.relation(request.relation)
    if request.flags.get("app"):
        return relation.other(context.unit.app)
    return context.joined_units(relation)


@tool("relation-get", r=True, relation=True, app=False, format=True)
def relation_get(context: HookContext, request: Request) -> Any:
    """A databag, or one key of it; the owner defaults to the event's remote unit or application."""
    relation = context.relation(request.relation)
    key = request.args[0] if request.args and request.args[0] != "-" else None
    owner = request.args[1] if len(request.args) > 1 else context.event.remote_unit
    if request.flags.get("app"):
        owner = (owner or context.event.remote_app).partition("/")[0]
    owner = owner or context.event.remote_app
    if not owner:
        raise ToolError("no unit or application specified", 2)
    bag = context.databag(relation, owner)
    return bag.get(key) if key else bag


@tool("relation-set", r=True, relation=True, app=False, file=True)
def relation_set(context: HookContext, request: Request) -> None:
    """Change the databag of the unit, or of the application by its leader; "" deletes a key."""
    relation = context.relation(request.relation)
    if request.flags.get("app") and not context.is_leader:
        raise ToolError("cannot write relation settings")
    owner = context.unit.app if request.flags.get("app") else context.unit.name
    context.write_databag(relation, owner, request.settings())


@tool("relation-model-get", r=True, relation=True, format=True)
def relation_model_get(context: HookContext, request: Request) -> dict[str, str]:
    """The remote application's model: always this one, cross-model relations are not modelled."""
    context.relation(request.relation)
    return {"uuid": context.model.uuid}


@tool("network-get", r=True, relation=True, format=True)
def network_get(context: HookContext, request: Request) -> dict[str, Any]:
    """Addresses of a binding: one interface, one address, always the same."""
    if request.relation:
        context.relation(request.relation)
    if not request.args:
        raise ToolError("no arguments specified", 2)
    address = {"hostname": "", "value": UNIT_ADDRESS, "cidr": "10.0.0.0/24"}
    interface = {"mac-address": "52:54:00:00:00:10", "interface-name": "eth0"}
    return {
        "bind-addresses": [{**interface, "addresses": [address]}],
        "egress-subnets": [f"{UNIT_ADDRESS}/32"],
        "ingress-addresses": [UNIT_ADDRESS],
    }


@tool("goal-state", format=True)
def goal_state(context: HookContext, _: Request) -> dict[str, Any]:
    """Units of the application and members of its relations, with their states."""

    def goal(status: str) -> dict[str, str]:
        return {"status": status, "since": "2026-01-01 00:00:00Z"}

    model, app = context.model, context.unit.app
    units = [unit for unit in model.local_units(app) if unit.life != "dead"]
    relations: dict[str, dict[str, Any]] = {}
    for relation in model.relations_of(app):
        other = relation.other(app)
        entry = relations.setdefault(relation.sides[app], {})
        entry[other] = goal("joined")
        members = [name for name in relation.members if name.startswith(other + "/")]
        entry.update({name: goal("active") for name in members})
    return {
        "units": {u.name: goal("dying" if u.life == "dying" else u.status.name) for u in units},
        "relations": relations,
    }
