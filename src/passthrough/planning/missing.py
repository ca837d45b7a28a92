"""Which functions that an application had taken are not there any more. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from passthrough.config import devices
from passthrough.host import identity
from passthrough.planning import claims
from passthrough.state import record


def find(
    wanted: devices.Spec,
    outcome: claims.Outcome,
    known: record.Record,
    serials: identity.Serials,
) -> dict[str, Mapping[str, str]]:
    """Find what the application had taken, an item still asks for, and the host has no more.

    A card that stands in another slot now is not missing: its serial number tells. Where it tells
    none, a card of its kind that is claimed for the first time may be it, and what cannot be told
    is not missing. A VF goes when somebody sets another number of VFs, which is no fault of a card.

    Args:
        wanted: the option ``devices``, with what this host leaves out.
        outcome: what is claimed.
        known: the record; it names what was there.
        serials: those of the host's cards.

    Returns:
        Address → the card that was there, as `Record.missing` has it.
    """
    host = outcome.host
    were_there = {
        **known.missing,
        **{each: known.identities[each] for each in known.taken if each in known.identities},
    }

    def stands_elsewhere(card: Mapping[str, str]) -> bool:
        for function in host.with_id(card["id"]):
            serial = serials.of(function.address) if card["serial"] else ""
            if serial and serial == card["serial"]:
                return True
            is_new = function.address not in known.taken and function.address in outcome.addresses
            if is_new and not serial:
                return True
        return False

    return {
        address: card
        for address, card in were_there.items()
        if address not in host.functions
        and record.TYPE not in card
        and find_item(wanted, address, card["id"])
        and not wanted.excepts(address)
        and not stands_elsewhere(card)
    }


def find_item(wanted: devices.Spec, address: str, identity: str) -> devices.Item | None:
    """Find the item that would claim a function itself, if it were there; None for none."""

    def would(item: devices.Item) -> bool:
        fits = item.id == identity and item.covers(address) and not item.excludes(address)
        return fits and item.vfs is None

    return next(filter(would, wanted.items), None)
