"""Lend a claimed function to the host, and take it back, at an operator's request.

Nothing is changed here: what is lent stands in the record, and every hook, rebind and boot obeys
it. So the one write of the record is all that a kill can come before or after.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from passthrough import confirm, frozen, pci_address, survey
from passthrough.config import options
from passthrough.errors import PassthroughError
from passthrough.host import identity
from passthrough.planning import claims
from passthrough.reporting import words
from passthrough.state import record
from passthrough.survey import Decision
from passthrough.system import quoting


class LendingError(PassthroughError):
    """The request cannot be carried out; nothing was touched."""


class Return(NamedTuple):
    """What is taken back together.

    Attributes:
        addresses: the functions, in address order.
        notes: what an operator has to know of one, by its address: it is gone, or another card
            stands there, or no item asks for it.
        left: what stays lent.
    """

    addresses: tuple[str, ...]
    notes: Mapping[str, str]
    left: dict[str, record.Loan]


def lend(decision: Decision, address: str) -> dict[str, record.Loan]:
    """Work out what has to be lent with a claimed function, and see that nobody has any of it.

    Its IOMMU group belongs to the host or to guests as a whole, so that whatever is claimed of the
    group goes with it; so do its companions, and its VFs, which vfio-pci takes away as it goes.

    Args:
        decision: what is claimed on this host.
        address: the function.

    Returns:
        The address of each function → the loan, ``address`` first.

    Raises:
        LendingError: when the function is not claimed; the host was started with
            ``pci-passthrough=off``; another application has a part of the group; a process has
            one of the functions open, or a guest that is shut off names one; or the erase of one
            has not come to its end.
        PassthroughError, OSError: as `survey.ask_again`.
    """
    _check_switch(decision.facts)
    if address not in decision.outcome.addresses:
        raise _not_claimed(decision, address)
    which = _with_others(decision.claims, address)
    others = record.taken_by(decision.facts.others)
    functions = decision.host.functions
    for each in (near for one in which for near in decision.host.group_members(functions[one])):
        if each.address in others:
            raise LendingError(
                f"{address} shares IOMMU group {each.group} with {each.address}, which the"
                f" application {others[each.address]} has claimed",
                "leave the whole group to one of the two applications",
            )
    for each in which:
        if each in decision.facts.record.erasing:
            raise LendingError(
                f"{each}: its erase has not come to its end, so it holds its last guest's data",
                "run erase again first",
            )
    _check_unused(decision.facts, which)
    return {each: _identify(decision.facts, each, address) for each in which}


def take_back(wanted: options.Options, facts: survey.Facts, address: str) -> Return:
    """Work out what comes back with a lent function, and see that all of it can be claimed.

    Args:
        wanted: the application's options.
        facts: the host as it is.
        address: the function.

    Raises:
        LendingError: when the function is not lent; the host was started with
            ``pci-passthrough=off``; or a guard objects to claiming what is to come back.
        PassthroughError, OSError: as `confirm.decide`.
    """
    lent = facts.record.lent
    if address not in lent:
        named = ", ".join(sorted(lent, key=pci_address.sort_key)) or "none"
        raise LendingError(
            f"{quoting.show(address)} is not lent to this host{pci_address.about_domain(address)};"
            f" lent are {named}"
        )
    _check_switch(facts)
    which = tuple(
        each
        for each in sorted(lent, key=pci_address.sort_key)
        if lent[each].asked == lent[address].asked
    )
    left = {each: lent[each] for each in lent if each not in which}
    without = frozen.replace(facts, record=frozen.replace(facts.record, lent=left))
    decision, _ = confirm.decide(wanted, without)
    notes = {each: _compare(facts, each, lent[each]) for each in which}
    for each in which:
        if each in decision.outcome.addresses or each not in facts.host.functions:
            continue
        refused = next((one for one in decision.refusals if one.address == each), None)
        said = words.reason(refused.objection, each) if refused else "no item asks for it"
        said = "; ".join(filter(None, [notes[each], said]))
        if refused and refused.blocking:
            raise LendingError(f"{each} stays lent: {said}")
        notes[each] = said
    return Return(which, {each: note for each, note in notes.items() if note}, left)


def _check_switch(facts: survey.Facts) -> None:
    switch = facts.machine.switch
    if switch:
        raise LendingError(
            f"this host was started with {switch}, so it has all its devices in this boot",
            f"reboot without {switch} first",
        )


def _not_claimed(decision: Decision, address: str) -> LendingError:
    if any(each.function.address == address for each in decision.outcome.parents):
        return LendingError(f"{address} is the host's already: its item asks for its VFs alone")
    refused = next((each for each in decision.refusals if each.address == address), None)
    if refused:
        return LendingError(
            f"{address} is not claimed: it {words.reason(refused.objection, address)}"
        )
    return LendingError(words.not_claimed(decision, address))


def _with_others(claimed: Iterable[claims.Claim], address: str) -> tuple[str, ...]:
    """The function, and the other claims that have to go where it goes, in address order."""
    left = {claim.address: claim for claim in claimed}
    found, new = [address], [left.pop(address)]
    while new:
        one = new.pop()
        near = [each for each in left.values() if _go_together(one, each)]
        new += near
        found += [left.pop(each.address).address for each in near]
    return (address, *sorted(found[1:], key=pci_address.sort_key))


def _go_together(one: claims.Claim, other: claims.Claim) -> bool:
    """Whether ``other`` has to be lent with ``one``."""
    if other.companion_of == one.address or other.function.physfn == one.address:
        return True
    group = one.function.group
    if group is None:  # no IOMMU is on: all of a card counts as one
        return one.companion_of in (other.address, other.companion_of or "")
    return group == other.function.group


def _check_unused(facts: survey.Facts, which: tuple[str, ...]) -> None:
    """Ask the processes, and what libvirt has defined.

    Raises:
        LendingError: when somebody has one of the functions, or will want it.
    """
    now = survey.ask_again(facts, which)
    for each, processes in now.users.of(which).items():
        raise LendingError(
            f"{each}: a guest holds it (process {', '.join(map(str, processes))})",
            "stop or migrate the guest first",
        )
    named = now.defined()
    for each in which:
        if each in named:
            raise LendingError(
                f"{each}: the guest {named[each][0]} is shut off and names it",
                "migrate or delete that guest first, or it would start without the device",
            )


def _identify(facts: survey.Facts, address: str, asked: str) -> record.Loan:
    seen = identity.read(facts.site.root, address)
    function = facts.host.functions[address]
    return record.Loan(function.id, seen.serial if seen else "", asked)


def _compare(facts: survey.Facts, address: str, loan: record.Loan) -> str:
    """Tell what has become of a card since it was lent; empty where it is as it was."""
    now = identity.read(facts.site.root, address)
    if now is None:
        return "is not in this host any more"
    then = identity.Identity(loan.id, loan.serial)
    if not then.is_other(now):
        return ""
    return f"another card stands there: it was {then.told}, and is {now.told}"
