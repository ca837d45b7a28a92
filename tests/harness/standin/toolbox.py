"""How hook tools are declared, parsed, run and recorded; the tools are in tools_*.py."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from harness.standin.context import HookContext, ToolError
from harness.standin.records import Call

# Tools that ops or charmhelpers may run and that are not modelled. They are on the PATH all the
# same: a charm that uses one should end with NotModelledError, not with "command not found".
NOT_MODELLED = (
    *("add-metric", "credential-get", "leader-get", "leader-set", "pod-spec-set", "resource-get"),
    *("secret-add", "secret-get", "secret-grant", "secret-ids", "secret-info-get"),
    *("secret-remove", "secret-revoke", "secret-set"),
    *("storage-add", "storage-get", "storage-list"),
)


@dataclasses.dataclass(frozen=True)
class Request:
    """One run of a tool: its flags (a string or bool each), other arguments and ``--file``."""

    flags: Mapping[str, Any]
    args: Sequence[str]
    content: bytes

    @property
    def relation(self) -> str | None:
        """Value of ``-r`` or ``--relation``."""
        return self.flags.get("r") or self.flags.get("relation")

    def settings(self) -> dict[str, str]:
        """The mapping given by ``--file`` and ``key=value`` arguments.

        Raises:
            ToolError: the file is not a JSON mapping of strings, an argument is no pair.
        """
        found = _mapping(self.content) if "file" in self.flags else {}
        for arg in self.args:
            key, equals, value = arg.partition("=")
            if not equals:
                raise ToolError(f'expected "key=value", got "{arg}"', 2)
            found[key] = value
        return found


Tool = Callable[[HookContext, Request], Any]
_TOOLS: dict[str, tuple[Tool, dict[str, bool]]] = {}


def tool(name: str, **flags: bool) -> Callable[[Tool], Tool]:
    """Register a tool; ``flags`` maps each flag (``_`` for ``-``) to whether it takes a value."""

    def register(function: Tool) -> Tool:
        _TOOLS[name] = (function, flags)
        return function

    return register


def names() -> list[str]:
    """Every tool to be put on the charm's PATH."""
    return sorted({*_TOOLS, *NOT_MODELLED})


def run(
    context: HookContext, name: str, args: Sequence[str], content: bytes
) -> tuple[int, str, str]:
    """Run one tool and record the call.

    Args:
        context: the run of the hook.
        name: name of the tool.
        args: its arguments.
        content: of the file given by ``--file``.

    Returns:
        Exit code, standard output and standard error for the charm.
    """
    code, out, err = 0, "", ""
    data: dict[str, Any] = {}
    try:
        if context.is_cut_off and name == "juju-log":
            return 0, "", ""  # it says nothing, and nobody hears of it
        if context.is_cut_off:
            raise ToolError("connection is shutdown before send")
        if name not in _TOOLS:
            context.not_modelled.append(" ".join([name, *args]))
            raise ToolError(f"{name} is not modelled by the stand-in")
        function, takes = _TOOLS[name]
        request = _parse(args, takes, content)
        if name in ("relation-set", "state-set", "action-set"):
            data = dict(request.settings())
        out = _format(function(context, request), request.flags.get("format"))
    except ToolError as error:
        code, err = error.code, f"ERROR {error}\n"
    call = Call(context.unit.name, context.name, name, tuple(args), data, code, time.time())
    context.calls.append(call)
    return code, out, err


def _parse(args: Sequence[str], takes: Mapping[str, bool], content: bytes) -> Request:
    # Go's gnuflag: flags and arguments mixed, --flag=value or --flag value, -- ends the flags.
    flags: dict[str, Any] = {}
    rest: list[str] = []
    queue = list(args)
    while queue:
        arg = queue.pop(0)
        if arg == "--":
            return Request(flags, rest + queue, content)
        if not arg.startswith("-") or arg == "-":
            rest.append(arg)
            continue
        name, equals, value = arg.lstrip("-").partition("=")
        key = name.replace("-", "_")
        if key not in takes:
            raise ToolError(f"flag provided but not defined: {arg}", 2)
        if takes[key] and not equals:
            if not queue:
                raise ToolError(f"flag needs an argument: {arg}", 2)
            value = queue.pop(0)
        flags[key] = value if takes[key] else value.lower() not in ("false", "0", "f")
    return Request(flags, rest, content)


def _format(value: Any, wanted: str | None) -> str:
    if wanted == "json":
        return json.dumps(value, sort_keys=True) + "\n"
    if value is None:
        return ""
    if isinstance(value, str):
        return value + "\n"
    raise ToolError("only --format=json is modelled by the stand-in", 2)


def _mapping(content: bytes) -> dict[str, str]:
    # Juju reads YAML here; ops writes JSON, which is YAML.
    try:
        data = json.loads(content)
    except ValueError as error:
        raise ToolError(f"cannot parse the settings file as JSON: {error}") from error
    if not isinstance(data, dict) or not all(isinstance(v, str) for v in data.values()):
        raise ToolError("the settings file must be a mapping of strings")
    return data
