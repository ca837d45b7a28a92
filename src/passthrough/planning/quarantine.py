"""Which functions are kept off Nova's offer: what is sick, and what an operator took. Pure.

A function that is sick is noted as due at once, and goes into quarantine when no guest has it and
nova-compute may be restarted for it: what is seen while a guest works with a card may not show any
more when the guest is gone, since a free card may sleep. What is in quarantine is not offered. It
returns once what made it sick was seen to be gone, and nothing was seen since for a time.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from typing import Any, NamedTuple

from passthrough import frozen
from passthrough.config import devices
from passthrough.host.health import Answer, Power, Severity
from passthrough.host.identity import Identity
from passthrough.planning import claims, health, missing
from passthrough.state.record import Quarantine, Record

# Seconds. A link or a slot that is failing comes and goes within minutes, so six update-statuses
# of Juju's without a sign tell that it has held; a card that was mended is missed for no longer.
WELL_FOR = 1800
# Seconds. Nova calls a compute service down that is silent for a minute (service_down_time), and a
# restart takes a good part of that: requests wait. So of many sick cards one after the other each
# waits at most as long as one that is well again, and a host restarts it no more than twice an
# hour. The clock is the wall's: where it was set back, nothing waits.
BETWEEN_RESTARTS = 1800
# Seconds. A card with a firmware of its own comes late after a boot, and somebody who reseats one
# has it back within minutes. Until then its device_spec stays, which offers nothing: Nova lists
# what libvirt has. One that comes and goes is quarantined when it goes for the second time.
MISSING_FOR = 600


class Seen(NamedTuple):
    """What is known of a host.

    Attributes:
        known: the record.
        missing: what was taken and is not there any more, as `missing.find` gives it.
        health: how each claimed and each missing function is.
        offered: the functions that Nova is offered now.
        ready: the functions that Nova would be offered.
        boot_id: the boot.
        now: the time, in seconds since the epoch.
    """

    known: Record
    missing: Mapping[str, Mapping[str, str]]
    health: Mapping[str, health.Health]
    offered: Container[str]
    ready: Container[str]
    boot_id: str
    now: int


class Outcome(NamedTuple):
    """What a record should hold of it; ``is_told`` where what Nova is offered changes by it."""

    quarantine: Mapping[str, Quarantine]
    due: Mapping[str, Quarantine]
    accepted: Mapping[str, Quarantine]
    is_told: bool = False


def decide(
    wanted: devices.Spec,
    outcome: claims.Outcome,
    seen: Seen,
    find_held: Callable[[Iterable[str]], Container[str]],
) -> Outcome:
    """Work out what is in quarantine, and what is to be.

    Args:
        wanted: the option ``devices``, with what this host leaves out.
        outcome: what is claimed.
        seen: what is known of the host.
        find_held: gives those of some functions that a guest has; asked only for sick ones.
    """
    known = seen.known
    view = _View(wanted, outcome, seen)
    aside = {
        address: view.follow(address, entry)
        for address, entry in known.quarantine.items()
        if view.is_still_asked(address, entry) and not (entry.why and view.is_manual(address))
    }
    due = view.find_due(aside)
    is_open = not (known.restarted and 0 <= seen.now - known.restarted < BETWEEN_RESTARTS)
    held = find_held(address for address in due if address not in seen.missing) if due else ()
    goes = {
        address: entry
        for address, entry in due.items()
        if address not in held
        and (is_open or address not in seen.offered)
        and view.is_ripe(address, entry)
    }
    returns = {
        address
        for address, entry in aside.items()
        if view.is_well_again(address, entry) and (is_open or address not in seen.ready)
    }
    stays = {address: aside[address] for address in aside if address not in returns}
    gone = [address for address in known.quarantine if address not in stays]
    return Outcome(
        quarantine={**stays, **goes},
        due={address: due[address] for address in due if address not in goes},
        accepted={
            address: entry
            for address, entry in known.accepted.items()
            if view.is_still_asked(address, entry) and view.is_counted(address, entry)
        },
        is_told=any(each in seen.offered for each in goes)
        or any(each in seen.ready for each in gone),
    )


def note(known: Record, found: Outcome, now: int) -> Record:
    """The record with what `decide` gave; where Nova is offered something else, since ``now``."""
    record = frozen.replace(
        known, quarantine=found.quarantine, due=found.due, accepted=found.accepted
    )
    return told(record, now) if found.is_told else record


def told(known: Record, now: int) -> Record:
    """The record once what Nova is offered changes for a quarantine."""
    return frozen.replace(known, restarted=now, nova=frozen.replace(known.nova, set_aside=True))


def changes(known: Record, aim: Record) -> dict[str, Any]:
    """The fields of a record that are to be written before Nova's offer, by their names."""
    names = ("quarantine", "due", "accepted", "restarted", "nova")
    return {
        name: getattr(aim, name) for name in names if getattr(aim, name) != getattr(known, name)
    }


