"""What a hook does on the host of a compute unit. A settled update-status never imports it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import dispatched
import ownership
import roles
import telling
from passthrough import reboot as rebooting
from passthrough import reconcile as reconciling
from passthrough import survey
from passthrough.config import options
from passthrough.effects import reboot_request, tools
from passthrough.reporting import words
from passthrough.system import lock

if TYPE_CHECKING:
    from charm import PciPassthroughCharm

logger = logging.getLogger(__name__)


def reconcile(
    unit: PciPassthroughCharm,
    wanted: options.Options,
    facts: survey.Facts | None,
    *,
    patient: bool,
    may_reboot: bool,
) -> dispatched.Reconciled:
    """Bring the host to what the options ask for, and offer what is ready.

    Args:
        unit: the unit.
        wanted: its options.
        facts: looked at while this run has the host's lock.
        patient: whether a rebuild that failed before is not tried again so soon.
        may_reboot: whether Juju can be asked for a reboot.

    Raises:
        PassthroughError: as `ownership.claim` and `reconcile.reconcile`.
        OSError: the same.
    """
    host_tools = telling.Telling(unit.unit, tools.HostTools(), unit.site.root)
    with lock.hold(unit.site.root, f"a hook of {unit.app.name}"):
        owner = ownership.claim(unit.model, unit.site, unit.place)
        start = reconciling.Start(facts, owner, patient)
        result = reconciling.reconcile(unit.site, wanted, host_tools, logger.info, start)
    unit.publisher.devices(result.decision.nova)
    for each in result.outcome.repaired:
        logger.warning("repaired: %s", each)
    if may_reboot:
        verdict = reboot_request.arrange(
            result.decision, result.outcome.failed, host_tools, roles.principal()
        )
    else:
        verdict = rebooting.foresee(result.decision, roles.principal())
    return dispatched.Reconciled(result, verdict)


def reboot(unit: PciPassthroughCharm, verdict: rebooting.Verdict) -> None:
    """Have Juju reboot the host; where it refuses, what stopped for that starts again."""
    logger.warning("%s", words.verdict(verdict))
    try:
        unit.unit.reboot()
    except Exception:
        reboot_request.resume(unit.site, tools.HostTools())
        raise
