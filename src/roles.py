"""What a unit is for: its role follows from its principal."""

from __future__ import annotations

import enum
import os
from pathlib import Path
from typing import TYPE_CHECKING

from passthrough.errors import NotOursError

if TYPE_CHECKING:
    import ops

NRPE, COS_AGENT = "nrpe-external-master", "cos-agent"
# The container-scoped endpoints whose other side is a subordinate → their interfaces.
CHAINS = {NRPE: "nrpe-external-master", COS_AGENT: "cos_agent"}
NOVA_PCI = "nova-pci"
METRICS_ENDPOINT = "metrics-endpoint"


class Role(enum.Enum):
    """What a unit is for; each value is the endpoint that leads to its principal."""

    COMPUTE = "juju-info"
    CONTROLLER = "nova-cloud-controller"


# The endpoints that lead to principals.
TIES = tuple(role.value for role in Role)


class MisplacedError(NotOursError):
    """The unit is beside a principal that it can do nothing for."""


def application_of(unit: str) -> str:
    """The application of a unit, by their names."""
    return unit.partition("/")[0]


def principal() -> str:
    """The name of this unit's principal; empty for none. Juju tells it in every hook and action."""
    return os.environ.get("JUJU_PRINCIPAL_UNIT", "")


def of(model: ops.Model) -> Role | None:
    """Tell the role of this unit; None while it has no principal.

    A relation id alone says nothing: one application can have units of both kinds, and each sees
    the ids of both endpoints. A controller's unit is one whatever else leads to its principal.
    """
    found = [role for role in Role if relations(model, role)]
    return found[-1] if found else None


def relations(model: ops.Model, role: Role) -> list[ops.Relation]:
    """The relations of a role's endpoint that lead to this unit's own principal."""
    return _tied(model, role.value)


def is_tie(relation: ops.Relation) -> bool:
    """Tell whether a relation leads to this unit's own principal."""
    return relation.name in TIES and relation.app.name == application_of(principal())


def ties(model: ops.Model) -> list[str]:
    """The ids, such as ``juju-info:3``, of the relations that lead to this unit's principal."""
    return [f"{each.name}:{each.id}" for endpoint in TIES for each in _tied(model, endpoint)]


def _tied(model: ops.Model, endpoint: str) -> list[ops.Relation]:
    application = application_of(principal())
    found = model.relations[endpoint]
    return [each for each in found if each.active and each.app.name == application]


def is_misfit(agents_folder: Path) -> bool:
    """Tell whether this unit's principal is one that it is not made for, by the files of that."""
    from passthrough.host import juju_agents  # imports a YAML parser, which a quiet hook needs not

    charm = juju_agents.charm_of(agents_folder, principal())
    return charm is not None and (charm.subordinate or charm.is_controller)


def check_place(model: ops.Model, agents_folder: Path) -> None:
    """See that this unit is beside a principal that it is made for.

    Args:
        model: the model.
        agents_folder: the folders of the agents on this host, whose charms say what they are.

    Raises:
        MisplacedError: when it is not; names the line that brought it there.
    """
    unit = principal()
    beside, own = application_of(unit), model.app.name
    role = of(model)
    # Every hook asks for nrpe anyhow; for the other, only a unit that nothing else leads to.
    asked = CHAINS if role is None else (NRPE,)
    chain = next((each for each in asked if _tied(model, each)), None)
    if chain:
        # Each unit gets a subordinate of the other application below it, which gets one in turn.
        raise MisplacedError(
            f"{unit} is a subordinate: units without end",
            f"juju remove-relation {own}:{chain} {beside}",
        )
    if role is Role.CONTROLLER:
        return
    from passthrough.host import juju_agents

    charm = juju_agents.charm_of(agents_folder, unit)
    if role is None:
        if charm and charm.subordinate:
            # Left behind: no relation leads to its principal any more, and there was but one way.
            chain = next((each for each in CHAINS if CHAINS[each] in charm.interfaces), None)
            endpoint = chain or Role.COMPUTE.value
            raise MisplacedError(
                f"{unit} is a subordinate" + (": units without end" if chain else ""),
                f"juju remove-relation {own}:{endpoint} {beside}",
            )
        return
    undo = f"juju remove-relation {own}:{Role.COMPUTE.value} {beside}"
    if charm and charm.subordinate:
        raise MisplacedError(f"{unit} is a subordinate", undo)
    if charm.is_controller if charm else beside == Role.CONTROLLER.value:
        raise MisplacedError(f"{unit} is a controller", undo)