def is_about(known: Record) -> bool:
    """Whether a record names cards that are sick, or were."""
    return bool(known.quarantine or known.due or known.accepted)


def concerns(known: Record, judged: Iterable[health.Health]) -> bool:
    """Whether there is anything to work out."""
    return is_about(known) or any(each.verdict is health.Verdict.SICK for each in judged)


def accepted_errors(known: Record, boot_id: str = "") -> dict[str, int]:
    """How many fatal errors an operator has accepted, by the function's address.

    Args:
        known: the record.
        boot_id: the boot that counts them; empty for whichever it was.
    """
    return {
        address: entry.accepted
        for address, entry in known.accepted.items()
        if not boot_id or entry.boot == boot_id
    }


def bring_back(
    known: Record,
    parts: tuple[str, ...],
    outcome: claims.Outcome,
    seen: Mapping[str, health.Health],
    boot: str,
) -> Record:
    """The record once an operator has brought a function back, its fatal errors accepted.

    Args:
        known: the record.
        parts: the claimed function, and its companions.
        outcome: what is claimed.
        seen: how each function is.
        boot: the boot that counts its errors.
    """
    address = parts[0]
    entry = known.quarantine.get(address) or known.due.get(address)
    accepted = dict(known.accepted)
    for each in parts:
        count = _fatal_errors(seen[each])
        if count:
            card, why = _card(known, outcome, each), health.Kind.FATAL_ERRORS.value
            since = entry.since if entry else 0
            accepted[each] = Quarantine(card.id, card.serial, why, since, accepted=count, boot=boot)
    return frozen.replace(
        known,
        quarantine=_without(known.quarantine, address),
        due=_without(known.due, address),
        accepted=accepted,
    )


def set_aside(known: Record, address: str, outcome: claims.Outcome, now: int) -> Record:
    """The record once an operator has taken a claimed function off the offer.

    Args:
        known: the record.
        address: the function.
        outcome: what is claimed.
        now: the time, in seconds since the epoch.
    """
    card = _card(known, outcome, address)
    former = known.quarantine.get(address)
    entry = Quarantine(card.id, card.serial, "", former.since if former else now)
    return frozen.replace(
        known,
        quarantine={**known.quarantine, address: entry},
        due=_without(known.due, address),
    )


def undo(known: Record, before: Record, now: int) -> Record:
    """The record with what was in quarantine before."""
    back = frozen.replace(known, quarantine=before.quarantine, due=before.due)
    return told(back, now)


def is_kept(known: Record, address: str) -> bool:
    """Whether a function is in quarantine, or is to be."""
    return address in known.quarantine or address in known.due


def find_other_sickness(judged: health.Health) -> health.Finding | None:
    """What makes a function sick besides fatal errors, which can be accepted."""
    others = (each for each in judged.findings if each.verdict is health.Verdict.SICK)
    return next((each for each in others if each.kind is not health.Kind.FATAL_ERRORS), None)


def companions(outcome: claims.Outcome, address: str) -> tuple[str, ...]:
    """The claimed companions of a function."""
    return tuple(each.address for each in outcome.claims if each.companion_of == address)


def _fatal_errors(judged: health.Health) -> int:
    """How many fatal errors the kernel counts of a function; 0 where it does not tell."""
    seen = judged.signs.errors.get(Severity.FATAL)
    return seen.total if seen else 0


def _without(found: Mapping[str, Quarantine], address: str) -> dict[str, Quarantine]:
    return {each: found[each] for each in found if each != address}


def _card(known: Record, outcome: claims.Outcome, address: str) -> Identity:
    """The card that a record knows at an address, or that the host shows there."""
    card = known.missing.get(address) or known.identities.get(address)
    function = outcome.host.functions.get(address)
    if function is None:
        return Identity(card["id"], card["serial"]) if card else Identity("")
    return Identity(function.id, card["serial"] if card else "")


