"""Look at the host and decide what it should become; reads only.

What a hook that finds nothing to do imports: no way to change anything is among it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path

from passthrough.config import options
from passthrough.host import machine, pci, usage, vfio_users
from passthrough.nova import facts as nova_facts
from passthrough.nova import lines as nova_lines
from passthrough.nova import offer as nova_offer
from passthrough.planning import boot_files, claims, plan
from passthrough.site import Site
from passthrough.state import record, stuck
from passthrough.system import files


@dataclasses.dataclass(frozen=True)
class Survey:
    """The host as it is, what is decided for it, and what would change.

    ``nova`` is what to offer to Nova now, ``nova_planned`` once all claims are on vfio-pci.
    ``held`` are the processes that hold a function which is to be given back, by its address, and
    ``root`` is the tree that was looked at.
    """

    application: str
    wanted: options.Options
    host: pci.Host
    facts: machine.Platform
    record: record.Record
    decision: claims.Decision
    plan: plan.Plan
    nova: nova_offer.Offer = dataclasses.field(default_factory=nova_offer.Offer)
    nova_planned: nova_offer.Offer = dataclasses.field(default_factory=nova_offer.Offer)
    held: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    root: Path = Path("/")


def survey(
    root: Path, application: str, wanted: options.Options, *, leaving: bool = False
) -> Survey:
    """Look at the tree at ``root`` and work out what would change; reads only.

    Args:
        root: ``/`` on a real host.
        application: the Juju application.
        wanted: the charm's options.
        leaving: whether the charm is being removed.

    Raises:
        OptionError: when two items ask for the same function, blacklist-drivers names what the
            host needs, or Nova does not know what an option asks for.
        UnsupportedHostError: when this host cannot do what is asked.
        RecordError: when an application's record is damaged.
        StuckError: when looking would never end.
        OSError: when the tree cannot be read.
    """
    stuck.check_responsive(root)
    host = pci.read(root)
    facts = machine.read(root)
    site = Site(root, application)
    mine = record.read(site)
    records = record.read_others(site)
    others = record.taken_by(records)
    # An application that has left still answers for what a guest keeps on vfio-pci.
    ours = frozenset(mine.taken).union(*(each.taken for each in records.values()))
    used = usage.read(root, host, ours)
    decision = claims.decide(wanted.devices, host, others, used)
    held = _find_held(root, host, plan.unclaimed(decision, mine, others))
    present = {
        file.path: files.read(root / file.path) for file in boot_files.owned_files(application)
    }
    now, planned = survey_nova(
        root, application, wanted, decision, host, mine.nova, leaving=leaving
    )
    return Survey(
        application=application,
        wanted=wanted,
        host=host,
        facts=facts,
        record=mine,
        decision=decision,
        plan=plan.make(
            application,
            wanted,
            decision,
            host,
            facts,
            mine,
            present,
            held=held,
            others=others,
        ),
        nova=now,
        nova_planned=planned,
        held=held,
        root=root,
    )


def _find_held(
    root: Path, host: pci.Host, addresses: tuple[str, ...]
) -> dict[str, tuple[int, ...]]:
    """Find who holds these functions; all of /proc is read only where one is on vfio-pci."""
    bound = [
        address
        for address in addresses
        if address in host.functions and host.functions[address].driver == pci.VFIO_PCI
    ]
    return vfio_users.of_functions(root, bound) if bound else {}


def survey_nova(
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
    path = nova_lines.path_of(application)
    facts = nova_facts.read(root, application)

    def decide(verified: Iterable[claims.Claim]) -> nova_offer.Offer:
        return nova_offer.decide(
            application, wanted, decision, verified, host, facts, known, leaving=leaving
        )

    verified = nova_offer.find_verified(decision, host)
    now = decide(verified)
    # Looking for holders reads all of /proc: only what would be withdrawn is worth it.
    stay = {each["address"] for each in now.device_specs}
    doubtful = [each for each in nova_offer.listed(f"/{path}", facts.config) if each not in stay]
    held = vfio_users.of_functions(root, doubtful)
    if held:
        facts = dataclasses.replace(facts, held=frozenset(held))
        now = decide(verified)
    return now, decide(nova_offer.find_primary(decision))
