"""What lives on this host, besides guests, that a reboot by itself would take down. Reads only.

Whatever would not come back by itself, and whatever others count on: containers, other charms,
storage and gateways of the cloud. Nothing here runs a program, and nothing asks a service.

Sources: cgroups(7) and the names that LXC, Docker, Podman and the container runtimes of Kubernetes
give theirs; /run/systemd/machines of systemd-machined; ovsdb(5), for the log that conf.db is;
ovn-controller(8), for enable-chassis-as-gw; reboot.go of Juju's cmd/jujud, which waits for LXD's.
"""

from __future__ import annotations

import enum
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from passthrough.host import juju_agents
from passthrough.system import files, procfs, quoting, sysfs

_AGENT = re.compile(r"unit-([a-z][a-z0-9-]*)-(\d+)")
_SUBORDINATE = re.compile(r"(?mi)^subordinate:[ \t]*[\"']?(true|yes|on)\b")
# Beside which service the charm binds, where no principal is told.
_COMPUTE = "nova-compute"

_CGROUPS = "sys/fs/cgroup"
_DEPTH = 7
_LXC = re.compile(r"lxc\.payload\.(.+)")
_RUNTIME = re.compile(
    r"(docker|libpod|cri-containerd|crio|nerdctl)-([0-9a-f]{12,64})(?:\.scope)?"
    r"|(systemd-nspawn)@(.+)\.service"
)
_PARENTS = ("lxc", "lxc.payload", "docker")
_IDENTITY = re.compile(r"[0-9a-f]{64}")
_MONITOR = "[lxc monitor] "
_MACHINES = "run/systemd/machines"
_LXD = ("var/snap/lxd/common/lxd", "var/lib/lxd")
# Juju names its own machines in LXD so.
_JUJU = "juju-"

_OVS = (
    "etc/openvswitch/conf.db",
    "var/lib/openvswitch/conf.db",
    "var/snap/openstack-hypervisor/common/etc/openvswitch/conf.db",
    "var/snap/microovn/common/data/switch/db/conf.db",
)
_CMS_OPTIONS, _GATEWAY = "ovn-cms-options", "enable-chassis-as-gw"

_CEPH = ("ceph-osd", "ceph-mon", "ceph-mgr", "ceph-mds", "radosgw")
_CEPH_PLACES = (
    "var/lib/ceph/osd/*",
    "var/lib/ceph/mon/*",
    "var/lib/ceph/*-*-*-*-*/osd.*",
    "var/lib/ceph/*-*-*-*-*/mon.*",
    "var/snap/microceph/common/data/osd/*",
    "var/snap/microceph/common/data/mon/*",
)
# File systems that are empty, or as they were, after every boot.
_FORGETFUL = ("overlay", "aufs", "tmpfs", "ramfs", "squashfs")
_RECORD = "/var/lib/pci-passthrough"


class Kind(enum.Enum):
    """What keeps the charm from rebooting a host."""

    UNIT = "unit"
    CONTROLLER = "controller"
    CONTAINER = "container"
    CEPH = "ceph"
    GATEWAY = "gateway"
    # For these Juju's own reboot waits, and then gives up.
    JUJU_CONTAINER = "juju-container"
    # After a boot nobody would know that there was one.
    FORGETFUL_ROOT = "forgetful-root"
    # Juju was asked, and the host is still in the same boot.
    UNANSWERED = "unanswered"


# A reboot that Juju cannot make, or that nobody would remember, is an operator's.
BY_HAND = (Kind.JUJU_CONTAINER, Kind.FORGETFUL_ROOT, Kind.UNANSWERED)


class Hindrance(NamedTuple):
    """One thing that keeps the charm from rebooting: of what kind, and its name."""

    kind: Kind
    name: str


