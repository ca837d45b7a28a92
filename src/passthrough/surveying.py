"""Look at the host and decide what it should become; reads only.

What a hook that finds nothing to do imports: no way to change anything is among it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from passthrough import (
    boot,
    claims,
    files,
    holders,
    nova_compute,
    nova_offer,
    options,
    pci,
    plan,
    platform,
    record,
    usage,
    vfio,
)


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
    facts: platform.Platform
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
    vfio.check_responsive(root)
    host = pci.read(root)
    facts = platform.read(root)
    mine = record.read(root, application)
    records = record.read_others(root, application)
    others = record.taken_by(records)
    # An application that has left still answers for what a guest keeps on vfio-pci.
    ours = frozenset(mine.taken).union(*(each.taken for each in records.values()))
    used = usage.read(root, host, ours)
    decision = claims.decide(wanted.devices, host, others, used)
    held = _find_held(root, host, plan.unclaimed(decision, mine, others))
    present = {file.path: files.read(root / file.path) for file in boot.owned_files(application)}
    now, planned = nova_compute.survey(
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
    return holders.of_functions(root, bound) if bound else {}
