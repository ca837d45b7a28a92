"""Juju's agents on this host, as their folders and services show them; reads only.

Juju keeps a folder for the agent of the machine and for each unit below /var/lib/juju/agents, and
removes that of a unit with the unit. A unit's is named after it, as ``unit-nova-compute-0``, the
machine's after its number, as ``machine-3``, and so is its service. ``agent.conf`` in a folder
names the model, and ``charm/metadata.yaml`` is of the charm that the unit runs. What cannot be read
is not known, which is not the same as absent.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from passthrough import enums

AGENTS = "var/lib/juju/agents"
_FOLDERS_OF_SERVICES = ("etc/systemd/system", "lib/systemd/system", "usr/lib/systemd/system")
_SERVICE = "jujud-"
_AGENT = re.compile(r"(?:machine|unit|controller|application)-.+")
_MACHINE = re.compile(r"machine-[0-9]+")
# An agent.conf is YAML, and one line of it is enough: "model: model-UUID".
_MODEL = re.compile(r"(?m)^model: [\"']?model-([0-9a-f-]+)[\"']?\s*$")
_CONTROLLER = "nova-vmware"
_NAME_OF_CONTROLLER = "nova-cloud-controller"
_NAME_OF_COMPUTE = "nova-compute"


class Charm(NamedTuple):
    """What a unit's charm says of itself.

    Attributes:
        name: the charm's name, which is not the application's.
        subordinate: whether its units live beside those of others.
        interfaces: those of its endpoints.
    """

    name: str
    subordinate: bool = False
    interfaces: frozenset[str] = frozenset()

    @property
    def is_compute(self) -> bool:
        """Whether it is the compute service's."""
        return self.name == _NAME_OF_COMPUTE

    @property
    def is_controller(self) -> bool:
        """Whether it is the controller's of Charmed OpenStack, by its name or its endpoint."""
        principal = not self.subordinate and _CONTROLLER in self.interfaces
        return self.name == _NAME_OF_CONTROLLER or principal


class Sight(enums.StrEnum):
    """What a look at the agents says about the unit that looks after the host."""

    LIVES = "lives"
    FOLDER_GONE = "folder-gone"
    OTHER_MODEL = "other-model"
    NO_AGENT = "no-agent"
    UNCLEAR = "unclear"


def folder_of(agents: Path, unit: str) -> Path:
    """The folder of a unit's agent.

    Args:
        agents: ``/var/lib/juju/agents`` on a real host.
        unit: the unit's name, such as ``nova-compute/0``.
    """
    return agents / f"unit-{unit.replace('/', '-')}"


def units_of(agents: Path, application: str) -> tuple[str, ...]:
    """The units of an application that have an agent on this host, by their numbers."""
    try:
        return _pick(_names(agents), application)
    except OSError:
        return ()


def charm_of(agents: Path, unit: str) -> Charm | None:
    """What a unit's charm says of itself; None where that cannot be read."""
    import yaml  # the caretaker, which asks for models alone, has none

    path = folder_of(agents, unit) / "charm/metadata.yaml"
    try:
        said: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        endpoints = [*_endpoints(said, "provides"), *_endpoints(said, "requires")]
        interfaces = frozenset(str(each["interface"]) for each in endpoints)
        return Charm(str(said["name"]), said.get("subordinate") is True, interfaces)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError):
        return None


def model_of(agents: Path, unit: str) -> str | None:
    """The UUID of the model that a unit's agent is of; None where that cannot be read."""
    return _model_in(folder_of(agents, unit))


def look(
    root: Path, unit: str, filesystem: str, is_running: Callable[[str], bool], application: str
) -> Sight:
    """Look for the unit that owns an application's record.

    Args:
        root: the host's root.
        unit: the owner's name, such as ``pci-passthrough/0``; empty where the record names none.
        filesystem: what `find_filesystem` gave when the record was written.
        is_running: whether a service runs; asked only where the owner seems to be gone.
        application: the record's application.

    Raises:
        CommandError: as ``is_running``.
    """
    agents = root / AGENTS
    try:
        names = _names(agents)
        if not names:
            return Sight.UNCLEAR if _has_service(root) else Sight.NO_AGENT
        machines = [name for name in names if _MACHINE.fullmatch(name)]
        if len(machines) != 1:
            return Sight.UNCLEAR
        machine, model = machines[0], _model_in(agents / machines[0])
        units = _pick(names, application)
        models = [model_of(agents, each) for each in units]
        strangers = [each for each in models if model and each not in (None, model)]
        if len(strangers) < len(units):
            return Sight.LIVES  # the owner, or another unit that can look after the host
        told = unit and model and filesystem and filesystem == find_filesystem(root)
    except OSError:
        return Sight.UNCLEAR
    if not told or not is_running(f"{_SERVICE}{machine}"):
        return Sight.UNCLEAR
    return Sight.OTHER_MODEL if strangers else Sight.FOLDER_GONE


def find_filesystem(root: Path) -> str:
    """Name the file system that holds the agents' folders; empty where there is none.

    The id that the file system itself tells outlives a boot, where the kernel may number devices
    anew; not every kind tells one.
    """
    folder = root / AGENTS
    try:
        number = os.statvfs(folder).f_fsid
        return f"id {number:x}" if number else f"device {os.stat(folder).st_dev:x}"
    except OSError:
        return ""


def _names(agents: Path) -> list[str]:
    """The names of all agents' folders; raises OSError where they are there and not readable."""
    try:
        return [name for name in os.listdir(agents) if _AGENT.fullmatch(name)]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _pick(names: Iterable[str], application: str) -> tuple[str, ...]:
    """The units of an application, by their numbers, of the names of folders."""
    pattern = re.compile(rf"unit-{re.escape(application)}-([0-9]+)")
    numbers = [int(match[1]) for name in names if (match := pattern.fullmatch(name))]
    return tuple(f"{application}/{number}" for number in sorted(numbers))


def _model_in(folder: Path) -> str | None:
    try:
        text = (folder / "agent.conf").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    found = _MODEL.search(text)
    return found[1] if found else None


def _endpoints(metadata: Any, role: str) -> list[dict[str, Any]]:
    endpoints: dict[str, dict[str, Any]] = metadata.get(role) or {}
    return list(endpoints.values())


def _has_service(root: Path) -> bool:
    for folder in _FOLDERS_OF_SERVICES:
        try:
            if any(name.startswith(_SERVICE) for name in os.listdir(root / folder)):
                return True
        except (FileNotFoundError, NotADirectoryError):
            continue
    return False