def find(
    root: Path, application: str, processes: procfs.Processes, principal: str = ""
) -> tuple[Hindrance, ...]:
    """Find everything on the host, but its guests, that bars a reboot; no two alike.

    Args:
        root: the host's root.
        application: the charm's application, whose own unit does not count.
        processes: the host's.
        principal: the unit beside which the charm's unit stands; empty where that is not told.

    Raises:
        OSError: when something cannot be read: what is there is not known then.
    """
    found = (
        *_units(root, application, principal),
        *_containers(root, processes),
        *_gateways(root),
        *_storage(root, processes),
        *_forgetful(root),
    )
    return tuple(dict.fromkeys(found))


def _units(root: Path, application: str, principal: str) -> Iterator[Hindrance]:
    """Find the other principals of Juju's on this machine; their subordinates go with them."""
    for name in sorted(sysfs.names_or_raise(root / juju_agents.AGENTS)):
        if name.startswith("controller-"):
            yield Hindrance(Kind.CONTROLLER, name.removeprefix("controller-"))
        agent = _AGENT.fullmatch(name)
        if not agent or agent[1] == application:
            continue
        unit = f"{agent[1]}/{agent[2]}"
        beside = unit == principal if principal else agent[1].startswith(_COMPUTE)
        if not (beside or _is_subordinate(root / juju_agents.AGENTS / name)):
            yield Hindrance(Kind.UNIT, unit)


def _is_subordinate(agent: Path) -> bool:
    """Tell whether a unit's charm says that it is a subordinate; one that does not tell is none."""
    metadata = files.read(agent / "charm/metadata.yaml")
    return bool(metadata and _SUBORDINATE.search(metadata.content))


def _containers(root: Path, processes: procfs.Processes) -> Iterator[Hindrance]:
    """Find the containers that run, and of Juju's in LXD the stopped ones too."""
    named = (*_of_lxc(root, processes), *_of_lxd(root))
    for name in sorted(set(named)):
        kind = Kind.JUJU_CONTAINER if name.startswith(_JUJU) else Kind.CONTAINER
        yield Hindrance(kind, quoting.bare(name))
    for name in _of_runtimes(root):
        yield Hindrance(Kind.CONTAINER, name)
    for name in sorted(sysfs.names_or_raise(root / _MACHINES)):
        path = root / _MACHINES / name
        machine = None if path.is_symlink() or name in named else files.read(path)
        if machine and "\nCLASS=container\n" in f"\n{machine.content}":
            yield Hindrance(Kind.CONTAINER, quoting.bare(name))


def _of_runtimes(root: Path) -> Iterator[str]:
    """Name the containers of the other programs that run some, by their cgroups."""
    for path in _cgroups(root):
        found = _RUNTIME.fullmatch(path.name)
        # Where no systemd has a say, a runtime names the group after the container alone.
        by_name = _IDENTITY.fullmatch(path.name)
        if not (found or by_name) or not _is_populated(path):
            continue
        if found and found[4]:
            yield quoting.bare(found[4])
        elif found:
            yield f"{found[1]} {found[2][:12]}"
        else:
            yield f"{quoting.bare(path.parent.name)} {path.name[:12]}"


def _of_lxc(root: Path, processes: procfs.Processes) -> Iterator[str]:
    """Name the containers of LXC, by their cgroups and by the processes that look after them."""
    for path in _cgroups(root):
        found = _LXC.fullmatch(path.name)
        if found and _is_populated(path):
            yield found[1]
        elif path.parent.name in ("lxc", "lxc.payload") and _is_populated(path):
            yield path.name
    for process in processes.numbers:
        words = " ".join(processes.arguments(process))
        if words.startswith(_MONITOR):
            yield words.split()[-1]


def _of_lxd(root: Path) -> Iterator[str]:
    for place in _LXD:
        for below in ("containers", "virtual-machines"):
            for name in sysfs.names_or_raise(root / place / below):
                if name.startswith(_JUJU):
                    yield name


def _cgroups(root: Path) -> Iterable[Path]:
    """List the directories of the control groups, down to where containers stand."""
    top = os.fspath(root / _CGROUPS)
    for place, below, _ in os.walk(top):
        if place.count(os.sep) - top.count(os.sep) >= _DEPTH:
            below.clear()
        yield Path(place)


