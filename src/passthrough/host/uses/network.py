"""Network interfaces that the host uses. Reads only.

Sources: the kernel's Documentation/ABI/testing/sysfs-class-net, networking/multi-pf-netdev.rst and
networking/devlink/devlink-port.rst (subfunctions), and proc(5) for /proc/net.
"""

from __future__ import annotations

import functools
import itertools
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from passthrough import TYPE_CHECKING, pci_address
from passthrough.host import pci
from passthrough.host.uses import kinds
from passthrough.system import procfs, quoting, sysfs

if TYPE_CHECKING:
    from passthrough.system import namespaces

_NET = "sys/class/net"
_UP, _PROMISCUOUS = 0x1, 0x100  # IFF_UP and IFF_PROMISC of linux/if.h
_LINK_LOCAL = "20"  # IPV6_ADDR_LINKLOCAL of net/ipv6.h, as if_inet6 prints it
_ESTABLISHED = "01"
_ADDRESS6 = r"[0-9a-f]{32}"
_OPEN_VSWITCH = "ovs-system"
_NETWORK, _ETHERNET = 0x02, 0x0200  # PCI's base class and class
_INFINIBAND = "32"  # ARPHRD_INFINIBAND of linux/if_arp.h
# One function of theirs has an interface for each port: ConnectX-3, Chelsio T4 and later.
_SEVERAL_PORTS = ("mlx4_core", "cxgb4")
# Two functions of its can have one interface together (Documentation/networking/multi-pf-netdev).
_SOCKET_DIRECT = "mlx5_core"
# Contrail's router puts this one in front of a NIC whose address it takes over, and links neither.
_VROUTER = "vhost0"
# Where the kernel names the interface that its own messages leave by (netconsole.rst), and the one
# below a software RDMA device (drivers/infiniband/sw/rxe).
_NETCONSOLE, _RDMA = "sys/kernel/config/netconsole/*/dev_name", "sys/class/infiniband/*/parent"
_AUXILIARY, _USB, _VDPA = "sys/bus/auxiliary/devices", "sys/bus/usb/devices", "sys/bus/vdpa/devices"
_SUBFUNCTION = ".sf."  # as in mlx5_core.sf.4
_ELSEWHERE = kinds.Use(kinds.Kind.NAMESPACE, "its interface is in another network namespace")


def find(root: Path, host: pci.Host) -> Iterator[tuple[str, kinds.Use]]:
    """Find the uses of functions by networking, as pairs of address and use."""
    found: dict[str, list[kinds.Use]] = {}
    for address, use in itertools.chain(
        _of_interfaces(root), _of_subfunctions(root), _elsewhere(root, host)
    ):
        found.setdefault(address, []).append(use)
    for address, uses in found.items():
        yield from ((address, use) for use in uses)
    halves = [each for each in host.functions.values() if _is_second_half(root, each)]
    # A look at a few functions alone has not seen the other half.
    everything = pci.read(root, overrides=False) if halves else host
    for function in halves:
        for other in everything.with_id(function.id):
            for use in found.get(other.address, ()):
                what = f"{use.what}, which may stand on this function too (Socket Direct)"
                yield function.address, kinds.Use(use.kind, what)


class Unseen:
    """What uses functions' interfaces, and shows in no file: found when the first question comes.

    These are the interfaces of other network namespaces that stand on them, and XDP. The kernel is
    asked once for all functions, and only where one of those that are asked for has interfaces.

    Args:
        root: the host's root.
        processes: its processes.
    """

    def __init__(self, root: Path | None, processes: procfs.Processes | None):
        self._root = root or Path("/nowhere")
        self._processes = processes or procfs.Processes.none()
        self._by_lower: dict[int, list[str]] | None = None

    def of(self, function: pci.Function) -> Iterator[kinds.Use]:
        """Find what uses the interfaces of a function.

        Raises:
            OSError: when /sys cannot be read.
        """
        names = list(self._names.get(function.address, ()))
        if not names and _is_second_half(self._root, function):
            others = self._everything.with_id(function.id)
            names = [name for each in others for name in self._names.get(each.address, ())]
        if names:
            yield from self._ask(names)

    def _ask(self, names: Iterable[str]) -> Iterator[kinds.Use]:
        try:
            told = self._processes.interfaces
        except OSError as error:
            what = f"it cannot be told what stands on its interfaces ({error.strerror})"
            yield kinds.Use(kinds.Kind.UNKNOWN, what)
            return
        if told is None:
            return
        for name in names:
            index = int(sysfs.attribute_if_there(self._root / _NET / name / "ifindex") or "0")
            shown = quoting.plain(name)
            for upper in self._uppers(told).get(index, ()):
                what = f"{shown} carries {quoting.plain(upper)} in another network namespace"
                yield kinds.Use(kinds.Kind.PORT, what)
            yield from _unseen(told, index, shown)

    def _uppers(self, told: namespaces.Interfaces) -> Mapping[int, list[str]]:
        """The interfaces of other namespaces, by the number of the own one that each stands on."""
        if self._by_lower is None:
            self._by_lower = {}
            for upper in told.uppers:
                self._by_lower.setdefault(upper.lower, []).append(upper.name)
        return self._by_lower

    @functools.cached_property
    def _everything(self) -> pci.Host:
        return pci.read(self._root, overrides=False)

    @functools.cached_property
    def _names(self) -> Mapping[str, list[str]]:
        found: dict[str, list[str]] = {}
        for name, path in sysfs.links_or_raise(self._root / _NET).items():
            for address in pci_address.functions_on(path):
                found.setdefault(address, []).append(name)
        return found


