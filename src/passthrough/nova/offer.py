"""What a compute host offers to Nova: the drop-in, and what an operator hears about it. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from passthrough import errors, frozen, pci_address
from passthrough.config import options
from passthrough.host import pci
from passthrough.nova import aliases as nova_aliases
from passthrough.nova import conf as nova_conf
from passthrough.nova import facts as nova_facts
from passthrough.nova import limits as nova_limits
from passthrough.nova import lines as nova_lines
from passthrough.nova import release as nova_release
from passthrough.planning import boot_files, claims, groups, plan, templates
from passthrough.problem import Kind, Problem


class Offer(frozen.Value):
    """What Nova should have of this host, and how far Nova is from that.

    Attributes:
        facts: the facts that it follows from.
        device_specs: one for each verified claim, in address order.
        held: the device_specs of functions that a guest holds although their claims are not
            verified; and of those that are missing, which Nova does not list without them.
        aliases: the aliases in the drop-in.
        content: what the drop-in should hold; None for no drop-in.
        change: the change that makes the drop-in hold it; None where it does already.
        read: whether nova-compute has started with this content, or need not.
        deferred: whether the policy layer has denied the restart that would make it do so.
        problems: what an operator has to resolve.
        notes: what an operator may want to know.
    """

    facts: nova_facts.Facts = frozen.field(default_factory=nova_facts.Facts)
    device_specs: tuple[nova_lines.Fields, ...] = ()
    held: tuple[nova_lines.Fields, ...] = ()
    aliases: tuple[nova_lines.Fields, ...] = ()
    content: str | None = None
    change: plan.FileChange | None = None
    read: bool = True
    deferred: bool = False
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()


def decide(
    wanted: options.Options,
    outcome: claims.Outcome,
    verified: Iterable[claims.Claim],
    facts: nova_facts.Facts,
    renderer: templates.Renderer,
) -> Offer:
    """Work out what to offer.

    A function that a guest holds stays offered, whatever became of its claim.

    Args:
        wanted: the application's options.
        outcome: what it claims.
        verified: the claims to offer: those that `find_verified` gives, or, to see what will be,
            those that `find_primary` gives.
        facts: Nova on this host.
        renderer: gives the drop-in's content.

    Raises:
        OptionError: when the installed Nova does not know what an option asks for.
    """
    check_release(wanted, facts.release)
    path, host = facts.path, outcome.host
    elsewhere = facts.config.without(path)
    stays = facts.config.only(path).is_true(nova_conf.REPORT_IN_PLACEMENT)
    reported = wanted.report_in_placement or stays
    verified = tuple(verified)
    in_placement = reported or elsewhere.is_true(nova_conf.REPORT_IN_PLACEMENT)
    withheld = nova_limits.unofferable(verified, host, in_placement, facts.release)
    offered = [claim for claim in verified if claim.address not in withheld]
    specs = tuple(_device_spec(claim, facts.release) for claim in offered)
    crowded, parts = nova_limits.shared_groups(find_primary(outcome), host)
    problems = [*nova_limits.device_types(outcome), *parts, *withheld.values()]
    if not facts.release:
        # A Nova that was not installed as a package learns the device_specs through nova-pci.
        absent = tuple(facts.missing.values())
        offer = Offer(facts, specs, absent, problems=tuple(problems), notes=tuple(crowded))
        return _with_content(offer, None)
    sharing = nova_aliases.share(
        _aliases(wanted, outcome, facts.config.only(path)),
        elsewhere.aliases(),
        facts.config.is_true(nova_conf.PCI_IN_PLACEMENT),
    )
    notes, clashes = nova_limits.offered_elsewhere(offered, elsewhere)
    if facts.group is None:
        problems.append(
            Problem(
                Kind.NO_NOVA_GROUP,
                f"nova-common is installed, but there is no group {nova_lines.GROUP}",
            )
        )
    if stays and not wanted.report_in_placement and not wanted.leaving:
        problems.append(
            Problem(
                Kind.REPORTED_FOR_GOOD,
                "Nova does not start without it once it was on, so it stays on",
                "set it to true again",
                where=("report-in-placement",),
            )
        )
    offer = Offer(
        facts=facts,
        device_specs=specs,
        held=() if wanted.leaving else _held(facts, host, specs),
        aliases=sharing.published,
        problems=(*problems, *sharing.problems, *clashes),
        notes=(
            *sharing.notes,
            *notes,
            *crowded,
            *nova_limits.crowded_classes(offered, in_placement),
        ),
    )
    if wanted.leaving:
        # The caretaker decides this too, and no template has come with it.
        present = facts.present.content if facts.present and reported else None
        return _with_content(offer, present and nova_lines.without_devices(present))
    content = nova_lines.DropIn(
        facts.application,
        facts.release,
        tuple(sorted((*offer.device_specs, *offer.held), key=_address_order)),
        offer.aliases,
        reported,
    ).render(renderer, facts.present.content if facts.present else None)
    return _with_content(offer, content)


def _device_spec(claim: claims.Claim, release: nova_release.Release | None) -> nova_lines.Fields:
    """The device_spec of a claim; libvirt leaves alone what it would move to a variant.

    Source: managed in nova/conf/pci.py, and virPCIDeviceFindBestVFIOVariant() of libvirt, which it
    asks for managed devices alone.
    """
    can_say = release is not None and release.major >= nova_release.MANAGED_SINCE
    unmanaged = can_say and bool(claim.vfio.variant)
    return nova_lines.device_spec(claim.function, claim.item, is_unmanaged=unmanaged)


def find_primary(outcome: claims.Outcome) -> tuple[claims.Claim, ...]:
    """The claims of functions that an item names; companions are left out."""
    return tuple(claim for claim in outcome.claims if claim.companion_of is None)


def find_verified(outcome: claims.Outcome) -> tuple[claims.Claim, ...]:
    """The primary claims that a guest can have now.

    Their functions are on vfio-pci or a variant of it, in a viable group of an active IOMMU that
    VFIO can give to a guest.
    """
    known = groups.Groups(outcome.host)
    return tuple(
        claim
        for claim in find_primary(outcome)
        if claim.function.is_on_vfio
        and claim.function.group is not None
        and not outcome.host.has_direct_region(claim.function.group)
        and not known.strangers(claim.function)
    )


def check_release(wanted: options.Options, release: nova_release.Release | None) -> None:
    """Refuse options that the installed Nova does not know.

    Raises:
        OptionError: naming the option and the release it needs.
    """
    if not release:
        return
    nova_release.check(wanted.devices, release)
    needed = nova_release.REPORT_IN_PLACEMENT_SINCE
    if wanted.report_in_placement and release.major < needed:
        raise errors.OptionError(
            "report-in-placement",
            f"needs Nova {nova_release.name_of(needed)} or later, and this unit has Nova {release}",
        )


def fingerprint(content: str | None) -> str:
    """A digest of a drop-in's content; empty for no drop-in."""
    return hashlib.sha256(content.encode()).hexdigest() if content else ""


