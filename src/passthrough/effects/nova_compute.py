"""Nova on a compute host: write the drop-in, and have nova-compute read it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from passthrough import frozen
from passthrough.nova import facts as nova_facts
from passthrough.nova import lines as nova_lines
from passthrough.nova import offer as nova_offer
from passthrough.state import record
from passthrough.system import files

if TYPE_CHECKING:
    from passthrough.effects.tools import Tools


def apply(
    ledger: record.Ledger,
    offer: nova_offer.Offer,
    tools: Tools,
    progress: Callable[[str], object],
) -> tuple[str, ...]:
    """Write the drop-in and have nova-compute read it.

    The record says what nova-compute has read only after its restart, so that the next run makes up
    for a crash in between. A restart that the policy layer denied is not asked for again: it counts
    as done once the service runs anew.

    Args:
        ledger: the application's record, opened under the host's lock.
        offer: what a decision says of Nova.
        tools: restart a service.
        progress: takes a sentence about each thing that was done.

    Returns:
        What was done, in sentences.

    Raises:
        CommandError: when the restart fails and no new run of nova-compute has begun.
        OSError: when the drop-in or the record cannot be written.
    """
    did: list[str] = []

    def report(sentence: str) -> None:
        did.append(sentence)
        progress(sentence)

    if offer.change:
        _write(ledger, offer)
        report(f"/{offer.change.file.path}: {'removed' if offer.content is None else 'written'}")
    if not offer.read:
        _have_it_read(ledger, offer, tools, report)
    elif ledger.present.nova.set_aside:  # what changed has changed back, and nobody has read it
        ledger.update(nova=frozen.replace(ledger.present.nova, set_aside=False))
    return tuple(did)


def leave(
    ledger: record.Ledger, offer: nova_offer.Offer, progress: Callable[[str], object]
) -> None:
    """Drop what is recorded of nova-compute as the unit leaves, and say what stays.

    Args:
        ledger: the application's record, opened under the host's lock.
        offer: what a decision says of Nova.
        progress: takes the sentence about what stays.

    Raises:
        OSError: when the record cannot be written.
    """
    if offer.content is not None:
        progress(
            f"/{nova_lines.path_of(ledger.site.application)}: stays, as Nova does not start without"
            " report_in_placement once it was on"
        )
    ledger.update(nova=record.Nova())


def _write(ledger: record.Ledger, offer: nova_offer.Offer) -> None:
    path = ledger.site.root / nova_lines.path_of(ledger.site.application)
    if offer.content is not None and not path.parent.is_dir():
        ledger.update(nova=frozen.replace(ledger.present.nova, made_directory=True))
    files.ensure(path, offer.content, nova_lines.MODE, offer.facts.group)
    if offer.content is None and ledger.present.nova.made_directory:
        with contextlib.suppress(OSError):  # others keep files in it by now
            path.parent.rmdir()


def _have_it_read(
    ledger: record.Ledger,
    offer: nova_offer.Offer,
    tools: Tools,
    report: Callable[[str], object],
) -> None:
    from passthrough.system import commands  # only what changes something runs commands

    known = ledger.present.nova
    digest, restarts = nova_offer.fingerprint(offer.content), ledger.present.restarts
    run = tools.running(nova_facts.SERVICE)
    if run and offer.deferred and run == known.run:
        return
    if run and not offer.deferred:
        outcome = "restarted"
        try:
            allowed = tools.restart(nova_facts.SERVICE)
        except commands.CommandError as error:
            if tools.running(nova_facts.SERVICE) in (None, run):
                raise
            # A new run has read the file. Debian's unit is of the type notify, so systemd calls
            # nova-compute ready once it has reached its message broker; the charm does not wait.
            allowed, outcome = True, f"started anew, but not ready yet: {error}"
        if not allowed:
            report(f"{nova_facts.SERVICE}: the policy layer denied the restart")
            ledger.update(nova=frozen.replace(known, deferred=digest, run=run))
            return
        report(f"{nova_facts.SERVICE}: {outcome}")
        restarts += known.set_aside
    ledger.update(
        nova=record.Nova(read=digest, made_directory=known.made_directory), restarts=restarts
    )
