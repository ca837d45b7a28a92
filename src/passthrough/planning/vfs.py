"""Which functions get VFs, when, and which give them up. Pure.

The kernel makes VFs from none alone, and some drivers reset the port when it does (igb, ixgbe). So
a function whose port may be carrying something gets them at the next boot, from the boot unit. VFs
that this charm has not made are not its to take away, and none that somebody holds is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from passthrough import frozen
from passthrough.config import devices
from passthrough.errors import OptionError
from passthrough.host import pci, ports, vf_makers, vfio_users
from passthrough.host.usage import Usage
from passthrough.planning import claims, guards
from passthrough.problem import Kind, Problem
from passthrough.state import record

# They make VFs only while the port is up (bnx2x_sriov_configure(), bnxt_sriov_configure()).
WANT_PORT_UP = ("bnx2x", "bnxt_en")
_NETWORK = 0x02


class Wanted(NamedTuple):
    """A function that shall have VFs, and how many."""

    function: pci.Function
    number: int


class Change(NamedTuple):
    """A function whose VFs change while the host runs.

    Attributes:
        address: the function.
        present: how many VFs it has; they go first.
        number: how many it shall have; 0 for none.
    """

    address: str
    present: int
    number: int


class Outcome(frozen.Value):
    """What becomes of the VFs.

    Attributes:
        wanted: the functions that have VFs made at boot, in address order.
        changes: what to do now.
        waits: what only the next boot brings, and why.
        refusals: the functions that keep the VFs that they have.
        gone: the VFs that go now.
        lingering: the VFs that nobody wants any more, and that stay until the next boot.
        record: what the application's record should hold of VFs in the end.
    """

    wanted: tuple[Wanted, ...] = ()
    changes: tuple[Change, ...] = ()
    waits: tuple[Problem, ...] = ()
    refusals: tuple[claims.Refusal, ...] = ()
    gone: frozenset[str] = frozenset()
    lingering: frozenset[str] = frozenset()
    record: Mapping[str, record.Vfs] = frozen.field(default_factory=dict[str, record.Vfs])

    @property
    def restores(self) -> tuple[str, ...]:
        """The functions whose sriov_drivers_autoprobe is not as it was."""
        changing = {change.address for change in self.changes}
        return tuple(
            address
            for address, each in self.record.items()
            if each.autoprobe and address not in changing
        )


class Situation(NamedTuple):
    """What VFs are decided on, besides who asks for them.

    Attributes:
        host: the host's functions.
        known: what the application has taken and made before.
        usage: what the host itself uses.
        users: who has functions open.
        ports: the functions' interfaces.
        makers: who else makes VFs.
        taken: address → name of another application that has it, or makes its VFs.
        named: the functions that a shut-off guest names, and that stay for it.
        boot_id: of the running kernel.
        is_switched_off: whether nothing is to be made in this boot.
    """

    host: pci.Host
    known: record.Record = record.Record()
    usage: Usage = Usage()
    users: vfio_users.Users = vfio_users.Users.none()
    ports: ports.Ports = ports.Ports.none()
    makers: vf_makers.Makers = vf_makers.Makers.none()
    taken: Mapping[str, str] = {}
    named: Collection[str] = ()
    boot_id: str = ""
    is_switched_off: bool = False


def decide(outcome: claims.Outcome, now: Situation) -> Outcome:
    """Decide about the VFs of the functions that items ask them for, and of those that had some.

    Args:
        outcome: what is asked for on this host, and what is claimed.
        now: the host as it is.

    Raises:
        OptionError: when two items count the VFs of one function, or another one claims it.
    """
    found = _Found()
    asked: dict[str, devices.Item] = {}
    claimed = {claim.address: claim.item for claim in outcome.claims}
    for function, item in outcome.parents:
        rival = asked.setdefault(function.address, item)
        if rival is not item:
            raise _twice(function, item, rival, "has its VFs counted by item")
        if function.address in claimed:
            raise _twice(function, item, claimed[function.address], "is claimed by item")
        _decide_wanted(function, item, now, found)
    for address in now.known.vfs:
        if address not in asked:
            _decide_unwanted(address, now, found)
    return found.freeze()


def _twice(
    function: pci.Function, item: devices.Item, rival: devices.Item, how: str
) -> OptionError:
    return OptionError(
        "devices",
        f"{function.address} {how} {rival.position} ({rival}) too",
        item.label,
        "narrow one of them by address, or write its exclude",
    )


class _Found:
    """What was decided so far."""

    def __init__(self) -> None:
        self.wanted: list[Wanted] = []
        self.changes: list[Change] = []
        self.waits: list[Problem] = []
        self.refusals: list[claims.Refusal] = []
        self.gone: set[str] = set()
        self.lingering: set[str] = set()
        self.record: dict[str, record.Vfs] = {}

    def freeze(self) -> Outcome:
        """All of it, as it is told."""
        return Outcome(
            tuple(sorted(self.wanted, key=lambda each: each.function.address)),
            tuple(self.changes),
            tuple(self.waits),
            tuple(self.refusals),
            frozenset(self.gone),
            frozenset(self.lingering),
            self.record,
        )


def _decide_wanted(
    function: pci.Function, item: devices.Item, now: Situation, found: _Found
) -> None:
    address, present, count = function.address, function.num_vfs, item.vfs or 0
    known = now.known.vfs.get(address)
    objection = _object(function, count, now)
    if objection:
        found.refusals.append(claims.Refusal(item, objection, address))
        if known:
            found.record[address] = known
            found.wanted.append(Wanted(function, known.number))
        return
    found.wanted.append(Wanted(function, count))
    was_found = now.boot_id if present == count and not known else ""
    kept = known or record.Vfs(count, was_found)
    found.record[address] = kept._replace(
        number=count, found=kept.found if kept.found == now.boot_id else ""
    )
    if present == count or now.is_switched_off:
        return
    busy = _find_bar(function, now)
    if busy and function.driver in WANT_PORT_UP:
        # No boot helps: the boot unit comes before anybody sets a port up.
        found.refusals.append(claims.Refusal(item, _want_idle_port(function, busy), address))
        return
    if busy:
        found.waits.append(_wait(function, f"gets its {count} VFs at the next boot", busy))
        return
    found.changes.append(Change(address, present, count))
    found.gone.update(now.host.vfs_of(function.address))


def _decide_unwanted(address: str, now: Situation, found: _Found) -> None:
    function, known = now.host.functions.get(address), now.known.vfs[address]
    if function is None:
        return
    if not _are_ours(function, now):
        if known.autoprobe:
            found.record[address] = known
        return
    vfs = now.host.vfs_of(function.address)
    held = _find_holder(vfs, now)
    busy = held or _find_bar(function, now)
    if not busy:
        found.record[address] = known
        found.changes.append(Change(address, function.num_vfs, 0))
        found.gone.update(vfs)
        return
    found.record[address] = known
    found.lingering.update(vfs)
    if not held:
        fact = f"keeps its {function.num_vfs} VFs until the next boot"
        found.waits.append(_wait(function, fact, busy))


def _wait(function: pci.Function, fact: str, busy: str) -> Problem:
    cause = f"its port would be reset, and {busy}"
    return Problem(Kind.VFS_WAIT, fact, cause=cause, subject=function.address)


def _are_ours(function: pci.Function, now: Situation) -> bool:
    """Whether a function has VFs, and the application has made them."""
    known = now.known.vfs.get(function.address)
    return bool(function.num_vfs and known and not (known.found and known.found == now.boot_id))


def _object(function: pci.Function, count: int, now: Situation) -> guards.Objection | None:
    """Object to what cannot be had, now or after a boot."""
    return _object_to_function(function, count) or _object_to_others(function, count, now)


def _object_to_function(function: pci.Function, count: int) -> guards.Objection | None:
    most = function.total_vfs
    if function.physfn:
        rule, fact = guards.Rule.DEVICE_TYPE, "is a VF, and has none of its own"
        way_out = "write the id and address of its card"
    elif not most:
        rule = guards.Rule.NO_VFS
        fact = "can have no VF: SR-IOV is off in its firmware, or it has none"
        way_out = (
            "turn SR-IOV on in the card's firmware and in the machine's settings, and reboot, until"
            " its sriov_totalvfs tells a number"
        )
    elif count > most:
        rule, fact = guards.Rule.TOO_MANY_VFS, f"can have {most} VFs, and vfs is {count}"
        way_out = f"write vfs: {most} or less"
    elif function.driver is None or function.is_on_vfio:
        on = f"is on {function.driver}" if function.driver else "is on no driver"
        rule, fact = guards.Rule.NO_VFS, f"{on}, and its own driver makes its VFs"
        way_out = "give it back to its own driver first"
    else:
        return None
    return guards.Objection(rule, fact, way_out, address=function.address)


def _object_to_others(
    function: pci.Function, count: int, now: Situation
) -> guards.Objection | None:
    """Object where somebody else counts the function's VFs, has made them, or has one."""
    address, present = function.address, function.num_vfs
    makers = now.makers.of(function, now.ports.of(address))
    differs = present not in (0, count)
    held = _find_holder(now.host.vfs_of(function.address), now) if differs else ""
    if address in now.taken:
        rule, fact = guards.Rule.TAKEN, f"is the application {now.taken[address]}'s already"
        way_out = "take it out of one of the two"
    elif makers:
        rule, fact = guards.Rule.VFS_SET_ELSEWHERE, f"has its VFs set by {makers[0]}"
        way_out = "take that out (of the charm that writes it), or take the item with vfs out"
    elif differs and not _are_ours(function, now):
        rule = guards.Rule.VFS_SET_ELSEWHERE
        fact = f"has {present} VFs that this charm has not made"
        way_out = f"write vfs: {present}, or take them away first"
    elif held:
        rule, fact = guards.Rule.VFS_HELD, f"keeps its {present} VFs, as {held}"
        way_out = f"stop or migrate the guest, or write vfs: {present}"
    else:
        return None
    return guards.Objection(rule, fact, way_out, address=address)


