"""What the ``juju`` command accepts, by the rules of 3.6 and 4.0; no hook runs here.

For the lines that the pages show: endpoints, bases, options, actions and their parameters.
`command.Command` does what these rules let through.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import yaml
from harness.standin import changes, charmdir, charms, declared
from harness.standin.errors import ActionRefusedError, ModelError
from harness.standin.model import JUJU_4, app_of

# Without --base, where the charm supports it (juju/juju, version.DefaultSupportedLTSBase).
DEFAULT_BASE = "ubuntu@24.04"
CHARMS = {name: charms.declarations(name) for name in charms.NAMES}

# Flags that take no value, and those of any command that take one.
_SWITCHES = (
    *("--force", "--no-prompt", "--string-args", "--trust", "--destroy-storage", "--no-switch"),
    *("--all", "--replay", "--no-tail", "--relations", "--color", "--no-retry"),
)
_COMMON = ("--model", "-m", "--format")
_SEVERAL = ("--config", "--reset", "--overlay")
_PLACED = ("--to", "--num-units", "-n")
# Arguments and flags with a value of each command; an argument may be left out (?) or repeated (*).
_COMMANDS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "add-machine": (("place?",), ("--base",)),
    "add-model": (("name", "cloud?"), ("--config", "--controller")),
    "add-unit": (("application",), _PLACED),
    "config": (("application", "values*"), ("--reset", "--file")),
    "debug-log": ((), ("--limit", "--include")),
    "deploy": (
        ("charm", "name?"),
        ("--base", "--config", "--overlay", "--channel", *_PLACED),
    ),
    "destroy-model": (("name",), ()),
    "integrate": (("near", "far"), ()),
    "model-config": (("values*",), ("--reset",)),
    "refresh": (("application",), ("--path", "--channel")),
    "remove-application": (("applications*",), ()),
    "remove-relation": (("near", "far"), ()),
    "remove-unit": (("units*",), ()),
    "resolve": (("unit",), ()),
    "run": (("unit", "action", "values*"), ("--wait", "--params")),
    "show-controller": (("name?",), ()),
    "show-unit": (("unit",), ()),
    "status": ((), ()),
    "version": ((), ()),
}


class Charm(NamedTuple):
    """A charm that `juju deploy` finds.

    Attributes:
        declared: its YAML files, as `charmdir.read_declarations` gives them.
        bases: those that it supports; empty for any.
        path: the packed charm, for who runs it.
    """

    declared: dict[str, Any]
    bases: tuple[str, ...] = ()
    path: pathlib.Path | None = None

    @property
    def name(self) -> str:
        """The charm's own name."""
        return self.declared["metadata"]["name"]

    @property
    def subordinate(self) -> bool:
        """Whether its units live beside those of others."""
        return bool(self.declared["metadata"].get("subordinate"))


@dataclasses.dataclass
class Deployed:
    """An application, by its charm and its base."""

    charm: Charm
    base: str


