"""Match the option ``devices`` against the host: claims and refusals. Pure."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import NamedTuple

from passthrough import frozen, pci_address
from passthrough.config import devices, values
from passthrough.errors import OptionError
from passthrough.host import modules, pci
from passthrough.host.usage import Usage
from passthrough.planning import groups, guards, vfio_driver, viability
from passthrough.state import record

# The rules that look at IOMMU groups, which exist only while an IOMMU is on.
GROUP_RULES = (
    guards.Rule.GROUP_NOT_VIABLE,
    guards.Rule.GROUP_IN_USE,
    guards.Rule.RESERVED_REGION,
)


class Claim(frozen.Value):
    """One function that goes to a VFIO driver.

    ``companion_of`` is the address of the function it accompanies (a GPU for its audio
    function), or None when the item asked for this function itself. ``overridden`` are the
    objections that the item's allow-in-use set aside. ``inherited`` tells that only the record
    keeps it: an earlier revision of the charm took it, by a wider rule. ``vfio`` is the driver that
    it goes to.
    """

    function: pci.Function
    item: devices.Item
    companion_of: str | None = None
    overridden: tuple[guards.Objection, ...] = ()
    inherited: bool = False
    vfio: vfio_driver.Choice = vfio_driver.VFIO_PCI

    @property
    def address(self) -> str:
        """The function's address."""
        return self.function.address


class Refusal(NamedTuple):
    """Why an item, or one function it asks for, is not claimed on this host.

    ``address`` is the function, None where no function of the host is meant. ``objection`` is what
    is against it; where that names another address, it is against this companion, which goes where
    the function goes. ``blocking`` is False where an operator of a mixed fleet expects it: the
    device is simply not in this host.
    """

    item: devices.Item
    objection: guards.Objection
    address: str | None = None
    blocking: bool = True

    @property
    def rule(self) -> str:
        """A short kebab-case name of the rule that refused."""
        return self.objection.guard


class Parent(NamedTuple):
    """A function that stays with the host, and whose VFs its item counts."""

    function: pci.Function
    item: devices.Item


