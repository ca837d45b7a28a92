"""Ask for a reboot, at most once for one configuration: it is recorded before it is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from passthrough import errors, reboot
from passthrough.host import guests
from passthrough.site import Site
from passthrough.state import record
from passthrough.survey import Survey
from passthrough.system import lock


def arrange(
    root: Path, survey: Survey, failed: Mapping[str, errors.BindError] = reboot.NONE
) -> reboot.Verdict:
    """Decide about a reboot, and record it where the caller is to ask for it now.

    The record is on the disk before the caller can ask: a crash in between costs the reboot's
    place in the record nothing, since the host's boot is still the same one.

    Raises:
        OSError: when it cannot be recorded; no reboot may be asked for then.
    """
    verdict = reboot.judge(survey, lambda: _guests(root), failed)
    if verdict.action is reboot.Action.NOW:
        asked = record.Reboot(reboot.key(survey), survey.facts.boot_id)
        site = Site(root, survey.application)
        with lock.hold(root, f"a hook of {survey.application}"), record.open(site) as ledger:
            ledger.update(reboot=asked)
    return verdict


def look(root: Path, survey: Survey) -> reboot.Verdict:
    """Decide about a reboot as `arrange` does, for whoever cannot ask for one, as an action."""
    verdict = reboot.judge(survey, lambda: _guests(root))
    if verdict.action is reboot.Action.NOW:
        why = reboot.reasons(survey.plan)[0]
        return reboot.Verdict(reboot.Action.WAIT, f"the next hook reboots the host: {why}")
    return verdict


def _guests(root: Path) -> Sequence[guests.Guest]:
    from passthrough.host import guests  # only a pending reboot asks for them

    return guests.running(root)
