"""What a unit is for: its role follows from its principal."""

from __future__ import annotations

import enum
import os

import ops


class Role(enum.Enum):
    """What a unit is for; each value is the endpoint that leads to its principal."""

    COMPUTE = "juju-info"
    CONTROLLER = "nova-cloud-controller"


def of(model: ops.Model) -> Role | None:
    """Tell the role of this unit; None while it has no principal.

    A relation id alone says nothing: one application can have units of both kinds, and each sees
    the ids of both endpoints.
    """
    return next((role for role in Role if relations(model, role)), None)


def relations(model: ops.Model, role: Role) -> list[ops.Relation]:
    """The relations of a role's endpoint that lead to this unit's own principal."""
    principal = os.environ.get("JUJU_PRINCIPAL_UNIT", "").partition("/")[0]
    found = model.relations[role.value]
    return [each for each in found if each.active and each.app.name == principal]
