"""Bring the host to what the options ask for: look, decide, act, and look again."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from passthrough import survey as surveying
from passthrough.config import options
from passthrough.effects import apply, nova_compute
from passthrough.effects.tools import Tools
from passthrough.errors import PassthroughError
from passthrough.nova import offer as nova_offer
from passthrough.site import Site
from passthrough.state import record
from passthrough.survey import Survey
from passthrough.system import lock


@dataclasses.dataclass(frozen=True)
class Result:
    """The survey after a run, and what the run did."""

    survey: Survey
    outcome: apply.Outcome = dataclasses.field(default_factory=apply.Outcome)


def reconcile(
    root: Path,
    application: str,
    wanted: options.Options,
    tools: Tools,
    progress: Callable[[str], object],
    *,
    leaving: bool = False,
) -> Result:
    """Bring the host to what ``wanted`` asks for; default options undo everything.

    Nova learns of a function after it was bound, and loses it before it is given back. The host's
    lock is held meanwhile.

    Returns:
        What was done, and the host as it is afterwards.

    Raises:
        PassthroughError: as `surveying.survey` does, before anything is changed; or when a rebuild
            or a restart fails; or when another run has the lock and does not end.
        OSError: when a file cannot be read or written.
    """
    site = Site(root, application)
    with lock.hold(root, f"a hook of {application}"), record.open(site) as ledger:
        return _reconcile(ledger, wanted, tools, progress, leaving=leaving)


def _reconcile(
    ledger: record.Ledger,
    wanted: options.Options,
    tools: Tools,
    progress: Callable[[str], object],
    *,
    leaving: bool,
) -> Result:
    root, application = ledger.site.root, ledger.site.application

    def look() -> Survey:
        return surveying.survey(root, application, wanted, leaving=leaving)

    def offer(found: Survey) -> tuple[str, ...]:
        return nova_compute.apply(ledger, found.nova, tools, progress)

    before = look()
    released = [binding.address for binding in before.plan.release]
    withdrawn: tuple[str, ...] = ()
    if nova_offer.withdraws(application, before.nova, released):
        withdrawn = offer(before)
        before = look()
    try:
        outcome = apply.apply(
            ledger,
            before.plan,
            tools,
            progress,
            look_again=lambda: look().decision.addresses,
        )
    except (PassthroughError, OSError):
        offer(look())  # whatever became of the host, Nova shall not be offered what is not ready
        raise
    after = look() if outcome.did else before
    offered = offer(after)
    if leaving:
        nova_compute.leave(ledger, after.nova, progress)
    outcome = dataclasses.replace(outcome, did=(*withdrawn, *outcome.did, *offered))
    changed = offered or not after.nova.read
    return Result(look() if changed else after, outcome)
