"""What the charm's actions answer. A hook never imports it."""

from __future__ import annotations

import dataclasses
import fnmatch
import json
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import ops

import dispatched
import publishing
from passthrough import rebind, survey
from passthrough.config import options
from passthrough.effects import nova_compute, tools
from passthrough.errors import PassthroughError
from passthrough.host import pci
from passthrough.nova import lines as nova_lines
from passthrough.nova import publication
from passthrough.reporting import inventory, inventory_tree, leftovers, nova_text, plan_text
from passthrough.reporting.verify import checklist, result
from passthrough.reporting.verify import nova as nova_checks
from passthrough.site import Site
from passthrough.state import record
from passthrough.system import lock

# Juju hands an action's results over as command-line arguments: Linux takes 128 KiB in one.
MAX_RESULT = 120_000


class Unit(Protocol):
    """The charm, as far as actions need it; each method may raise PassthroughError or OSError."""

    site: Site
    publisher: publishing.Publisher

    @property
    def is_controller(self) -> bool:
        """Whether the unit is beside a controller."""
        raise NotImplementedError

    def options(self) -> options.Options:
        """Read the options."""
        raise NotImplementedError

    def decide(self) -> survey.Decision:
        """Look at the host."""
        raise NotImplementedError

    def survey_controller(self) -> publication.Publication:
        """Look at what the controller is sent."""
        raise NotImplementedError


def answer(unit: Unit, event: ops.ActionEvent) -> dispatched.Done:
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


def _decide(unit: Unit) -> survey.Decision:
    try:
        return unit.decide()
    except (PassthroughError, OSError) as error:
        raise _UndecidedError(error) from error


def _list_devices(unit: Unit, event: ops.ActionEvent) -> dispatched.Done:
    root, pattern = unit.site.root, event.params["match"]
    described = [
        row
        for row in inventory.describe(root, pci.read(root, overrides=False))
        if fnmatch.fnmatch(row["address"], pattern) or fnmatch.fnmatch(row["id"], pattern)
    ]
    _answer(event, inventory_tree.format_tree(described), {"devices": described})
    return dispatched.Nothing()


def _plan(unit: Unit, event: ops.ActionEvent) -> dispatched.Done:
    if unit.is_controller:
        published = unit.survey_controller()
        described = nova_text.describe_publication(published)
        _answer(event, nova_text.publication_text(published), {"plan": {"nova": described}})
        return dispatched.Published(published)
    decision = _decide(unit)
    by_hand = leftovers.find(unit.site.root)
    plan = plan_text.describe_plan(decision, by_hand)
    _answer(event, plan_text.plan_text(decision, by_hand), {"plan": plan})
    return dispatched.Seen(decision)


def _rebind(unit: Unit, event: ops.ActionEvent) -> dispatched.Done:
    if unit.is_controller:
        event.fail("this unit is beside nova-cloud-controller and binds nothing")
        return dispatched.Nothing()
    site, host_tools = unit.site, tools.HostTools()
    purpose = f"the rebind action of {site.application}"
    with lock.hold(site.root, purpose), record.open(site) as ledger:
        before = _decide(unit)
        try:
            done = rebind.rebind(before, event.params["address"], host_tools, event.log)
        except rebind.RebindError as error:  # nothing was touched: what was seen is still so
            event.fail(str(error))
            return dispatched.Seen(before)
        after = _decide(unit)
        nova_compute.apply(ledger, after.nova, host_tools, event.log)
        after = survey.decide(after.options, survey.read_own_again(after.facts))
    unit.publisher.devices(after.nova)
    _answer(event, plan_text.rebind_table(done), {"functions": plan_text.describe_rebind(done)})
    failed = [str(error) for error in done.values() if error]
    if failed:
        event.fail("; ".join(failed))
    return dispatched.Seen(after)


def _verify(unit: Unit, event: ops.ActionEvent) -> dispatched.Done:
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
    described = [dataclasses.asdict(each) for each in checks]
    _answer(event, plan_text.checks_table(checks), {"checks": described})
    failed = [each.name for each in checks if each.status == result.FAIL]
    if failed:
        event.fail(f"{len(failed)} of {len(checks)} checks failed: {', '.join(failed)}")
    return seen


def _answer(event: ops.ActionEvent, table: str, data: Mapping[str, Any]) -> None:
    results = {"table": table}
    results.update({key: json.dumps(value, sort_keys=True) for key, value in data.items()})
    too_long = [key for key, value in results.items() if len(value.encode()) > MAX_RESULT]
    if too_long:
        event.fail(
            f"{' and '.join(too_long)}: more than Juju carries in one result; narrow the"
            " question (match=), or run pci-passthrough --json on the host"
        )
    event.set_results({key: results[key] for key in results if key not in too_long})


_ANSWERS: Mapping[str, Callable[[Unit, ops.ActionEvent], dispatched.Done]] = {
    "list_devices_action": _list_devices,
    "plan_action": _plan,
    "rebind_action": _rebind,
    "verify_action": _verify,
}