def _unseen(told: namespaces.Interfaces, index: int, name: str) -> Iterator[kinds.Use]:
    if index in told.programmed:
        yield kinds.Use(kinds.Kind.PORT, f"{name} has an XDP program")
    if told.sockets is None:
        what = f"it cannot be told whether an AF_XDP socket is bound to {name}"
        yield kinds.Use(kinds.Kind.UNKNOWN, what)
    elif index in told.sockets:
        yield kinds.Use(kinds.Kind.PROGRAM, f"an AF_XDP socket is bound to {name}")


def _is_second_half(root: Path, function: pci.Function) -> bool:
    """Tell whether the interface of a function of the same model may stand on this one as well.

    Its driver makes an interface of every port, unless two functions share one: an idle port has
    its own.

    Raises:
        OSError: when the function's directory cannot be read.
    """
    return (
        function.driver == _SOCKET_DIRECT
        and function.class_code >> 8 == _ETHERNET
        and not function.physfn
        and not sysfs.is_there_or_raise(f"{root}/{pci.DEVICES}/{function.address}/net")
    )


def _of_interfaces(root: Path) -> Iterator[tuple[str, kinds.Use]]:
    defaults = _default_routes(root)
    reached, others = _Reached(root), _carried_unlinked(root)
    for name, path in sysfs.links_or_raise(root / _NET).items():
        functions = sorted(pci_address.functions_on(path))
        if functions:
            uses = [
                *_uses(root, name, reached),
                *_routes(name, defaults),
                *_carries(root, name, others),
            ]
            yield from ((address, each) for address in functions for each in uses)


def _of_subfunctions(root: Path) -> Iterator[tuple[str, kinds.Use]]:
    """Find the functions of which somebody has made subfunctions, or vDPA devices."""
    for directory, mark, kind in (
        (_AUXILIARY, _SUBFUNCTION, "subfunction"),
        (_VDPA, "", "vDPA device"),
    ):
        for name, path in sysfs.links_or_raise(root / directory).items():
            if mark in name:
                use = kinds.Use(kinds.Kind.PART, f"{kind} {quoting.plain(name)}")
                yield from ((address, use) for address in sorted(pci_address.functions_on(path)))


def _uses(root: Path, name: str, reached: _Reached) -> Iterator[kinds.Use]:
    device = root / _NET / name
    shown = quoting.plain(name)
    flags = int(sysfs.attribute_if_there(device / "flags") or "0", 16)
    if flags & _UP:
        for what in reached.by(name):
            yield kinds.Use(kinds.Kind.ADDRESS, f"{shown} is up with {what}")
    links = sysfs.links_or_raise(device)
    if flags & _UP and flags & _PROMISCUOUS and "master" not in links:
        what = f"{shown} is promiscuous, as for a capture, or a switch that is a program"
        yield kinds.Use(kinds.Kind.PORT, what)
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


class _Reached:
    """What others reach interfaces by: read once for all of them, which may be thousands.

    The connections are read where the first interface asks for them.
    """

    def __init__(self, root: Path):
        self._root = root
        self._with_ipv4 = interfaces_with_ipv4(root)
        self._ipv6 = addresses_of_ipv6(root)

    def by(self, name: str) -> Iterator[str]:
        """Yield what others reach an interface by that is up.

        A link-local address of IPv6 alone tells nothing: the kernel gives one to every interface
        that MAAS or netplan bring up. It counts while a connection uses it, as between BGP's
        routers.
        """
        if name in self._with_ipv4:
            yield "an IPv4 address"
        ipv6 = self._ipv6.get(name, ())
        local = [
            _spelled_by_tcp6(address)
            for scope, address in ipv6
            if scope == _LINK_LOCAL and re.fullmatch(_ADDRESS6, address)
        ]
        if any(scope != _LINK_LOCAL for scope, _ in ipv6):
            yield "an IPv6 address"
        elif local and not self._connected.isdisjoint(local):
            yield "a connection over its link-local address"

    @functools.cached_property
    def _connected(self) -> frozenset[str]:
        """The local addresses of the connections over IPv6, as tcp6 spells them."""
        rows = map(str.split, procfs.lines_or_raise(self._root, "net/tcp6"))
        return frozenset(
            words[1].partition(":")[0]
            for words in rows
            if len(words) > 3 and words[3] == _ESTABLISHED
        )


def addresses_of_ipv6(root: Path) -> Mapping[str, list[tuple[str, str]]]:
    """Map each interface to its IPv6 addresses: scope and address, as if_inet6 prints them.

    Raises:
        OSError: when the kernel does not tell.
    """
    found: dict[str, list[tuple[str, str]]] = {}
    for words in map(str.split, procfs.lines_or_raise(root, "net/if_inet6")):
        if len(words) == 6:
            found.setdefault(words[5], []).append((words[3], words[0]))
    return found


