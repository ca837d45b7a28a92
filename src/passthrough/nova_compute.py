"""Nova on a compute host: read what it has, and bring its drop-in to what is offered."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from passthrough import (
    claims,
    files,
    holders,
    nova,
    nova_conf,
    nova_offer,
    nova_release,
    options,
    pci,
    record,
)

if TYPE_CHECKING:
    from passthrough.host import Tools

SERVICE = "nova-compute"


def survey(
    root: Path,
    application: str,
    wanted: options.Options,
    decision: claims.Decision,
    host: pci.Host,
    known: record.Nova,
    *,
    leaving: bool = False,
) -> tuple[nova_offer.Offer, nova_offer.Offer]:
    """Read what Nova has below ``root`` and work out what it should have; reads only.

    Returns:
        What to offer now, and what to offer once every claimed function is on vfio-pci.

    Raises:
        OptionError: when the installed Nova does not know what an option asks for.
        OSError: when a file cannot be read.
    """
    path = nova.path_of(application)
    facts = nova_offer.Facts(
        release=nova_release.installed(root),
        config=nova_conf.read(root, (SERVICE,)),
        present=files.read(root / path),
        group=_group(root),
    )

    def decide(verified: Iterable[claims.Claim]) -> nova_offer.Offer:
        return nova_offer.decide(
            application, wanted, decision, verified, host, facts, known, leaving=leaving
        )

    verified = nova_offer.find_verified(decision, host)
    now = decide(verified)
    # Looking for holders reads all of /proc: only what would be withdrawn is worth it.
    stay = {each["address"] for each in now.device_specs}
    doubtful = [each for each in nova_offer.listed(f"/{path}", facts.config) if each not in stay]
    held = holders.of_functions(root, doubtful)
    if held:
        facts = dataclasses.replace(facts, held=frozenset(held))
        now = decide(verified)
    return now, decide(nova_offer.find_primary(decision))


def withdraws(application: str, offer: nova_offer.Offer, addresses: Iterable[str]) -> bool:
    """Tell whether the drop-in lists any of ``addresses`` and ``offer`` takes it out."""
    listed = nova_offer.listed(f"/{nova.path_of(application)}", offer.facts.config)
    stay = {each["address"] for each in (*offer.device_specs, *offer.held)}
    return any(address in listed and address not in stay for address in addresses)


def apply(
    root: Path,
    application: str,
    offer: nova_offer.Offer,
    tools: Tools,
    progress: Callable[[str], object],
) -> tuple[str, ...]:
    """Write the drop-in and have nova-compute read it.

    What nova-compute has read is recorded only after its restart: a crash in between leads to the
    restart in the next run. A restart that the policy layer denied is not asked for again; it is
    over when the service runs anew.

    Args:
        root: ``/`` on a real host.
        application: the Juju application.
        offer: what `survey` gave.
        tools: how to restart a service.
        progress: told, in words, of everything that is done.

    Returns:
        What was done, in sentences.

    Raises:
        CommandError: when the restart fails and no new run of nova-compute has begun.
        OSError: when the drop-in cannot be written.
    """
    did: list[str] = []

    def report(sentence: str) -> None:
        did.append(sentence)
        progress(sentence)

    if offer.change:
        _write(root, application, offer)
        report(f"/{offer.change.file.path}: {'removed' if offer.content is None else 'written'}")
    if not offer.read:
        _have_it_read(root, application, offer, tools, report)
    return tuple(did)


def leave(
    root: Path, application: str, offer: nova_offer.Offer, progress: Callable[[str], object]
) -> None:
    """Drop what is recorded of nova-compute, when nobody is left to act on it; say what stays."""
    if offer.content is not None:
        progress(
            f"/{nova.path_of(application)}: stays, as Nova does not start without"
            " report_in_placement once it was on"
        )
    mine = record.read(root, application)
    record.write(root, application, dataclasses.replace(mine, nova=record.Nova()))


def _write(root: Path, application: str, offer: nova_offer.Offer) -> None:
    path = root / nova.path_of(application)
    mine = record.read(root, application)
    if offer.content is not None and not path.parent.is_dir():
        known = dataclasses.replace(mine.nova, made_directory=True)
        record.write(root, application, dataclasses.replace(mine, nova=known))
    files.ensure(path, offer.content, nova.MODE, offer.facts.group)
    if offer.content is None and mine.nova.made_directory:
        with contextlib.suppress(OSError):  # others have files in it by now
            path.parent.rmdir()


def _have_it_read(
    root: Path,
    application: str,
    offer: nova_offer.Offer,
    tools: Tools,
    report: Callable[[str], object],
) -> None:
    from passthrough import host  # only what changes something runs commands

    mine = record.read(root, application)
    digest = nova_offer.fingerprint(offer.content)
    run = tools.running(SERVICE)
    if run and offer.deferred and run == mine.nova.run:
        return
    if run and not offer.deferred:
        outcome = "restarted"
        try:
            allowed = tools.restart(SERVICE)
        except host.CommandError as error:
            if tools.running(SERVICE) in (None, run):
                raise
            # A new run has read the file. Debian's unit is of the type notify, and nova-compute is
            # not ready before it has reached its message broker: that is not for us to wait for.
            allowed, outcome = True, f"started anew, but not ready yet: {error}"
        if not allowed:
            report(f"{SERVICE}: the policy layer denied the restart")
            denied = dataclasses.replace(mine.nova, deferred=digest, run=run)
            record.write(root, application, dataclasses.replace(mine, nova=denied))
            return
        report(f"{SERVICE}: {outcome}")
    known = record.Nova(read=digest, made_directory=mine.nova.made_directory)
    record.write(root, application, dataclasses.replace(mine, nova=known))


def _group(root: Path) -> int | None:
    """The number of Nova's group, from the tree's own /etc/group."""
    present = files.read(root / "etc/group")
    for line in present.content.splitlines() if present else ():
        name, _, number, *_ = [*line.split(":"), "", "", ""]
        if name == nova.GROUP and number.isdigit():
            return int(number)
    return None
