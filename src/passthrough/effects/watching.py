"""Install the caretaker on the host, and take it away again.

It gives back what a unit that vanished has left, by the charm's own code, of which it runs a copy.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from passthrough.host import identity, juju_agents, watch
from passthrough.planning import caretaking
from passthrough.state import record
from passthrough.system import commands, files

if TYPE_CHECKING:
    from passthrough.effects.tools import Tools
    from passthrough.site import Site

logger = logging.getLogger(__name__)


def install(ledger: record.Ledger, tools: Tools, progress: Callable[[str], object]) -> None:
    """Bring the caretaker to what this revision of the charm has, and have its timer run.

    The record says so only afterwards, and the next hook makes up for a crash in between. A timer
    that does not start fails no hook: the next boot starts it.

    Args:
        ledger: the application's record, opened under the host's lock.
        tools: start timers.
        progress: takes a sentence about what was done.

    Raises:
        OSError: when a file or the record cannot be written.
    """
    site = ledger.site
    wanted = caretaking.contents(site.application)
    changed = [path for path, text in wanted.items() if files.ensure(site.root / path, text)]
    fingerprint = caretaking.fingerprint(wanted)
    known = ledger.present.caretaker
    started = known.started
    if changed or started != fingerprint:
        started = fingerprint
        try:
            tools.start_timer(watch.unit_name(site.application))
            logger.info("/%s: started", watch.timer_path(site.application))
        except commands.CommandError as error:
            started = ""
            progress(f"the caretaker begins to look with the next boot: {error}")
    filesystem = juju_agents.find_filesystem(site.root) or known.filesystem
    now = record.Caretaker(started, filesystem)
    if now != known:
        ledger.update(caretaker=now)


def remove(site: Site, tools: Tools) -> None:
    """Take the caretaker away, once nothing is left that it would have to give back.

    Its program goes last: the timer, which systemd has in memory until it is told, then ends what a
    kill left undone.

    Args:
        site: the application on its host.
        tools: stop timers.

    Raises:
        OSError: when a file cannot be removed.
    """
    root = site.root
    owned = [root / path for path in reversed(watch.owned_files(site.application))]
    files.sweep(owned)
    if not [path for path in owned if files.ensure(path, None)]:
        return
    for folder in (watch.BOOT, watch.PROGRAMS):
        files.drop_empty(root / folder)
    try:
        tools.stop_timer(watch.unit_name(site.application))
    except commands.CommandError as error:
        logger.warning("the caretaker's timer ends with this boot: %s", error)
    logger.info("/%s: removed", watch.program_path(site.application))


def identify(ledger: record.Ledger, addresses: Iterable[str]) -> None:
    """Have the record name the card at each address; one that is not there stays as it is known.

    Args:
        ledger: the application's record, opened under the host's lock.
        addresses: of functions that are about to enter the record, or are in it.

    Raises:
        OSError: when the record cannot be written.
    """
    known = ledger.present.identities
    found = {
        address: {
            "id": seen.id,
            "serial": seen.serial,
            **({record.TYPE: record.VF} if seen.is_vf else {}),
        }
        for address in addresses
        if (seen := identity.read(ledger.site.root, address))
    }
    if any(known.get(address) != card for address, card in found.items()):
        ledger.update(identities={**known, **found})
