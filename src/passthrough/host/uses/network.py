"""Network interfaces that the host uses. Reads only.

Sources: the kernel's Documentation/ABI/testing/sysfs-class-net, and proc(5) for /proc/net.
"""

from __future__ import annotations

import os
import re
from collections.abc import Container, Iterable, Iterator, Mapping
from pathlib import Path

from passthrough import pci_address
from passthrough.host import pci
from passthrough.host.uses import kinds
from passthrough.system import procfs, quoting, sysfs

_NET = "sys/class/net"
_UP = 0x1  # IFF_UP of linux/if.h
_LINK_LOCAL = "20"  # IPV6_ADDR_LINKLOCAL of net/ipv6.h, as if_inet6 prints it
_ESTABLISHED = "01"
_ADDRESS6 = re.compile(r"[0-9a-f]{32}")
_OPEN_VSWITCH = "ovs-system"
_VIRTIO = "virtio-pci"


def find(root: Path, host: pci.Host) -> Iterator[tuple[str, kinds.Use]]:
    """Find the uses of functions by networking, as pairs of address and use."""
    defaults, with_ipv4, ipv6 = _default_routes(root), _with_ipv4(root), _read_ipv6(root)
    for name, path in sysfs.links_or_raise(root / _NET).items():
        functions = sorted(pci_address.functions_on(path))
        if functions:
            uses = [
                *_uses(root, name, with_ipv4, ipv6.get(name, ())),
                *_routes(name, defaults),
            ]
            yield from ((address, each) for address in functions for each in uses)
    devices = os.path.join(root, pci.DEVICES)
    for function in host.functions.values():
        if function.class_code >> 16 == 0x02 and _is_elsewhere(devices, function):
            yield (
                function.address,
                kinds.Use(kinds.Kind.NAMESPACE, "its interface is in another network namespace"),
            )


def _uses(
    root: Path, name: str, with_ipv4: Container[str], ipv6: Iterable[tuple[str, str]]
) -> Iterator[kinds.Use]:
    device = root / _NET / name
    shown = quoting.plain(name)
    if int(sysfs.attribute_if_there(device / "flags") or "0", 16) & _UP:
        for what in _addresses(root, name, with_ipv4, ipv6):
            yield kinds.Use(kinds.Kind.ADDRESS, f"{shown} is up with {what}")
    links = sysfs.links_or_raise(device)
    if "master" in links:
        master = os.path.basename(links["master"])
        yield kinds.Use(kinds.Kind.PORT, f"{shown} is a port of {_describe_master(root, master)}")
    for link, target in links.items():
        upper = os.path.basename(target)
        # A master is an upper device too.
        if link.startswith("upper_") and upper != os.path.basename(links.get("master", "")):
            yield kinds.Use(kinds.Kind.PORT, f"{shown} carries {quoting.plain(upper)}")


def _routes(name: str, defaults: frozenset[str]) -> Iterator[kinds.Use]:
    if name in defaults:
        yield kinds.Use(kinds.Kind.ROUTE, f"{quoting.plain(name)} has the default route")


def _describe_master(root: Path, master: str) -> str:
    if master == _OPEN_VSWITCH:
        return "Open vSwitch"
    for directory, kind in (("bonding", "the bond"), ("bridge", "the bridge")):
        if sysfs.is_there_or_raise(root / _NET / master / directory):
            return f"{kind} {quoting.plain(master)}"
    return quoting.plain(master)


def _addresses(
    root: Path, name: str, with_ipv4: Container[str], ipv6: Iterable[tuple[str, str]]
) -> Iterator[str]:
    """Yield what others reach an interface by that is up.

    A link-local address of IPv6 alone tells nothing: the kernel gives one to every interface that
    MAAS or netplan bring up. It counts while a connection uses it, as between BGP's routers.
    """
    if name in with_ipv4:
        yield "an IPv4 address"
    local = [
        address for scope, address in ipv6 if scope == _LINK_LOCAL and _ADDRESS6.fullmatch(address)
    ]
    if any(scope != _LINK_LOCAL for scope, _ in ipv6):
        yield "an IPv6 address"
    elif local and _has_session(root, local):
        yield "a connection over its link-local address"


def _read_ipv6(root: Path) -> Mapping[str, list[tuple[str, str]]]:
    """Map each interface to its IPv6 addresses: scope and address, as if_inet6 prints them.

    Raises:
        OSError: when the kernel does not tell.
    """
    found: dict[str, list[tuple[str, str]]] = {}
    for words in map(str.split, procfs.lines_or_raise(root, "net/if_inet6")):
        if len(words) == 6:
            found.setdefault(words[5], []).append((words[3], words[0]))
    return found


def _with_ipv4(root: Path) -> frozenset[str]:
    """Find the interfaces with an IPv4 address.

    Raises:
        OSError: when the kernel does not tell: an address that cannot be seen is not the same as
            none.
    """
    # Nearly every address brings a route to its network, which names the interface.
    lines = procfs.lines_or_raise(root, "net/route")[1:]
    routed = frozenset(line.split("\t")[0].strip() for line in lines)
    if root != Path("/"):
        return routed
    # Here, as sockets take long to import, as everything of a `list` goes.
    from passthrough.system import netlink

    return routed | netlink.interfaces_with_ipv4()


def _has_session(root: Path, addresses: list[str]) -> bool:
    # tcp6 prints an address as four words in the machine's byte order.
    local = {
        "".join(
            f"{int.from_bytes(bytes.fromhex(each[at : at + 8]), 'little'):08X}"
            for at in range(0, 32, 8)
        )
        for each in addresses
    }
    return any(
        len(words) > 3 and words[1].partition(":")[0] in local and words[3] == _ESTABLISHED
        for words in map(str.split, procfs.lines_or_raise(root, "net/tcp6"))
    )


def _default_routes(root: Path) -> frozenset[str]:
    found: set[str] = set()
    for line in procfs.lines_or_raise(root, "net/route")[1:]:
        words = line.split()
        if len(words) > 7 and words[1] == "00000000" and words[7] == "00000000":
            found.add(words[0])
    for words in map(str.split, procfs.lines_or_raise(root, "net/ipv6_route")):
        # The kernel keeps an unreachable ::/0 on lo, which no function has.
        if len(words) == 10 and words[0] == "0" * 32 and words[1] == "00":
            found.add(words[9])
    return frozenset(found)


def _is_elsewhere(devices: str, function: pci.Function) -> bool:
    """Tell whether a function's interface is in another namespace: sysfs has an empty net/."""
    device = f"{devices}/{function.address}"  # no Path: there may be thousands of VFs
    if sysfs.is_empty_or_raise(f"{device}/net"):
        return True
    # A virtio function's interface stands below the virtio device that its driver makes.
    return function.driver == _VIRTIO and any(
        sysfs.is_empty_or_raise(f"{device}/{name}/net")
        for name in sysfs.names_or_raise(device)
        if name.startswith("virtio")
    )
