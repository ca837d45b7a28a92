"""What the charm's actions answer. A hook never imports it."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import ops

import dispatched
import ownership
import summary
from passthrough import rebind, survey
from passthrough.config import devices, host_exceptions, options
from passthrough.effects import nova_compute, tools
from passthrough.errors import OptionError, PassthroughError
from passthrough.host import pci, watch
from passthrough.nova import lines as nova_lines
from passthrough.reporting import (
    inventory,
    inventory_tree,
    leftovers,
    nova_text,
    plan_text,
    schema,
    status,
)
from passthrough.reporting.verify import checklist, result
from passthrough.reporting.verify import nova as nova_checks
from passthrough.state import record
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


def _list_devices(unit: PciPassthroughCharm, event: ops.ActionEvent) -> dispatched.Done:
    root, pattern = unit.site.root, event.params["match"]
    host = pci.read(root, overrides=False)
    described = [
        row
        for row in inventory.describe(root, host, excepts=_exceptions(unit).excepts)
        if rebind.matches(pattern, row["address"], row["id"])
    ]
    _answer(event, lambda: inventory_tree.format_tree(described), "devices", described)
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


def _rebind(unit: PciPassthroughCharm, event: ops.ActionEvent) -> dispatched.Done:
    if unit.is_controller:
        event.fail("this unit is beside nova-cloud-controller and binds nothing")
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
    "list_devices_action": _list_devices,
    "plan_action": _plan,
    "rebind_action": _rebind,
    "reconcile_action": _reconcile,
    "verify_action": _verify,
}
