"""An update-status that finds all as the last hook left it, which ends before ops is imported.

It runs beside guests every few minutes. Juju tells of options, relations and leaders in hooks of
their own, and nobody else writes our databags: what is new can only be on the host. So it asks
Juju for nothing and tells it nothing, and needs no framework, whose import is most of a hook.
Looking changes nothing: an option whose config-changed is still to come is met in that hook.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import settling
from passthrough import survey
from passthrough.errors import PassthroughError
from passthrough.site import Site
from passthrough.state import settled
from passthrough.system import lock

PATH = "hooks/update-status"


def run(site: Site, unit: str, go_on: Callable[[survey.Facts | None], object]) -> None:
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
