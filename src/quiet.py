"""Hooks that find all as the last one left it, which end before ops is imported.

Juju tells of options, relations and leaders in hooks of their own, and nobody else writes our
databags. An update-status runs beside guests every few minutes, and what is new can only be on the
host. So it asks Juju for nothing and tells it nothing, and needs no framework, whose import is most
of a hook. Looking changes nothing: an option whose config-changed is still to come is met there.

A config-changed asks Juju for the options, and for nothing else. It does on the host all that every
hook does, and believes of the memory only what Juju was told.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable

import settling
from passthrough import survey
from passthrough.errors import PassthroughError
from passthrough.site import Site
from passthrough.state import settled
from passthrough.system import lock

logger = logging.getLogger(__name__)


def update_status(site: Site, unit: str, go_on: Callable[[survey.Facts | None], object]) -> None:
    """Run an update-status.

    Args:
        site: the application on this host.
        unit: the unit's name.
        go_on: does what every hook does, unless all is as the last hook left it. It takes what
            was seen of the host, while this process has the host's lock; None where that was not
            possible, or another run is at work, which it may wait for.
    """
    with contextlib.ExitStack() as stack:
        facts = None
        known = settling.recall(site, unit)
        if known and _has_lock(stack, site):
            # What is seen here is what a run goes by that follows, so none may come in between.
            facts, decision = settling.look_again(site, known)
            if decision and _is_told(site, known, decision):
                return
        go_on(facts)


def config_changed(site: Site, unit: str, go_on: Callable[[survey.Facts | None], object]) -> None:
    """Run a config-changed, as `update_status` runs an update-status."""
    with contextlib.ExitStack() as stack:
        facts = None
        known = settling.recall(site, unit)
        if known and _asks_for(known) and _has_lock(stack, site):
            # By no memory of the templates: an update-status that believes one writes nothing.
            facts, decision = settling.look_again(site, known, trusted={})
            if decision and _may_be_alone(decision):
                facts = None  # what is done from here on, it does not show
                if _reconciles(site, unit, known, decision):
                    return
        go_on(facts)


# The way of each hook that can end before ops is imported.
HOOKS = {"hooks/update-status": update_status, "hooks/config-changed": config_changed}


def _asks_for(known: settled.Memory) -> bool:
    """Whether Juju's options are those that the last hook went by."""
    import asking

    return asking.ask("config-get", "--format=json") == known.options


def _may_be_alone(decision: survey.Decision) -> bool:
    """Whether no more than the options can be what Juju has to tell in a config-changed.

    It is the hook of a new address, too, by which collectors reach the exporter. And a service that
    was stopped for a reboot is started again by who knows whether that is still to come.
    """
    known = decision.facts.record
    return not known.exporter and not (known.reboot and known.reboot.stopped)


def _reconciles(site: Site, unit: str, known: settled.Memory, decision: survey.Decision) -> bool:
    """Do on the host what every hook does; False where Juju has to be told of anything."""
    from passthrough import frozen, reconcile  # no update-status needs what changes a host
    from passthrough.effects import apply, tools
    from passthrough.reporting import status

    try:
        settled.unsettle(site.root, unit)  # this hook may fail at any point
        start = reconcile.Start(decision.facts)
        options, host_tools = decision.options, tools.HostTools()
        result = reconcile.reconcile(site, options, host_tools, logger.info, start)
        found, outcome = result.decision, result.outcome
        if outcome != apply.Outcome() or status.settled(found) != known.settled:
            return False
        if not _is_told(site, known, found):
            return False
        settled.keep(site.root, unit, frozen.replace(known, rendered=found.rendered))
    except Exception:
        return False  # whoever goes on meets it too, and reports it
    return True


def _has_lock(stack: contextlib.ExitStack, site: Site) -> bool:
    purpose = f"a hook of {site.application}"
    try:
        stack.enter_context(lock.hold(site.root, purpose, seconds=0))
    except (PassthroughError, OSError):
        return False  # whoever goes on meets it too, and reports it
    return True


def _is_told(site: Site, known: settled.Memory, decision: survey.Decision) -> bool:
    """Give the NRPE check its report, and the exporter what it repeats, where they are there."""
    has_exporter = bool(decision.facts.record.exporter)
    if not (known.has_check or has_exporter):
        return True
    import dispatched

    seen = dispatched.Seen(decision)
    try:
        if has_exporter:
            import metering

            metering.write(site, seen)
        if not known.has_check:
            return True
        import checking

        return checking.write(site, seen)
    except Exception:
        return False  # whoever goes on meets it too, and reports it
