"""Who has what of a host, in the words of the column STATE. Pure.

On a host without a unit of the charm, `list` imports nothing of what `taken` reads.
"""

from __future__ import annotations

from passthrough import TYPE_CHECKING, frozen
from passthrough.host.uses import kinds
from passthrough.planning import guards

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from passthrough.host import pci
    from passthrough.host.usage import Usage
    from passthrough.planning import claims, health
    from passthrough.state.record import Quarantine

# What kind of use each guard of a use objects to; a test holds this to ``guards.GUARDS``.
USES = {
    "mounted": kinds.Kind.MOUNT,
    "swap": kinds.Kind.SWAP,
    "storage-member": kinds.Kind.MEMBER,
    "configured": kinds.Kind.CONFIGURED,
    "default-route": kinds.Kind.ROUTE,
    "network-port": kinds.Kind.PORT,
    "network-address": kinds.Kind.ADDRESS,
    "network-namespace": kinds.Kind.NAMESPACE,
    "subfunctions": kinds.Kind.PART,
    "dpdk": kinds.Kind.DPDK,
    "console": kinds.Kind.CONSOLE,
    "host-console": kinds.Kind.HOST_CONSOLE,
    "mediated": kinds.Kind.MEDIATED,
    "program": kinds.Kind.PROGRAM,
    "guest": kinds.Kind.GUEST,
    "held": kinds.Kind.HELD,
    "unknown": kinds.Kind.UNKNOWN,
}
# Guards that object to what the host needs, whatever it does with it.
_OF_THE_HOST = ("pci-bridge", "host-controller", "host-memory", "vfs-in-use")
_PREFIXES = {kinds.Kind.GUEST: "guest", kinds.Kind.UNKNOWN: "not known"}
# Of an erase that runs, was killed or has failed: what the disk holds is its last guest's.
NOT_ERASED = "not erased to the end: run erase again"
_MOST_HOLDERS = 2


class Holding(frozen.Value):
    """One function that an application of the charm has taken.

    Attributes:
        name: the alias that its item has, or the item's id; the application's name where its
            options are not known.
        is_wanted: whether an item still asks for it; True where that is not known.
        holders: who has it open, in words.
        health: how it is.
        quarantine: why it is kept off Nova's offer; None where it is not.
    """

    name: str
    is_wanted: bool
    holders: tuple[str, ...]
    health: health.Health
    quarantine: Quarantine | None = None


class Holdings(frozen.Value):
    """What the applications have taken, by address, which of it is missing, and what is lent.

    ``lent`` maps an address to the application that lends it to the host; ``erasing`` has the
    addresses whose erase has not come to its end, taken or not; ``are_known`` is False where a
    record cannot be read.
    """

    taken: Mapping[str, Holding] = frozen.field(default_factory=dict[str, Holding])
    missing: tuple[health.Health, ...] = ()
    lent: Mapping[str, str] = frozen.field(default_factory=dict[str, str])
    erasing: frozenset[str] = frozenset()
    are_known: bool = True


NONE = Holdings()


def claim_name(claim: claims.Claim) -> str:
    """What an operator calls a claimed function: the alias of its item, or the item's id."""
    return claim.item.alias or claim.item.id


def state_of_claim(
    name: str,
    function: pci.Function,
    holders: Iterable[str],
    judged: health.Health,
    *,
    waits_for_boot: bool,
) -> str:
    """What becomes of a claimed function, for the column STATE.

    Args:
        name: what an operator calls it.
        function: the function.
        holders: who has it open.
        judged: how it is.
        waits_for_boot: whether only another boot can bind it.
    """
    from passthrough.reporting import health_text  # not for a host where nothing is taken

    sick = health_text.sick_word(judged)
    held = _held(tuple(holders))
    if sick:
        return f"{sick}; {held}" if held else sick
    if held:
        return f"{name}, {held}"
    if function.is_on_vfio:
        return f"{name}, ready"
    return f"{name}, after the next reboot" if waits_for_boot else f"{name}, not on vfio-pci yet"


def state_in_quarantine(entry: Quarantine, holders: Iterable[str]) -> str:
    """What becomes of a claimed function that is kept off Nova's offer, for the column STATE."""
    from passthrough.reporting import quarantines  # nor for one where nothing is sick

    held = _held(tuple(holders))
    return "; ".join(filter(None, [quarantines.state(entry), held]))


def state_in_erase(judged: health.Health, entry: Quarantine | None, holders: Iterable[str]) -> str:
    """What becomes of a claimed function whose erase has not come to its end, for STATE."""
    from passthrough.reporting import health_text

    if entry:
        return f"{NOT_ERASED}; {state_in_quarantine(entry, holders)}"
    said = (NOT_ERASED, health_text.sick_word(judged), _held(tuple(holders)))
    return "; ".join(filter(None, said))


def state(
    function: pci.Function,
    host: pci.Host,
    holdings: Holdings,
    objection: guards.Objection | None,
    usage: Usage,
) -> str:
    """What becomes of any function of a host, for the column STATE.

    Args:
        function: the function.
        host: the host's functions.
        holdings: what the applications have taken.
        objection: what is against claiming it.
        usage: what the host uses.
    """
    is_erasing = function.address in holdings.erasing
    one = holdings.taken.get(function.address)
    if one and one.is_wanted and is_erasing:
        return state_in_erase(one.health, one.quarantine, one.holders)
    said = _state(function, host, holdings, objection, usage)
    return f"{NOT_ERASED}; {said}" if is_erasing else said


def _state(
    function: pci.Function,
    host: pci.Host,
    holdings: Holdings,
    objection: guards.Objection | None,
    usage: Usage,
) -> str:
    """What becomes of a function of which no erase has begun."""
    one = holdings.taken.get(function.address)
    if one is None:
        if function.address in holdings.lent:
            return "lent to the host"
        if function.is_on_vfio and not holdings.are_known:
            return "not known: a record of the charm cannot be read"
        return _state_of_others(function, objection, usage)
    if one.is_wanted:
        waits = not host.has_groups
        if one.quarantine:
            return state_in_quarantine(one.quarantine, one.holders)
        return state_of_claim(one.name, function, one.holders, one.health, waits_for_boot=waits)
    held = _held(one.holders)
    return f"{held}, then given back" if held else "given back by the next hook"


def _held(holders: tuple[str, ...]) -> str:
    more = len(holders) - _MOST_HOLDERS
    shown = ", ".join(holders[:_MOST_HOLDERS]) + (f" and {more} more" if more > 0 else "")
    return f"held by {shown}" if holders else ""


def _state_of_others(
    function: pci.Function, objection: guards.Objection | None, usage: Usage
) -> str:
    """What becomes of a function that nobody has taken; below the table stands why."""
    if objection is None:
        return "free"
    if objection.guard == guards.Rule.EXCEPTED:
        return "left out"
    if objection.address != function.address or objection.sibling:
        return "unclaimable"
    if objection.guard in _OF_THE_HOST:
        return "host"
    kind = USES.get(objection.guard)
    uses = usage.of(function.address, kind) if kind else ()
    return f"{_PREFIXES.get(kind, 'host')}: {uses[0]}" if kind and uses else "unclaimable"
