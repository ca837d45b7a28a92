"""Ask for a reboot, at most once for one configuration: it is recorded before it is asked for."""

from __future__ import annotations

from collections.abc import Mapping

from passthrough import errors, reboot
from passthrough.state import record
from passthrough.survey import Decision
from passthrough.system import lock


def arrange(
    decision: Decision, failed: Mapping[str, errors.BindError] = reboot.NONE
) -> reboot.Verdict:
    """Decide about a reboot, and record it where the caller is to ask for it now.

    The record is on the disk before the caller can ask: a crash in between costs the reboot's
    place in the record nothing, since the host's boot is still the same one.

    Args:
        decision: the host after a run.
        failed: what the run could not do, by address.

    Raises:
        OSError: when it cannot be recorded; no reboot may be asked for then.
    """
    verdict = reboot.judge(decision, failed)
    if verdict.action is reboot.Action.NOW:
        site = decision.site
        asked = record.Reboot(reboot.key(decision), decision.facts.machine.boot_id)
        with lock.hold(site.root, f"a hook of {site.application}"), record.open(site) as ledger:
            ledger.update(reboot=asked)
    return verdict
