"""What ``juju status``, ``show-unit`` and ``run`` print: the fields that programs read."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from typing import Any

from harness.standin.model import ALIVE, DEAD, VERSIONS, Application, Model, Status, Unit
from harness.standin.records import ActionResult, EventRun
from harness.standin.resolver import UNIT_ADDRESS

CONTROLLER = "standin"


def _info(status: Status) -> dict[str, str]:
    return {"current": status.name, "message": status.message, "since": "01 Jan 2026 00:00:00Z"}


def _base(text: str) -> dict[str, str]:
    name, _, channel = text.partition("@")
    return {"name": name, "channel": channel.partition("/")[0]}


def _unit(model: Model, unit: Unit) -> dict[str, Any]:
    shown = Status("error", unit.error) if unit.error else unit.status
    found: dict[str, Any] = {
        "workload-status": _info(shown),
        "juju-status": {**_info(Status("idle")), "version": VERSIONS[model.manner]},
        "machine": unit.machine,
        "public-address": UNIT_ADDRESS,
    }
    if model.applications[unit.app].leader == unit.name:
        found["leader"] = True
    if below := model.below(unit):
        found["subordinates"] = {each.name: _unit(model, each) for each in below}
    if unit.principal:
        del found["machine"]
    return found


def _application(model: Model, app: Application, base: str) -> dict[str, Any]:
    metadata = app.declared["metadata"]
    own = [unit for unit in model.local_units(app.name) if unit.life != DEAD]
    relations: dict[str, list[dict[str, str]]] = {}
    for relation in model.relations_of(app.name):
        entry = {"related-application": relation.other(app.name)}
        entry.update({"interface": relation.interface, "scope": relation.scope})
        relations.setdefault(relation.sides[app.name], []).append(entry)
    found: dict[str, Any] = {
        "charm": f"local:{metadata['name']}-{app.charm_version}",
        "charm-origin": "local",
        "charm-name": metadata["name"],
        "charm-rev": app.charm_version,
        "base": _base(base),
        "exposed": False,
        "application-status": _info(app.status),
        "relations": relations,
        "life": "" if app.life == ALIVE else app.life,
    }
    if metadata.get("subordinate"):
        beside = {model.units[unit.principal].app for unit in own}
        found["subordinate-to"] = sorted(beside)
    else:
        found["units"] = {unit.name: _unit(model, unit) for unit in own}
    return found


def is_there(model: Model, app: Application) -> bool:
    """Whether an application is still in the model: not removed, or one of its units left."""
    alive = [unit for unit in model.local_units(app.name) if unit.life != DEAD]
    return bool(app.charm) and (app.life == ALIVE or bool(alive))


def status(model: Model, bases: Mapping[str, str], machines: Mapping[str, str]) -> dict[str, Any]:
    """The answer of ``juju status --format json``.

    Args:
        model: the model.
        bases: of each application.
        machines: the base of each machine, by its number.
    """
    apps = {name: app for name, app in model.applications.items() if is_there(model, app)}
    return {
        "model": {
            "name": model.name,
            "type": "iaas",
            "controller": CONTROLLER,
            "cloud": "manual",
            "version": VERSIONS[model.manner],
        },
        "machines": {
            number: {
                "juju-status": _info(Status("started")),
                "machine-status": _info(Status("running")),
                "dns-name": UNIT_ADDRESS,
                "ip-addresses": [UNIT_ADDRESS],
                "instance-id": f"manual:{number}",
                "base": _base(base),
            }
            for number, base in machines.items()
        },
        "applications": {name: _application(model, app, bases[name]) for name, app in apps.items()},
        "controller": {"timestamp": f"{datetime.datetime.now(datetime.timezone.utc):%H:%M:%SZ}"},
    }


def table(model: Model) -> str:
    """The units, as ``juju status`` lists them; a message is cut as Juju cuts it."""
    rows = [f"{'Unit':<28}{'Workload':<14}{'Machine':<9}Message"]
    for unit in model.local_units():
        if unit.life != DEAD:
            shown = Status("error", unit.error) if unit.error else unit.status
            message = shown.message if len(shown.message) <= 120 else shown.message[:117] + "..."
            rows.append(f"{unit.name:<28}{shown.name:<14}{unit.machine:<9}{message}".rstrip())
    return "\n".join(rows) + "\n"


def unit(model: Model, shown: Unit) -> dict[str, Any]:
    """The answer of ``juju show-unit --format json``."""
    app = model.applications[shown.app]
    relations = []
    for relation in model.relations_of(shown.app):
        if relation.id not in shown.seen:
            continue
        other = relation.other(shown.app)
        joined = model.remote_units(relation, shown)
        relations.append(
            {
                "relation-id": relation.id,
                "endpoint": relation.sides[shown.app],
                "related-endpoint": relation.sides[other],
                "application-data": relation.data.get(other, {}),
                "local-unit": {
                    "in-scope": shown.name in relation.members,
                    "data": relation.data.get(shown.name, {}),
                },
                "related-units": {
                    name: {"in-scope": True, "data": relation.data.get(name, {})} for name in joined
                },
            }
        )
    return {
        shown.name: {
            "workload-version": app.workload_version,
            "machine": shown.machine,
            "opened-ports": shown.ports,
            "public-address": UNIT_ADDRESS,
            "charm": f"local:{app.declared['metadata']['name']}-{app.charm_version}",
            "leader": app.leader == shown.name,
            "life": shown.life,
            "relation-info": relations,
        }
    }


def options(app: Application, config: Mapping[str, Any]) -> dict[str, Any]:
    """The answer of ``juju config --format json``; ``config`` has the values that count."""
    declared = app.declared["config"].get("options") or {}
    settings = {
        name: {
            "description": option.get("description", ""),
            "source": "user" if name in app.config else "default",
            "type": option.get("type", "string"),
            **({"value": config[name]} if name in config else {}),
        }
        for name, option in declared.items()
    }
    return {
        "application": app.name,
        "charm": app.declared["metadata"]["name"],
        "settings": settings,
    }


def task(number: int, name: str, outcome: ActionResult | EventRun) -> dict[str, Any]:
    """One task of ``juju run`` or ``juju exec --format json``."""
    run = outcome.run if isinstance(outcome, ActionResult) else outcome
    return_code = run.exit_code
    results: dict[str, Any] = {"return-code": return_code}
    found: dict[str, Any] = {"id": str(number), "results": results, "status": "completed"}
    if isinstance(outcome, ActionResult):
        results.update(outcome.results)
        found["log"] = [f"2026-01-01 00:00:00 +0000 UTC {line}" for line in outcome.log]
        if outcome.failed:
            found.update(status="failed", message=outcome.message)
    else:
        results.update({key: text for key in ("stdout", "stderr") if (text := getattr(run, key))})
    if "/" in name:
        found["unit"] = name
    return found


def plain(found: Mapping[str, Any]) -> str:
    """A task for people: what it gives, key by key."""
    lines = [str(found["message"])] if "message" in found else []
    for key, value in found["results"].items():
        if key != "return-code":
            text = value if isinstance(value, str) else json.dumps(value)
            lines.append(f"{key}: |-\n  " + text.rstrip("\n").replace("\n", "\n  "))
    return "\n".join(lines) + "\n"
