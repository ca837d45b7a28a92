"""IPv4 addresses of the host's interfaces, asked of the kernel by rtnetlink(7). Reads only."""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import Iterable, Iterator

# linux/netlink.h and linux/rtnetlink.h; the structs are nlmsghdr and ifaddrmsg.
_NLMSG_ERROR, _NLMSG_DONE, _RTM_NEWADDR, _RTM_GETADDR = 2, 3, 20, 22
_NLM_F_REQUEST, _NLM_F_DUMP_INTR, _NLM_F_DUMP = 0x1, 0x10, 0x300
_NLMSGHDR, _IFADDRMSG = struct.Struct("=IHHII"), struct.Struct("=BBBBI")
_DATAGRAM = 1 << 16
_TRIES = 10


def interfaces_with_ipv4() -> frozenset[str]:
    """Name the interfaces of this network namespace that have an IPv4 address.

    Raises:
        OSError: when the kernel refuses to list them, or the list changes during ten attempts.
    """
    for _ in range(_TRIES):
        indexes = read_indexes(_ask_for_ipv4())
        if indexes is not None:
            return frozenset(name for index, name in socket.if_nameindex() if index in indexes)
    raise OSError("the host's IPv4 addresses change too often to be read")


def _ask_for_ipv4() -> Iterator[bytes]:
    """Ask the kernel for every IPv4 address; gives its datagrams, the last of which ends the list.

    SIOCGIFADDR and SIOCGIFCONF would not do: they find an address by its label, which can differ
    from the interface's name.
    """
    size = _NLMSGHDR.size + _IFADDRMSG.size
    head = _NLMSGHDR.pack(size, _RTM_GETADDR, _NLM_F_REQUEST | _NLM_F_DUMP, 0, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as asking:
        asking.send(head + _IFADDRMSG.pack(socket.AF_INET, 0, 0, 0, 0))
        while True:
            yield asking.recv(_DATAGRAM)


def read_indexes(datagrams: Iterable[bytes]) -> frozenset[int] | None:
    """Read the interfaces' numbers off the kernel's list of addresses.

    Args:
        datagrams: the answer to RTM_GETADDR, message by message (netlink(7)).

    Returns:
        The numbers; None where the list changed while the kernel wrote it.

    Raises:
        OSError: when the kernel refuses, or the list has no end.
    """
    indexes: set[int] = set()
    for datagram in datagrams:
        at = 0
        while at < len(datagram):
            length, kind, flags, _, _ = _NLMSGHDR.unpack_from(datagram, at)
            body = at + _NLMSGHDR.size
            if flags & _NLM_F_DUMP_INTR:
                return None
            if kind == _NLMSG_DONE:
                return frozenset(indexes)
            if kind == _NLMSG_ERROR:
                code = -int.from_bytes(datagram[body : body + 4], sys.byteorder, signed=True)
                raise OSError(code, os.strerror(code), "netlink")
            if kind == _RTM_NEWADDR:
                indexes.add(_IFADDRMSG.unpack_from(datagram, body)[-1])
            at += max(length + 3 & ~3, _NLMSGHDR.size)
    raise OSError("the kernel's list of IPv4 addresses has no end")
