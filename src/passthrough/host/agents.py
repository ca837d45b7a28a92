"""Juju's agents on this host, as their folders below /var/lib/juju/agents show them; reads only.

An agent's folder is named after its unit, as ``unit-nova-compute-0``; ``agent.conf`` in it names
the model, and ``charm/metadata.yaml`` is of the charm that the unit runs. What cannot be read is
not known, which is not the same as absent.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

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


def folder_of(agents: Path, unit: str) -> Path:
    """The folder of a unit's agent.

    Args:
        agents: ``/var/lib/juju/agents`` on a real host.
        unit: the unit's name, such as ``nova-compute/0``.
    """
    return agents / f"unit-{unit.replace('/', '-')}"


def units_of(agents: Path, application: str) -> tuple[str, ...]:
    """The units of an application that have an agent on this host, by their numbers."""
    pattern = re.compile(rf"unit-{re.escape(application)}-([0-9]+)")
    try:
        names = [entry.name for entry in agents.iterdir()]
    except OSError:
        return ()
    numbers = [int(match[1]) for name in names if (match := pattern.fullmatch(name))]
    return tuple(f"{application}/{number}" for number in sorted(numbers))


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
    return model_in(folder_of(agents, unit))


def model_in(folder: Path) -> str | None:
    """The UUID of the model that the agent of a folder is of; None where that cannot be read."""
    try:
        text = (folder / "agent.conf").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    found = _MODEL.search(text)
    return found[1] if found else None


def _endpoints(metadata: Any, role: str) -> list[dict[str, Any]]:
    endpoints: dict[str, dict[str, Any]] = metadata.get(role) or {}
    return list(endpoints.values())
