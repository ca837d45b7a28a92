"""A ``juju`` command over the stand-in agent: what it accepts runs hooks on made-up hosts.

In a test's process it is an object; `serve` puts a program called ``juju`` on a PATH, which asks
that process over a socket. Unlike Juju, a command returns when the last hook that follows from it
has run; a hook that fails leaves its unit in error, and the command well.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import pathlib
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import yaml
from harness.standin import charmdir, charms, declared, server, shown
from harness.standin.agent import Agent
from harness.standin.errors import (
    ActionRefusedError,
    CharmError,
    HookFailedError,
    ModelError,
)
from harness.standin.juju import CHARMS, Charm, Juju
from harness.standin.model import JUJU_4, VERSIONS, app_of
from harness.standin.records import EventRun

# Made-up hosts have no sudo: who comes over ssh is root.
_SUDO = 'sudo() { "$@"; }; '


class Host(Protocol):
    """A made-up machine, such as `hostbox.Box`."""

    @property
    def command_prefix(self) -> list[str]:
        """What to put before a command to run it there."""
        ...

    def run(self, command: Sequence[str], *, timeout: float = ...) -> Any:
        """Run a command to its end; gives its returncode, stdout and stderr."""
        ...

    def calls(self, *names: str) -> Sequence[Any]:
        """Runs of the named recorded programs, with their args."""
        ...

    def reboot(self) -> Any:
        """Reboot it."""
        ...


@dataclasses.dataclass
class _Machine:
    host: Host
    base: str


class Command(Juju):
    """A controller with one model, empty at first.

    Args:
        agent: the unit agents, whose manner this has.
        charm: the packed charm under test, which the store has.
        bases: those that it supports.
        hosts: makes the host of a machine of a number.
        directory: where relative paths begin, and stand-in charms are packed.
    """

    def __init__(
        self,
        agent: Agent,
        charm: pathlib.Path,
        bases: Sequence[str],
        hosts: Callable[[str], Host],
        directory: pathlib.Path,
    ):
        super().__init__(agent.manner, charmdir.read_declarations(charm), bases, empty=True)
        self.charm = self.charm._replace(path=charm)
        self.agent = agent
        self.machines: dict[str, _Machine] = {}
        self._hosts, self._directory = hosts, directory
        self._base = "ubuntu@22.04"
        self._tasks = 0

    def __call__(self, _: str, words: Sequence[str], content: bytes = b"") -> tuple[int, str, str]:
        """Run a command: its exit code, output and errors, as a handler of `server` gives them."""
        del content
        try:
            given = self.judge(words)
            does: Callable[[argparse.Namespace], str | None] = getattr(
                self, "do_" + given.command.replace("-", "_")
            )
            output = does(given) or ""
            self._reboot_where_asked()
        except (ModelError, ActionRefusedError, CharmError) as error:
            return 1, "", f"ERROR {error}\n"
        except _TaskError as error:
            return 1, error.output, f"ERROR the following task failed:\n - id {error}\n"
        return 0, output, ""

    def line(self, text: str) -> str:
        """Run a line that begins with ``juju``; gives its output.

        Raises:
            ModelError: it is refused.
        """
        code, output, errors = self("juju", shlex.split(text)[1:])
        if code:
            raise ModelError(f"{text}: {errors.strip()}")
        return output

    def find_charm(self, text: str) -> Charm:
        """The charm of a name in the store, or of a path."""
        if text == self.charm.name:
            return self.charm
        if not text.startswith((".", "/")):
            return Charm(CHARMS[text], path=charms.pack(text, self._directory))
        path = (self._directory / text).resolve()
        found = charmdir.read_declarations(path)
        ours = found["metadata"]["name"] == self.charm.name
        return Charm(found, self.charm.bases if ours else (), path)

    @contextlib.contextmanager
    def serve(self, directory: pathlib.Path) -> Iterator[dict[str, str]]:
        """Put a program called ``juju`` into a directory while the context lasts.

        Yields:
            The environment that the program needs.
        """
        server.install_tools(directory, ["juju"], light=True)
        with server.HookToolServer(self) as asked:
            yield {"JUJU_AGENT_SOCKET_ADDRESS": asked.address}

    # What each command does; `judge` has accepted it.

    def do_deploy(self, given: argparse.Namespace) -> None:
        if given.is_bundle:
            return self._deploy_bundle(given)
        charm = given.found
        config = dict(self._value(pair) for pair in given.config or [])
        self.agent.add_application(charm.path, app=given.name, config=config)
        if not charm.subordinate:
            self._add_units(given.name, given)
        return None

    def _deploy_bundle(self, given: argparse.Namespace) -> None:
        """Deploy the overlays; a bundle below them is of applications that are there already."""
        for path in given.overlay or []:
            bundle = yaml.safe_load((self._directory / path).read_text(encoding="utf-8"))
            for name, wanted in bundle.get("applications", {}).items():
                options = wanted.get("options") or {}
                if name in self.applications:
                    self._hooks(
                        lambda name=name, options=options: self.agent.config(options, app=name)
                    )
                    continue
                base = wanted["base"].partition("/")[0]
                pairs = [f"--config={key}={value}" for key, value in options.items()]
                words = ["deploy", wanted["charm"], name, f"--base={base}", *pairs]
                self.do_deploy(self.judge(words))
            for near, far in bundle.get("relations", []):
                self.do_integrate(self.judge(["integrate", near, far]))

    def do_add_unit(self, given: argparse.Namespace) -> None:
        self._application(given.application)
        self._add_units(given.application, given)

    def _add_units(self, name: str, given: argparse.Namespace) -> None:
        count = int(given.num_units or given.n or 1)
        places = given.to.split(",") if given.to else []
        for number in range(count):
            base = self.applications[name].base
            place = places[number] if number < len(places) else self.add_machine(base)
            if place not in self.machines:
                raise ModelError(f"machine {place} not found")
            if self.machines[place].base != base:
                raise ModelError(f"base does not match: machine {place} has another one")
            self._hooks(lambda place=place: self.agent.add_unit(name, place))

    def do_add_machine(self, given: argparse.Namespace) -> str:
        number = self.add_machine(given.base or self._base)
        return f"created machine {number}\n"

    def add_machine(self, base: str) -> str:
        """Add a machine of a base; gives its number."""
        number = str(len(self.machines))
        host = self._hosts(number)
        self.machines[number] = _Machine(host, base)
        self.agent.machines[number] = dataclasses.replace(
            self.agent.surroundings, command_prefix=host.command_prefix
        )
        return number

    def do_add_model(self, _: argparse.Namespace) -> None:
        pass  # there is one

    def do_destroy_model(self, _: argparse.Namespace) -> None:
        pass  # it ends with the test

    def do_model_config(self, _: argparse.Namespace) -> None:
        pass  # no option of a model changes what is modelled

    def do_integrate(self, given: argparse.Namespace) -> None:
        self._hooks(lambda: self.agent.integrate(given.near, given.far))

    def do_config(self, given: argparse.Namespace) -> str | None:
        if any("=" in each for each in given.values) or given.reset:
            values = dict(self._value(pair) for pair in given.values)
            self._hooks(lambda: self.agent.config(values, app=given.application, reset=given.reset))
            return None
        app = self.agent.model().application(given.application)
        config = declared.effective_config(app.declared["config"], app.config)
        if given.values:
            return f"{config.get(given.values[0], '')}\n"
        found = shown.options(app, config)
        return json.dumps(found) if given.format == "json" else yaml.safe_dump(found)

    def _value(self, pair: str) -> tuple[str, str]:
        name, _, value = pair.partition("=")
        if value.startswith("@"):
            value = (self._directory / value[1:]).read_text(encoding="utf-8")
        return name, value

    def do_refresh(self, given: argparse.Namespace) -> None:
        charm = self.applications[given.application].charm
        if given.path:
            charm = self.find_charm(given.path)
            if charm.name != self.applications[given.application].charm.name:
                raise ModelError(f"cannot upgrade {given.application!r} to {charm.name!r}")
        assert charm.path
        path = charm.path
        self._hooks(lambda: self.agent.upgrade(path, app=given.application))

    def do_remove_relation(self, given: argparse.Namespace) -> None:
        self._hooks(
            lambda: self.agent.remove_relation(given.near, app_of(given.far.partition(":")[0]))
        )

    def do_remove_unit(self, given: argparse.Namespace) -> None:
        for unit in given.units:
            if self.agent.model().is_subordinate(app_of(unit)):
                raise ModelError(f"unit {unit} is a subordinate: remove its principal")
            self._hooks(lambda unit=unit: self.agent.remove_unit(unit, force=given.force))

    def do_remove_application(self, given: argparse.Namespace) -> None:
        for name in given.applications:
            self._hooks(lambda name=name: self.agent.remove(name, force=given.force))
            model = self.agent.model()
            if not shown.is_there(model, model.applications[name]):
                del self.applications[name]

    def do_resolve(self, given: argparse.Namespace) -> None:
        self._hooks(lambda: self.agent.resolve(unit=given.unit, retry=not given.no_retry))

    def do_run(self, given: argparse.Namespace) -> str:
        unit = self._named(given.unit)
        outcome = self.agent.action(given.action, given.parameters, unit=unit)
        found = self._task(unit, outcome)
        output = json.dumps({unit: found}) if given.format == "json" else shown.plain(found)
        failed = outcome.run.exit_code or (outcome.failed and self.manner == JUJU_4)
        if failed:
            raise _TaskError(output, self._tasks, outcome.run.exit_code)
        return output

    def do_exec(self, given: argparse.Namespace) -> str:
        text = given.words[0] if len(given.words) == 1 else shlex.join(given.words)
        tasks: dict[str, Any] = {}
        for name in (given.unit or given.machine).split(","):
            if given.machine:
                run = self._run_on(name, text)
                tasks[name] = self._task(name, run)
            else:
                unit = self._named(name)
                place = self.agent.model().unit(unit).machine
                run = self._watched(place, lambda unit=unit: self.agent.execute(text, unit=unit))
                tasks[unit] = self._task(unit, run)
        if given.format == "json":
            output = json.dumps(tasks)
        else:
            output = "".join(each["results"].get("stdout", "") for each in tasks.values())
        codes = [each["results"]["return-code"] for each in tasks.values()]
        if any(codes):
            raise _TaskError(output, self._tasks, max(codes))
        return output

    def do_ssh(self, given: argparse.Namespace) -> str:
        target, *words = given.words
        target = target.rpartition("@")[2]
        if not words:
            return ""  # somebody sits at it
        place = self.agent.model().unit(self._named(target)).machine if "/" in target else target
        run = self._run_on(place, _SUDO + " ".join(words))
        if run.exit_code:
            raise ModelError(f"exit status {run.exit_code}: {run.stderr.strip()}")
        return run.stdout

    def _run_on(self, number: str, text: str) -> EventRun:
        if number not in self.machines:
            raise ModelError(f"machine {number} not found")
        host = self.machines[number].host

        def run() -> EventRun:
            done = host.run(["/bin/sh", "-c", text])
            return EventRun("", "exec", done.returncode, 0.0, (), done.stdout, done.stderr)

        return self._watched(number, run)

    def do_show_unit(self, given: argparse.Namespace) -> str:
        model = self.agent.model()
        found = shown.unit(model, model.unit(self._named(given.unit)))
        return json.dumps(found) if given.format == "json" else yaml.safe_dump(found)

    def do_status(self, given: argparse.Namespace) -> str:
        model = self.agent.model()
        if given.format != "json":
            return shown.table(model)
        bases = {name: each.base for name, each in self.applications.items()}
        machines = {number: each.base for number, each in self.machines.items()}
        return json.dumps(shown.status(model, bases, machines))

    def do_version(self, given: argparse.Namespace) -> str:
        version = f"{VERSIONS[self.manner]}-ubuntu-amd64"
        return json.dumps({"version": version}) if given.format == "json" else version + "\n"

    def do_show_controller(self, given: argparse.Namespace) -> str:
        details = {"agent-version": VERSIONS[self.manner], "api-endpoints": []}
        found = {shown.CONTROLLER: {"details": details}}
        return json.dumps(found) if given.format == "json" else yaml.safe_dump(found)

    def do_debug_log(self, given: argparse.Namespace) -> str:
        lines = []
        for unit in self.agent.units():
            for line in self.agent.log(unit):
                tag = "unit-" + unit.replace("/", "-")
                lines.append(
                    f"{tag}: {line.level} unit.{unit}.juju-log {line.event}: {line.message}"
                )
        limit = int(given.limit or 0)
        return "".join(f"{line}\n" for line in lines[-limit:])

    def _named(self, unit: str) -> str:
        app, _, number = unit.partition("/")
        model = self.agent.model()
        return model.applications[app].leader if number == "leader" else model.unit(unit).name

    def _task(self, name: str, outcome: Any) -> dict[str, Any]:
        self._tasks += 1
        return shown.task(self._tasks, name, outcome)

    def _hooks(self, run: Callable[[], object]) -> None:
        """Run what runs hooks: one that fails is the unit's error, not the command's."""
        with contextlib.suppress(HookFailedError):
            run()

    def _watched(self, number: str, run: Callable[[], EventRun]) -> EventRun:
        """Run what may reboot a machine; Juju's agents come back with it."""
        host = self.machines[number].host
        before = _reboots(host)
        done = run()
        if _reboots(host) > before:
            self._reboot(number)
        return done

    def _reboot(self, number: str) -> None:
        self.machines[number].host.reboot()
        self._hooks(lambda: self.agent.rebooted(number))

    def _reboot_where_asked(self) -> None:
        """Do as Juju does with a machine for which a charm has run juju-reboot."""
        model = self.agent.model()
        for number in self.machines:
            if model.reboots(number):
                self._reboot(number)


class _TaskError(Exception):
    """A task of run or exec failed, and the command with it."""

    def __init__(self, output: str, number: int, code: int):
        super().__init__(f'"{number}" with return code {code}')
        self.output = output


def _reboots(host: Host) -> int:
    """How often a host was told to reboot."""
    calls: Mapping[str, Callable[[Any], bool]] = {
        "reboot": lambda call: True,
        "shutdown": lambda call: "-r" in call.args,
        "systemctl": lambda call: call.args[:1] == ("reboot",),
    }
    return sum(test(call) for name, test in calls.items() for call in host.calls(name))
