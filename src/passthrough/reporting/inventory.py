"""Every PCI function of a host, for people and for programs: what ``list`` shows."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from passthrough import TYPE_CHECKING
from passthrough.host import pci, pci_ids, usage, vfio_users
from passthrough.planning import groups, viability
from passthrough.reporting import holdings, schema, words

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from passthrough.system import procfs

# How an item says the type of its device, which an alias for that device would need.
_TYPES = {"type-PF": "/PF", "type-VF": "/VF"}
# The members of a larger group are named with its first function alone.
_LISTED = 64


def describe(
    root: Path,
    host: pci.Host,
    processes: procfs.Processes | None = None,
    excepts: Callable[[str], bool] = lambda address: False,
    taken: holdings.Holdings = holdings.NONE,
) -> Iterator[dict[str, Any]]:
    """Describe every PCI function: what it is, who has it, and whether it can be claimed.

    Args:
        root: the host's root.
        host: its functions.
        processes: its processes, where the caller asks more of them.
        excepts: whether the host leaves out an address, whatever is asked for.
        taken: what applications of the charm have taken of it, and lent to it.

    Yields:
        One mapping a function, in address order. ``reason`` says why it cannot be claimed, or is
        None; ``devices`` is the item that claims this function and no other. ``state`` says in
        words what becomes of it; ``health`` is None but for what is taken.

    Raises:
        OSError: when the host's own uses cannot be read.
    """
    known = pci_ids.look_up(root, host.functions.values())
    accounts = vfio_users.Accounts(root, processes)
    used = usage.read(root, host, processes=processes, accounts=accounts)
    in_groups = groups.Groups(host, used)
    for address, function in host.functions.items():
        objection = (
            viability.leave_lent(address, taken.lent[address])
            if address in taken.lent
            else viability.leave_out(address)
            if excepts(address)
            else viability.object_to_card(function, host, used, in_groups)
        )
        identity = function.id
        yield {
            "schema": schema.NUMBER,
            "address": address,
            "id": identity,
            "name": known.device(function),
            "model": known.model(function),
            "class": known.kind(function),
            "class-code": f"{function.class_code:06x}",
            "driver": function.driver,
            "numa-node": function.numa_node,
            "iommu-group": function.group,
            "group-members": _members(function, host),
            "device-type": function.device_type,
            "sriov-total-vfs": function.total_vfs,
            "sriov-vfs": function.num_vfs,
            "claimable": objection is None,
            "reason": words.reason(objection, address) if objection else None,
            "devices": f"{identity}{_TYPES.get(function.device_type, '')}@{address}",
            "lent": address in taken.lent,
            "state": holdings.state(function, host, taken, objection, used),
            "health": _health(taken.taken.get(address)),
            "quarantine": _quarantine(taken.taken.get(address)),
            "erasing": address in taken.erasing,
        }


def _health(taken: holdings.Holding | None) -> dict[str, Any] | None:
    """How a function is; None where nobody has taken it."""
    if taken is None:
        return None
    from passthrough.reporting import health_text  # not for a host where nothing is taken

    return health_text.describe(taken.health)


def _quarantine(taken: holdings.Holding | None) -> dict[str, Any] | None:
    """Why a function is kept off Nova's offer; None where it is not."""
    if taken is None or taken.quarantine is None:
        return None
    from passthrough.reporting import quarantines  # nor for one where nothing is sick

    return quarantines.describe(taken.quarantine)


def _members(function: pci.Function, host: pci.Host) -> list[str] | None:
    """The group of a function; None for a large one, but for its first function."""
    members = host.group_members(function)
    if len(members) > _LISTED and members[0].address != function.address:
        return None
    return [each.address for each in members]