def listed(facts: nova_facts.Facts) -> dict[str, Mapping[str, Any]]:
    """The device_specs in the drop-in as it is, by address."""
    return {
        str(entry.content["address"]): entry.content
        for entry in facts.config.only(facts.path).device_specs()
        if pci_address.is_exact(str(entry.content.get("address")))
    }


def _aliases(
    wanted: options.Options, outcome: claims.Outcome, present: nova_conf.Config
) -> tuple[nova_lines.Fields, ...]:
    """The aliases to offer: those of all items but the ones that are refused altogether.

    An alias that the drop-in holds stays even then: Nova could not move the guests that have it.
    """
    known = {nova_aliases.meaning(entry.content) for entry in present.aliases()}
    mistaken = {refusal.item.position for refusal in outcome.blocking}
    mistaken -= {claim.item.position for claim in outcome.claims}
    return nova_lines.in_order(
        each
        for item in wanted.devices.items
        for each in nova_lines.aliases_of(item)
        if item.position not in mistaken or nova_aliases.meaning(each) in known
    )


def _held(
    facts: nova_facts.Facts, host: pci.Host, specs: tuple[nova_lines.Fields, ...]
) -> tuple[nova_lines.Fields, ...]:
    """Keep the device_specs of functions that a guest holds and that are offered no longer.

    And of those that are missing: Nova lists what libvirt has (nova/virt/libvirt/host.py), so one
    that is not there harms nobody, and a slot that comes and goes restarts no nova-compute.
    """
    offered = {each["address"] for each in specs}
    functions = host.functions
    there = {each: functions[each].id for each in facts.held if each in functions}
    gone = {
        each: f"{spec['vendor_id']}:{spec['product_id']}" for each, spec in facts.missing.items()
    }
    stay = {**gone, **there}
    return tuple(
        nova_lines.kept_device_spec(address, stay[address], content)
        for address, content in listed(facts).items()
        if address in stay and address not in offered
    )


def _address_order(spec: nova_lines.Fields) -> tuple[int, str]:
    return pci_address.sort_key(spec["address"])


def _with_content(offer: Offer, content: str | None) -> Offer:
    facts, known = offer.facts, offer.facts.known
    path = nova_lines.path_of(facts.application)
    file = boot_files.File(path, nova_lines.MODE, None, content)
    wrong_group = content is not None and facts.present and facts.present.group != facts.group
    differs = facts.present != file.as_present() or wrong_group
    writable = facts.group is not None or content is None
    digest = fingerprint(content)
    return frozen.replace(
        offer,
        content=content,
        change=plan.FileChange(file, facts.present) if differs and writable else None,
        read=digest == known.read or not writable,
        deferred=digest != known.read and bool(known.run) and known.deferred == digest,
    )


def withdraws(offer: Offer, addresses: Iterable[str]) -> bool:
    """Tell whether the drop-in lists any of ``addresses`` and ``offer`` takes it out."""
    written = listed(offer.facts)
    stay = {each["address"] for each in (*offer.device_specs, *offer.held)}
    return any(address in written and address not in stay for address in addresses)
