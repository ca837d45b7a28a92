"""Whether one function can be claimed, and what goes with it. Pure.

`claims` asks this of what an item wants, `inventory` of every function of the host.
"""

from __future__ import annotations

from collections.abc import Container

from passthrough.host import pci
from passthrough.host.usage import Usage
from passthrough.planning import guards

# Drivers that leave a group's DMA to whoever owns the group: the kernel lets them share it with
# vfio (pci-stub: vfio_driver_allowed[]; the others are VFIO drivers themselves).
_HARMLESS_DRIVERS = ("pci-stub", "vfio-pci", "vfio_pci")


def companions(function: pci.Function, host: pci.Host) -> tuple[pci.Function, ...]:
    """The other functions of the card, but for bridges and those of the same id.

    An item either claims a function of the same id itself or leaves it out by its address: the
    second port of a NIC stays with the host.
    """
    return tuple(
        each
        for each in host.slot_members(function)
        if each.id != function.id and not each.is_pci_bridge
    )


def strangers(
    function: pci.Function, host: pci.Host, friends: Container[str] = ()
) -> tuple[pci.Function, ...]:
    """The functions whose drivers keep the IOMMU group of ``function`` from being viable.

    Args:
        function: one member of the group.
        host: the host's functions.
        friends: addresses of members that are or will be on vfio-pci.
    """
    return tuple(
        each
        for each in host.group_members(function)
        if each.address not in friends
        and each.driver
        and not each.is_pci_bridge
        and not each.driver.endswith(_HARMLESS_DRIVERS)
    )


def object_to(
    function: pci.Function,
    host: pci.Host,
    usage: Usage,
    claimed: Container[str],
    *,
    allow_in_use: bool = False,
) -> guards.Objection | None:
    """Give the first objection to claiming ``function``, or None.

    Args:
        function: the function to claim.
        host: the host's functions.
        usage: what the host itself uses.
        claimed: addresses of the functions that are claimed together, ``function`` among them.
        allow_in_use: whether to set aside objections that can be overridden.
    """
    for objection in (
        guards.object_to(function, usage),
        guards.object_to_group(function, host, usage, claimed),
    ):
        if objection and not (objection.overridable and allow_in_use):
            return objection
    others = strangers(function, host, claimed)
    if not others:
        return None
    names = ", ".join(f"{each.address} ({each.id}, {each.driver})" for each in others)
    return guards.Objection(
        guards.Rule.GROUP_NOT_VIABLE,
        f"shares IOMMU group {function.group} with {names}",
        "claim them too, or move the card to a slot with a group of its own",
        address=function.address,
    )


def object_to_card(
    function: pci.Function, host: pci.Host, usage: Usage | None = None
) -> guards.Objection | None:
    """Give what would be against ``function`` if an item named it; None when it could be claimed.

    Where the objection's address is another one, it is against a companion of ``function``.
    """
    card = {each.address: each for each in (function, *companions(function, host))}
    for each in card.values():
        objection = object_to(each, host, usage or Usage(), card)
        if objection:
            return objection
    return None