def interfaces_with_ipv4(root: Path) -> frozenset[str]:
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


def _spelled_by_tcp6(address: str) -> str:
    """Spell an address of if_inet6 as tcp6 does: four words in the machine's byte order."""
    return "".join(
        f"{int.from_bytes(bytes.fromhex(address[at : at + 8]), 'little'):08X}"
        for at in range(0, 32, 8)
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


def _carried_unlinked(root: Path) -> Mapping[str, str]:
    """What stands on interfaces without a link in sysfs, by the interface's name or address."""
    found = {
        words[2]: "a PPPoE session"
        for words in map(str.split, procfs.lines_or_raise(root, "net/pppoe")[1:])
        if len(words) == 3
    }
    for place in sysfs.paths_if_there(root, _NETCONSOLE):
        enabled = sysfs.attribute_if_there(os.path.join(os.path.dirname(place), "enabled"))
        if enabled != "0":
            found[sysfs.attribute_if_there(place) or ""] = "netconsole"
    for place in sysfs.paths_if_there(root, _RDMA):
        name = os.path.basename(os.path.dirname(place))
        found[sysfs.attribute_if_there(place) or ""] = f"{quoting.plain(name)} (RDMA)"
    router = sysfs.attribute_if_there(root / _NET / _VROUTER / "address")
    return {**found, router: f"{_VROUTER} of Contrail"} if router else found


def _carries(root: Path, name: str, others: Mapping[str, str]) -> Iterator[kinds.Use]:
    if others:
        own = sysfs.attribute_if_there(root / _NET / name / "address") or ""
        for what in filter(None, map(others.get, (name, own))):
            yield kinds.Use(kinds.Kind.PORT, f"{quoting.plain(name)} carries {what}")


def _elsewhere(root: Path, host: pci.Host) -> Iterator[tuple[str, kinds.Use]]:
    """Find the functions of which an interface is in another namespace."""
    devices = os.path.join(root, pci.DEVICES)
    for function in host.functions.values():
        if function.class_code >> 16 == _NETWORK and _is_elsewhere(devices, function):
            yield function.address, _ELSEWHERE
    # What stands below a function in two steps: on a subfunction, or behind a USB controller.
    for directory, mark in ((_AUXILIARY, _SUBFUNCTION), (_USB, ":")):
        for name, path in sysfs.links_or_raise(root / directory).items():
            if mark in name and sysfs.hides_some_or_raise(f"{root}/{directory}/{name}/net"):
                for address in sorted(pci_address.functions_on(path)):
                    yield address, _ELSEWHERE


def _is_elsewhere(devices: str, function: pci.Function) -> bool:
    """Tell whether an interface of a function is in another namespace."""
    device = f"{devices}/{function.address}"  # no Path: there may be thousands of VFs
    has_some = sysfs.is_there_or_raise(f"{device}/net")
    hides_some = has_some and sysfs.hides_some_or_raise(f"{device}/net")
    if hides_some or _misses_a_port(device, function.driver):
        return True
    if has_some or function.driver in (None, pci.VFIO_PCI):
        return False
    # The interface of a virtio function, or of one with a bus of its own, stands a step below.
    return any(
        sysfs.hides_some_or_raise(f"{device}/{name}/net")
        for name in sysfs.directories_or_raise(device)
    )


def _misses_a_port(device: str, driver: str | None) -> bool:
    """Tell whether a function with several ports has fewer interfaces than Ethernet ports."""
    if driver not in _SEVERAL_PORTS:
        return False
    here = sysfs.names_or_raise(f"{device}/net")
    ports = {
        port: sysfs.attribute_if_there(f"{device}/infiniband/{name}/ports/{port}/link_layer")
        for name in sysfs.names_or_raise(f"{device}/infiniband")
        for port in sysfs.names_or_raise(f"{device}/infiniband/{name}/ports")
    }
    if _misses_a_number(device, here, ports):
        return True
    types = [sysfs.attribute_if_there(f"{device}/net/{name}/type") for name in here]
    # Without an interface at all, the part of the driver that makes them is not there.
    return bool(here) and sum(each != _INFINIBAND for each in types) < sum(
        each != "InfiniBand" for each in ports.values()
    )


def _misses_a_number(device: str, here: list[str], ports: Mapping[str, str | None]) -> bool:
    """Tell whether an Ethernet port below the highest one that is here has no interface.

    Interfaces number their ports from 0 (Documentation/ABI/testing/sysfs-class-net, dev_port), and
    InfiniBand from 1. A VF may have the second port alone.
    """
    texts = [sysfs.attribute_if_there(f"{device}/net/{name}/dev_port") for name in here]
    numbers = {int(text) for text in texts if text}
    return not sysfs.link_name_or_raise(f"{device}/physfn") and any(
        number not in numbers and ports.get(str(number + 1)) != "InfiniBand"
        for number in range(max(numbers, default=0))
    )
