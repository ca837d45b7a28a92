"""What the kernel says of interfaces over rtnetlink(7), in every network namespace. Reads only.

sysfs shows an interface's upper devices of its own namespace alone: the link between a NIC and a
macvlan is gone from it once the macvlan has moved into a container (net/core/dev.c,
__dev_change_net_namespace()). rtnetlink names the lower device all the same: IFLA_LINK, and
IFLA_LINK_NETNSID for the namespace that it is in (Linux 4.0).
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import socket
import struct
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from passthrough.system import netlink, open_files, procfs, sysfs

# linux/rtnetlink.h, linux/if_link.h, linux/net_namespace.h, linux/sched.h.
_GETLINK, _NEWNSID, _GETNSID = 18, 88, 90
_NAME, _LINK, _MASK, _LINK_NAMESPACE, _XDP, _TARGET = 3, 5, 29, 37, 43, 46
_XDP_ATTACHED, _SKIP_STATISTICS = 2, 8
_NSID, _NSID_OF_DESCRIPTOR = 1, 3
_CLONE_NEWNET = 0x40000000
_IFINFOMSG, _RTGENMSG = struct.Struct("=BxHiII"), struct.Struct("=Bxxx")
# linux/sock_diag.h and linux/xdp_diag.h.
_SOCK_DIAG, _AF_XDP, _SHOW_INFO, _INFO = 20, 44, 1, 1
_XDP_DIAG_REQ, _XDP_DIAG_MSG = struct.Struct("=BBHIIII"), struct.Struct("=BBHIII")
_NETLINK_SOCK_DIAG = 4

_NAMESPACE = re.compile(r"net:\[[0-9]+\]")
_OWN = "/proc/self/ns/net"
_GONE = (errno.ENOENT, errno.ESRCH)


class Upper(NamedTuple):
    """An interface of another namespace that stands on an own one.

    ``name`` is what it is called there; ``lower`` is the number of the own interface.
    """

    name: str
    lower: int


class Interfaces(NamedTuple):
    """What the kernel says of interfaces that sysfs does not.

    Attributes:
        uppers: the interfaces of other namespaces that stand on own ones.
        programmed: the numbers of own interfaces with an XDP program.
        sockets: the numbers of own interfaces to which AF_XDP sockets are bound; None where there
            are such sockets, and it cannot be told to which.
    """

    uppers: tuple[Upper, ...] = ()
    programmed: frozenset[int] = frozenset()
    sockets: frozenset[int] | None = frozenset()


def look(namespaces: Mapping[str, Iterable[str]]) -> Interfaces:
    """Ask every namespace once.

    Args:
        namespaces: as `find` gives them.

    Raises:
        OSError: when the kernel does not tell.
    """
    with _open(socket.NETLINK_ROUTE) as asking:
        links = netlink.dump(asking, _GETLINK, _all_links())
    programmed = frozenset(index for index in map(read_programmed, links) if index is not None)
    return Interfaces(_look_elsewhere(namespaces), programmed, _xdp_sockets())


def find(
    processes: Iterable[int], opened: Mapping[str, Iterable[str]], mounts: Iterable[str]
) -> dict[str, list[str]]:
    """Find the network namespaces other than the reader's.

    Args:
        processes: the ids of this machine's processes.
        opened: the namespaces that are open, as `open_files.Opened` has them.
        mounts: the lines of mountinfo of all mount namespaces.

    Returns:
        Names, such as ``net:[4026531840]``, each with the files that stand for it.

    Raises:
        OSError: when a process, or a namespace that only a mount keeps, cannot be looked at.
    """
    processes = tuple(processes)
    own = os.readlink(_OWN)
    found = {name: list(paths) for name, paths in opened.items() if name != own}
    for process in processes:
        path = f"/proc/{process}/ns/net"
        try:
            name = os.readlink(path)
        except OSError as error:
            if error.errno not in _GONE:
                raise
            continue
        if name != own:
            found.setdefault(name, []).append(path)
    missing = {root for root, _ in map(_mounted, mounts) if root} - {own, *found}
    return {**found, **_find_mounted(processes, missing)} if missing else found


def _find_mounted(processes: Iterable[int], missing: set[str]) -> dict[str, list[str]]:
    """Find the files of namespaces that nothing but a mount keeps, as ``ip netns add`` makes it.

    A mount of another mount namespace is reached by way of a process there.
    """
    found: dict[str, list[str]] = {}
    for process in ("self", *processes):
        if not missing - found.keys():
            break
        try:
            lines = sysfs.lines_or_raise(f"/proc/{process}/mountinfo")
        except OSError:
            continue  # it has ended, or another process of its namespace answers
        for name, place in map(_mounted, lines):
            if name in missing and _is_local(place, lines):
                found.setdefault(name, []).append(f"/proc/{process}/root{place}")
    if missing - found.keys():
        what = "a network namespace is out of reach"
        raise OSError(errno.EXDEV, what, min(missing - found.keys()))
    return found


def _mounted(line: str) -> tuple[str, str]:
    """Read which network namespace a line of mountinfo mounts, and where; empty for none."""
    words = line.split(" ")
    if len(words) > 4 and _NAMESPACE.fullmatch(words[3]):
        return words[3], _plain(words[4])
    return "", ""


def _is_local(place: str, lines: Iterable[str]) -> bool:
    """Tell whether no file system on the way to a place has a server, which might never answer."""
    for line in lines:
        before, _, after = line.partition(" - ")
        words = before.split(" ")
        above = _plain(words[4]).rstrip("/") + "/" if len(words) > 4 else ""
        if above and place.startswith(above) and not open_files.is_local(after.partition(" ")[0]):
            return False
    return True


def _plain(path: str) -> str:
    # The kernel writes blanks and backslashes as three octal digits.
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), path)


def _look_elsewhere(namespaces: Mapping[str, Iterable[str]]) -> tuple[Upper, ...]:
    answers: list[tuple[Upper, ...] | OSError] = []

    def visit() -> None:
        try:
            answers.append(tuple(_visit(namespaces)))
        except OSError as error:
            answers.append(error)
        except (ValueError, struct.error) as error:
            answers.append(OSError(errno.EBADMSG, f"the kernel's answer is damaged: {error}"))

    # Only the thread that asks enters a namespace, and it ends there.
    thread = threading.Thread(target=visit)
    thread.start()
    thread.join()
    # A thread that has died has not said that there is nothing.
    answer = answers[0] if answers else OSError(errno.EIO, "no namespace could be asked")
    if isinstance(answer, OSError):
        raise answer
    return answer


def _visit(namespaces: Mapping[str, Iterable[str]]) -> Iterator[Upper]:
    with open(_OWN, "rb") as own, _open(socket.NETLINK_ROUTE) as home:
        visited: set[int | None] = set()
        for name, paths in namespaces.items():
            handle = _enter(name, paths)
            if handle is None:
                continue
            try:
                visited.add(_id_of(home, handle))
            finally:
                os.close(handle)
            with _open(socket.NETLINK_ROUTE) as asking:
                yield from _uppers(asking, own.fileno())
        # What somebody has moved away from here is known by a number, whoever keeps the namespace:
        # a thread, or a descriptor on its way from one process to another.
        for number in sorted(_ids(home) - visited):
            try:
                yield from _uppers(home, own.fileno(), number)
            except OSError as error:
                if error.errno != errno.EINVAL:  # that is gone
                    raise


def _enter(name: str, paths: Iterable[str]) -> int | None:
    """Enter a namespace, which is open then; None where it is gone."""
    for path in paths:
        try:
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in _GONE:
                continue
            raise
        # Another process may have got the number of one that has ended.
        if f"net:[{os.fstat(handle).st_ino}]" == name:
            if not ctypes.CDLL(None, use_errno=True).setns(handle, _CLONE_NEWNET):
                return handle
            number = ctypes.get_errno()
            os.close(handle)
            raise OSError(number, os.strerror(number), path)
        os.close(handle)
    return None


def _uppers(asking: socket.socket, own: int, target: int | None = None) -> list[Upper]:
    links = netlink.dump(asking, _GETLINK, _all_links(target))
    # Asked for last: the answer to the former question can give it its number.
    home = _id_of(asking, own)
    return [upper for upper in (read_upper(each, home) for each in links) if upper]


def _id_of(asking: socket.socket, namespace: int) -> int | None:
    """What the namespace that is asked calls another one; None where nothing is from there."""
    attribute = netlink.attribute(_NSID_OF_DESCRIPTOR, struct.pack("=I", namespace))
    (answer,) = netlink.ask(asking, _GETNSID, _RTGENMSG.pack(socket.AF_UNSPEC) + attribute)
    return _read_id(answer)


def _ids(asking: socket.socket) -> set[int]:
    answers = netlink.dump(asking, _GETNSID, _RTGENMSG.pack(socket.AF_UNSPEC))
    return {number for number in map(_read_id, answers) if number is not None}


def _read_id(body: bytes) -> int | None:
    number = _signed(dict(netlink.attributes(body, _RTGENMSG.size)).get(_NSID))
    return None if number is None or number < 0 else number


def _all_links(target: int | None = None) -> bytes:
    mask = netlink.attribute(_MASK, struct.pack("=I", _SKIP_STATISTICS))
    where = b"" if target is None else netlink.attribute(_TARGET, struct.pack("=i", target))
    return _IFINFOMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + mask + where


def read_upper(body: bytes, home: int | None) -> Upper | None:
    """Read an interface of another namespace; None where it stands on none of the reader's own.

    Args:
        body: a message of RTM_NEWLINK, without its header.
        home: what that namespace calls the reader's.
    """
    values = dict(netlink.attributes(body, _IFINFOMSG.size))
    lower = _signed(values.get(_LINK))
    if home is None or lower is None or _signed(values.get(_LINK_NAMESPACE)) != home:
        return None
    return Upper(values.get(_NAME, b"").rstrip(b"\0").decode("utf-8", "replace"), lower)


def read_programmed(body: bytes) -> int | None:
    """Read the number of an interface that has an XDP program; None where it has none."""
    for kind, value in netlink.attributes(body, _IFINFOMSG.size):
        if kind == _XDP:
            attached = dict(netlink.attributes(value)).get(_XDP_ATTACHED)
            return _IFINFOMSG.unpack_from(body)[2] if attached and any(attached) else None
    return None


def _xdp_sockets() -> frozenset[int] | None:
    """Find the own interfaces to which AF_XDP sockets are bound; None where it cannot be told."""
    if not has_xdp_sockets(procfs.lines_or_raise(Path("/"), "net/protocols")):
        return frozenset()  # the question would load a module of the kernel
    question = _XDP_DIAG_REQ.pack(_AF_XDP, 0, 0, 0, _SHOW_INFO, 0, 0)
    try:
        with _open(_NETLINK_SOCK_DIAG) as asking:
            answers = netlink.dump(asking, _SOCK_DIAG, question)
    except OSError:
        return None  # a kernel without CONFIG_XDP_SOCKETS_DIAG
    return frozenset(index for index in map(read_bound, answers) if index)


def has_xdp_sockets(lines: Iterable[str]) -> bool:
    """Tell from the lines of /proc/net/protocols whether the namespace has AF_XDP sockets."""
    return any(
        len(words) > 2 and words[0] == "XDP" and words[2] != "0" for words in map(str.split, lines)
    )


def read_bound(body: bytes) -> int:
    """Read the number of the interface that an AF_XDP socket is bound to; 0 for none."""
    information = dict(netlink.attributes(body, _XDP_DIAG_MSG.size)).get(_INFO, b"")
    return int.from_bytes(information[:4], sys.byteorder)


def _open(protocol: int) -> socket.socket:
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)


def _signed(value: bytes | None) -> int | None:
    return None if value is None else int.from_bytes(value[:4], sys.byteorder, signed=True)
