"""What the ``juju`` command accepts, by the rules of 3.6 and 4.0; no hook runs.

For the lines that the pages show: endpoints, bases, options, actions and their parameters.
"""

from __future__ import annotations

import argparse
import dataclasses
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import yaml
from harness.standin import changes, charmdir, declared
from harness.standin.errors import ActionRefusedError, ModelError
from harness.standin.model import JUJU_4, app_of

# Without --base, where the charm supports it (juju/juju, version.DefaultSupportedLTSBase).
DEFAULT_BASE = "ubuntu@24.04"
_BARE = {"options": {}}


def _charm(name: str, *, subordinate: bool = False, **ends: Mapping[str, Any]) -> dict[str, Any]:
    metadata = {"name": name, "subordinate": subordinate, **ends}
    return {"metadata": metadata, "config": _BARE, "actions": {}}


def _options(*names: str) -> dict[str, Any]:
    return {"options": {name: {"type": "string"} for name in names}}


_NRPE = {"interface": "nrpe-external-master", "scope": "container"}
# The endpoints of the real charms, as far as a container-scoped relation could mean them, and the
# options that the pages name.
CHARMS: dict[str, dict[str, Any]] = {
    "nova-compute": {
        **_charm(
            "nova-compute",
            provides={
                "cloud-compute": {"interface": "nova-compute"},
                "nrpe-external-master": _NRPE,
            },
            requires={
                "nova-ceilometer": {"interface": "nova-ceilometer", "scope": "container"},
                "neutron-plugin": {"interface": "neutron-plugin", "scope": "container"},
            },
        ),
        "config": _options("pci-alias", "pci-passthrough-whitelist", "enable-live-migration"),
        "actions": {"restart-services": {"params": {"deferred-only": {"type": "boolean"}}}},
    },
    "nova-cloud-controller": {
        **_charm(
            "nova-cloud-controller",
            provides={"nrpe-external-master": _NRPE},
            requires={"nova-vmware": {"interface": "nova-vmware", "scope": "container"}},
        ),
        "config": _options("pci-alias", "scheduler-default-filters", "console-access-protocol"),
    },
    "nrpe": _charm(
        "nrpe",
        subordinate=True,
        provides={"monitors": {"interface": "monitors"}},
        requires={
            "nrpe-external-master": _NRPE,
            "general-info": {"interface": "juju-info", "scope": "container"},
        },
    ),
}


@dataclasses.dataclass
class _Deployed:
    charm: dict[str, Any]
    base: str