def _want_idle_port(function: pci.Function, busy: str) -> guards.Objection:
    return guards.Objection(
        guards.Rule.VFS_WANT_PORT,
        f"gets VFs only while its port is up and idle: {busy}",
        f"{function.driver} makes none else: set the port up without an address (ip link set … up),"
        " or leave its VFs to netplan",
        address=function.address,
    )


def _find_holder(vfs: Iterable[str], now: Situation) -> str:
    """Say who holds any of a function's VFs; empty where nobody does."""
    vfs = tuple(vfs)
    for address, processes in now.users.of(vfs).items():
        return f"{address} is open in process {', '.join(map(str, processes))}"
    for address in vfs:
        if address in now.named:
            return f"a guest that is shut off names {address}"
        if address in now.taken:
            return f"{address} is the application {now.taken[address]}'s"
        uses = now.usage.all_of(address)
        if uses:
            return f"the host uses {address}: {uses[0].what}"
    return ""


def _find_bar(function: pci.Function, now: Situation) -> str:
    """Say why a function's VFs cannot change while the host runs; empty where they can.

    Its port may be reset. What has no port, such as a disk, has nothing to lose.
    """
    if function.class_code >> 16 != _NETWORK:
        return ""
    its_ports = now.ports.of(function.address)
    wants_up = function.driver in WANT_PORT_UP
    if wants_up and not any(port.is_up for port in its_ports):
        return " and ".join(f"{port.name} is down" for port in its_ports) or "it has no interface"
    for port in its_ports:
        if port.is_up and not wants_up:
            return f"{port.name} is up"
        if port.master:
            return f"{port.name} is a port of {port.master}"
        if port.has_address:
            return f"{port.name} has an address"
    uses = now.usage.all_of(function.address)
    return uses[0].what if uses else ""
