"""Arrange a reboot, at most once for one configuration: the record comes before the request."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

from passthrough import errors, frozen, reboot
from passthrough.nova import facts as nova_facts
from passthrough.site import Site
from passthrough.state import record
from passthrough.survey import Decision
from passthrough.system import lock, procfs

if TYPE_CHECKING:
    from passthrough.effects.tools import Tools

logger = logging.getLogger(__name__)


def arrange(
    decision: Decision,
    failed: Mapping[str, errors.BindError] = reboot.NONE,
    tools: Tools | None = None,
    principal: str = "",
) -> reboot.Verdict:
    """Decide about a reboot, and prepare it where the caller shall ask Juju for it now.

    The record is on the disk before the caller can ask. After a crash in between the record still
    names the present boot, so the next hook asks again, a few times. Nova schedules no guest into
    the reboot: nova-compute is stopped, and then everything is looked at once more. The next boot
    starts it again; where there is none, the next hook does.

    Args:
        decision: the host after a run.
        failed: what the run could not do, by address.
        tools: stop and start a service; None to leave nova-compute alone.
        principal: the unit beside which the charm's unit stands; empty where that is not told.

    Returns:
        What to do about a reboot, and why.

    Raises:
        CommandError: when nova-compute does not stop, or does not start again.
        LockError: when another run holds the host's lock for too long.
        OSError: when the reboot cannot be recorded, or the host cannot be looked at; the caller
            must not ask for it then.
    """
    verdict = reboot.judge(decision, failed, principal)
    if verdict.action is not reboot.Action.NOW:
        last = decision.facts.record.reboot
        if tools and last and last.stopped:
            resume(decision.site, tools)
        return verdict
    site = decision.site
    with lock.hold(site.root, f"a hook of {site.application}"), record.open(site) as ledger:
        ledger.update(reboot=_asked(decision, ledger.present.reboot))
        if not tools:
            return verdict
        _stop(ledger, tools)
        facts = frozen.replace(decision.facts, processes=procfs.Processes(site.root))
        again = reboot.weigh(verdict.reasons, facts.guests(), facts.hindrances(principal))
        if again.action is not reboot.Action.NOW:
            _start(ledger, tools)
            ledger.update(reboot=decision.facts.record.reboot)
        return again


def resume(site: Site, tools: Tools) -> None:
    """Start nova-compute where it was stopped for a reboot that has not happened.

    Args:
        site: where.
        tools: start a service.

    Raises:
        CommandError: when it does not start.
        LockError: when another run holds the host's lock for too long.
        OSError: when the record cannot be read or written.
    """
    with lock.hold(site.root, f"a hook of {site.application}"), record.open(site) as ledger:
        last = ledger.present.reboot
        if not (last and last.stopped):
            return
        if last.boot_id == procfs.boot_id_if_there(site.root):
            _start(ledger, tools)
        else:
            ledger.update(reboot=last._replace(stopped=False))


def _asked(decision: Decision, last: record.Reboot | None) -> record.Reboot:
    """What to record of this request; another one in the same boot counts with those before."""
    now = record.Reboot(reboot.key(decision), decision.facts.machine.boot_id)
    if last and last.boot_id == now.boot_id:
        return now._replace(asked=last.asked + 1, stopped=last.stopped)
    return now


def _stop(ledger: record.Ledger, tools: Tools) -> None:
    """Stop nova-compute where it runs; the record says so before."""
    last = ledger.present.reboot
    if last and tools.running(nova_facts.SERVICE):
        ledger.update(reboot=last._replace(stopped=True))
        tools.stop(nova_facts.SERVICE)
        logger.info("%s: stopped for the reboot", nova_facts.SERVICE)


def _start(ledger: record.Ledger, tools: Tools) -> None:
    """Start nova-compute where `_stop` has stopped it; the record says so afterwards."""
    last = ledger.present.reboot
    if not (last and last.stopped):
        return
    if not tools.running(nova_facts.SERVICE):
        tools.start(nova_facts.SERVICE)
        logger.info("%s: started again, as the host was not rebooted", nova_facts.SERVICE)
    ledger.update(reboot=last._replace(stopped=False))
