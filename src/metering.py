"""What the exporter of metrics repeats: how a hook found the host. Knows no Juju."""

from __future__ import annotations

import logging
import time

import dispatched
from passthrough import pci_address, reboot
from passthrough.effects import exporting, tools, watching
from passthrough.host import pci
from passthrough.planning.exporting import Listen
from passthrough.reporting import status
from passthrough.site import Site
from passthrough.state import look, record
from passthrough.survey import Decision
from passthrough.system import lock

__all__ = ["Listen", "install", "remove", "write"]

logger = logging.getLogger(__name__)


def install(site: Site, listen: Listen) -> None:
    """Have the exporter on the host, and somebody who takes it away once the unit has vanished.

    Args:
        site: the application on this host.
        listen: where it listens.

    Raises:
        PassthroughError: when systemd does not listen, or another run has the host's lock.
        ValueError: when the unit's own address is none.
        OSError: when a file cannot be written.
    """
    host_tools = tools.HostTools()
    with lock.hold(site.root, f"a hook of {site.application}"), record.open(site) as ledger:
        if not ledger.present.caretaker.started:
            watching.install(ledger, host_tools, logger.info)
        exporting.install(ledger, listen, host_tools)


def remove(site: Site) -> None:
    """Take the exporter away, and the caretaker where nothing else is left for it.

    Raises:
        PassthroughError: when another run has the host's lock.
        OSError: when a file cannot be removed.
    """
    host_tools = tools.HostTools()
    with lock.hold(site.root, f"a hook of {site.application}"), record.open(site) as ledger:
        exporting.remove(ledger, host_tools)
        if ledger.present.is_empty:
            watching.remove(site, host_tools)


def write(site: Site, done: dispatched.Done) -> None:
    """Leave the exporter what a hook found.

    A hook that has seen nothing of the host leaves what an earlier one of this boot has seen.

    Args:
        site: the application on this host.
        done: what the hook did.

    Raises:
        OSError: when the file cannot be written.
    """
    match done:
        case dispatched.Reconciled(result, verdict):
            failed = result.outcome.failed
            told = status.summarize(result.decision, failed, verdict)
            needs_reboot = bool(reboot.reasons(result.decision.plan, failed))
            seen = _describe(result.decision, needs_reboot)
        case dispatched.Seen(decision):
            told = status.summarize(decision)
            seen = _describe(decision, bool(reboot.reasons(decision.plan, {})))
        case dispatched.Failed(problem):
            told = status.summarize_failure(problem)
            seen = look.read(site) or look.Look()
        case _:
            return
    look.write(site, seen._replace(is_blocked=told.kind is status.Kind.BLOCKED))


def _tells_nothing(function: pci.Function) -> bool:
    """Whether the kernel does not say at each scrape who has a function."""
    return function.driver != pci.VFIO_PCI


def _describe(decision: Decision, needs_reboot: bool) -> look.Look:
    offered = {each["address"] for each in (*decision.nova.device_specs, *decision.nova.held)}
    known = decision.facts.record
    functions = [claim.function for claim in decision.claims]
    variants = [each.address for each in functions if each.is_on_vfio and _tells_nothing(each)]
    held = decision.facts.users.of(variants)
    found = [
        look.Function(
            address=claim.address,
            id=claim.function.id,
            alias=claim.item.alias or "",
            is_companion=claim.companion_of is not None,
            is_offered=claim.address in offered,
            is_quarantined=claim.address in known.quarantine,
            is_held=claim.address in held if claim.address in variants else None,
        )
        for claim in decision.claims
    ]
    gone = decision.plan.record.missing
    found += [look.Function(address, gone[address]["id"]) for address in gone]
    aliases = [each.alias for each in decision.options.devices.items if each.alias]
    return look.Look(
        at=time.time(),
        functions=tuple(sorted(found, key=lambda each: pci_address.sort_key(each.address))),
        aliases=tuple(dict.fromkeys(aliases)),
        needs_reboot=needs_reboot,
        restarts=known.restarts,
    )
