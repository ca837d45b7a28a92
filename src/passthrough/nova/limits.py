"""Which claims Nova cannot use as they are asked for, and the way out. Pure.

Each check names the module of Nova that it follows.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Iterator

from passthrough.config import devices
from passthrough.host import pci
from passthrough.nova import conf as nova_conf
from passthrough.nova import lines as nova_lines
from passthrough.nova import release as nova_release
from passthrough.planning import claims, viability
from passthrough.problem import Kind, Problem

# As many devices of one resource class are no trouble for Placement's defaults.
_MANY = 8


def device_types(outcome: claims.Outcome) -> Iterator[Problem]:
    """Find aliases whose device type never matches a function that they are for.

    Nothing is claimed for such an item; it has functions that an earlier configuration, or an
    earlier revision of the charm, has taken for it.

    Source: _get_device_type in nova/virt/libvirt/host.py and nova/pci/stats.py. Nova gives a PF to
    an alias of type-PF alone, whether or not the PF has VFs; a flavor with another alias ends in
    "No valid host".
    """
    seen: set[tuple[int, str]] = set()
    for claim in outcome.claims:
        objection = claims.object_to_type(claim.item, claim.function)
        key = (claim.item.position, claim.function.device_type)
        if claim.companion_of or not objection or key in seen:
            continue
        seen.add(key)
        yield Problem(
            Kind.DEVICE_TYPE_NEVER_MATCHES,
            objection.fact,
            objection.way_out,
            subject=claim.address,
            where=("devices", claim.item.label),
        )


def shared_groups(
    offered: Iterable[claims.Claim], host: pci.Host
) -> tuple[list[str], list[Problem]]:
    """Find functions of one IOMMU group that are each on offer: one guest has the whole group.

    Nova knows no groups (nova/pci/stats.py): it gives one function of a group to one guest and the
    next to another, which then does not start.

    Args:
        offered: the claims that are on offer, or will be.
        host: the host's functions.

    Returns:
        Notes, where whole cards share a group, and problems, where a part of a card is on offer
        beside the card, under the same alias or none.
    """
    by_group: dict[tuple[int, str], list[claims.Claim]] = {}
    for claim in offered:
        function = claim.function
        # While no IOMMU is active, a card counts as one group, as it does for companions.
        key = (-1, function.slot) if function.group is None else (function.group, "")
        by_group.setdefault(key, []).append(claim)
    notes: list[str] = []
    problems: list[Problem] = []
    for (group, slot), members in sorted(by_group.items()):
        parts = [each for each in members if _is_part(each, members, host)]
        problems += [
            Problem(
                Kind.PART_OF_A_CARD,
                f"is a part of a card that item {_card_of(each, members, host).item.position} asks"
                " for",
                "a guest that gets it alone keeps the card from every other: take the item out, as"
                " what belongs to a card goes along by itself",
                subject=each.address,
                where=("devices", each.item.label),
            )
            for each in parts
        ]
        whole = [each.address for each in members if each not in parts]
        if len(whole) > 1 and not slot:
            names = " ".join(whole)
            notes.append(f"{names} share IOMMU group {group}: one guest at a time can have any")
    return notes, problems


def _is_part(claim: claims.Claim, members: list[claims.Claim], host: pci.Host) -> bool:
    card = _card_of(claim, members, host)
    ours, theirs = claim.item.names, card.item.names
    return card != claim and (not ours or not set(ours).isdisjoint(theirs))


def _card_of(claim: claims.Claim, members: list[claims.Claim], host: pci.Host) -> claims.Claim:
    """The first claimed function of the same card, of another kind: the lowest address leads."""
    others = {each.address for each in viability.companions(claim.function, host)}
    return next(
        (each for each in members if each.address in others and each.address < claim.address),
        claim,
    )


def unofferable(
    verified: Iterable[claims.Claim],
    host: pci.Host,
    in_placement: bool,
    release: nova_release.Release | None = None,
) -> dict[str, Problem]:
    """Find functions whose device_spec would keep nova-compute from starting.

    Args:
        verified: the claims that could be offered.
        host: the host's functions.
        in_placement: whether nova-compute reports PCI devices to Placement.
        release: the installed Nova; None where none is known.

    Returns:
        Address → problem, in the order of ``verified``.
    """
    withheld: dict[str, Problem] = {}
    by_address = {claim.address: claim for claim in verified}
    for address, claim in by_address.items():
        problem = None
        if claim.function.is_beyond_nova:
            problem = Problem(
                Kind.PCI_DOMAIN_TOO_HIGH,
                "Nova takes no PCI domain above ffff",
                "leave it out",
                where=_place(claim),
            )
        else:
            problem = _refused_for_one_time_use(claim, in_placement)
            if in_placement and not problem:
                problem = _refused_by_placement(claim, by_address, host, _tags_of(release))
        if problem:
            withheld[address] = problem
    return withheld


def _refused_for_one_time_use(claim: claims.Claim, in_placement: bool) -> Problem | None:
    """Find why Nova would not start with an item's one-time-use.

    Source: _handle_one_time_use in nova/pci/devspec.py, and the check in
    nova/compute/pci_placement_translator.py.
    """
    if claim.item.one_time_use is None:
        return None
    if claim.function.physfn:
        return Problem(
            Kind.ONE_TIME_USE_OF_A_VF,
            "one-time-use is for whole devices",
            "Nova takes it on no VF, not even as false: leave the key out",
            where=_place(claim),
        )
    if claim.item.one_time_use and not in_placement:
        return Problem(
            Kind.ONE_TIME_USE_NEEDS_PLACEMENT,
            "one-time-use needs report-in-placement",
            "Nova takes it only where it reports devices to Placement: set"
            " report-in-placement=true",
            where=_place(claim),
        )
    return None


def _tags_of(release: nova_release.Release | None) -> tuple[str, ...]:
    """The fields of an item in which VFs of one PF must agree in Placement."""
    both = ("resource_class", "traits")
    is_trait = release and release.major >= nova_release.LIVE_MIGRATABLE_IS_TRAIT_SINCE
    return (*both, "live_migratable") if is_trait else both


def crowded_classes(offered: Iterable[claims.Claim], in_placement: bool) -> list[str]:
    """Note resource classes of which Placement would not try all devices.

    Source: Nova's page on PCI passthrough, "PCI tracking in Placement": Placement pairs every
    device with every other, and ends at a limit which eight devices of one class reach.
    """
    counts = collections.Counter(
        resource_class(claim)
        for claim in offered
        if in_placement and not claim.item.physical_network
    )
    return [
        f"{count} devices are of the resource class {name}: raise max_allocation_candidates in"
        " Placement, or let it go breadth-first"
        for name, count in sorted(counts.items())
        if count > _MANY
    ]


def resource_class(claim: claims.Claim) -> str:
    """Placement's class of a claimed device."""
    made = f"CUSTOM_PCI_{claim.function.id.upper().replace(':', '_')}"
    return claim.item.resource_class or made


