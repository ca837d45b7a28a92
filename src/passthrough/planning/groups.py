"""What of an IOMMU group stands against claiming a member, worked out once for each group. Pure.

A group belongs to the host or to one guest, never to both (the kernel's
Documentation/driver-api/vfio.rst). A root complex without isolation makes one group of hundreds of
functions, so that nothing here goes through a group once for each of its members.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator

from passthrough import pci_address
from passthrough.host import pci
from passthrough.host.usage import Usage
from passthrough.planning import guards

# Drivers that leave a group's DMA to whoever owns the group: the kernel lets them share it with
# vfio, beside the VFIO drivers themselves (vfio_driver_allowed[] in drivers/vfio).
_HARMLESS_DRIVERS = ("pci-stub",)


class Groups:
    """The groups of a host: who uses a member, and whose driver keeps one from being viable.

    Args:
        host: the host's functions.
        usage: what the host itself uses; None stands for nothing.
    """

    def __init__(self, host: pci.Host, usage: Usage | None = None):
        self.host = host
        self.usage = usage or Usage()
        self._strangers: dict[int, tuple[pci.Function, ...]] = {}
        self._objections: dict[int, list[guards.Objection]] = {}
        self._asked: dict[int, int] = {}

    def is_alone(self, function: pci.Function) -> bool:
        """Whether no other function is in the group of one, as of most; or no IOMMU is active."""
        return function.group is None or len(self.host.groups[function.group]) == 1

    def strangers(self, function: pci.Function) -> tuple[pci.Function, ...]:
        """The members of a function's group whose drivers keep it from being viable.

        The function itself may be among them: what is claimed does not count.
        """
        group = function.group
        if group is None:
            return ()
        if group not in self._strangers:
            members = self.host.groups[group]
            self._strangers[group] = tuple(filter(is_stranger, members))
        return self._strangers[group]

    def object_to_use(
        self, function: pci.Function, claimed: Container[str]
    ) -> guards.Objection | None:
        """Object to claiming ``function`` because the host needs another function of its group.

        Args:
            function: a member of the group.
            claimed: addresses of the functions that are claimed together. These do not count: their
                own guards are asked. Nor do PCI bridges: a bridge stays the host's, and a use of
                what is below it is a use of the function there.
        """
        if self.is_alone(function):
            return None
        for objection in self._objections_in(function.group):
            if (objection.address or "") not in claimed:
                return guards.Objection(
                    guards.Rule.GROUP_IN_USE,
                    f"shares IOMMU group {function.group}",
                    "free that, or move the card to a slot with a group of its own",
                    overridable=True,
                    address=function.address,
                    sibling=objection,
                )
        return None

    def _objections_in(self, group: int | None) -> Iterator[guards.Objection]:
        """The objections of a group's members, in their order; each member is asked once."""
        if group is None:
            return
        known = self._objections.setdefault(group, [])
        yield from tuple(known)
        members = self.host.groups[group]
        while (at := self._asked.get(group, 0)) < len(members):
            objection = None
            if not members[at].is_pci_bridge:
                objection = guards.object_for_group(members[at], self.usage)
            self._asked[group] = at + 1
            if objection:
                known.append(objection)
                yield objection


class Standing:
    """The strangers in groups while one claim after another falls away.

    Args:
        groups: the host's groups.
        asked: addresses of the functions that items ask for, all of them claimed at first.
    """

    def __init__(self, groups: Groups, asked: Container[str]):
        self._groups = groups
        self._asked = asked
        self._unasked: dict[int, tuple[pci.Function, ...]] = {}
        self._fallen: dict[int, dict[str, pci.Function]] = {}

    def drop(self, function: pci.Function) -> None:
        """Note that a function is claimed no longer."""
        if function.group is not None and is_stranger(function):
            self._fallen.setdefault(function.group, {})[function.address] = function

    def unasked(self, function: pci.Function) -> tuple[pci.Function, ...]:
        """The strangers in a function's group that no item asks for."""
        group = function.group
        if group is None:
            return ()
        if group not in self._unasked:
            mine = self._groups.strangers(function)
            self._unasked[group] = tuple(each for each in mine if each.address not in self._asked)
        return self._unasked[group]

    def fallen(self, function: pci.Function, claimed: Container[str]) -> tuple[pci.Function, ...]:
        """The strangers in a function's group that items ask for in vain, in address order."""
        mine = self._fallen.get(-1 if function.group is None else function.group, {})
        there = sorted((each for each in mine if each not in claimed), key=pci_address.sort_key)
        return tuple(mine[each] for each in there)


def is_stranger(function: pci.Function) -> bool:
    """Whether a function's driver keeps its group from being viable, unless it is claimed."""
    return bool(
        function.driver
        and not function.is_pci_bridge
        and not function.is_on_vfio
        and function.driver not in _HARMLESS_DRIVERS
    )


def without(functions: Iterable[pci.Function], claimed: Container[str]) -> Iterator[pci.Function]:
    """Those of some functions that are not claimed."""
    return (each for each in functions if each.address not in claimed)
