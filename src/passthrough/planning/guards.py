"""Rules that keep the charm's hands off devices the host itself needs.

Each guard is one row of ``GUARDS``: a name, a pure rule that gives what is against claiming a
function or None, the way out, and whether ``allow-in-use: true`` on the item overrides it. To add
a guard, write the rule, add its row, and a line to docs/reference/guards.md.
"""

from __future__ import annotations

from collections.abc import Callable

from passthrough import enums, frozen
from passthrough.host import pci
from passthrough.host.usage import Usage
from passthrough.host.uses import kinds

_Fact = Callable[[pci.Function, Usage], "str | None"]
_WAY_OUT = "free it, or set allow-in-use: true on the item"


class Rule(enums.StrEnum):
    """The rules that refuse functions and are no guards, by the names that operators see."""

    ABSENT = "absent"
    ID_MISMATCH = "id-mismatch"
    DEVICE_TYPE = "device-type"
    DENYLIST = "denylist"
    RESERVED_REGION = "reserved-region"
    PCI_DOMAIN = "pci-domain"
    TAKEN = "taken"
    EXCEPTED = "excepted"
    LENT = "lent"
    GROUP_IN_USE = "group-in-use"
    GROUP_NOT_VIABLE = "group-not-viable"
    NO_VFS = "no-vfs"
    TOO_MANY_VFS = "too-many-vfs"
    VFS_SET_ELSEWHERE = "vfs-set-elsewhere"
    VFS_HELD = "vfs-held"
    VFS_WANT_PORT = "vfs-want-port"


class Guard(frozen.Value):
    """One rule: ``fact`` maps a function and its uses to what is against claiming it, or None.

    ``way_out`` is what an operator does about that, empty where nothing helps. ``overridable``
    tells whether allow-in-use sets it aside, ``for_group`` whether it also keeps the other
    functions of the IOMMU group from being claimed, and ``of_use`` whether it never objects to a
    function without uses.
    """

    name: str
    fact: _Fact
    way_out: str = ""
    overridable: bool = True
    for_group: bool = True
    of_use: bool = False


class Objection(frozen.Value):
    """What a rule has against claiming one function.

    Attributes:
        guard: the name of the guard, or of a `Rule`.
        fact: what is against it, said of the function: "holds swap space: sda2".
        way_out: what an operator does about it; empty where nothing helps.
        overridable: whether allow-in-use sets it aside.
        address: the function; None where the host has no such function.
        sibling: what is against another function of the IOMMU group, where that is the matter.
        can_part: of an objection to a companion, whether the function that it accompanies could be
            had without it.
    """

    guard: str
    fact: str
    way_out: str = ""
    overridable: bool = False
    address: str | None = None
    sibling: Objection | None = None
    can_part: bool = True


def _pci_bridge(function: pci.Function, usage: Usage) -> str | None:
    del usage
    # vfio-pci's probe refuses every header type but "normal" (drivers/vfio/pci/vfio_pci_core.c).
    return "is a PCI bridge, which no guest can have" if function.is_pci_bridge else None


def _host_controller(function: pci.Function, usage: Usage) -> str | None:
    del usage
    if function.is_of_the_machine:
        return "is a bridge or host controller that the machine itself needs"
    return None


def _host_memory(function: pci.Function, usage: Usage) -> str | None:
    del usage
    # What of it is online shows below devices of several layers; its driver has it for the host.
    if function.is_cxl_memory and function.driver and not function.is_on_vfio:
        return f"is CXL memory on {function.driver}, which may be a part of the host's own"
    return None


def _vfs_in_use(function: pci.Function, usage: Usage) -> str | None:
    del usage
    if function.num_vfs and not function.is_on_vfio:
        return f"has {function.num_vfs} VFs, which would go with its driver"
    return None


