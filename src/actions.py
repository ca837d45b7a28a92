"""What the charm's actions answer. A hook never imports it."""

from __future__ import annotations

import dataclasses
import fnmatch
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

import ops

from passthrough import errors, rebind
from passthrough import survey as surveying
from passthrough.config import options
from passthrough.effects import nova_compute
from passthrough.effects import tools as host_tools
from passthrough.errors import PassthroughError
from passthrough.host import pci
from passthrough.nova import lines as nova_lines
from passthrough.nova import offer as nova_offer
from passthrough.nova import publication
from passthrough.reporting import inventory, inventory_tree, nova_text, plan_text
from passthrough.reporting import leftovers as hand_made
from passthrough.reporting.verify import checklist, result
from passthrough.reporting.verify import nova as nova_checks
from passthrough.site import Site
from passthrough.state import record
from passthrough.system import lock

# Juju hands an action's results over as command-line arguments: Linux takes 128 KiB in one.
MAX_RESULT = 120_000

T = TypeVar("T")


class Unit(Protocol):
    """The charm, as far as actions need it; each method may raise PassthroughError or OSError."""

    @property
    def app(self) -> ops.Application:
        """The application."""
        raise NotImplementedError

    @property
    def is_controller(self) -> bool:
        """Whether the unit is beside a controller."""
        raise NotImplementedError

    def wanted(self) -> options.Options:
        """Read the options."""
        raise NotImplementedError

    def survey(self) -> surveying.Survey:
        """Look at the host."""
        raise NotImplementedError

    def survey_controller(self) -> publication.Publication:
        """Look at what the controller is sent."""
        raise NotImplementedError

    def publish_devices(self, offer: nova_offer.Offer) -> None:
        """Publish the device_specs of an offer."""
        raise NotImplementedError


def answer(unit: Unit, root: Path, event: ops.ActionEvent) -> None:
    """Answer an action, or fail it with the reason.

    Args:
        unit: the charm.
        root: ``/`` on a real unit.
        event: the action.
    """
    _ANSWERS[event.handle.kind](unit, root, event)


def _list_devices(unit: Unit, root: Path, event: ops.ActionEvent) -> None:
    del unit
    pattern = event.params["match"]
    described = [
        row
        for row in inventory.describe(root, pci.read(root, overrides=False))
        if fnmatch.fnmatch(row["address"], pattern) or fnmatch.fnmatch(row["id"], pattern)
    ]
    _answer(event, inventory_tree.format_tree(described), {"devices": described})


def _plan(unit: Unit, root: Path, event: ops.ActionEvent) -> None:
    if unit.is_controller:
        published = _attempt(event, unit.survey_controller)
        if published:
            described = nova_text.describe_publication(published)
            text = nova_text.publication_text(published)
            _answer(event, text, {"plan": {"nova": described}})
        return
    survey = _attempt(event, unit.survey)
    if survey:
        leftovers = hand_made.find(root)
        _answer(
            event,
            plan_text.plan_text(survey, leftovers),
            {"plan": plan_text.describe_plan(survey, leftovers)},
        )


def _rebind(unit: Unit, root: Path, event: ops.ActionEvent) -> None:
    if unit.is_controller:
        event.fail("this unit is beside nova-cloud-controller and binds nothing")
        return

    def work() -> dict[str, errors.BindError | None]:
        address, tools = event.params["address"], host_tools.HostTools()
        site = Site(root, unit.app.name)
        purpose = f"the rebind action of {unit.app.name}"
        with lock.hold(root, purpose), record.open(site) as ledger:
            done = rebind.rebind(root, unit.survey(), address, tools, event.log)
            offer = unit.survey().nova
            nova_compute.apply(ledger, offer, tools, event.log)
        unit.publish_devices(offer)
        return done

    done = _attempt(event, work)
    if done is None:
        return
    _answer(event, plan_text.rebind_table(done), {"functions": plan_text.describe_rebind(done)})
    failed = [str(error) for error in done.values() if error]
    if failed:
        event.fail("; ".join(failed))


def _verify(unit: Unit, root: Path, event: ops.ActionEvent) -> None:
    del root

    def look() -> tuple[result.Check, ...]:
        if not unit.is_controller:
            return checklist.verify(unit.survey())
        aliases = nova_lines.aliases(unit.wanted().devices)
        return nova_checks.check_controller(unit.survey_controller(), aliases)

    checks = _attempt(event, look)
    if not checks:
        return
    _answer(
        event,
        plan_text.checks_table(checks),
        {"checks": [dataclasses.asdict(each) for each in checks]},
    )
    failed = [each.name for each in checks if each.status == result.FAIL]
    if failed:
        event.fail(f"{len(failed)} of {len(checks)} checks failed: {', '.join(failed)}")


def _attempt(event: ops.ActionEvent, question: Callable[[], T]) -> T | None:
    """Ask for an action, or fail the action with the reason."""
    try:
        return question()
    except (PassthroughError, OSError) as error:
        event.fail(str(error))
        return None


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


_ANSWERS: Mapping[str, Callable[[Unit, Path, ops.ActionEvent], None]] = {
    "list_devices_action": _list_devices,
    "plan_action": _plan,
    "rebind_action": _rebind,
    "verify_action": _verify,
}