class Juju:
    """A model of nova-compute, nova-cloud-controller and nrpe, and what may be done to it.

    Args:
        manner: `model.JUJU_3` or `model.JUJU_4`.
        charm: what the charm under test declares, as `charmdir.read_declarations` gives it.
        bases: those that the charm supports, such as ``ubuntu@22.04``.
        base: that of the cloud.
    """

    def __init__(
        self, manner: str, charm: dict[str, Any], bases: Sequence[str], base: str = "ubuntu@22.04"
    ):
        self.manner = manner
        self.charm, self._bases = charm, tuple(bases)
        self.applications = {name: _Deployed(found, base) for name, found in CHARMS.items()}
        for suffix, its_base in (("b", base), ("noble", "ubuntu@24.04")):
            self.applications[f"nova-compute-{suffix}"] = _Deployed(
                CHARMS["nova-compute"], its_base
            )

    def run(self, line: str) -> None:
        """Run a line that begins with ``juju``.

        Raises:
            ModelError: as Juju refuses it.
            KeyError: the command is not modelled.
        """
        _, command, *words = shlex.split(line)
        run: Mapping[str, Callable[[list[str]], None]] = {
            "deploy": self._deploy,
            "integrate": self._integrate,
            "remove-relation": self._integrate,
            "config": self._config,
            "run": self._run,
            "remove-application": self._named,
            "refresh": self._named,
            "status": self._nothing,
            "ssh": self._nothing,
            "exec": self._nothing,
            "resolve": self._nothing,
            "model-config": self._nothing,
            "debug-log": self._nothing,
        }
        run[command](words)

    def _deploy(self, words: list[str]) -> None:
        given = _parse(words, ("charm", "name?"), ("--base", "--config", "--overlay", "--channel"))
        if given.overlay or given.charm.endswith(".yaml"):
            return  # a bundle: test_deployment.py has its rules
        ours = self.charm["metadata"]["name"] in given.charm
        charm = self.charm if ours else CHARMS[given.charm]
        base = given.base or DEFAULT_BASE
        if ours and base not in self._bases:
            raise ModelError(f'base "{base}" not supported by charm: {", ".join(self._bases)}')
        for pair in given.config or []:
            self._set(charm, *pair.split("=", 1))
        name = given.name or charm["metadata"]["name"]
        if name in self.applications:
            raise ModelError(f'cannot add application "{name}": application already exists')
        self.applications[name] = _Deployed(charm, base)

    def _integrate(self, words: list[str]) -> None:
        given = _parse(words, ("near", "far"), ())
        names = [word.partition(":")[0] for word in (given.near, given.far)]
        sides = [self._application(name) for name in names]
        ends = [charmdir.endpoints(side.charm) for side in sides]
        named = [word.partition(":")[2] for word in (given.near, given.far)]
        for name, known, end in zip(names, ends, named, strict=True):
            if end and end not in known:
                raise ModelError(f'application "{name}" has no "{end}" relation')
        near, far = changes.match_endpoints((ends[0], named[0]), (ends[1], named[1]), self.manner)
        scopes = {ends[0][near]["scope"], ends[1][far]["scope"]}
        subordinates = [bool(side.charm["metadata"].get("subordinate")) for side in sides]
        if "container" in scopes and sides[0].base != sides[1].base and not all(subordinates):
            raise ModelError(
                f"principal and subordinate applications' bases must match:"
                f" {sides[0].base} and {sides[1].base}"
            )

    def _config(self, words: list[str]) -> None:
        given = _parse(words, ("application", "values*"), ("--reset", "--file"))
        if given.file and self.manner == JUJU_4:
            raise ModelError("config yaml not supported not implemented")
        charm = self._application(given.application).charm
        for name in ",".join(given.reset or []).split(","):
            if name:
                declared.parse_option(charm["config"], name, "")
        for pair in given.values:
            name, equals, value = pair.partition("=")
            self._set(charm, name, value if equals else "")

    def _set(self, charm: dict[str, Any], name: str, value: str) -> None:
        declared.parse_option(charm["config"], name, "" if value.startswith("@") else value)

    def _run(self, words: list[str]) -> None:
        given = _parse(words, ("unit", "action", "values*"), ("--wait", "--format"))
        charm = self._application(app_of(given.unit)).charm
        parameters: dict[str, Any] = {}
        for pair in given.values:
            key, _, text = pair.partition("=")
            try:
                parameters[key] = text if given.string_args else yaml.safe_load(text)
            except yaml.YAMLError as error:
                raise ActionRefusedError(f"{pair}: {error}") from error
        declared.action_parameters(charm["actions"], given.action, parameters)

    def _named(self, words: list[str]) -> None:
        self._application(_parse(words, ("application",), ("--path",)).application)

    def _nothing(self, words: list[str]) -> None:
        pass

    def _application(self, name: str) -> _Deployed:
        if name not in self.applications:
            raise ModelError(f'application "{name}" not found')
        return self.applications[name]


def _parse(words: list[str], names: Sequence[str], flags: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(exit_on_error=False, add_help=False)
    for name in names:
        parser.add_argument(name.rstrip("?*"), nargs=name[-1] if name[-1] in "?*" else None)
    for flag in flags:
        several = flag in ("--config", "--reset")
        parser.add_argument(flag, action="append" if several else "store")
    for flag in ("--force", "--no-prompt", "--string-args", "--trust"):
        parser.add_argument(flag, action="store_true")
    try:
        found, unknown = parser.parse_known_intermixed_args(words)
    except argparse.ArgumentError as error:
        raise ModelError(str(error)) from error
    if unknown:
        raise ModelError(f"unrecognized arguments: {unknown}")
    return found
