"""Arrange a reboot, at most once for one configuration: the record comes before the request."""

from __future__ import annotations

from collections.abc import Mapping

from passthrough import errors, reboot
from passthrough.state import record
from passthrough.survey import Decision
from passthrough.system import lock


def arrange(
    decision: Decision, failed: Mapping[str, errors.BindError] = reboot.NONE
) -> reboot.Verdict:
    """Decide about a reboot, and record it where the caller shall ask Juju for it now.

    The record is on the disk before the caller can ask. After a crash in between the record still
    names the present boot, so the next hook asks again.

    Args:
        decision: the host after a run.
        failed: what the run could not do, by address.

    Returns:
        What to do about a reboot, and why.

    Raises:
        LockError: when another run holds the host's lock for too long.
        OSError: when the reboot cannot be recorded; the caller must not ask for it then.
    """
    verdict = reboot.judge(decision, failed)
    if verdict.action is reboot.Action.NOW:
        site = decision.site
        asked = record.Reboot(reboot.key(decision), decision.facts.machine.boot_id)
        with lock.hold(site.root, f"a hook of {site.application}"), record.open(site) as ledger:
            ledger.update(reboot=asked)
    return verdict