class Outcome(frozen.Value):
    """The claims, by address, and the refusals, by item, on the host that they are about.

    ``parents`` are the functions that shall have VFs, in the order of the items.
    """

    claims: tuple[Claim, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    host: pci.Host = frozen.field(default_factory=lambda: pci.Host({}))
    parents: tuple[Parent, ...] = ()

    @property
    def addresses(self) -> tuple[str, ...]:
        """Every claimed function's address, companions too."""
        return tuple(claim.address for claim in self.claims)

    @property
    def blocking(self) -> tuple[Refusal, ...]:
        """The refusals that an operator has to resolve."""
        return tuple(refusal for refusal in self.refusals if refusal.blocking)


def decide(
    wanted: devices.Spec,
    host: pci.Host,
    taken: Mapping[str, str] | None = None,
    usage: Usage | None = None,
    known: record.Record | None = None,
) -> Outcome:
    """Match the wanted items against the host, and drop what cannot be claimed.

    Args:
        wanted: the parsed ``devices`` option.
        host: the functions that are there.
        taken: address → name of another application of this charm that has claimed it.
        usage: what the host itself uses; None stands for nothing.
        known: what the application has taken before; None stands for nothing.

    Raises:
        OptionError: when two items ask for the same function: only the operator can say which of
            them is meant, so nothing may change.
    """
    known = known or record.Record()
    refusals: list[Refusal] = []
    by_address: dict[str, Claim] = {}
    excepted = frozenset(filter(wanted.excepts, host.functions if wanted.excepted else ()))
    excepted = excepted.union(each for each in known.lent if each in host.functions)
    parents: list[Parent] = []
    for item in wanted.items:
        matches = _match(item, host)
        refusals += _refuse_mismatches(item, host, excepted)
        if all(item.excludes(each.address) for each in matches) and not item.exact_addresses:
            absent = guards.Objection(
                guards.Rule.ABSENT, "no such device on this host", _find_near_miss(item, host)
            )
            refusals.append(Refusal(item, absent, blocking=False))
        if item.vfs is not None:
            cards = [each for each in matches if not each.physfn] or matches
            parents += [Parent(each, item) for each in cards if each.address not in excepted]
            continue
        chosen, mistyped = _choose_by_type(item, matches, known, excepted)
        refusals += mistyped
        for function in chosen:
            rival = by_address.get(function.address)
            if rival:
                raise OptionError(
                    "devices",
                    f"{function.address} is claimed by item {rival.item.position} ({rival.item})"
                    " too",
                    item.label,
                    "narrow one of them by address",
                )
            stays = item.device_type not in (None, function.device_type)
            by_address[function.address] = Claim(function, item, inherited=stays)
    refusals = [_with_own_alias(each, by_address.values(), host) for each in refusals]
    _add_companions(list(by_address.values()), by_address, host, known, excepted)
    in_groups = groups.Groups(host, usage)
    standing = groups.Standing(in_groups, frozenset(by_address))
    there = _Circumstances(host, taken or {}, known, in_groups, standing, excepted)
    refusals += _drop_refused(by_address, there)
    return Outcome(
        claims=tuple(
            _with_overridden(by_address[each], by_address, there)
            for each in sorted(by_address, key=pci_address.sort_key)
        ),
        refusals=_in_order(refusals),
        host=host,
        parents=tuple(parents),
    )


def with_refusals(outcome: Outcome, more: Iterable[Refusal]) -> Outcome:
    """The same outcome with more refusals, in the order of the items."""
    return frozen.replace(outcome, refusals=_in_order([*outcome.refusals, *more]))


def _in_order(refusals: Iterable[Refusal]) -> tuple[Refusal, ...]:
    return tuple(
        sorted(refusals, key=lambda each: (each.item.position, each.address or "", each.rule))
    )


def with_drivers(outcome: Outcome, known: record.Record, aliases: modules.Aliases) -> Outcome:
    """The same claims, each with the VFIO driver that it goes to.

    A companion is no device of the variant's that its item names.

    Args:
        outcome: what is claimed.
        known: what the application has taken before.
        aliases: what the installed kernels name.
    """
    if not outcome.claims:
        return outcome

    chosen = tuple(
        with_driver(each, aliases, known.variants.get(each.address)) for each in outcome.claims
    )
    return frozen.replace(outcome, claims=chosen)


def with_driver(claim: Claim, aliases: modules.Aliases, asked: str | None) -> Claim:
    """The same claim, with the VFIO driver that it goes to.

    Args:
        claim: what is claimed.
        aliases: what the installed kernels name.
        asked: the variant that the charm has asked for before; None for none.
    """
    named = claim.item.driver
    pinned = named if not claim.companion_of or named == pci.VFIO_PCI else None
    choice = vfio_driver.choose(claim.function, pinned, aliases, asked)
    return frozen.replace(claim, vfio=choice)


def _find_near_miss(item: devices.Item, host: pci.Host) -> str:
    """Ask for the model that differs from the item's id in one digit; empty where none does.

    Where several do, the operator means a family of models, and is left alone.
    """
    near = {
        function.id: function.address
        for function in host.functions.values()
        if function.vendor == item.vendor
        and sum(a != b for a, b in zip(function.product, item.product, strict=True)) == 1
    }
    asked = [f"did you mean {identity} ({address})?" for identity, address in near.items()]
    return asked[0] if len(asked) == 1 else ""


def _match(item: devices.Item, host: pci.Host) -> list[pci.Function]:
    exact = item.exact_addresses
    if exact and len(exact) == len(item.addresses):
        named = sorted(set(exact), key=pci_address.sort_key)
        there = [host.functions[each] for each in named if each in host.functions]
        return [each for each in there if each.id == item.id and item.covers(each.address)]
    return [each for each in host.with_id(item.id) if item.covers(each.address)]


_TYPES = {
    "type-PCI": "has no SR-IOV",
    "type-PF": "is SR-IOV capable",
    "type-VF": "is a VF",
}


def object_to_type(item: devices.Item, function: pci.Function) -> guards.Objection | None:
    """Object to a function that the item's alias never matches, so that no guest could have it.

    Source: _get_device_type in nova/virt/libvirt/host.py and nova/pci/stats.py. Nova gives a PF to
    an alias of type-PF alone, whether or not the PF has VFs; a flavor with another alias ends in
    "No valid host".
    """
    actual = function.device_type
    if not item.alias or item.alias_type == actual:
        return None
    return guards.Objection(
        guards.Rule.DEVICE_TYPE,
        f"{_TYPES[actual]}, so alias {item.alias} ({item.alias_type}) never matches it",
        f"write the item as {devices.text_of(item, device_type=actual)}",
        address=function.address,
    )


def _with_own_alias(refusal: Refusal, claimed: Iterable[Claim], host: pci.Host) -> Refusal:
    """Have an item of another type than others of its alias get an alias of its own.

    Nova wants one type for an alias, so the type alone would be refused where it is pasted.
    """
    item, function = refusal.item, host.functions.get(refusal.address or "")
    if function is None or refusal.rule != guards.Rule.DEVICE_TYPE or not item.names:
        return refusal
    actual = function.device_type
    others = (each.item for each in claimed if each.item.alias_type != actual)
    if not any(set(item.names) & set(each.names) for each in others):
        return refusal
    name = f"{item.names[0]}-{actual.removeprefix(values.TYPE_PREFIX).lower()}"
    text = devices.text_of(item, device_type=actual, alias=name)
    way_out = f"give it an alias of its own, since an alias has one type: {text}"
    return refusal._replace(objection=frozen.replace(refusal.objection, way_out=way_out))


def _choose_by_type(
    item: devices.Item,
    matches: Iterable[pci.Function],
    known: record.Record,
    excepted: Container[str] = (),
) -> tuple[list[pci.Function], list[Refusal]]:
    """Choose the functions of the type that an item is for, out of those of its id and address.

    That is the type which the item says; without one, what is no VF, or the VFs where there is
    nothing else: never a PF and its VFs. What the record has stays, and with a type that the item
    says, what an earlier revision took, which did not choose. What the item or the host leaves out
    counts for the choice of a type: without a PF, its VFs are not what the item is for.

    Returns:
        The functions, and a refusal for each type of function that the item asks for in vain, and
        for each function that the host leaves out.
    """
    matches = tuple(matches)
    kept = known.taken.keys() if item.device_type is None else known.inherited
    stays = {each.address for each in matches if each.address in kept}
    wanted = {each.address for each in _of_type(item, matches)}
    parents = {each.physfn for each in matches if each.address in stays}
    chosen = [
        each
        for each in matches
        if each.address in stays or (each.address in wanted and each.address not in parents)
    ]
    named = {each.address for each in matches if not item.excludes(each.address)}
    asked = {address for address in named if address not in excepted}
    left_out = [each.address for each in chosen if each.address in named - asked]
    refusals: dict[str, Refusal] = {}
    fitting: list[pci.Function] = []
    for function in (each for each in chosen if each.address in asked):
        objection = object_to_type(item, function)
        if objection and function.address not in known.taken:
            refusals.setdefault(function.device_type, Refusal(item, objection, function.address))
        else:
            fitting.append(function)
    for function in (each for each in matches if each.address in asked):
        if function.address not in wanted and function.address not in stays:
            refusal = _refuse_type(item, function, alone=not wanted)
            if refusal:
                refusals.setdefault(function.device_type, refusal)
    there = (Refusal(item, _leave(each, known), each, blocking=False) for each in left_out)
    return fitting, [*refusals.values(), *there]


def _leave(address: str, known: record.Record) -> guards.Objection:
    """Why a function stays with the host, whatever an item asks for."""
    return viability.leave_lent(address) if address in known.lent else viability.leave_out(address)


def _of_type(item: devices.Item, matches: tuple[pci.Function, ...]) -> tuple[pci.Function, ...]:
    if item.device_type:
        return tuple(each for each in matches if each.device_type == item.device_type)
    return tuple(each for each in matches if not each.physfn) or matches


def _refuse_type(item: devices.Item, function: pci.Function, *, alone: bool) -> Refusal | None:
    """Refuse a function of another type than the item is for, where it is all that is there.

    And where the item names its address. Otherwise the type is what tells the two apart.
    """
    named = function.address in item.exact_addresses
    if not (alone or named):
        return None
    actual = function.device_type
    if item.device_type == "type-VF" and not named:
        fact = (
            f"has no VF yet ({function.total_vfs} can be made)"
            if function.total_vfs
            else ("has no SR-IOV, so it has no VF")
        )
        absent = guards.Objection(guards.Rule.ABSENT, fact, address=function.address)
        return Refusal(item, absent, function.address, blocking=False)
    asked = item.device_type or "what is no VF"
    objection = object_to_type(item, function) or guards.Objection(
        guards.Rule.DEVICE_TYPE,
        f"is {actual}, and the item is for {asked}",
        f"write {devices.text_of(item, device_type=actual, addresses=(function.address,))}",
        address=function.address,
    )
    return Refusal(item, objection, function.address)


def _refuse_mismatches(
    item: devices.Item, host: pci.Host, excepted: Container[str]
) -> Iterable[Refusal]:
    for address in item.exact_addresses:
        function = host.functions.get(address)
        if item.excludes(address) or address in excepted:
            continue
        if function is None:
            absent = guards.Objection(
                guards.Rule.ABSENT,
                f"is not in this host{pci_address.about_domain(address)}",
                address=address,
            )
            yield Refusal(item, absent, address, blocking=False)
        elif function.id != item.id:
            mismatch = guards.Objection(
                guards.Rule.ID_MISMATCH,
                f"holds {function.id}, not {item.id}{pci_address.about_domain(address)}",
                "correct the id or the address",
                address=address,
            )
            yield Refusal(item, mismatch, address)


class _Circumstances(NamedTuple):
    """What a claim is judged by.

    Attributes:
        host: the host's functions.
        taken: address → name of another application that has claimed it.
        known: what the application has taken before.
        groups: the host's groups, with what the host itself uses.
        standing: what the groups have by way of strangers, while claims fall away.
        excepted: the functions that the host leaves out, or that are lent to it.
    """

    host: pci.Host
    taken: Mapping[str, str]
    known: record.Record
    groups: groups.Groups
    standing: groups.Standing
    excepted: frozenset[str]


def _add_companions(
    primaries: Iterable[Claim],
    by_address: dict[str, Claim],
    host: pci.Host,
    known: record.Record,
    barred: Container[str] = (),
) -> None:
    """Add the companions of ``primaries`` to ``by_address``; a shared one goes to the first.

    Skips the ``barred`` addresses: what the host leaves out, and what was refused, no other item
    brings back.
    """
    for claim in primaries:
        if not claim.item.companions:
            continue
        narrow = viability.companions(claim.function, host)
        for companion in viability.wide_companions(claim.function, host):
            stays = companion not in narrow
            address = companion.address
            if address in barred or claim.item.excludes(address):
                continue
            if stays and address not in known.inherited:
                continue
            by_address.setdefault(
                companion.address,
                Claim(companion, claim.item, companion_of=claim.address, inherited=stays),
            )


def _drop_refused(by_address: dict[str, Claim], there: _Circumstances) -> list[Refusal]:
    """Remove claims from ``by_address`` until all that are left can stand together."""
    refusals: list[Refusal] = []
    barred: set[str] = set(there.excepted)
    dropped = True
    while dropped:
        dropped = False
        for claim in list(by_address.values()):
            if by_address.get(claim.address) is not claim:
                continue
            refusal = _refuse(claim, by_address, there)
            if refusal:
                refusals.append(refusal)
                barred.add(claim.companion_of or claim.address)
                _drop(claim, by_address, there, barred)
                dropped = True
    return refusals


def _drop(
    claim: Claim, by_address: dict[str, Claim], there: _Circumstances, barred: Container[str]
) -> None:
    """Remove a claim and its companions; one that another item of the card shares stays."""
    gone = claim.companion_of or claim.address
    host = there.host
    card = [each.address for each in host.slot_members(claim.function)]
    left = [by_address[address] for address in card if address in by_address]
    for each in left:
        if gone in (each.address, each.companion_of):
            del by_address[each.address]
            there.standing.drop(each.function)
    rest = [each for each in left if each.companion_of is None and each.address in by_address]
    in_order = sorted(rest, key=lambda each: each.item.position)
    _add_companions(in_order, by_address, host, there.known, barred)


def _with_overridden(claim: Claim, by_address: Mapping[str, Claim], there: _Circumstances) -> Claim:
    group = there.groups.object_to_use(claim.function, by_address)
    objections = guards.all_objections(claim.function, there.groups.usage)
    return frozen.replace(
        claim,
        overridden=(*objections, *([group] if group else [])),
        inherited=claim.inherited or _never_to_be_had(claim, there.host) is not None,
    )


def _refuse(claim: Claim, by_address: Mapping[str, Claim], there: _Circumstances) -> Refusal | None:
    objection: guards.Objection | None = None
    if claim.address in there.taken:
        objection = guards.Objection(
            guards.Rule.TAKEN,
            f"is claimed by the application {there.taken[claim.address]} already",
            address=claim.address,
        )
    elif claim.address not in there.known.inherited:
        objection = _never_to_be_had(claim, there.host)
    objection = (
        objection
        or viability.object_to_use(
            claim.function, there.groups, by_address, allow_in_use=claim.item.allow_in_use
        )
        or _object_to_group(claim, by_address, there)
    )
    if objection is None:
        return None
    if claim.companion_of:
        objection = viability.of_companion(objection)
    return Refusal(claim.item, objection, claim.companion_of or claim.address)


def _object_to_group(
    claim: Claim, by_address: Mapping[str, Claim], there: _Circumstances
) -> guards.Objection | None:
    """Object where the IOMMU group of a claim would not be viable."""
    unasked = there.standing.unasked(claim.function)
    fallen = there.standing.fallen(claim.function, by_address)
    others = unasked or fallen
    objection = viability.object_to_group(
        claim.function, others, len(others), are_asked=not unasked
    )
    left_out = _left_out(claim.item, (*unasked, *fallen), there) if objection else ()
    if objection and left_out:
        way_out = f"leave out the whole group, or {' and '.join(left_out)} no more"
        return frozen.replace(objection, way_out=way_out)
    return objection


def _left_out(
    item: devices.Item, others: Iterable[pci.Function], there: _Circumstances
) -> tuple[str, ...]:
    """The functions that the item leaves out, or that stay with the host, in address order."""
    if not (item.exclude or there.excepted):
        return ()
    addresses = (each.address for each in others)
    found = (each for each in addresses if each in there.excepted or item.excludes(each))
    return tuple(sorted(found, key=pci_address.sort_key))


def _never_to_be_had(claim: Claim, host: pci.Host) -> guards.Objection | None:
    """Object to what no guest could have, or Nova could not give to one."""
    for_nova = claim.item.alias and not claim.companion_of
    objection = viability.object_to_domain(claim.function) if for_nova else None
    return objection or viability.object_forever(claim.function, host)
