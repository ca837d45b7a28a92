"""Nova's part made up in memory: its configuration, facts about it, what is offered to it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from harness import constants, made

from passthrough import survey
from passthrough.host import pci
from passthrough.nova import conf as nova_conf
from passthrough.nova import facts as nova_facts
from passthrough.nova import lines as nova_lines
from passthrough.nova import offer as nova_offer
from passthrough.nova.release import Release
from passthrough.planning import templates
from passthrough.state import record
from passthrough.system import files

DROP_IN = f"/{constants.NOVA}"
VFIO: dict[str, Any] = {"driver": "vfio-pci"}
GROUP = 64060


def config(text: str, path: str = "/etc/nova/nova.conf") -> nova_conf.Config:
    """What Nova's files say when one of them holds this text."""
    return nova_conf.Config(tuple(nova_conf.Value(path, *parts) for parts in nova_conf.parse(text)))


def facts(text: str = "", **values: Any) -> nova_facts.Facts:
    """Nova 2024.1 whose nova.conf holds ``text``."""
    given = {"release": Release(29), "config": config(text), "group": GROUP, **values}
    return nova_facts.Facts(**given)


def written(offer: nova_offer.Offer, **values: Any) -> nova_facts.Facts:
    """The facts of the next survey, once an offer's drop-in was written."""
    content = offer.content or ""
    present = files.Present(content, nova_lines.MODE, GROUP) if content else None
    both = (*offer.facts.config.without(DROP_IN).values, *config(content, DROP_IN).values)
    given = {"present": present, "config": nova_conf.Config(both), **values}
    return dataclasses.replace(offer.facts, **given)


def decide(
    wanted: str,
    *functions: pci.Function,
    nova_facts: nova_facts.Facts | None = None,
    known: record.Nova | None = None,
    leaving: bool = False,
    took: Iterable[str] = (),
    **options: object,
) -> nova_offer.Offer:
    """What is offered of a host with these functions, some of which an older charm took."""
    before = record.Record(taken=dict.fromkeys(took), inherited=frozenset(took))
    outcome = made.decide(wanted, *functions, known=before)
    return nova_offer.decide(
        dataclasses.replace(made.wanted(wanted, **options), leaving=leaving),
        outcome,
        nova_offer.find_verified(outcome),
        dataclasses.replace(nova_facts or facts(), known=known or record.Nova()),
        templates.Renderer(),
    )


def cards(**values: Any) -> list[pci.Function]:
    """Three equal cards, in groups, on vfio-pci unless it is said otherwise."""
    return made.gpus(*constants.GPU_BUSES, group=20, **{**VFIO, **values})


def decision(
    devices: str, *functions: pci.Function, offer: nova_offer.Offer | None = None
) -> survey.Decision:
    """What is decided of such a host, Nova's part included.

    Args:
        devices: the option.
        functions: the functions that are there.
        offer: Nova's part; by default that of a drop-in that was written and read.
    """
    if offer is None:
        first = decide(devices, *functions)
        known = record.Nova(read=nova_offer.fingerprint(first.content))
        offer = decide(devices, *functions, nova_facts=written(first), known=known)
    before = made.decision(made.wanted(devices), *functions, machine=made.IOMMU_ON)
    return dataclasses.replace(before, nova=offer, nova_planned=offer)
