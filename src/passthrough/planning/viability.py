"""Whether one function can be claimed, and what goes with it. Pure.

`claims` asks this of what an item wants, `inventory` of every function of the host.
"""

from __future__ import annotations

import itertools
from collections.abc import Container, Iterable, Mapping

from passthrough import frozen
from passthrough.host import pci
from passthrough.host.usage import Usage
from passthrough.planning import groups, guards

_NETWORK = 0x02  # a PCI base class

# As many functions of a group are named; a group of hundreds would fill every message.
_NAMED = 16

# What vfio-pci refuses since a guest could break out: vfio_pci_dev_in_denylist() in the kernel's
# drivers/vfio/pci/vfio_pci.c (QAT of the first generation, DSA and IAA).
_DENYLIST = frozenset(
    f"8086:{product}"
    for product in ("0435", "0443", "19e2", "19e3", "37c8", "37c9", "0b25", "0cfe")
)
LIFTS_DENYLIST = "vfio-pci.disable_denylist=1"


def companions(function: pci.Function, host: pci.Host) -> tuple[pci.Function, ...]:
    """The functions of other kinds that the card has in the same IOMMU group, but for bridges.

    Such as a GPU's audio. No port of a network card is one of another port, whatever their ids;
    nor is a function in a group of its own, as an FPGA's for its management, which stays with the
    host. While no IOMMU is active, all of a card counts as one group.
    """
    return tuple(
        each
        for each in wide_companions(function, host)
        if each.group == function.group and _kind(each) != _kind(function)
    )


def wide_companions(function: pci.Function, host: pci.Host) -> tuple[pci.Function, ...]:
    """What 52ee0af took along: all other functions of the card, but for bridges and the same id."""
    return tuple(
        each
        for each in host.slot_members(function)
        if each.id != function.id and not each.is_pci_bridge
    )


def _kind(function: pci.Function) -> int:
    """Class and subclass; of network controllers the class alone: ports may differ in the rest."""
    base = function.class_code >> 16
    return base if base == _NETWORK else function.class_code >> 8


def lifts_denylist(*tokens: str) -> bool:
    """Tell whether kernel options have vfio-pci take what is on its denylist; the last one counts.

    Source: param_set_bool() in the kernel's kernel/params.c, where a name alone is true, and
    kstrtobool(), which looks at the first letter, of "on" at two.
    """
    known = LIFTS_DENYLIST.partition("=")[0].replace("-", "_")
    pairs = [token.partition("=") for token in tokens]
    values = [(sign, value) for name, sign, value in pairs if name.replace("-", "_") == known]
    if not values:
        return False
    sign, value = values[-1]
    return not sign or value[:1] in ("1", "y", "Y") or value[:2].lower() == "on"


def is_denied(function: pci.Function) -> bool:
    """Tell whether a function's model is on vfio-pci's denylist."""
    return function.id in _DENYLIST


def leave_out(address: str) -> guards.Objection:
    """Object to a function that its host leaves out, whatever an item asks for."""
    return guards.Objection(
        guards.Rule.EXCEPTED, "is left out on this host by host-exceptions", address=address
    )


def leave_lent(address: str, application: str = "") -> guards.Objection:
    """Object to a function that an operator has lent to the host.

    Args:
        address: the function.
        application: the one that has lent it; empty for the one that asks.
    """
    by = f" by {application}" if application else ""
    fact = f"is lent to the host{by} until the action take-back"
    return guards.Objection(guards.Rule.LENT, fact, address=address)


def object_to_domain(function: pci.Function) -> guards.Objection | None:
    """Object to what Nova gives to no guest for its address, whatever an alias says."""
    if not function.is_beyond_nova or function.is_on_vfio:
        return None
    return guards.Objection(
        guards.Rule.PCI_DOMAIN,
        "is behind Intel VMD, and Nova takes no PCI domain above ffff",
        "leave it out by its address, or turn VMD off in the firmware's settings",
        address=function.address,
    )


