"""What a test reads after the fact: hook tool calls, log lines, event runs and action results."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Call:
    """One run of a hook tool.

    Attributes:
        unit: the unit that ran it.
        event: the hook or action it ran in, such as ``config-changed`` or ``actions/plan``.
        tool: name of the tool, such as ``relation-set``.
        args: its arguments as given.
        data: what relation-set, state-set or action-set was told to set, else empty.
        exit_code: what the tool returned to the charm.
        at: seconds since the epoch.
    """

    unit: str
    event: str
    tool: str
    args: tuple[str, ...]
    data: dict[str, Any]
    exit_code: int
    at: float


@dataclasses.dataclass(frozen=True)
class LogLine:
    """One line of a unit's log: from juju-log, or printed by the hook (DEBUG; stderr: WARNING)."""

    at: float
    unit: str
    event: str
    level: str
    message: str


@dataclasses.dataclass(frozen=True)
class EventRun:
    """One run of the charm's ``dispatch``.

    Attributes:
        name: full name of the hook (``juju-info-relation-joined``) or ``actions/NAME``.
        exit_code: of ``dispatch``; negative for a signal.
        seconds: wall time.
        calls: every hook tool the charm ran, in order.
        stdout, stderr: what ``dispatch`` printed.
        reboot: ``""``, ``"after-hook"`` (juju-reboot) or ``"now"`` (juju-reboot --now, which
            killed the hook).
    """

    unit: str
    name: str
    exit_code: int
    seconds: float
    calls: tuple[Call, ...]
    stdout: str
    stderr: str
    reboot: str = ""


@dataclasses.dataclass(frozen=True)
class ActionResult:
    """Outcome of an action as ``juju run`` would show it.

    Attributes:
        results: nested mapping of strings, from action-set's dotted keys.
        log: messages of action-log, in order.
        failed: the charm ran action-fail, or ``dispatch`` ended with a non-zero exit code.
        message: why it failed, else empty.
        run: the run of ``dispatch`` behind it.
    """

    results: dict[str, Any]
    log: tuple[str, ...]
    failed: bool
    message: str
    run: EventRun
