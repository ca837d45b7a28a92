"""Erase what guests have left on a claimed NVMe, at an operator's request and never otherwise.

The record says so before anything is touched, and until all has come to its end: from the first
step on the function is off Nova's offer, whatever kills the run. A hook brings a function back that
was left on the host's driver; only another erase takes the mark away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from passthrough import survey
from passthrough.effects import eraser, handing
from passthrough.errors import PassthroughError
from passthrough.host import domains, identity
from passthrough.nova import limits
from passthrough.nova import offer as nova_offer
from passthrough.reporting import words
from passthrough.state import record
from passthrough.system import quoting

if TYPE_CHECKING:
    from passthrough.effects.tools import Tools
    from passthrough.planning import claims
    from passthrough.survey import Decision

# Of a class without the programming interface: non-volatile memory controller (pci.ids).
_NVME = 0x0108


class ErasingError(PassthroughError):
    """The request cannot be carried out, or was not to its end."""


class Means(NamedTuple):
    """What erasing needs of the host: its tools, and how its disks are reached."""

    tools: Tools
    disk: eraser.Means


class Erased(NamedTuple):
    """A namespace that was erased.

    Attributes:
        id: its number.
        bytes: its size.
        seen: what was read back.
    """

    id: int
    bytes: int
    seen: eraser.Seen


class Result(NamedTuple):
    """What was erased.

    Attributes:
        address: the function.
        told: the controller's model and serial number.
        method: how, a value of `erasure.Method`.
        namespaces: what was erased; a sanitize has had also what was in none.
        placement: the command that frees a one-time-use device in Placement; empty for another.
    """

    address: str
    told: str
    method: str
    namespaces: Sequence[Erased]
    placement: str


def check(decision: Decision, address: str, confirm: str) -> None:
    """See that a function can be erased, by all that can be seen without a touch.

    Args:
        decision: what is claimed on this host.
        address: the function.
        confirm: the same again.

    Raises:
        ErasingError: when it cannot be; nothing was touched.
        PassthroughError, OSError: as `survey.ask_again`.
    """
    if confirm != address:
        raise ErasingError(
            f"confirm is {quoting.show(confirm)}, and address {quoting.show(address)}",
            "give the address twice: all that is on it will be lost",
        )
    if address not in decision.outcome.addresses:
        raise ErasingError(words.not_claimed(decision, address))
    now = survey.ask_again(decision.facts, [address])
    for ask in (_object_to_host, _object_to_function, _object_to_users, _object_to_offer):
        objection = next(ask(decision, now, address), None)
        if objection:
            raise objection


def erase(
    ledger: record.Ledger,
    decision: Decision,
    address: str,
    means: Means,
    report: Callable[[str], object],
) -> Result:
    """Erase a function that `check` has accepted.

    Args:
        ledger: the application's record, opened under the host's lock.
        decision: what is claimed on this host.
        address: the function.
        means: how to do it.
        report: takes a sentence about each thing that was done.

    Returns:
        What was erased; the function is back on vfio-pci, and the mark is gone.

    Raises:
        ErasingError: when it was not erased, or that does not show when it is read back. The mark
            stays, unless nothing was erased in this run nor in one before.
        OSError: when the record cannot be written.
    """
    root, disk_means = ledger.site.root, means.disk
    _mark(ledger, address, ledger.present.erasing.get(address, record.BEGUN))
    try:
        handing.take(root, address, means.tools)
        report(f"{address}: on {handing.NATIVE}, kept from udev")
        with eraser.opened(root, address, disk_means) as disk:
            report(f"{address}: {disk.controller.told}: {disk.method.value} begins")
            before = eraser.sample(disk, disk_means)
            _mark(ledger, address, record.TOLD)
            eraser.erase(disk, disk_means, report)
            after = eraser.sample(disk, disk_means)
            seen = {each: eraser.compare(before[each], after[each]) for each in before}
            told, method = disk.controller.told, disk.method.value
            sizes = {part.told.id: part.told.bytes for part in disk.parts}
        _check_seen(seen)
    except (PassthroughError, OSError) as error:
        _give_back(ledger, address, means.tools, f"not erased: {_said(error)}")
        was_told = ledger.present.erasing[address] != record.BEGUN
        if not was_told:
            _unmark(ledger, address)
        raise ErasingError(
            f"{address}: not erased: {_said(error)}",
            "it is back on vfio-pci, off the offer until erase has come to its end: run erase again"
            if was_told
            else "nothing was erased, and it is back on vfio-pci",
        ) from error
    report(f"{address}: {method} is done, and read back")
    _give_back(ledger, address, means.tools, "erased")
    _unmark(ledger, address)
    claim = next(each for each in decision.claims if each.address == address)
    erased = [Erased(each, sizes[each], seen[each]) for each in seen]
    return Result(address, told, method, erased, _placement_call(decision, claim))


def _object_to_host(decision: Decision, now: survey.Facts, address: str) -> Iterator[ErasingError]:
    """Yield what is against erasing anything now, and whether this card is the record's."""
    switch = now.machine.switch
    if switch:
        yield ErasingError(
            f"this host was started with {switch}, so it has all its devices in this boot",
            f"reboot without {switch} first",
        )
    known, seen = decision.facts.record, identity.read(decision.site.root, address)
    if seen is None:
        yield ErasingError(f"{address} is not in this host any more")
        return
    cards: list[identity.Identity] = []
    if address in known.identities:
        card = known.identities[address]
        cards.append(identity.Identity(card["id"], card["serial"]))
    if address in known.quarantine:
        entry = known.quarantine[address]
        cards.append(identity.Identity(entry.id, entry.serial))
    for card in cards:
        if card.is_other(seen):
            yield ErasingError(
                f"{address}: another card stands there: the record has {card.told}, and it is"
                f" {seen.told}",
                _run(decision, "reconcile"),
            )


