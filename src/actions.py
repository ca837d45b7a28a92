"""What the charm's actions answer. A hook never imports it."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import ops

import dispatched
import ownership
import summary
from passthrough import lending, quarantining, rebind, reconcile, survey
from passthrough.config import devices, host_exceptions, options
from passthrough.effects import nova_compute, tools
from passthrough.errors import InUseError, ObjectedError, OptionError, PassthroughError
from passthrough.host import pci, watch
from passthrough.nova import lines as nova_lines
from passthrough.planning import quarantine
from passthrough.reporting import (
    inventory,
    inventory_tree,
    leftovers,
    loans,
    nova_text,
    plan_text,
    quarantines,
    schema,
    status,
    taken,
)
from passthrough.reporting.verify import checklist, result
from passthrough.reporting.verify import nova as nova_checks
from passthrough.state import record, settled
from passthrough.system import lock, procfs

if TYPE_CHECKING:
    from charm import PciPassthroughCharm

# Juju hands an action's results over as command-line arguments: Linux takes 128 KiB in one.
MAX_RESULT = 120_000


def answer(unit: PciPassthroughCharm, event: ops.ActionEvent) -> dispatched.Done:
    """Answer an action, or fail it with the reason.

    Args:
        unit: the charm.
        event: the action.

    Returns:
        What the action has seen: the status is made of it, without another look.
    """
    try:
        return _ANSWERS[event.handle.kind](unit, event)
    except _UndecidedError as error:  # the status would meet it too, at the price of another look
        event.fail(str(error.problem))
        return dispatched.Failed(error.problem)
    except (PassthroughError, OSError) as error:
        event.fail(str(error))
        return dispatched.Nothing()


class _UndecidedError(Exception):
    """Nothing can be decided on the host as it is."""

    def __init__(self, problem: Exception):
        super().__init__(str(problem))
        self.problem = problem


def _decide(unit: PciPassthroughCharm, tried: Mapping[str, Any] | None = None) -> survey.Decision:
    try:
        return unit.decide(tried)
    except (PassthroughError, OSError) as error:
        raise _UndecidedError(error) from error


def _erase(unit: PciPassthroughCharm, event: ops.ActionEvent) -> dispatched.Done:
    """Erase a function in quarantine; what a kill has left of that is brought back first."""
    from passthrough import erasing
    from passthrough.effects import eraser
    from passthrough.reporting import erasures

    if _refused_beside_controller(unit, event):
        return dispatched.Nothing()
    site, address = unit.site, event.params["address"]
    with lock.hold(site.root, f"the erase action of {site.application}"):
        if address in record.read(site).erasing:
            unit.change()
        with record.open(site) as ledger:
            ownership.check_unit(unit.model, unit.place, ledger.present)
            before = _decide(unit)
            erasing.check(before, address, event.params["confirm"])
            settled.unsettle(site.root, unit.unit.name)  # the next hook mends what a kill leaves
            means = erasing.Means(tools.HostTools(), eraser.HOST)
            done = erasing.erase(ledger, before, address, means, event.log)
    described = erasures.describe(done)
    way_back = f"juju run {unit.unit.name} rebind address={address}"
    _answer(event, lambda: erasures.table(described, way_back), "erased", described)
    return dispatched.Nothing()


def _list_devices(unit: PciPassthroughCharm, event: ops.ActionEvent) -> dispatched.Done:
    root, pattern = unit.site.root, event.params["match"]
    host, processes = pci.read(root, overrides=False), procfs.Processes(root)
    holdings = taken.read(root, host, processes, {unit.site.application: unit.config})
    described = [
        row
        for row in inventory.describe(root, host, processes, _exceptions(unit).excepts, holdings)
        if rebind.matches(pattern, row["address"], row["id"])
    ]
    table = functools.partial(inventory_tree.format_tree, described, missing=holdings.missing)
    _answer(event, table, "devices", described)
    return dispatched.Nothing()


def _exceptions(unit: PciPassthroughCharm) -> devices.Spec:
    """What this host leaves out; nothing where the option is not accepted, as the status says."""
    try:
        found = options.parse_host_exceptions(unit.config)
        name = procfs.host_name_if_there(unit.site.root)
        return devices.Spec(excepted=host_exceptions.of(found, name))
    except OptionError:
        return devices.Spec()


def _plan(unit: PciPassthroughCharm, event: ops.ActionEvent) -> dispatched.Done:
    tried = {name: value for name, value in event.params.items() if name != "format"}
    if unit.is_controller:
        published = unit.survey_controller(tried)
        described = nova_text.describe_publication(published)
        plan = {"schema": schema.NUMBER, "nova": described}
        _answer(event, lambda: nova_text.publication_text(published), "plan", plan)
        return dispatched.Nothing() if tried else dispatched.Published(published)
    # An option that cannot be tried is no problem of the unit's.
    decision = unit.decide(tried) if tried else _decide(unit)
    by_hand = leftovers.find(unit.site.root)
    watched = watch.read(unit.site.root, unit.site.application)
    plan = plan_text.describe_plan(decision, by_hand, watched)
    table = functools.partial(plan_text.plan_text, decision, by_hand, caretaker=watched)
    _answer(event, table, "plan", plan)
    return dispatched.Nothing() if tried else dispatched.Seen(decision)


def _reconcile(unit: PciPassthroughCharm, event: ops.ActionEvent) -> dispatched.Done:
    if ownership.leaves(unit.charm_dir):
        event.fail("this unit leaves: it gives everything back, and takes nothing")
        return dispatched.Nothing()
    done = unit.change()
    try:
        found = summary.summarize(unit, done)
    except (PassthroughError, OSError) as error:
        found = status.summarize_failure(error)
    shown = {"status": found.kind, "message": found.message}
    _answer(event, lambda: f"{found.kind}: {found.message}", "unit", shown)
    if found.kind == status.Kind.BLOCKED:
        event.fail(found.message)
    return done


def _refused_beside_controller(unit: PciPassthroughCharm, event: ops.ActionEvent) -> bool:
    """Fail an action that binds devices on a unit that has none; tell whether it was one."""
    if unit.is_controller:
        event.fail("this unit is beside nova-cloud-controller and binds nothing")
    return unit.is_controller


def _lend(unit: PciPassthroughCharm, event: ops.ActionEvent) -> dispatched.Done:
    """Lend a function to the host: noted first, then done as by any hook.

    One that is lent already is no mistake: the rest of what a kill has cut short is done.
    """

    def lend(present: record.Record, address: str) -> tuple[dict[str, record.Loan], _Notes]:
        new = {} if address in present.lent else lending.lend(_decide(unit), address)
        lent = {**present.lent, **new}
        asked = lent[address].asked
        with_it = [each for each in lent if lent[each].asked == asked != each]
        return lent, {asked: "", **dict.fromkeys(with_it, f"goes with {asked}")}

    return _change_loans(unit, event, lend)


def _take_back(unit: PciPassthroughCharm, event: ops.ActionEvent) -> dispatched.Done:
    """Take a lent function back: noted first, then claimed as by any hook."""

    def take_back(_: record.Record, address: str) -> tuple[dict[str, record.Loan], _Notes]:
        found = lending.take_back(unit.options(), survey.look(unit.site), address)
        return found.left, {each: found.notes.get(each, "") for each in found.addresses}

    return _change_loans(unit, event, take_back)


_Notes = dict[str, str]


def _change_loans(
    unit: PciPassthroughCharm,
    event: ops.ActionEvent,
    decide: Callable[[record.Record, str], tuple[dict[str, record.Loan], _Notes]],
) -> dispatched.Done:
    """Note what is lent from now on, and do what every hook does.

    Where somebody has come to use a function in between, the note is as it was before.

    Args:
        unit: the charm.
        event: the action.
        decide: gives, of the record and an address, what is lent from now on, and the functions
            that the action is about, each with what is to be said of it.
    """
    if _refused_beside_controller(unit, event):
        return dispatched.Nothing()
    site = unit.site
    with lock.hold(site.root, f"an action of {site.application}"):
        with record.open(site) as ledger:
            ownership.check_unit(unit.model, unit.place, ledger.present)
            before = dict(ledger.present.lent)
            lent, notes = decide(ledger.present, event.params["address"])
            ledger.update(lent=lent)
        done = unit.change()
        if not isinstance(done, dispatched.Reconciled):
            problem = done.problem if isinstance(done, dispatched.Failed) else "nothing was done"
            event.fail(f"{problem}; what is lent is noted, and the next hook goes on")
            return done
        taken = _find_users(done, notes)
        if taken:
            with record.open(site) as ledger:
                ledger.update(lent=before)
            event.fail(f"{'; '.join(taken)}; all is as it was before")
            return unit.change()
    failed = done.result.outcome.failed
    said = {each: str(failed[each]) if each in failed else notes[each] for each in notes}
    described = loans.describe(done.result.decision, tuple(notes), said)
    _answer(event, lambda: loans.table(described), "functions", described)
    if any(each in failed for each in notes):
        event.fail("; ".join(str(failed[each]) for each in notes if each in failed))
    return done


def _find_users(done: dispatched.Reconciled, addresses: Iterable[str]) -> list[str]:
    """Who has come to use a function since the guards were asked."""
    failed, decision = done.result.outcome.failed, done.result.decision
    pending = {binding.address: decision.held[binding.address] for binding in decision.plan.pending}
    held = [
        f"{each}: a guest holds it by now (process {', '.join(map(str, pending[each]))})"
        for each in addresses
        if each in pending
    ]
    kinds = (InUseError, ObjectedError)
    return held + [str(failed[each]) for each in addresses if isinstance(failed.get(each), kinds)]


def _quarantine(unit: PciPassthroughCharm, event: ops.ActionEvent) -> dispatched.Done:
    """Take a function off Nova's offer: noted first, then done as by any hook.

    Where a guest has come to hold it in between, the note is as it was before.
    """
    if _refused_beside_controller(unit, event):
        return dispatched.Nothing()
    site, address = unit.site, event.params["address"]
    with lock.hold(site.root, f"an action of {site.application}"):
        with record.open(site) as ledger:
            ownership.check_unit(unit.model, unit.place, ledger.present)
            before = ledger.present
            aim = quarantining.set_aside(_decide(unit), address)
            ledger.update(**quarantine.changes(before, aim))
        done = unit.change()
        if not isinstance(done, dispatched.Reconciled):
            problem = done.problem if isinstance(done, dispatched.Failed) else "nothing was done"
            event.fail(f"{problem}; the quarantine is noted, and the next hook goes on")
            return done
        decision = done.result.decision
        holders = quarantining.find_holders(decision, address)
        if holders:
            with record.open(site) as ledger:
                back = quarantine.undo(ledger.present, before, decision.facts.now)
                ledger.update(**quarantine.changes(ledger.present, back))
            processes = ", ".join(map(str, holders))
            event.fail(
                f"{address}: a guest holds it by now (process {processes}); all is as it was before"
            )
            return unit.change()
    described = quarantines.describe_result(decision, address)
    _answer(event, lambda: quarantines.table(described), "functions", described)
    return done


def _bring_back(
    ledger: record.Ledger, decision: survey.Decision, address: str, event: ops.ActionEvent
) -> survey.Decision:
    """Offer a function again that an operator has bound anew by its address."""
    try:
        aim = quarantining.bring_back(decision, address)
    except quarantining.QuarantineError as error:
        event.fail(str(error))
        return decision
    changes = quarantine.changes(ledger.present, aim)
    if not changes:
        return decision
    ledger.update(**changes)
    if "quarantine" in changes:
        event.log(f"{address}: out of quarantine")
    return survey.decide(decision.options, survey.read_own_again(decision.facts))


def _rebind(unit: PciPassthroughCharm, event: ops.ActionEvent) -> dispatched.Done:
    if _refused_beside_controller(unit, event):
        return dispatched.Nothing()
    site, host_tools = unit.site, tools.HostTools()
    purpose = f"the rebind action of {site.application}"
    chosen = rebind.Chosen(event.params["address"], event.params["match"])
    with lock.hold(site.root, purpose), record.open(site) as ledger:
        ownership.check_unit(unit.model, unit.place, ledger.present)
        before = _decide(unit)
        try:
            done = rebind.rebind(before, chosen, host_tools, event.log)
        except rebind.RebindError as error:  # nothing was touched: what was seen is still so
            event.fail(str(error))
            return dispatched.Seen(before)
        after = _decide(unit)
        if chosen.address in after.outcome.addresses and done[chosen.address] is None:
            after = _bring_back(ledger, after, chosen.address, event)
        after = reconcile.note(ledger, after)
        nova_compute.apply(ledger, after.nova, host_tools, event.log)
        after = survey.decide(after.options, survey.read_own_again(after.facts))
    unit.publisher.devices(after.nova)
    functions = plan_text.describe_rebind(done)
    _answer(event, lambda: plan_text.rebind_table(done, after.host), "functions", functions)
    failed = [str(error) for error in done.values() if error]
    if failed:
        event.fail("; ".join(failed))
    return dispatched.Seen(after)


def _verify(unit: PciPassthroughCharm, event: ops.ActionEvent) -> dispatched.Done:
    seen: dispatched.Done
    if unit.is_controller:
        published = unit.survey_controller()
        aliases = nova_lines.aliases(unit.options().devices)
        checks = nova_checks.check_controller(published, aliases)
        seen = dispatched.Published(published)
    else:
        decision = _decide(unit)
        checks = checklist.verify(decision)
        seen = dispatched.Seen(decision)
    described = plan_text.describe_checks(checks)
    _answer(event, lambda: plan_text.checks_table(checks), "checks", described)
    failed = [each.name for each in checks if each.status == result.FAIL]
    if failed:
        event.fail(f"{len(failed)} of {len(checks)} checks failed: {', '.join(failed)}")
    return seen


def _answer(event: ops.ActionEvent, table: Callable[[], str], key: str, value: object) -> None:
    """Give one result: the table for people, or the JSON for programs, by the parameter format.

    What Juju cannot carry is left out as a whole: half a text of JSON is none.
    """
    if event.params["format"] == "json":
        text = json.dumps(value, sort_keys=True)
    else:
        key, text = "table", table()
    if len(text.encode()) > MAX_RESULT:
        event.fail(
            f"{key}: more than Juju carries in one result; narrow the question (match=), or run"
            " pci-passthrough on the host"
        )
        return
    event.set_results({key: text})


_Answer = Callable[["PciPassthroughCharm", ops.ActionEvent], dispatched.Done]
_ANSWERS: Mapping[str, _Answer] = {
    "erase_action": _erase,
    "lend_action": _lend,
    "list_devices_action": _list_devices,
    "plan_action": _plan,
    "quarantine_action": _quarantine,
    "rebind_action": _rebind,
    "reconcile_action": _reconcile,
    "take_back_action": _take_back,
    "verify_action": _verify,
}
