"""Bring the host to what the options ask for: look, decide, act, and look again."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from passthrough import confirm, frozen, survey
from passthrough.config.options import Options
from passthrough.effects import apply, exporting, nova_compute, vfs, watching
from passthrough.effects.tools import Tools
from passthrough.nova import offer as nova_offer
from passthrough.planning import away, quarantine
from passthrough.site import Site
from passthrough.state import record
from passthrough.survey import Decision
from passthrough.system import lock


class Result(frozen.Value):
    """What is decided after a run, and what the run did."""

    decision: Decision
    outcome: apply.Outcome = frozen.field(default_factory=apply.Outcome)


class Start(frozen.Value):
    """What a run starts from.

    Attributes:
        facts: what was seen of the host since the caller took the lock; None to look.
        owner: the unit that looks after the host from now on; None to leave the owner as it is.
        is_patient: whether a rebuild that failed before waits until its pause is over.
    """

    facts: survey.Facts | None = None
    owner: record.Owner | None = None
    is_patient: bool = False


_ANEW = Start()


def reconcile(
    site: Site,
    options: Options,
    tools: Tools,
    progress: Callable[[str], object],
    start: Start = _ANEW,
) -> Result:
    """Bring a host to what ``options`` ask for; default options undo everything.

    Nova learns of a function after it was bound, and loses it before it is given back. The host's
    lock is held meanwhile. The host is looked at once, and once more where anything was changed.

    Args:
        site: where.
        options: what is asked for.
        tools: how to rebuild, to load modules and to restart services.
        progress: told, in words, of everything that is done.
        start: what was seen since the caller took the lock, and who looks after the host.

    Returns:
        What was done, and what is decided on the host as it is afterwards.

    Raises:
        PassthroughError: as `survey.look` and `survey.decide` do, before anything is changed; or
            when a rebuild or a restart fails; or when another run has the lock and does not end.
        OSError: when a file cannot be read or written.
    """
    purpose = f"a hook of {site.application}"
    with lock.hold(site.root, purpose), record.open(site) as ledger:
        owner = ledger.present.owner if start.owner is None else start.owner
        keep = ledger.present.keep if options.leaving else options.keep
        if (owner, keep) != (ledger.present.owner, ledger.present.keep):
            ledger.update(owner=owner, keep=keep)
        return _reconcile(ledger, start, options, tools, progress)


def _have_it_watched(
    ledger: record.Ledger, before: Decision, tools: Tools, progress: Callable[[str], object]
) -> None:
    """See to it that whatever is written from here on, somebody takes it back."""
    aim = before.plan.record
    is_there = aim.has_host or aim.exporter or before.nova.content
    if is_there and not before.options.leaving:
        watching.install(ledger, tools, progress)
        watching.identify(ledger, (*aim.taken, *aim.vfs))


def note(ledger: record.Ledger, found: Decision) -> Decision:
    """Record what is kept off Nova's offer, before the offer follows; give what is decided on that.

    A kill in between leaves a function that is offered although the record says otherwise until the
    next run, which goes by the record.
    """
    known = found.facts.record
    if quarantine.is_about(known) and ledger.present.identities != known.identities:
        # Another card may stand there.
        found = survey.decide(found.options, survey.read_own_again(found.facts))
    changes = quarantine.changes(found.facts.record, found.plan.record)
    if not changes:
        return found
    ledger.update(**changes)
    return survey.decide(found.options, survey.read_own_again(found.facts))


def _change_vfs(
    ledger: record.Ledger, before: Decision, tools: Tools, progress: Callable[[str], object]
) -> apply.Outcome:
    """Make and take away VFs; Nova no longer offers those that go."""
    did: list[str] = []

    def report(sentence: str) -> None:
        did.append(sentence)
        progress(sentence)

    if nova_offer.withdraws(before.nova, before.plan.vfs.gone):
        did += nova_compute.apply(ledger, before.nova, tools, progress)
    failed = vfs.change(
        ledger,
        before.plan.vfs,
        tools,
        report,
        confirm=lambda address: confirm.object_to_vfs(before, address),
    )
    return apply.Outcome(tuple(did), failed)


def _bring_back(
    ledger: record.Ledger, tools: Tools, progress: Callable[[str], object]
) -> survey.Facts | None:
    """Bring back what an erase that was killed has left on the host's driver.

    Returns:
        The host as it is then; None where nothing was touched.
    """
    if not ledger.present.erasing:
        return None
    from passthrough.effects import handing

    site = ledger.site
    touched = handing.recover(site.root, ledger.present.erasing, tools, progress)
    return survey.look(site) if touched else None


def _take_up(ledger: record.Ledger, facts: survey.Facts) -> survey.Facts:
    """Enter into the record again what was away, and that the boot files have bound since.

    It would stay on its VFIO driver otherwise, where it is not claimed any more.
    """
    known = ledger.present
    barred = {**record.lent_by(facts.others), **record.taken_by(facts.others)}
    found = away.returned(known, facts.host)
    back = {each: shape for each, shape in found.items() if each not in barred}
    if not back:
        return facts
    ledger.update(
        taken={**known.taken, **{each: shape.native or None for each, shape in back.items()}},
        variants={
            **known.variants,
            **{each: shape.variant for each, shape in back.items() if shape.variant},
        },
        identities={
            **known.identities,
            **{each: known.missing[each] for each in back if each in known.missing},
        },
    )
    return survey.read_own_again(facts)


def _reconcile(
    ledger: record.Ledger,
    start: Start,
    options: Options,
    tools: Tools,
    progress: Callable[[str], object],
) -> Result:
    site = ledger.site

    def look_again() -> Decision:
        seen = survey.add_uses(survey.look(site), found)
        return note(ledger, survey.decide(options, seen))

    def offer(decision: Decision) -> tuple[str, ...]:
        return nova_compute.apply(ledger, decision.nova, tools, progress)

    facts = _bring_back(ledger, tools, progress) or start.facts or survey.look(site)
    before, found = confirm.decide(options, _take_up(ledger, facts))
    _have_it_watched(ledger, before, tools, progress)
    before = note(ledger, before)
    made = apply.Outcome()
    if before.plan.vfs.changes or before.plan.vfs.restores:
        made = _change_vfs(ledger, before, tools, progress)
        before, found = confirm.decide(options, survey.look(site))
        _have_it_watched(ledger, before, tools, progress)
        before = note(ledger, before)
    released = [binding.address for binding in before.plan.release]
    withdrawn: tuple[str, ...] = ()
    if nova_offer.withdraws(before.nova, released):
        withdrawn = offer(before)
        # A guest may have been given one of them until nova-compute had read the drop-in.
        asked = survey.ask_again(before.facts, released)
        before = survey.decide(options, survey.read_own_again(asked))

    def keep_free(address: str) -> contextlib.AbstractContextManager[str | None]:
        # What this run has bound by now is the charm's own; this function not before it is bound.
        known, now = before.facts.record, ledger.present.taken
        mine = {each: now[each] for each in now if each != address or each in known.taken}
        by_now = frozen.replace(before.facts, record=frozen.replace(known, taken=mine))
        return confirm.keep_free(frozen.replace(before, facts=by_now), address)

    try:
        apply.hold_back(site, before.plan, is_patient=start.is_patient)
        outcome = apply.apply(ledger, before.plan, tools, progress, confirm=keep_free)
    except Exception:
        # Whatever became of the host, Nova shall not be offered what is not ready.
        offer(look_again())
        raise
    failed = {**made.failed, **outcome.failed}
    outcome = frozen.replace(outcome, did=(*made.did, *outcome.did), failed=failed)
    after = look_again() if outcome.did else before
    offered = offer(after)
    if options.leaving:
        nova_compute.leave(ledger, after.nova, progress)
        exporting.remove(ledger, tools)
    if offered or not after.nova.read:
        after = survey.decide(options, survey.read_own_again(after.facts))
    if ledger.present.is_empty:
        watching.remove(site, tools)
    did = (*withdrawn, *outcome.did, *offered)
    return Result(after, frozen.replace(outcome, did=did))