def object_forever(function: pci.Function, host: pci.Host) -> guards.Objection | None:
    """Object to what no guest could have, whatever the host does with it."""
    if is_denied(function) and not (function.is_on_vfio or host.denylist_is_off):
        return guards.Objection(
            guards.Rule.DENYLIST,
            "is on vfio-pci's denylist, so vfio-pci refuses it",
            "a guest could break out with it: for trusted guests alone, set"
            f" kernel-options={LIFTS_DENYLIST}",
            address=function.address,
        )
    if function.group is not None and host.has_direct_region(function.group):
        return guards.Objection(
            guards.Rule.RESERVED_REGION,
            f"shares memory with the firmware (RMRR, IOMMU group {function.group})",
            "VFIO refuses it to every guest for that direct region: turn off in the firmware's"
            " settings what shares memory with the device",
            address=function.address,
        )
    return None


def object_to_use(
    function: pci.Function,
    known: groups.Groups,
    claimed: Container[str],
    *,
    allow_in_use: bool = False,
) -> guards.Objection | None:
    """Give the first objection of a guard to claiming ``function``, or None.

    Args:
        function: the function to claim.
        known: the host's groups, with what it uses.
        claimed: addresses of the functions that are claimed together, ``function`` among them.
        allow_in_use: whether to set aside objections that can be overridden.
    """
    for objection in (
        guards.object_to(function, known.usage),
        known.object_to_use(function, claimed),
    ):
        if objection and not (objection.overridable and allow_in_use):
            return objection
    return None


def object_to_group(
    function: pci.Function,
    others: Iterable[pci.Function],
    number: int,
    *,
    are_asked: bool = False,
) -> guards.Objection | None:
    """Object where the IOMMU group of ``function`` would not be viable.

    Args:
        function: the function to claim.
        others: the strangers in its group, the first of them at least.
        number: how many there are; none is no objection.
        are_asked: whether items ask for all of them, in vain.
    """
    if not number:
        return None
    named = tuple(itertools.islice(others, _NAMED))
    names = ", ".join(f"{each.address} ({each.id}, {each.driver})" for each in named)
    more = f" and {number - len(named)} more" if number > len(named) else ""
    way_out = "what stands against claiming that, stands against this"
    if function.is_beyond_nova or any(each.is_beyond_nova for each in named):
        way_out = (
            "what is behind Intel VMD shares its controller's group: turn VMD off in the firmware's"
            " settings"
        )
    elif not are_asked:
        way_out = "claim them too, or move the card to a slot with a group of its own"
    return guards.Objection(
        guards.Rule.GROUP_NOT_VIABLE,
        f"shares IOMMU group {function.group} with {names}{more}",
        way_out,
        address=function.address,
    )


def object_to_card(
    function: pci.Function,
    host: pci.Host,
    usage: Usage | None = None,
    known: groups.Groups | None = None,
) -> guards.Objection | None:
    """Give what would be against ``function`` if an item named it; None when it could be claimed.

    Where the objection's address is another one, it is against a companion of ``function``.

    Args:
        function: one of the host's functions.
        host: the host's functions.
        usage: what the host itself uses; None stands for nothing.
        known: the groups of that host and usage, for whoever asks about many functions.
    """
    known = known or groups.Groups(host, usage)
    card = {each.address: each for each in (function, *companions(function, host))}
    for each in card.values():
        objection = (
            object_to_domain(each)
            or object_forever(each, host)
            or object_to_use(each, known, card)
            or _object_to_group_of_card(each, known, card)
        )
        if objection:
            return of_companion(objection)
    return None


def _object_to_group_of_card(
    function: pci.Function, known: groups.Groups, card: Mapping[str, pci.Function]
) -> guards.Objection | None:
    strangers = () if known.is_alone(function) else known.strangers(function)
    if not strangers:
        return None
    own = sum(each.group == function.group and groups.is_stranger(each) for each in card.values())
    return object_to_group(function, groups.without(strangers, card), len(strangers) - own)


def of_companion(objection: guards.Objection) -> guards.Objection:
    """Tell of an objection to a companion whether the function could be had without that.

    What is said of the whole IOMMU group stands against the function, too.
    """
    can_part = objection.guard not in (guards.Rule.GROUP_NOT_VIABLE, guards.Rule.RESERVED_REGION)
    return frozen.replace(objection, can_part=can_part)