def _used_for(
    name: str, kind: kinds.Kind, phrase: str, way_out: str = _WAY_OUT, *, overridable: bool = True
) -> Guard:
    """Make the guard of one kind of use; ``phrase`` has a place for the use in words."""

    def fact(function: pci.Function, usage: Usage) -> str | None:
        uses = usage.of(function.address, kind)
        if not uses:
            return None
        more = len(uses) - 1
        what = f"{uses[0]} and {more} more" if more else uses[0]
        return phrase.format(what)

    return Guard(name, fact, way_out, overridable, of_use=True)


GUARDS = (
    # The kernel lets bridges share a group with what a guest has.
    Guard("pci-bridge", _pci_bridge, overridable=False, for_group=False),
    Guard("host-controller", _host_controller, for_group=False),
    Guard("host-memory", _host_memory, _WAY_OUT),
    _used_for("mounted", kinds.Kind.MOUNT, "holds a mounted file system: {}"),
    _used_for("swap", kinds.Kind.SWAP, "holds swap space: {}"),
    _used_for("storage-member", kinds.Kind.MEMBER, "holds a part of the host's storage: {}"),
    _used_for("configured", kinds.Kind.CONFIGURED, "is meant for the host's own storage: {}"),
    _used_for("default-route", kinds.Kind.ROUTE, "carries the host's traffic: {}"),
    _used_for("network-port", kinds.Kind.PORT, "carries the host's traffic: {}"),
    _used_for("network-address", kinds.Kind.ADDRESS, "carries the host's traffic: {}"),
    _used_for("network-namespace", kinds.Kind.NAMESPACE, "is in use: {}"),
    _used_for("subfunctions", kinds.Kind.PART, "has parts that would go with its driver: {}"),
    _used_for("dpdk", kinds.Kind.DPDK, "is meant for DPDK on this host: {}"),
    _used_for("console", kinds.Kind.CONSOLE, "is the boot VGA, and {}"),
    _used_for("host-console", kinds.Kind.HOST_CONSOLE, "carries the host's console: {}"),
    _used_for("mediated", kinds.Kind.MEDIATED, "is cut up into mediated devices (vGPUs): {}"),
    _used_for("program", kinds.Kind.PROGRAM, "is in use by a program of the host: {}"),
    _used_for(
        "guest",
        kinds.Kind.GUEST,
        "is a guest's: {}",
        "stop or migrate the guest first",
        overridable=False,
    ),
    _used_for("held", kinds.Kind.HELD, "holds a disk that is in use: {}"),
    _used_for("unknown", kinds.Kind.UNKNOWN, "may be in use: {}"),
    Guard("vfs-in-use", _vfs_in_use, _WAY_OUT),
)
_OF_THE_FUNCTION = tuple(guard for guard in GUARDS if not guard.of_use)


def object_to(function: pci.Function, usage: Usage | None = None) -> Objection | None:
    """Give the first objection to claiming ``function``; one that cannot be overridden first."""
    objections = all_objections(function, usage)
    return next((each for each in objections if not each.overridable), next(iter(objections), None))


def all_objections(function: pci.Function, usage: Usage | None = None) -> tuple[Objection, ...]:
    """Give every objection to claiming ``function`` for itself, in the order of ``GUARDS``.

    Args:
        function: the function.
        usage: what the host itself uses; None stands for nothing.
    """
    return tuple(objection for _, objection in _ask(function, usage or Usage()))


def object_for_group(sibling: pci.Function, usage: Usage) -> Objection | None:
    """Give the first objection of a function that keeps others of its IOMMU group, or None."""
    return next((each for guard, each in _ask(sibling, usage) if guard.for_group), None)


def _ask(function: pci.Function, usage: Usage) -> list[tuple[Guard, Objection]]:
    """Ask every guard; gives those that object, each with its objection."""
    # Nearly all functions of a host have no use, and most guards are about uses.
    guards = GUARDS if usage.all_of(function.address) else _OF_THE_FUNCTION
    return [
        (guard, Objection(guard.name, fact, guard.way_out, guard.overridable, function.address))
        for guard in guards
        if (fact := guard.fact(function, usage))
    ]
