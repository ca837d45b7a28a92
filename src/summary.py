"""A unit's status, of what one dispatch did. An update-status with nothing new never imports it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dispatched
import ownership
import roles
from passthrough import reboot
from passthrough.reporting import status
from passthrough.state import record

if TYPE_CHECKING:
    from charm import PciPassthroughCharm


def summarize(unit: PciPassthroughCharm, done: dispatched.Done) -> status.Status:
    """Sum up what a dispatch did, or what is to be seen where it did nothing.

    Raises:
        PassthroughError: when nothing can be decided on what is to be seen.
        OSError: when it cannot be read.
    """
    role = roles.of(unit.model)
    match done:
        case dispatched.Failed(problem) if ownership.leaves(unit.place.charm):
            return status.summarize_failure(problem)
        case dispatched.Removed(left, stays, vfs):
            told = status.describe_removal(left, stays, vfs)
            return status.Status(status.Kind.MAINTENANCE, told)
        case _ if role is None:
            return _summarize_unchanged(unit, done, role)
        case dispatched.Failed(problem) | dispatched.Barred(problem):
            return status.summarize_failure(problem)
        case dispatched.Published(published):
            return status.summarize_controller(unit.options(), published)
        case dispatched.Reconciled(result, verdict):
            return status.summarize(result.decision, result.outcome.failed, verdict)
        case _:
            return _summarize_unchanged(unit, done, role)


def _summarize_unchanged(
    unit: PciPassthroughCharm, done: dispatched.Done, role: roles.Role | None
) -> status.Status:
    place = unit.place
    if ownership.leaves(place.charm):
        known = record.read(unit.site)
        mine = known.owner is not None and ownership.is_same(known.owner, place.me)
        said = status.LEAVES if mine and not known.is_empty else status.describe_removal(())
        return status.Status(status.Kind.MAINTENANCE, said)
    roles.check_place(unit.model, place.agents)
    if role is None:
        return status.Status(status.Kind.WAITING, "waiting for a principal: integrate nova-compute")
    if role is roles.Role.CONTROLLER:
        return status.summarize_controller(unit.options(), unit.survey_controller())
    ownership.check_unit(unit.model, place, record.read(unit.site))
    decision = done.decision if isinstance(done, dispatched.Seen) else unit.decide()
    verdict = reboot.foresee(decision, roles.principal())
    return status.summarize(decision, verdict=verdict, acted=False)