def _object_to_function(
    decision: Decision, now: survey.Facts, address: str
) -> Iterator[ErasingError]:
    """Yield what is against erasing this kind of function, on this driver."""
    function = now.host.functions[address]
    if function.class_code >> 8 != _NVME:
        yield ErasingError(
            f"{address} is no NVMe: its class is {function.class_code:06x}, and not 0108xx"
        )
    if function.physfn is not None:
        yield ErasingError(
            f"{address} is a VF of {function.physfn}, and shares its namespaces",
            f"erase {function.physfn} once it has no VFs",
        )
    if function.num_vfs:
        yield ErasingError(
            f"{address} has {function.num_vfs} VFs, which share its namespaces",
            "take its VFs away first",
        )
    if not function.is_on_vfio:
        yield ErasingError(
            f"{address} is on {function.driver or 'no driver'}, and not on vfio-pci",
            _run(decision, f"rebind address={address}"),
        )


def _object_to_users(_: Decision, now: survey.Facts, address: str) -> Iterator[ErasingError]:
    """Yield who has the function, or another one of its IOMMU group, or names it."""
    function = now.host.functions[address]
    members = [each.address for each in now.host.group_members(function)]
    for each, processes in now.users.of({address, *members}).items():
        shares = "" if each == address else f", and shares IOMMU group {function.group}"
        yield ErasingError(
            f"{each}: a process has it open ({', '.join(map(str, processes))}){shares}",
            "stop or migrate the guest first",
        )
    named = {**domains.named(now.site.root, domains.RUNNING), **now.defined()}.get(address, ())
    if named:
        yield ErasingError(
            f"{address}: the guest {named[0]} names it, be it shut off or not",
            "delete or migrate that guest first: what it left is its own until then",
        )


def _object_to_offer(decision: Decision, now: survey.Facts, address: str) -> Iterator[ErasingError]:
    """Yield what of the function is offered to Nova still."""
    known, nova = decision.facts.record, decision.nova
    way_out = _run(decision, f"quarantine address={address}")
    offered = {each["address"] for each in nova.device_specs}
    function = now.host.functions[address]
    elsewhere = nova.facts.config.without(nova.facts.path).device_specs()
    where = dict.fromkeys(str(each.value) for each in elsewhere if each.offers(function))
    if address in offered or address in nova_offer.listed(nova.facts):
        yield ErasingError(f"{address}: Nova is offered it", way_out)
    elif address not in known.quarantine and address not in known.erasing:
        yield ErasingError(f"{address}: it is not in quarantine", way_out)
    elif where:
        yield ErasingError(f"{address}: {', '.join(where)} offers it to Nova", "unset it there")
    elif not nova.read:
        yield ErasingError(
            f"{address}: nova-compute has not read yet that it is offered no more",
            "restart nova-compute first",
        )


def _run(decision: Decision, action: str) -> str:
    owner = decision.facts.record.owner
    return f"juju run {owner.unit if owner else 'UNIT'} {action}"


def _check_seen(seen: Mapping[int, eraser.Seen]) -> None:
    """Refuse to call erased what does not show it.

    Raises:
        EraseError: naming the namespaces.
    """
    wrong = [
        f"namespace {each}: {found.wrong} of {found.samples}"
        for each, found in seen.items()
        if found.wrong
    ]
    if wrong:
        raise eraser.EraseError(
            f"samples that are as before, or cannot be read or compared: {'; '.join(wrong)}"
        )


def _give_back(ledger: record.Ledger, address: str, tools: Tools, said: str) -> None:
    """Bring the function back to vfio-pci; where that fails, the mark stays."""
    try:
        handing.give_back(ledger.site.root, address, tools)
    except (PassthroughError, OSError) as error:
        raise ErasingError(
            f"{address}: {said}; and it could not be brought back to vfio-pci: {_said(error)}",
            "the next hook tries again, and then run erase again",
        ) from error


def _mark(ledger: record.Ledger, address: str, step: str) -> None:
    ledger.update(erasing={**ledger.present.erasing, address: step})


def _unmark(ledger: record.Ledger, address: str) -> None:
    found = ledger.present.erasing
    ledger.update(erasing={each: found[each] for each in found if each != address})


def _said(error: Exception) -> str:
    strerror = getattr(error, "strerror", None)
    return str(strerror or error)


def _placement_call(decision: Decision, claim: claims.Claim) -> str:
    """The command that frees a one-time-use device; empty where its item does not say so.

    Source: osc-placement's ``resource provider inventory set``, and Nova's page on PCI passthrough:
    what a guest has had stays reserved.
    """
    if not claim.item.one_time_use:
        return ""
    provider = f"{decision.facts.machine.name or 'HOST'}_{claim.address}"
    found = f"$(openstack resource provider list --name {provider} -f value -c uuid)"
    name = limits.resource_class(claim)
    return (
        f'openstack resource provider inventory set "{found}" --amend --resource {name}:reserved=0'
    )