class Juju:
    """A model, and what may be done to it.

    Args:
        manner: `model.JUJU_3` or `model.JUJU_4`.
        charm: what the charm under test declares, as `charmdir.read_declarations` gives it.
        bases: those that the charm supports, such as ``ubuntu@22.04``.
        base: that of the cloud.
        empty: whether the model begins without the applications that the pages take for granted.
    """

    def __init__(
        self,
        manner: str,
        charm: dict[str, Any],
        bases: Sequence[str],
        base: str = "ubuntu@22.04",
        *,
        empty: bool = False,
    ):
        self.manner = manner
        self.charm = Charm(charm, tuple(bases))
        self.applications: dict[str, Deployed] = {}
        if not empty:
            present = {name: (name, base) for name in CHARMS}
            present["nova-compute-b"] = ("nova-compute", base)
            present["nova-compute-noble"] = ("nova-compute", "ubuntu@24.04")
            for name, (its_charm, its_base) in present.items():
                self.applications[name] = Deployed(Charm(CHARMS[its_charm]), its_base)

    def run(self, line: str) -> argparse.Namespace:
        """Judge a line that begins with ``juju``; as `judge`."""
        return self.judge(shlex.split(line)[1:])

    def judge(self, words: Sequence[str]) -> argparse.Namespace:
        """Judge a command and its arguments.

        Returns:
            The arguments by their names, and ``command``.

        Raises:
            ModelError: as Juju refuses it.
            ActionRefusedError: the same, for an action.
            KeyError: the command is not modelled.
        """
        command, *rest = words
        given = _parse_remote(rest) if command in ("exec", "ssh") else _parse(command, rest)
        given.command = command
        rules: Mapping[str, Callable[[argparse.Namespace], None]] = {
            "config": self._config,
            "deploy": self._deploy,
            "integrate": self._integrate,
            "refresh": self._refresh,
            "remove-application": self._remove,
            "remove-relation": self._integrate,
            "run": self._run,
        }
        if command in rules:
            rules[command](given)
        return given

    def find_charm(self, text: str) -> Charm:
        """The charm of a name or a path; raises KeyError for none."""
        if self.charm.name in text:
            return self.charm
        return Charm(CHARMS[text])

    def _deploy(self, given: argparse.Namespace) -> None:
        given.is_bundle = bool(given.overlay) or given.charm.endswith(".yaml")
        if given.is_bundle:
            return  # test_deployment.py has its rules
        given.found = charm = self.find_charm(given.charm)
        given.base = base = given.base or DEFAULT_BASE
        if charm.bases and base not in charm.bases:
            raise ModelError(f'base "{base}" not supported by charm: {", ".join(charm.bases)}')
        for pair in given.config or []:
            self._set(charm, *pair.split("=", 1))
        given.name = name = given.name or charm.name
        if name in self.applications:
            raise ModelError(f'cannot add application "{name}": application already exists')
        self.applications[name] = Deployed(charm, base)

    def _integrate(self, given: argparse.Namespace) -> None:
        names = [word.partition(":")[0] for word in (given.near, given.far)]
        sides = [self._application(name) for name in names]
        ends = [charmdir.endpoints(side.charm.declared) for side in sides]
        named = [word.partition(":")[2] for word in (given.near, given.far)]
        for name, known, end in zip(names, ends, named, strict=True):
            if end and end not in known:
                raise ModelError(f'application "{name}" has no "{end}" relation')
        near, far = changes.match_endpoints((ends[0], named[0]), (ends[1], named[1]), self.manner)
        scopes = {ends[0][near]["scope"], ends[1][far]["scope"]}
        subordinates = [side.charm.subordinate for side in sides]
        if "container" in scopes and sides[0].base != sides[1].base and not all(subordinates):
            raise ModelError(
                f"principal and subordinate applications' bases must match:"
                f" {sides[0].base} and {sides[1].base}"
            )
        given.near, given.far = f"{names[0]}:{near}", f"{names[1]}:{far}"

    def _config(self, given: argparse.Namespace) -> None:
        if given.file and self.manner == JUJU_4:
            raise ModelError("config yaml not supported not implemented")
        charm = self._application(given.application).charm
        given.reset = [name for name in ",".join(given.reset or []).split(",") if name]
        for name in given.reset:
            declared.parse_option(charm.declared["config"], name, "")
        for pair in given.values:
            name, equals, value = pair.partition("=")
            self._set(charm, name, value if equals else "")

    def _set(self, charm: Charm, name: str, value: str) -> None:
        text = "" if value.startswith("@") else value
        declared.parse_option(charm.declared["config"], name, text)

    def _run(self, given: argparse.Namespace) -> None:
        charm = self._application(app_of(given.unit)).charm
        given.parameters = parameters = {}
        if given.params:
            parameters.update(yaml.safe_load(pathlib.Path(given.params).read_text()) or {})
        for pair in given.values:
            key, _, text = pair.partition("=")
            try:
                parameters[key] = text if given.string_args else yaml.safe_load(text)
            except yaml.YAMLError as error:
                raise ActionRefusedError(f"{pair}: {error}") from error
        declared.action_parameters(charm.declared["actions"], given.action, parameters)

    def _refresh(self, given: argparse.Namespace) -> None:
        self._application(given.application)

    def _remove(self, given: argparse.Namespace) -> None:
        for name in given.applications:
            self._application(name)

    def _application(self, name: str) -> Deployed:
        if name not in self.applications:
            raise ModelError(f'application "{name}" not found')
        return self.applications[name]


def _parse(command: str, words: Sequence[str]) -> argparse.Namespace:
    names, flags = _COMMANDS[command]
    parser = argparse.ArgumentParser(exit_on_error=False, add_help=False, allow_abbrev=False)
    for name in names:
        parser.add_argument(name.rstrip("?*"), nargs=name[-1] if name[-1] in "?*" else None)
    for flag in (*_COMMON, *flags):
        parser.add_argument(flag, action="append" if flag in _SEVERAL else "store")
    for flag in _SWITCHES:
        parser.add_argument(flag, action="store_true")
    try:
        found, unknown = parser.parse_known_intermixed_args(list(words))
    except argparse.ArgumentError as error:
        raise ModelError(str(error)) from error
    if unknown:
        raise ModelError(f"unrecognized arguments: {unknown}")
    return found


def _parse_remote(words: Sequence[str]) -> argparse.Namespace:
    """The arguments of exec and ssh, which end where the command begins that runs there."""
    given = argparse.Namespace(unit="", machine="", format="", model="", wait="")
    queue = list(words)
    while queue and queue[0].startswith("-") and queue[0] != "--":
        flag = queue.pop(0).lstrip("-").replace("application", "unit")
        name, equals, value = flag.partition("=")
        if name not in vars(given):
            raise ModelError(f"flag provided but not defined: --{name}")
        setattr(given, name, value if equals else queue.pop(0))
    if queue[:1] == ["--"]:
        queue.pop(0)
    given.words = queue
    return given
