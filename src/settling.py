"""How a hook that left nothing to do spares the next update-status its work."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import dispatched
from passthrough import survey
from passthrough.config import options
from passthrough.reporting import status
from passthrough.site import Site
from passthrough.state import settled

logger = logging.getLogger(__name__)


def recall(site: Site, unit: str) -> settled.Memory | None:
    """Give what the last hook of a unit left, if it left nothing to do.

    Args:
        site: where.
        unit: the unit's name.
    """
    try:
        return settled.recall(site.root, unit)
    except OSError:
        return None  # whoever looks next does all that any hook does


def look_again(
    site: Site, known: settled.Memory, trusted: Mapping[str, str] | None = None
) -> tuple[survey.Facts | None, survey.Decision | None]:
    """Look at the host; no decision unless all is as when the last hook was through.

    Args:
        site: where.
        known: what that hook left.
        trusted: what to believe of the templates; what that hook has learned, unless it is given.

    Returns:
        What was seen, None where that was not possible, and what is decided on it.
    """
    facts = None
    try:
        wanted = options.parse(known.options)
        facts = survey.look(site)
        decision = survey.decide(wanted, facts, known.rendered if trusted is None else trusted)
        return facts, decision if status.settled(decision) == known.settled else None
    except Exception:
        return facts, None  # whoever looks next meets it too, and reports it


def remember(
    site: Site,
    unit: str,
    config: Mapping[str, Any],
    done: dispatched.Done,
    check: dispatched.Check,
) -> None:
    """Write down how this dispatch leaves a unit.

    One that did not reconcile, such as an action, sets the status too, by what it has seen; whether
    that stays right nobody knows but the next hook. Nor is a unit settled whose NRPE check has to
    wait: its server may be installed at any time; nor one that has told nova-pci anything. Of a
    unit that looks after this host, the options are kept all the same.
    """
    try:
        if isinstance(done, (dispatched.Published, dispatched.Barred)):
            settled.forget(site.root, unit)
            return
        if not (isinstance(done, dispatched.Reconciled) or settled.is_kept(site.root, unit)):
            return  # it has not looked after this host since the boot
        settled.keep(site.root, unit, _memory(dict(config), done, check))
    except OSError as error:
        logger.warning("the next update-status has to do all again: %s", error)


def _memory(
    config: Mapping[str, Any], done: dispatched.Done, check: dispatched.Check
) -> settled.Memory:
    if isinstance(done, dispatched.Reconciled) and check is not dispatched.Check.WAITS:
        decision = done.result.decision
        has_check = check is dispatched.Check.THERE
        return settled.Memory(status.settled(decision), config, decision.rendered, has_check)
    return settled.unsettled(config)
