"""Questions to the kernel over netlink(7), and the host's IPv4 addresses. Reads only."""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from collections.abc import Iterable, Iterator

# linux/netlink.h and linux/rtnetlink.h; the structs are nlmsghdr and ifaddrmsg.
_NLMSG_ERROR, _NLMSG_DONE, _RTM_NEWADDR, _RTM_GETADDR = 2, 3, 20, 22
_NLM_F_REQUEST, _NLM_F_DUMP_INTR, _NLM_F_DUMP = 0x1, 0x10, 0x300
_NLMSGHDR, _IFADDRMSG = struct.Struct("=IHHII"), struct.Struct("=BBBBI")
_NLATTR = struct.Struct("=HH")
_NLA_TYPE_MASK = 0x3FFF
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


def ask(asking: socket.socket, kind: int, body: bytes) -> list[bytes]:
    """Ask the kernel one question; gives the bodies of the messages of its one answer.

    Raises:
        OSError: when the kernel refuses.
    """
    asking.send(_message(kind, 0, body))
    return [answer for _, _, answer in messages(asking.recv(_DATAGRAM))]


def dump(asking: socket.socket, kind: int, body: bytes) -> list[bytes]:
    """Ask the kernel for a list; gives the bodies of its messages.

    Raises:
        OSError: when the kernel refuses, or the list changes during ten attempts.
    """
    for _ in range(_TRIES):
        asking.send(_message(kind, _NLM_F_DUMP, body))
        found = _read_dump(asking)
        if found is not None:
            return found
    raise OSError(errno.EAGAIN, "the kernel's list changes too often to be read")


def _message(kind: int, flags: int, body: bytes) -> bytes:
    return _NLMSGHDR.pack(_NLMSGHDR.size + len(body), kind, _NLM_F_REQUEST | flags, 0, 0) + body


def _read_dump(asking: socket.socket) -> list[bytes] | None:
    """Read a list to its end; None where it changed while the kernel wrote it."""
    found: list[bytes] = []
    changed = False
    while True:
        for kind, flags, body in messages(asking.recv(_DATAGRAM)):
            changed = changed or bool(flags & _NLM_F_DUMP_INTR)
            if kind == _NLMSG_DONE:
                return None if changed else found
            found.append(body)


def messages(datagram: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Take a datagram apart: kind, flags and body of each message.

    Raises:
        OSError: when the kernel refuses.
    """
    at = 0
    while at < len(datagram):
        length, kind, flags, _, _ = _NLMSGHDR.unpack_from(datagram, at)
        body = datagram[at + _NLMSGHDR.size : at + length]
        # The end of a list can tell of an error as well.
        if kind in (_NLMSG_ERROR, _NLMSG_DONE):
            code = -int.from_bytes(body[:4], sys.byteorder, signed=True)
            if code:
                raise OSError(code, os.strerror(code), "netlink")
        yield kind, flags, body
        at += max(length + 3 & ~3, _NLMSGHDR.size)


def attributes(body: bytes, at: int = 0) -> Iterator[tuple[int, bytes]]:
    """Take the attributes of a message apart, from a place on: kind and value of each."""
    while at + _NLATTR.size <= len(body):
        length, kind = _NLATTR.unpack_from(body, at)
        yield kind & _NLA_TYPE_MASK, body[at + _NLATTR.size : at + length]
        at += max(length + 3 & ~3, _NLATTR.size)


def attribute(kind: int, value: bytes) -> bytes:
    """Make an attribute of four bytes, which needs no padding."""
    return _NLATTR.pack(_NLATTR.size + len(value), kind) + value