class _View:
    """The questions that `decide` asks of a host."""

    def __init__(self, wanted: devices.Spec, outcome: claims.Outcome, seen: Seen):
        self._wanted, self._outcome, self._seen = wanted, outcome, seen
        self._items = {
            claim.address: claim.item for claim in outcome.claims if claim.companion_of is None
        }
        for address, card in seen.missing.items():
            item = missing.find_item(wanted, address, card["id"])
            if item:
                self._items.setdefault(address, item)
        self._parts = {address: [address] for address in self._items}
        for claim in outcome.claims:
            if claim.companion_of in self._parts:
                self._parts[claim.companion_of].append(claim.address)
        found = {address: self._find_sick(parts) for address, parts in self._parts.items()}
        self.sick = {address: one for address, one in found.items() if one}

    def _find_sick(self, parts: Iterable[str]) -> health.Health | None:
        """The sick one of a function and its companions: a card is reset as a whole, or not."""
        judged = (self._seen.health[each] for each in parts)
        return next((each for each in judged if each.verdict is health.Verdict.SICK), None)

    def is_still_asked(self, address: str, entry: Quarantine) -> bool:
        """Whether an item asks for this very card at this address."""
        if self._is_other(address, entry) or self._wanted.excepts(address):
            return False
        is_companion = address in self._outcome.addresses and address not in self._items
        return is_companion or missing.find_item(self._wanted, address, entry.id) is not None

    def is_manual(self, address: str) -> bool:
        """Whether its item leaves quarantine to people."""
        item = self._items.get(address)
        return item is not None and item.quarantine == devices.MANUAL

    def is_counted(self, address: str, entry: Quarantine) -> bool:
        """Whether the kernel still counts the errors that were accepted."""
        judged = self._seen.health.get(address)
        seen = judged.signs.errors.get(Severity.FATAL) if judged else None
        return entry.boot == self._seen.boot_id and (seen is None or seen.total >= entry.accepted)

    def follow(self, address: str, entry: Quarantine) -> Quarantine:
        """What is known by now of a function in quarantine."""
        if not entry.why or address not in self._items:
            return entry
        one = self.sick.get(address)
        if one:
            return self._fall_ill(entry, one, well_since=0)
        if entry.well_since:
            return entry._replace(well_since=min(entry.well_since, self._seen.now))
        if self._is_seen_gone(address, entry):
            return entry._replace(well_since=self._seen.now)
        return entry

    def is_well_again(self, address: str, entry: Quarantine) -> bool:
        """Whether nothing was seen of a function for so long that it returns by itself."""
        is_well = bool(entry.why and entry.well_since and address in self._items)
        return is_well and self._seen.now - entry.well_since >= WELL_FOR

    def find_due(self, aside: Container[str]) -> dict[str, Quarantine]:
        """What is sick and is not in quarantine, and what was seen to be so."""
        known = self._seen.known
        due = {
            address: entry
            for address, entry in known.due.items()
            if address not in self._items and self.is_still_asked(address, entry)
        }
        for address, item in self._items.items():
            if address in aside or item.quarantine == devices.MANUAL:
                continue
            former = known.due.get(address)
            if former and self._is_other(address, former):
                former = None
            entry = self._watch(address, former)
            if entry:
                due[address] = entry
        return due

    def is_ripe(self, address: str, entry: Quarantine) -> bool:
        """Whether what is due was sick for long enough: one that is missing may be back soon."""
        if entry.why != health.Kind.MISSING:
            return True
        is_again = bool(entry.well_since)
        return address in self.sick and (is_again or self._seen.now - entry.since >= MISSING_FOR)

    def _watch(self, address: str, former: Quarantine | None) -> Quarantine | None:
        """What is known by now of a function that is offered; None where it is well."""
        now, one = self._seen.now, self.sick.get(address)
        was_back = former is not None and former.well_since >= former.since
        back = min(former.well_since, now) if former and was_back else now
        if was_back and now - back >= WELL_FOR:
            former = None
        if one is None:
            if former is None or former.why == health.Kind.MISSING:
                return former and former._replace(since=min(former.since, back), well_since=back)
            return None if self._is_seen_gone(address, former) else former
        entry = former or self._begin(address)
        if address not in self._seen.missing:
            return self._fall_ill(entry, one, well_since=0)
        since = now if former and was_back else min(entry.since, now)
        return self._fall_ill(entry, one, since=since)

    def _fall_ill(self, entry: Quarantine, one: health.Health, **times: int) -> Quarantine:
        """What is known of a function of which this part is sick."""
        why = one.worst.kind.value if one.worst else ""
        is_companion = self._items.get(one.address) is None
        companion = one.address if is_companion else ""
        boot = self._seen.boot_id
        return entry._replace(why=why, boot=boot, companion=companion, **times)

    def _begin(self, address: str) -> Quarantine:
        card = _card(self._seen.known, self._outcome, address)
        return Quarantine(card.id, card.serial, "", self._seen.now)

    def _is_other(self, address: str, entry: Quarantine) -> bool:
        """Whether another card stands there now."""
        if address not in self._outcome.host.functions:
            return False
        now = _card(self._seen.known, self._outcome, address)
        return Identity(entry.id, entry.serial).is_other(now)

    def _is_seen_gone(self, address: str, entry: Quarantine) -> bool:
        """Whether the cause was seen to be gone.

        That it is not seen does not do: in D3cold a free card is not asked. The kernel has found
        it anew in another boot, and where it was missing: a card that answers nothing is not found.
        """
        if entry.boot != self._seen.boot_id or entry.why == health.Kind.MISSING:
            return True
        judged = self._seen.health.get(entry.companion or address)
        return judged is None or _denies(judged, entry.why)


def _denies(judged: health.Health, why: str) -> bool:
    """Whether the signs of a function that is not sick tell that it is not sick of that."""
    signs = judged.signs
    if why == health.Kind.OFF_THE_BUS:
        return signs.answer is Answer.GOOD
    if why == health.Kind.FATAL_ERRORS:
        return Severity.FATAL in signs.errors
    return signs.power is not Power.UNKNOWN
