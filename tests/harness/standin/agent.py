"""`Agent`: deploy, configure, relate and remove charms as an operator does."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from harness.standin import changes, charmdir, declared, resolver
from harness.standin.engine import Engine
from harness.standin.errors import ModelError
from harness.standin.model import ALIVE, FIRST, Event, Model, Relation, Unit, app_of
from harness.standin.records import ActionResult, EventRun


class Agent(Engine):
    """All unit agents of one made-up machine, over a JSON model in a directory.

    Methods that run hooks return the runs in order. When a hook fails they raise `HookFailedError`
    after all other units have settled, and the unit is in error; the next such method runs the
    failed hook again first, as Juju retries it. Names of application and unit may be left out
    while there is only one with a charm.

    Args:
        directory: holds the model and per unit ``unit-APP-N/charm``, its log and its calls.
        env: extra environment of every hook.
        path_prefix: directories put between the hook tools and the system's PATH.
        command_prefix: command that ``dispatch`` is run through.
        timeout: seconds until a hook is killed.
        on_run: called with every finished run.
        on_log: called with every line of log as it comes.
        manner: of a new model: `model.JUJU_3` or `model.JUJU_4`, see README.md.
        light_tools: whether the hook tools are programs that start fast, which need Perl.
        compiled: whether packed charms are compiled as they are unpacked, instead of by their first
            hooks; their Python must be this one.
    """

    def deploy(
        self,
        charm: str | os.PathLike[str],
        *,
        app: str | None = None,
        unit: int | None = None,
        principal: str | None = None,
        endpoint: str | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> list[EventRun]:
        """Deploy a charm, or add a unit to an application that has it already.

        Args:
            charm: the packed charm (or, for tests of the stand-in, a directory).
            app: name of the application; the charm's own by default.
            unit: number of the unit; the next free one by default.
            principal: unit beside which a subordinate is put, such as ``nova-compute/0``.
            endpoint: the charm's container-scoped endpoint, by its name or interface;
                the one for juju-info by default.
            config: options to start with, for a new application.
        """
        path = pathlib.Path(charm).resolve()
        declarations = charmdir.read_declarations(path)
        subordinate = bool(declarations["metadata"].get("subordinate"))
        if subordinate != bool(principal):
            raise ModelError("a subordinate charm needs a principal, any other charm none")
        with self._session() as state:
            name = app or declarations["metadata"]["name"]
            is_new = name not in state.applications
            application = changes.add_application(state, name, str(path), declarations)
            if config and not is_new:
                raise ModelError(f"application {name!r} exists: set its options with config()")
            if config:
                changes.set_config(application, config)
            if principal:
                _put_beside(
                    state, name, principal, changes.container_endpoint(application, endpoint)
                )
            changes.add_unit(state, application, principal or "", unit)
            return self._settle(state)

    def add_application(
        self,
        charm: str | os.PathLike[str],
        *,
        app: str | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        """Deploy a charm without a unit, as ``juju deploy`` does for a subordinate.

        Its units come with the container-scoped relations of other local applications.

        Args:
            charm: the packed charm, or a directory.
            app: name of the application; the charm's own by default.
            config: options to start with.
        """
        path = pathlib.Path(charm).resolve()
        declarations = charmdir.read_declarations(path)
        with self._session() as state:
            name = app or declarations["metadata"]["name"]
            added = changes.add_application(state, name, str(path), declarations)
            changes.set_config(added, config or {})
            self._save(state)

    def add_unit(self, app: str, machine: str = FIRST, number: int | None = None) -> list[EventRun]:
        """Add a unit to a principal's application, on a machine; the next number by default."""
        with self._session() as state:
            application = state.application(app)
            if state.is_subordinate(app):
                raise ModelError("cannot add unit: unit is a subordinate")
            changes.add_unit(state, application, "", number).machine = machine
            return self._settle(state)

    def upgrade(self, charm: str | os.PathLike[str], *, app: str | None = None) -> list[EventRun]:
        """Give an application another revision of its charm: upgrade-charm, config-changed."""
        path = pathlib.Path(charm).resolve()
        declarations = charmdir.read_declarations(path)
        with self._session() as state:
            application = state.application(app)
            application.charm, application.declared = str(path), declarations
            application.charm_version += 1
            return self._settle(state)

    def config(
        self,
        values: Mapping[str, Any] | None = None,
        *,
        app: str | None = None,
        reset: Iterable[str] = (),
        **more: Any,
    ) -> list[EventRun]:
        """Set options and run config-changed, also when no value differs from before.

        Args:
            values: option to value; a string is parsed as ``juju config`` does.
            app: the application.
            reset: options to put back to their defaults.
            more: options whose names are Python names.
        """
        with self._session() as state:
            application = state.application(app)
            changes.set_config(application, {**(values or {}), **more}, reset)
            return self._settle(state)

    def integrate(
        self,
        local: str,
        remote: str,
        *,
        units: Sequence[str] = (),
        sharing: str = "",
        data: Mapping[str, Mapping[str, str]] | None = None,
    ) -> list[EventRun]:
        """Relate ``APP:ENDPOINT`` to another application, local or simulated.

        For a container-scoped relation a unit of the subordinate is added beside each of
        ``units`` that has none yet, as Juju does.

        Args:
            local: ``APP:ENDPOINT`` of an application with a charm.
            remote: ``APP`` or ``APP:ENDPOINT``.
            units: simulated units of ``remote`` that are in the relation; ``REMOTE/0`` by default.
            sharing: the principal whose subordinates these are, as nrpe is; they get none.
            data: databags of simulated units and of the simulated application to start with.
        """
        with self._session() as state:
            relation = changes.relate(state, local, remote)
            name, far = app_of(local.partition(":")[0]), remote.partition(":")[0]
            if not state.applications[far].charm:
                names = list(units) or [f"{far}/0"]
                changes.simulate_units(state, names, sharing)
                changes.join_simulated(state, relation, names)
                _write(state, relation, data or {})
                if relation.scope == "container" and not sharing:
                    beside = {
                        unit.principal for unit in state.local_units(name) if unit.life == ALIVE
                    }
                    for principal in names:
                        if principal not in beside:
                            changes.add_unit(state, state.applications[name], principal)
            return self._settle(state)

    def set_remote_data(
        self,
        endpoint: str,
        owner: str,
        data: Mapping[str, str],
        *,
        app: str | None = None,
    ) -> list[EventRun]:
        """Write a simulated unit's or application's databag ("" deletes): relation-changed runs.

        Args:
            endpoint: of the application with the charm.
            owner: whose databag, such as ``nova-compute/0`` or ``nova-compute``.
            data: what to change.
            app: the application with the charm.
        """
        with self._session() as state:
            name = state.application(app).name
            relation = changes.find_relation(state, name, endpoint, app_of(owner))
            _write(state, relation, {owner: data})
            return self._settle(state)

    def remove_relation(self, local: str, remote: str | None = None) -> list[EventRun]:
        """Remove the relation on ``APP:ENDPOINT``; a subordinate without principal goes with it."""
        with self._session() as state:
            name, _, endpoint = local.partition(":")
            changes.drop_relation(changes.find_relation(state, name, endpoint, remote))
            return self._settle(state)

    def remove(self, app: str | None = None, *, force: bool = False) -> list[EventRun]:
        """Remove an application: departed, broken, stop, remove on each of its units.

        With ``force`` none of them runs stop or remove.
        """
        with self._session() as state:
            changes.drop_application(state, state.application(app), force=force)
            return self._settle(state)

    def remove_unit(self, unit: str, *, force: bool = False) -> list[EventRun]:
        """Remove a unit; a (simulated) principal takes its subordinates along."""
        with self._session() as state:
            changes.drop_unit(state, state.unit(unit), force=force)
            return self._settle(state)

    def vanish(self, unit: str | None = None) -> None:
        """Take a unit away without a hook: its record and the folder of its agent."""
        with self._session() as state:
            chosen = state.unit(unit)
            resolver.bury(state, chosen)
            self._put_away(chosen.name)
            self._save(state)

    def adopt(self, **manners: bool | int) -> None:
        """Choose what a manner leaves open: late_stop, late_death, own_first, chain (`Model`)."""
        with self._session() as state:
            for name, value in manners.items():
                setattr(state, name, value)
            self._save(state)

    def place(self, unit: str, metadata: Mapping[str, Any]) -> None:
        """Put the folder of a simulated unit's agent beside the others, with metadata.yaml."""
        with self._session() as state:
            self._write_agent_conf(state, unit)
            self._save(state)
        charm = self._directory_of(unit) / "charm"
        charm.mkdir(exist_ok=True)
        (charm / "metadata.yaml").write_text(json.dumps(metadata))

    def elect(self, unit: str) -> list[EventRun]:
        """Make a unit the leader of its application."""
        with self._session() as state:
            chosen = state.unit(unit)
            state.applications[chosen.app].leader = chosen.name
            return self._settle(state)

    def hook(
        self, name: str, *, unit: str | None = None, relation: str | None = None
    ) -> list[EventRun]:
        """Run one hook out of order, such as update-status; the model does not move.

        Args:
            name: full name of the hook; for a relation hook also without the endpoint.
            unit: the unit.
            relation: endpoint of a relation hook, when the name does not begin with it.
        """
        with self._session() as state:
            chosen = state.unit(unit)
            self._check_idle(state, chosen, name)
            event = _event_of(state, chosen, name, relation)
            if chosen.pending not in (None, event):
                raise ModelError(f"{chosen.name}: {name}: the unit is in error: {chosen.error}")
            run, failure = self._run(state, chosen, event, commit=False)
            if failure:
                raise failure
            return [run, *self._settle(state, retry=False)]

    def resolve(self, *, unit: str | None = None, retry: bool = True) -> list[EventRun]:
        """As ``juju resolved``: run the failed hook again, or (not ``retry``) take it as done."""
        with self._session() as state:
            chosen = state.unit(unit)
            if chosen.pending and not retry:
                resolver.commit(state, chosen, chosen.pending)
            return self._settle(state)

    def rebooted(self, machine: str = FIRST) -> list[EventRun]:
        """A machine has rebooted: an interrupted hook runs again, then start on its units."""
        with self._session() as state:
            for unit in state.local_units():
                if unit.machine != machine:
                    continue
                unit.reboot, unit.started = "", False
            return self._settle(state)

    def action(
        self, name: str, params: Mapping[str, Any] | None = None, *, unit: str | None = None
    ) -> ActionResult:
        """Run an action.

        Args:
            name: the action, kebab-case.
            params: its parameters with their types; defaults are filled in.
            unit: the unit.

        Raises:
            ActionRefusedError: Juju would not run it.
        """
        with self._session() as state:
            chosen = state.unit(unit)
            self._check_idle(state, chosen, name)
            actions = state.applications[chosen.app].declared["actions"]
            parameters = declared.action_parameters(actions, name, params or {})
            context, run = self._execute(
                state, chosen, Event("action"), f"actions/{name}", parameters
            )
            state.next_action += 1
            if run.exit_code == 0:
                context.flush()
            self._save(state)
            self._check_modelled(context)
            self._settle(state, retry=False)
        failed = context.failure is not None or run.exit_code != 0
        message = context.failure or (f"exit status {run.exit_code}" if failed else "")
        return ActionResult(context.results, tuple(context.action_log), failed, message, run)

    def execute(self, command: str, *, unit: str | None = None) -> EventRun:
        """Run a shell's command as ``juju exec`` does: in a hook's surroundings, without a hook."""
        with self._session() as state:
            chosen = state.unit(unit)
            self._check_idle(state, chosen, "exec")
            words = ["/bin/sh", "-c", command]
            context, run = self._execute(
                state, chosen, Event("exec"), "juju-exec", None, command=words
            )
            if run.exit_code == 0:
                context.flush()
            self._save(state)
            self._check_modelled(context)
            return run