def _is_populated(cgroup: Path) -> bool:
    """Tell whether a control group has processes; one that does not tell has."""
    events = sysfs.attribute_if_there(cgroup / "cgroup.events") or ""
    return "populated 0" not in events


def _gateways(root: Path) -> Iterator[Hindrance]:
    """Find whether OVN may have this chassis carry the routers and addresses of others."""
    for path in _OVS:
        try:
            database = files.read(root / path)
            is_one = bool(database) and _lets_carry(database.content)
        except (OSError, ValueError, TypeError, AttributeError, LookupError, RecursionError):
            # There is one, and what it holds cannot be told.
            yield Hindrance(Kind.GATEWAY, f"/{path}, which cannot be read")
            continue
        if is_one:
            yield Hindrance(Kind.GATEWAY, _GATEWAY)


def _lets_carry(log: str) -> bool:
    """Tell whether a database of Open vSwitch lets OVN use the chassis as a gateway."""
    # Most chassis have never been one: their log need not be taken apart.
    return _GATEWAY in log and _GATEWAY in re.split(r"[,\s]+", _cms_options(log))


def _cms_options(log: str) -> str:
    """Read what ovn-cms-options holds in the end out of a database, a log of transactions.

    Each is a line ``OVSDB JSON LENGTH HASH`` and so many bytes of JSON.
    """
    values: dict[str, str] = {}
    rest = log.encode("utf-8", "surrogateescape")
    while rest:
        head, _, rest = rest.partition(b"\n")
        size = int(head.split()[2])
        record: dict[str, Any] = json.loads(rest[:size])
        rest = rest[size:].lstrip(b"\n")
        is_difference = bool(record.get("_is_diff"))
        rows: dict[str, Any] = record.get("Open_vSwitch") or {}
        for row in rows.values():
            if row and "external_ids" in row:
                _take_ids(values, row["external_ids"], is_difference=is_difference)
    return ",".join(values.values())


def _take_ids(values: dict[str, str], ids: Any, *, is_difference: bool) -> None:
    """Take a row's external_ids: all of them, or in a difference those that change."""
    pairs: list[tuple[str, str]] = ids[1] if ids[0] == "map" else []
    there = {key: value for key, value in pairs if key.startswith(_CMS_OPTIONS)}
    if not is_difference:
        values.clear()
    for key, value in there.items():
        if is_difference and values.get(key) == value:
            del values[key]  # what was there is taken away by naming it again
        else:
            values[key] = value


def _storage(root: Path, processes: procfs.Processes) -> Iterator[Hindrance]:
    """Find the daemons of Ceph, running or set up."""
    running: set[str] = set()
    for process in processes.numbers:
        program = processes.programs[process]
        if program in _CEPH:
            running.add(program)
            yield Hindrance(Kind.CEPH, f"{program} (process {process})")
    for pattern in _CEPH_PLACES:
        daemon = "ceph-osd" if "/osd" in pattern else "ceph-mon"
        for path in sysfs.paths_if_there(root, pattern) if daemon not in running else ():
            yield Hindrance(Kind.CEPH, quoting.bare(f"/{os.path.relpath(path, root)}"))


def _forgetful(root: Path) -> Iterator[Hindrance]:
    """Find whether the file system with the charm's record forgets it at the next boot."""
    found = ("", "", "")
    for line in procfs.lines_or_raise(root, "self/mountinfo"):
        # proc(5): the root of the mount and its place; behind a lone hyphen, the type.
        front, _, behind = line.partition(" - ")
        fields, kind = front.split(), behind.partition(" ")[0]
        if len(fields) < 5:
            continue
        within, point = fields[3], fields[4]
        if f"{_RECORD}/".startswith(f"{point.rstrip('/')}/") and len(point) >= len(found[0]):
            found = (point, kind, within)
    # A part of a file system, mounted by itself, is kept by whoever keeps the whole.
    if found[1] in _FORGETFUL and found[2] == "/":
        yield Hindrance(Kind.FORGETFUL_ROOT, f"{found[0]} ({found[1]})")
