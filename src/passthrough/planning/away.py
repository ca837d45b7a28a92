"""Claims of what is not there for a while: the boot files keep them. Pure.

A slot that comes and goes would have the initramfs rebuilt each time otherwise, which takes minutes
on a host. The lines of a card that is not there claim nothing: they go by its address and its id.
They go as soon as no item asks for it any more. VFs are no card: they come and go with a number.
What comes back is on its VFIO driver by these lines, so it is the charm's to give back as before.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from passthrough.config import devices
from passthrough.host import modules, pci
from passthrough.planning import claims, missing
from passthrough.state.record import Record, Shape

# Vendor, product and class, as the kernel spells a modalias of PCI (scripts/mod/file2alias.c).
_MODALIAS = re.compile(
    r"pci:v0000([0-9A-F]{4})d0000([0-9A-F]{4})sv[0-9A-F]{8}sd[0-9A-F]{8}"
    r"bc([0-9A-F]{2})sc([0-9A-F]{2})i([0-9A-F]{2})"
)
_NOTHING = Record()


class Situation(NamedTuple):
    """What tells which claims are away.

    Attributes:
        wanted: the option ``devices``, with what this host leaves out.
        host: the functions that are there.
        known: the record; it names how each one was.
        missing: what was taken and is not there any more, as `missing.find` gives it.
        aliases: the modules that the installed kernels name for a function.
    """

    wanted: devices.Spec
    host: pci.Host
    known: Record
    missing: Mapping[str, Mapping[str, str]]
    aliases: modules.Aliases


def recall(now: Situation) -> tuple[claims.Claim, ...]:
    """The claims of what is away, as they were, in the record's order."""
    return tuple(_recall(now))


def shapes(
    claimed: Iterable[claims.Claim],
    known: Record = _NOTHING,
    taken: Mapping[str, str | None] = _NOTHING.taken,
    variants: Mapping[str, str] = _NOTHING.variants,
) -> dict[str, Shape]:
    """How each claimed function is, for the time when it is away.

    Args:
        claimed: the claims, with those of what is away.
        known: the record; it names how what is away was.
        taken: what is there, as `Record.taken` will have it.
        variants: the same of `Record.variants`.
    """
    found: dict[str, Shape] = {}
    for claim in claimed:
        address, function = claim.address, claim.function
        if claim.vfio.is_left or function.physfn:
            continue
        if address in known.shapes and address not in taken:
            found[address] = known.shapes[address]  # of what is away the claim knows less
            continue
        found[address] = Shape(
            function.modalias or "",
            claim.companion_of or "",
            function.device_type,
            taken.get(address) or "",
            variants.get(address, ""),
        )
    return found


def returned(known: Record, host: pci.Host) -> dict[str, Shape]:
    """What was away, and is on a VFIO driver since the boot files claimed it as it came back.

    Args:
        known: the record, of a time when it was away.
        host: the functions that are there.
    """
    found: dict[str, Shape] = {}
    for address, shape in known.shapes.items():
        function = host.functions.get(address)
        was_away = (shape.companion_of or address) in known.missing and address not in known.taken
        if not (was_away and function and function.modalias == shape.modalias):
            continue
        is_ours = function.is_for_variant or pci.VFIO_PCI in (function.driver, function.override)
        if is_ours and address not in known.lent:
            found[address] = shape
    return found


def _recall(now: Situation) -> Iterator[claims.Claim]:
    for address, shape in now.known.shapes.items():
        seen = _MODALIAS.fullmatch(shape.modalias)
        if not seen or address in now.host.functions or address in now.known.lent:
            continue
        vendor, product, *parts = (each.lower() for each in seen.groups())
        item = _find_item(now, address, f"{vendor}:{product}", shape)
        if item is None:
            continue
        function = pci.Function(
            address,
            vendor,
            product,
            int("".join(parts), 16),
            driver=pci.VFIO_PCI,
            override=pci.VFIO_PCI,
            modalias=shape.modalias,
        )
        claim = claims.Claim(function, item, companion_of=shape.companion_of or None)
        asked = now.known.variants.get(address)
        yield claims.with_driver(claim, now.aliases, asked)


def _find_item(now: Situation, address: str, identity: str, shape: Shape) -> devices.Item | None:
    """The item that asks for a function which is away; None where none does, or it is not known."""
    if now.wanted.excepts(address):
        return None
    main, of_main = shape.companion_of, now.known.shapes.get(shape.companion_of)
    if main:
        card = now.missing.get(main)
        item = _find_main_item(now, main, card["id"], of_main) if card and of_main else None
        return item if item and item.companions and not item.excludes(address) else None
    return _find_main_item(now, address, identity, shape) if address in now.missing else None


def _find_main_item(
    now: Situation, address: str, identity: str, shape: Shape
) -> devices.Item | None:
    """The same of what is no companion; an item with a device type means that type alone."""
    item = missing.find_item(now.wanted, address, identity)
    return item if item and item.device_type in (None, shape.device_type) else None
