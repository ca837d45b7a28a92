"""The part of the agent that runs events: one lock, one model file, one event after the other."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from harness.standin import (
    bytecode,
    charmdir,
    model,
    resolver,
    runner,
    server,
    toolbox,
    tools_relation,
    tools_unit,
)
from harness.standin.context import HookContext
from harness.standin.errors import HookFailedError, ModelError, NotModelledError
from harness.standin.model import DEAD, DYING, FIRST, Event, Model, Status, Unit
from harness.standin.records import Call, EventRun, LogLine
from harness.standin.views import Views

TOOL_MODULES = (tools_relation, tools_unit)  # importing them has registered their tools

_OUTPUT_LINES = 15  # of a failed hook, shown in the error


class Engine(Views):
    """Runs the events of all local units of a model, and keeps their logs and calls.

    Base of `standin.Agent`, which has the arguments' description.

    Attributes:
        surroundings: how charms are started.
        machines: the same for the units of one machine alone, by its number.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        env: Mapping[str, str] | None = None,
        path_prefix: Sequence[str] = (),
        command_prefix: Sequence[str] = (),
        timeout: float = runner.DEFAULT_TIMEOUT,
        on_run: Callable[[EventRun], None] | None = None,
        on_log: Callable[[LogLine], None] | None = None,
        manner: str = model.JUJU_3,
        light_tools: bool = False,
        compiled: bool = False,
    ):
        super().__init__(directory, manner)
        self.surroundings = runner.Surroundings(
            dict(env or {}), list(path_prefix), list(command_prefix), timeout
        )
        self.machines: dict[str, runner.Surroundings] = {}
        self._on_run = on_run
        self._on_log = on_log
        self._compiled = compiled
        self._tools = self.directory / "tools"
        server.install_tools(self._tools, toolbox.names(), light=light_tools)

    @contextlib.contextmanager
    def _session(self) -> Iterator[Model]:
        """The model, under the machine's lock: as in Juju, no two hooks run at the same time.

        What a caller changes is kept by `_save`; a refusal before that leaves the file alone.
        """
        with (self.directory / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield self._load()

    def _save(self, state: Model) -> None:
        model.save(state, self.directory / "model.json")

    def _settle(self, state: Model, *, retry: bool = True) -> list[EventRun]:
        """Run events until no unit has one left; a failed unit waits while the others go on.

        Args:
            state: the model; saved before and after every event.
            retry: run hooks again that failed before.

        Raises:
            HookFailedError: of the first unit that failed.
        """
        runs: list[EventRun] = []
        failures: list[HookFailedError] = []
        stuck = set() if retry else {u.name for u in state.local_units() if u.pending}
        while step := self._next(state, stuck):
            unit, event = step
            run, failure = self._run(state, unit, event, commit=True)
            runs.append(run)
            if failure:
                failures.append(failure)
                stuck.add(unit.name)
        if failures:
            raise failures[0]
        return runs

    def _next(self, state: Model, stuck: set[str]) -> tuple[Unit, Event] | None:
        resolver.doom_orphans(state)
        known = len(state.units)
        for unit in state.local_units():
            if unit.name in stuck or state.reboots(unit.machine):
                continue
            resolver.enter_scopes(state, unit)
            event = resolver.next_event(state, unit)
            if event:
                return unit, event
            if unit.life == DYING and not state.below(unit):
                resolver.bury(state, unit)
                self._put_away(unit.name)
                return self._next(state, stuck)  # its principal may have waited for that
        if len(state.units) > known:  # one came into being beside another that entered a scope
            return self._next(state, stuck)
        resolver.sweep(state)
        self._save(state)
        return None

    def _run(
        self, state: Model, unit: Unit, event: Event, *, commit: bool
    ) -> tuple[EventRun, HookFailedError | None]:
        """Run one hook; with ``commit`` its success moves the model on."""
        if event.kind == "install":
            self._write_agent_conf(state, unit.name)
        if event.kind in ("install", "upgrade-charm"):
            charm = pathlib.Path(state.applications[unit.app].charm)
            target = self._directory_of(unit.name) / "charm"
            charmdir.unpack(charm, target)
            if self._compiled and charm.is_file():
                bytecode.lay_down(charm.resolve(), target)
        if event.kind == "install":
            unit.status = Status("maintenance", "installing charm software")
        unit.pending = event
        self._save(state)
        context, run = self._execute(state, unit, event, state.hook_name(unit, event))
        failure = None
        if context.reboot == "now":
            unit.reboot = "now"  # stays pending: Juju runs the hook again after the reboot
        elif run.exit_code and not unit.cut:
            unit.error = f'hook failed: "{context.name}"'
            failure = HookFailedError(unit.name, context.name, run.exit_code, _tail(context.log))
        else:
            context.flush()
            unit.reboot = context.reboot
            if commit:
                resolver.commit(state, unit, event)
            unit.pending, unit.error = None, ""
        if unit.life == DEAD:
            self._put_away(unit.name)
        self._save(state)
        self._check_modelled(context)
        return run, failure

    def _execute(
        self,
        state: Model,
        unit: Unit,
        event: Event,
        name: str,
        parameters: dict[str, Any] | None = None,
        command: Sequence[str] = (),
    ) -> tuple[HookContext, EventRun]:
        process = runner.Process()
        directory = self._directory_of(unit.name)
        context = HookContext(
            model=state,
            unit=unit,
            event=event,
            name=name,
            kill=process.kill,
            on_log=self._on_log or (lambda line: None),
            parameters=parameters,
            fail_after=self.surroundings.tools_fail_after,
            command=command,
        )
        surroundings = self.machines.get(unit.machine, self.surroundings)
        run = runner.run(context, process, directory / "charm", self._tools, surroundings)
        _append(directory / "calls.jsonl", context.calls)
        _append(directory / "log.jsonl", context.log)
        if self._on_run:
            self._on_run(run)
        return context, run

    def _write_agent_conf(self, state: Model, unit: str) -> None:
        """What of it the stand-in knows; Juju has more in it."""
        tag = unit.replace("/", "-")
        machine = state.units[unit].machine
        place = self.directory if machine == FIRST else self.directory / f"machine-{machine}"
        folder = place / f"unit-{tag}"
        folder.mkdir(parents=True, exist_ok=True)
        text = f"# format 2.0\ntag: unit-{tag}\nmodel: model-{state.uuid}\n"
        (folder / "agent.conf").write_text(text)

    def _put_away(self, unit: str) -> None:
        """Juju removes the folder of an agent; its log and calls stay to be read."""
        folder = self._directory_of(unit)
        gone = self.directory / "gone" / folder.name
        if folder == gone or not folder.exists():
            return
        shutil.rmtree(folder / "charm", ignore_errors=True)
        shutil.rmtree(gone, ignore_errors=True)
        gone.parent.mkdir(exist_ok=True)
        folder.rename(gone)

    @staticmethod
    def _check_modelled(context: HookContext) -> None:
        if context.not_modelled:
            used = "; ".join(context.not_modelled)
            raise NotModelledError(f"{context.unit.name} {context.name}: the charm ran: {used}")

    @staticmethod
    def _check_idle(state: Model, unit: Unit, what: str) -> None:
        if unit.life == DEAD or not unit.installed:
            raise ModelError(f"{unit.name}: {what}: the unit is not installed")
        if state.reboots(unit.machine):
            raise ModelError(f"{unit.name}: {what}: a reboot is due, see `rebooted`")


def _append(path: pathlib.Path, records: Sequence[Call] | Sequence[LogLine]) -> None:
    with path.open("a", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(dataclasses.asdict(record), sort_keys=True) + "\n")


def _tail(log: Sequence[LogLine]) -> str:
    lines = [line for entry in log if entry.level != "TRACE" for line in entry.message.splitlines()]
    return "\n".join(lines[-_OUTPUT_LINES:])