def _put_beside(state: Model, app: str, principal: str, endpoint: str) -> None:
    changes.simulate_units(state, [principal])
    relation = changes.relate(state, f"{app}:{endpoint}", app_of(principal))
    changes.join_simulated(state, relation, [principal])


def _write(state: Model, relation: Relation, data: Mapping[str, Mapping[str, str]]) -> None:
    for owner, content in data.items():
        if app_of(owner) not in relation.sides or state.applications[app_of(owner)].charm:
            raise ModelError(f"{owner}: not on the simulated side of the relation")
        relation.write(owner, dict(content))


def _event_of(state: Model, unit: Unit, name: str, endpoint: str | None) -> Event:
    """The event behind a hook's name; relation hooks get the first remote unit that joined."""
    head, dash, kind = name.partition("relation-")
    if not dash:
        return Event(name)
    relation = changes.find_relation(state, unit.app, endpoint or head.rstrip("-"))
    if relation.id not in unit.seen:
        raise ModelError(f"{unit.name}: {name}: the unit is not in that relation")
    other = relation.other(unit.app)
    with_unit = kind in ("joined", "changed", "departed")
    remote = next(iter(unit.seen[relation.id].units), "") if with_unit else ""
    departing = remote if kind == "departed" else ""
    return Event(f"relation-{kind}", relation.id, other, remote, departing)