def _place(claim: claims.Claim) -> tuple[str, ...]:
    return ("devices", claim.item.label, claim.address)


def _refused_by_placement(
    claim: claims.Claim,
    verified: dict[str, claims.Claim],
    host: pci.Host,
    fields: tuple[str, ...],
) -> Problem | None:
    """Find why Placement cannot hold a function beside the others.

    Source: PciResourceProvider in nova/compute/pci_placement_translator.py. A PF and its VFs are
    one provider: it holds the PF or the VFs, with one resource class and one set of traits. What
    has a physical network is Neutron's, and no part of it.
    """
    function = claim.function
    held = {address: each for address, each in verified.items() if not each.item.physical_network}
    if function.address not in held:
        return None
    for other in host.functions.values():
        # The exact address of a PF also matches those of its VFs that have its id.
        offered = other.address in held or other.id == function.id
        if other.physfn == function.address and offered:
            return _either_kind(claim, other.address)
    if not function.physfn:
        return None
    if function.physfn in held:
        return _either_kind(claim, function.physfn)
    tags = _values_of(claim.item, fields)
    for other in held.values():
        others = _values_of(other.item, fields)
        if other.function.physfn == function.physfn and others != tags:
            named = [each.replace("_", "-") for each in fields]
            return Problem(
                Kind.VFS_DIFFER,
                f"VFs of {function.physfn} differ from item {other.item.position}'s",
                "with report-in-placement all of one card need the same"
                f" {', '.join(named[:-1])} and {named[-1]}",
                where=_place(claim),
            )
    return None


def _values_of(item: devices.Item, fields: tuple[str, ...]) -> list[object]:
    # False and nothing are alike to Nova where they are a trait.
    return [getattr(item, each) or None for each in fields]


def _either_kind(claim: claims.Claim, other: str) -> Problem:
    return Problem(
        Kind.PF_BESIDE_VF,
        f"Nova takes a PF or its VFs, not both ({other})",
        "claim one kind: with report-in-placement they are one provider",
        where=_place(claim),
    )


def offered_elsewhere(
    verified: Iterable[claims.Claim], elsewhere: nova_conf.Config
) -> tuple[list[str], list[Problem]]:
    """Find claimed functions that another of Nova's files offers too.

    Nova takes the first match (nova/pci/whitelist.py) and reads our file last: the other counts.

    Args:
        verified: the claims that are offered.
        elsewhere: what the other files say.

    Returns:
        Notes, where the other file says the same of a function, and problems, where it does not.
    """
    notes: list[str] = []
    problems: list[Problem] = []
    for entry in elsewhere.device_specs():
        matched = [claim for claim in verified if entry.offers(claim.function)]
        differing = [claim for claim in matched if _tags(claim) != _tags_for(claim, entry)]
        where = f"{entry.value} {nova_lines.to_line(entry.content)}"
        if differing:
            names = " ".join(claim.address for claim in differing)
            problems.append(
                Problem(
                    Kind.OFFERED_DIFFERENTLY,
                    f"is offered to Nova by {where} too, which counts and says something else of"
                    " it",
                    "unset it there (nova-compute's option pci-passthrough-whitelist)",
                    subject=names,
                )
            )
        elif matched:
            names = " ".join(claim.address for claim in matched)
            notes.append(f"{names} is offered to Nova by {where} too")
    return notes, problems


def _tags_for(claim: claims.Claim, entry: nova_conf.Entry) -> dict[str, object]:
    """What another file says of a claim; who binds it counts only where the item says so, too."""
    says_nothing = bool(claim.vfio.variant) and claim.item.managed is None
    return {
        key: value for key, value in entry.tags.items() if not (says_nothing and key == "managed")
    }


def _tags(claim: claims.Claim) -> dict[str, str]:
    selectors = ("vendor_id", "product_id", "address")
    fields = nova_lines.device_spec(claim.function, claim.item)
    return {key: value for key, value in fields.items() if key not in selectors}
