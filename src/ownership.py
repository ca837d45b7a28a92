"""One unit looks after a host for its application: which one, and who comes after it.

juju-info attaches to any principal, so a host can have several units of one application, and one
set of files. The record names the unit that looks after them. Another one waits, and writes nothing
but a mark in the folder of its own agent, which Juju removes with it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import ops

import roles
from passthrough import naming
from passthrough.errors import NotOursError, PassthroughError
from passthrough.host import juju_agents
from passthrough.site import Site
from passthrough.state import record
from passthrough.state.record import Owner
from passthrough.system import files

_WAITS = ".pci-passthrough-waits"
_LEAVES = ".pci-passthrough-leaves"


class OwnedError(NotOursError):
    """Another unit of the application looks after this host.

    Attributes:
        owner: that unit.
    """

    def __init__(self, owner: Owner, me: Owner):
        self.owner = owner
        named = f"{owner.principal}'s unit" if owner.principal else owner.unit
        model = "" if owner.model == me.model else f" of the model {owner.model}"
        super().__init__(f"{named}{model} looks after this host")


class Place(NamedTuple):
    """A unit on this host.

    Attributes:
        me: the unit, as a record would name it.
        charm: the folder of its charm, in that of its agent, beside those of the other agents.
    """

    me: Owner
    charm: Path

    @property
    def agents(self) -> Path:
        """The folder that holds those of all agents."""
        return self.charm.parent.parent

    @property
    def is_there(self) -> bool:
        """Whether the folder of the unit's agent is where Juju has it, and so are others."""
        return self.charm.parent.name == juju_agents.folder_of(self.agents, self.me.unit).name


def is_same(one: Owner, other: Owner) -> bool:
    """Tell whether two are one unit; a unit never changes its principal."""
    return (one.model, one.unit) == (other.model, other.unit)


def belongs_to_another(site: Site, me: Owner) -> bool:
    """Tell whether another unit looks after a host by a record that can be read."""
    try:
        owner = record.read(site).owner
    except (PassthroughError, OSError):
        return False
    return owner is not None and not is_same(owner, me)


def check(owner: Owner | None, place: Place) -> None:
    """See that a unit may look after the host; what it finds there is its own from then on.

    It may where nobody does, where the one who did has left without a word, and where it is beside
    the compute service and the other is not.

    Args:
        owner: who looks after it by the record; None for nobody.
        place: the unit that asks.

    Raises:
        OwnedError: when another unit looks after it.
    """
    me = place.me
    if owner is None or is_same(owner, me) or _has_left(owner, place):
        return
    if _is_compute(place, me.principal) and not _is_compute(place, owner.principal):
        return
    raise OwnedError(owner, me)


def check_unit(model: ops.Model, place: Place, present: record.Record) -> None:
    """See that a unit may change the host.

    Args:
        model: the model as the unit sees it.
        place: the unit.
        present: the application's record on the host.

    Raises:
        PassthroughError: when it leaves; its principal is none that it is made for; or another
            unit of the application looks after the host.
    """
    if leaves(place.charm):
        raise PassthroughError("this unit leaves the host")
    roles.check_place(model, place.agents)
    check(present.owner, place)


def claim(model: ops.Model, site: Site, place: Place) -> Owner:
    """Look after the host from now on, or wait for it; the host's lock is held.

    Args:
        model: the model as the unit sees it.
        site: the application on this host.
        place: the unit.

    Returns:
        The unit, as the record names it from now on.

    Raises:
        PassthroughError: as `check_unit`; a unit that another one keeps from it waits.
        OSError: when a mark cannot be written.
    """
    try:
        check_unit(model, place, record.read(site))
    except OwnedError:
        wait(place)
        raise
    stop_waiting(place)
    return place.me


def _has_left(owner: Owner, place: Place) -> bool:
    """Whether an owner's agent is gone; only where one's own is seen, absence says something."""
    if not place.is_there:
        return False
    if not juju_agents.folder_of(place.agents, owner.unit).exists():
        return True
    model = juju_agents.model_of(place.agents, owner.unit)
    return model is not None and model != owner.model


def _is_compute(place: Place, unit: str) -> bool:
    charm = juju_agents.charm_of(place.agents, unit) if unit else None
    return charm is not None and charm.is_compute


def wait(place: Place) -> None:
    """Leave the mark of a unit that waits: it gets the host when the owner leaves.

    Raises:
        OSError: when it cannot be written.
    """
    me = place.me
    said = {"model": me.model, "unit": me.unit, "principal": me.principal}
    files.ensure(place.charm / _WAITS, json.dumps(said, sort_keys=True))


def stop_waiting(place: Place) -> None:
    """Take the mark away.

    Raises:
        OSError: when it cannot be removed.
    """
    files.ensure(place.charm / _WAITS, None)


def find_heir(application: str, place: Place) -> Owner | None:
    """The unit of an application that waits for this host; the first one of several."""
    for unit in juju_agents.units_of(place.agents, application):
        charm = juju_agents.folder_of(place.agents, unit) / "charm"
        waiting = None if leaves(charm) else _read_mark(charm / _WAITS)
        if unit != place.me.unit and waiting and waiting.unit == unit:
            return waiting
    return None


def _read_mark(path: Path) -> Owner | None:
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        principal = said["principal"]
        return Owner(
            str(said["model"]),
            naming.check_unit(said["unit"]),
            naming.check_unit(principal) if principal else "",
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def leave(charm: Path) -> None:
    """Leave the mark of a unit that leaves: from now on every hook of it only gives back.

    Raises:
        OSError: when it cannot be written.
    """
    files.ensure(charm / _LEAVES, "")


def stay(charm: Path) -> None:
    """Take the mark away: the unit has a principal again.

    Raises:
        OSError: when it cannot be removed.
    """
    files.ensure(charm / _LEAVES, None)


def leaves(charm: Path) -> bool:
    """Whether the unit leaves, by its mark."""
    return (charm / _LEAVES).exists()


def still_leaves(charm: Path, event: ops.EventBase) -> bool:
    """Tell whether the unit leaves, by the mark of an earlier hook; a new principal ends that.

    Raises:
        OSError: when the mark cannot be removed.
    """
    if not leaves(charm):
        return False
    arrives = (ops.RelationCreatedEvent, ops.RelationJoinedEvent, ops.RelationChangedEvent)
    if isinstance(event, arrives) and roles.is_tie(event.relation):
        stay(charm)
        return False
    return True
