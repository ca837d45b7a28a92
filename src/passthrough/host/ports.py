"""The network interfaces of a function, as far as making its VFs is concerned. Reads only.

Source: the kernel's Documentation/ABI/testing/sysfs-class-net.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from passthrough import pci_address
from passthrough.host.uses import network
from passthrough.system import sysfs

_NET = "sys/class/net"
_UP = 0x1  # IFF_UP of linux/if.h


class Port(NamedTuple):
    """One interface of a function.

    Attributes:
        name: the interface's name.
        mac: its address.
        is_up: whether it is set up, with or without a cable.
        master: the bond or bridge that it is a port of; empty for none.
        has_address: whether it has an IPv4 or IPv6 address, up or down.
    """

    name: str
    mac: str = ""
    is_up: bool = False
    master: str = ""
    has_address: bool = False


class Ports:
    """The interfaces of functions; what they share is read at the first question.

    Args:
        root: the host's root; None for a host that has no interface.
    """

    def __init__(self, root: Path | None):
        self._root = root

    @classmethod
    def none(cls) -> Ports:
        """A host without an interface."""
        return cls(None)

    def of(self, address: str) -> tuple[Port, ...]:
        """The interfaces that stand on a function, in the order of their names.

        One that is in another network namespace is not among them.

        Raises:
            OSError: when the kernel does not tell.
        """
        root = self._root
        if root is None:
            return ()
        mine = [name for name, on in self._functions.items() if address in on]
        return tuple(_read(root, name, has_address=name in self._with_address) for name in mine)

    @functools.cached_property
    def _functions(self) -> Mapping[str, frozenset[str]]:
        """The functions that each interface stands on."""
        links = sysfs.links_or_raise(self._root / _NET) if self._root else {}
        return {name: pci_address.functions_on(path) for name, path in links.items()}

    @functools.cached_property
    def _with_address(self) -> frozenset[str]:
        """The interfaces that have an address."""
        if self._root is None:
            return frozenset()
        found = (
            network.interfaces_with_ipv4(self._root) | network.addresses_of_ipv6(self._root).keys()
        )
        return frozenset(found)


def _read(root: Path, name: str, *, has_address: bool) -> Port:
    device = root / _NET / name
    flags = int(sysfs.attribute_if_there(device / "flags") or "0", 16)
    return Port(
        name,
        mac=(sysfs.attribute_if_there(device / "address") or "").lower(),
        is_up=bool(flags & _UP),
        master=sysfs.link_name_or_raise(f"{device}/master") or "",
        has_address=has_address,
    )
