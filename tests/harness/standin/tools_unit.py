"""Hook tools around the unit: log, config, leadership, statuses, actions, state, ports, reboot.

Formats as ``ops.hookcmds`` parses them; arguments and refusals follow Juju's commands
(worker/uniter/runner/jujuc in juju/juju).
"""

from __future__ import annotations

import re
from typing import Any

from harness.standin import declared
from harness.standin.context import HookContext, ToolError
from harness.standin.model import Status
from harness.standin.resolver import UNIT_ADDRESS
from harness.standin.toolbox import Request, tool

LOG_LEVELS = ("TRACE", "DEBUG", "INFO", "WARNING", "ERROR")
STATUSES = ("maintenance", "blocked", "waiting", "active")
RESULT_KEY = re.compile(r"^[a-z0-9](([a-z0-9.-]+)?[a-z0-9])?$")
PORT = re.compile(r"^(icmp|\d+(-\d+)?(/(tcp|udp))?)$")


@tool("juju-log", log_level=True, l=True, debug=False)
def juju_log(context: HookContext, request: Request) -> None:
    """Add a line to the unit's log."""
    level = request.flags.get("log_level") or request.flags.get("l") or "INFO"
    if level not in LOG_LEVELS:
        context.add_log("WARNING", f'log level "{level}" is unknown to Juju: INFO is used')
        level = "INFO"
    context.add_log(level, " ".join(request.args))


@tool("is-leader", format=True)
def is_leader(context: HookContext, _: Request) -> bool:
    """Whether the unit leads its application."""
    return context.is_leader


@tool("config-get", format=True, all=False, a=False)
def config_get(context: HookContext, request: Request) -> Any:
    """Every option that has a value, or the value of one (null when it has none)."""
    app = context.app
    config = declared.effective_config(app.declared["config"], app.config)
    return config.get(request.args[0]) if request.args else config


@tool("status-set", application=False)
def status_set(context: HookContext, request: Request) -> None:
    """Set the unit's status, or the application's by its leader."""
    if not request.args or request.args[0] not in STATUSES:
        raise ToolError(f"invalid status {request.args[:1]}, expected one of {list(STATUSES)}")
    status = Status(request.args[0], " ".join(request.args[1:]))
    if not request.flags.get("application"):
        context.unit.status = status
    elif context.is_leader:
        context.app.status = status
    else:
        raise ToolError("this unit is not the leader")


@tool("status-get", application=False, include_data=False, format=True)
def status_get(context: HookContext, request: Request) -> dict[str, Any]:
    """The unit's status, or the application's with those of its units."""

    def shape(status: Status) -> dict[str, Any]:
        return {"status": status.name, "message": status.message, "status-data": {}}

    if not request.flags.get("application"):
        return shape(context.unit.status)
    if not context.is_leader:
        raise ToolError("finding application status: this unit is not the leader")
    units = {unit.name: shape(unit.status) for unit in context.model.local_units(context.unit.app)}
    return {"application-status": shape(context.app.status), "units": units}


def _parameters(context: HookContext) -> dict[str, Any]:
    if context.parameters is None:
        raise ToolError("not running an action")
    return context.parameters


@tool("action-get", format=True)
def action_get(context: HookContext, request: Request) -> Any:
    """The action's parameters, or one of them by its dotted key."""
    value: Any = _parameters(context)
    for part in request.args[0].split(".") if request.args else ():
        value = value.get(part) if isinstance(value, dict) else None
    return value


@tool("action-set")
def action_set(context: HookContext, request: Request) -> None:
    """Set results; dotted keys nest."""
    _parameters(context)
    for key, value in request.settings().items():
        if not RESULT_KEY.match(key):
            raise ToolError(
                f'key "{key}" must start and end with lowercase alphanumeric, '
                "and contain only lowercase alphanumeric, hyphens and periods"
            )
        *path, last = key.split(".")
        place = context.results
        for part in path:
            if not isinstance(place.get(part), dict):
                place[part] = {}
            place = place[part]
        place[last] = value


@tool("action-log")
def action_log(context: HookContext, request: Request) -> None:
    """Tell the operator how far the action is."""
    _parameters(context)
    context.action_log.append(" ".join(request.args))


@tool("action-fail")
def action_fail(context: HookContext, request: Request) -> None:
    """Mark the action as failed."""
    _parameters(context)
    default = "action failed without reason given, check action for errors"
    context.failure = " ".join(request.args) or default


@tool("application-version-set")
def application_version_set(context: HookContext, request: Request) -> None:
    """Set the workload's version."""
    context.app.workload_version = " ".join(request.args)


@tool("juju-reboot", now=False)
def juju_reboot(context: HookContext, request: Request) -> None:
    """Ask for a reboot after the hook, or kill the hook and reboot now; recorded, never done."""
    if context.parameters is not None:
        raise ToolError("juju-reboot is not supported when running an action.")
    context.reboot = "now" if request.flags.get("now") else "after-hook"
    if request.flags.get("now"):
        context.kill()


@tool("unit-get", format=True)
def unit_get(_: HookContext, request: Request) -> str:
    """The unit's address."""
    if list(request.args) not in (["private-address"], ["public-address"]):
        raise ToolError(f"unknown setting {list(request.args)}", 2)
    return UNIT_ADDRESS


@tool("state-get", format=True)
def state_get(context: HookContext, request: Request) -> Any:
    """Server-side state: all of it, or one key ("" when it is not set)."""
    merged = {**context.unit.state, **context.state_writes}
    present = {key: value for key, value in merged.items() if value is not None}
    if request.args and request.args[0] != "-":
        return present.get(request.args[0], "")
    return present


@tool("state-set", file=True)
def state_set(context: HookContext, request: Request) -> None:
    """Set keys of the server-side state."""
    context.state_writes.update(request.settings())


@tool("state-delete")
def state_delete(context: HookContext, request: Request) -> None:
    """Delete a key of the server-side state."""
    context.state_writes.update(dict.fromkeys(request.args[:1]))


def _ports(context: HookContext) -> set[str]:
    return set(context.unit.ports if context.ports is None else context.ports)


def _port(request: Request) -> str:
    if len(request.args) != 1 or not PORT.match(request.args[0]):
        raise ToolError(f"invalid port or port range {list(request.args)}", 2)
    port = request.args[0]
    return port if "/" in port or port == "icmp" else port + "/tcp"


@tool("opened-ports", format=True, endpoints=False)
def opened_ports(context: HookContext, request: Request) -> list[str]:
    """Opened ports such as ``80/tcp``; with ``--endpoints`` the endpoints behind each."""
    ports = sorted(_ports(context))
    return [f"{port} (*)" for port in ports] if request.flags.get("endpoints") else ports


@tool("open-port")
def open_port(context: HookContext, request: Request) -> None:
    """Open a port for all endpoints."""
    context.ports = sorted(_ports(context) | {_port(request)})


@tool("close-port")
def close_port(context: HookContext, request: Request) -> None:
    """Close a port."""
    context.ports = sorted(_ports(context) - {_port(request)})
