"""Which processes hold a function through VFIO or vhost-vdpa, as guests do. Reads only."""

from __future__ import annotations

import functools
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from passthrough import TYPE_CHECKING, pci_address
from passthrough.host import pci
from passthrough.system import procfs, sysfs

if TYPE_CHECKING:
    from passthrough.system import open_files

_GROUP_NODES = "/dev/vfio/"
OWN_NODES = "/dev/vfio/devices/"  # each function's own one; its group's stands above
_VDPA_NODES = "/dev/vhost-vdpa-"  # drivers/vhost/vdpa.c
VDPA = "sys/bus/vdpa/devices"
_ZERO = "0"  # how the kernel writes that nobody has a function open


def _is_count(text: str) -> bool:
    """Whether the kernel counts at least one in a text."""
    return text.isascii() and text.isdecimal() and not text.startswith(_ZERO)


class Closed:
    """Whether the kernel says that nobody has functions on vfio-pci open, asked once for each node.

    Their ``enable`` is 0 until somebody opens them (vfio_pci_core_enable() of the kernel's
    drivers/vfio/pci/vfio_pci_core.c). What does not show is the moment between the opening of a
    group and that of its function. So this tells and offers, and spares a pass over the processes;
    before a driver changes they are asked all the same.

    Args:
        root: the host's root.
    """

    def __init__(self, root: Path):
        self._root = root
        self._known: dict[str, bool] = {}

    def has_all(self, nodes: Iterable[str]) -> bool:
        """Tell whether the kernel says that nobody has any of these nodes open.

        False is no answer. There is one for groups' nodes alone: a process can have a function's
        own node open while the function is closed.
        """
        return all(self._has(node) for node in nodes)

    def _has(self, node: str) -> bool:
        if node not in self._known:
            group = node.removeprefix(_GROUP_NODES)
            self._known[node] = group.isdecimal() and self._has_group(group)
        return self._known[node]

    def _has_group(self, group: str) -> bool:
        """Whether no member of a group is open, as the kernel says of at least one."""
        said = self._of_members(group)
        return _ZERO in said and all(each in (_ZERO, None) for each in said)

    def is_group_open(self, node: str) -> bool:
        """Tell whether the kernel says that somebody has a member of a group open.

        False where it does not tell of each member that somebody could have.
        """
        members = self._of_members(node.removeprefix(_GROUP_NODES))
        said = [each for each in members if each is not None]
        return any(map(_is_count, said)) and all(each == _ZERO or _is_count(each) for each in said)

    def is_open(self, address: str) -> bool:
        """Tell whether the kernel says that somebody has one function open."""
        return _is_count(self._said_of(address) or "")

    def is_closed(self, address: str) -> bool:
        """Tell whether the kernel says that nobody has one function open."""
        return self._said_of(address) == _ZERO

    def _of_members(self, group: str) -> list[str | None]:
        members = sysfs.names_if_there(f"{self._root}/{pci.GROUPS}/{group}/devices")
        return [self._said_of(member) for member in members]

    def _said_of(self, address: str) -> str | None:
        """What the kernel says of one function; empty for nothing, None where nobody could."""
        device = _device(self._root, address)
        try:
            driver = sysfs.link_name_or_raise(f"{device}/driver")
            if driver == pci.VFIO_PCI:
                return sysfs.regular_value_if_there(f"{device}/enable") or ""
            is_other = driver is not None and is_lent(self._root, address, driver, self._vdpa)
            return "" if is_other else None
        except OSError:
            return ""

    @functools.cached_property
    def _vdpa(self) -> Mapping[str, frozenset[str]]:
        return vdpa_nodes(self._root)


class Accounts:
    """Who has functions on vfio-pci open, as far as that is told without asking all processes.

    The kernel says which are closed. For one that is open, libvirt's files name guests, and these
    few are looked at: what counts is that such a process is a guest by itself and has the node of
    the function open. The kernel lets one process have a function that way
    (vfio_group_fops_open() of drivers/vfio/group.c, vfio_df_open() of drivers/vfio/vfio_main.c), so
    nobody else is asked. A file that is old or made up costs the pass, and hides nobody.

    Args:
        root: the host's root.
        processes: the host's processes, where the caller asks more of them.
    """

    def __init__(self, root: Path, processes: procfs.Processes | None = None):
        self._root = root
        self._processes = processes or procfs.Processes(root)
        self._closed = Closed(root)

    def holders(self, address: str, nodes: frozenset[str]) -> tuple[int, ...] | None:
        """Tell who has a function open; None where that takes a pass over all processes.

        Args:
            address: the function.
            nodes: its nodes, as `nodes_of` has them.
        """
        if self._closed.has_all(nodes):
            return ()
        own = {node for node in nodes if node.startswith(OWN_NODES)}
        groups = nodes - own
        if len(groups) != 1 or not all(map(self._closed.is_group_open, groups)):
            return None
        held = _openers(self._root, self._processes.opened_by(self._named), nodes)
        # Whoever has a group has all of its members. Whoever has the own node of a function that is
        # closed may be one of several.
        having = nodes if self._closed.is_open(address) else groups
        who = {process for node in having for process in held.get(node, ())}
        return tuple(sorted(who & self._guests)) or None

    @functools.cached_property
    def _named(self) -> frozenset[int]:
        """The processes that libvirt's files name as those of guests with functions."""
        from passthrough.host import guests  # not for a host where nothing is open

        return guests.with_functions(self._root)

    @functools.cached_property
    def _guests(self) -> frozenset[int]:
        """Those of them that are guests by themselves."""
        from passthrough.host import guests  # the same

        return guests.proven(self._processes, self._named)


class Users:
    """Who has functions open through VFIO, in one pass over the processes.

    Args:
        root: the host's root; None for a host where nobody has any.
        processes: the host's processes.
        accounts: what is told without the pass; None asks all processes.
    """

    def __init__(
        self, root: Path | None, processes: procfs.Processes, accounts: Accounts | None = None
    ):
        self._root = root
        self._processes = processes
        self._accounts = accounts

    @classmethod
    def none(cls) -> Users:
        """A host where nobody has a function open."""
        return cls(None, procfs.Processes.none())

    def of(self, addresses: Iterable[str]) -> dict[str, tuple[int, ...]]:
        """Find the processes that hold functions, or VFs of theirs.

        Returns:
            Address of a function that is held → sorted process ids.
        """
        root = self._root
        if root is None:
            return {}
        found: dict[str, set[int]] = {}
        unknown: dict[str, frozenset[str]] = {}
        for address in addresses:
            for each in (address, *vfs_of(root, address)):
                nodes = nodes_of(root, each, self._vdpa)
                told = self._accounts.holders(each, nodes) if self._accounts else None
                if told is None:
                    unknown[address] = unknown.get(address, frozenset()) | nodes
                else:
                    found.setdefault(address, set()).update(told)
        held = of_nodes(self._processes, frozenset[str]().union(*unknown.values()))
        for address, nodes in unknown.items():
            who = (process for node in nodes if node in held for process in held[node])
            found.setdefault(address, set()).update(who)
        return {address: tuple(sorted(found[address])) for address in found if found[address]}

    @functools.cached_property
    def _vdpa(self) -> Mapping[str, frozenset[str]]:
        return vdpa_nodes(self._root) if self._root else {}


def of_nodes(processes: procfs.Processes, nodes: frozenset[str]) -> dict[str, tuple[int, ...]]:
    """Find the processes that have a VFIO device node open.

    Args:
        processes: the host's processes, which are read only where there is a node to look for.
        nodes: paths such as ``/dev/vfio/17`` or ``/dev/vfio/devices/vfio0``.

    Returns:
        Node that is open → sorted process ids. A process that ends meanwhile is left out.
    """
    if not nodes or processes.root is None:
        return {}
    return _openers(processes.root, processes.opened, nodes)


def _openers(
    root: Path, opened: open_files.Opened, nodes: Iterable[str]
) -> dict[str, tuple[int, ...]]:
    """Who has any of these nodes open, out of what was seen open."""
    found: dict[str, tuple[int, ...]] = {}
    for node in sorted(nodes):
        number = number_of(root, node)
        paths = opened.unasked if number else opened.paths
        who = {*paths.get(node, ()), *(opened.numbers.get(number, ()) if number else ())}
        if who:
            found[node] = tuple(sorted(who))
    return found


def number_of(root: Path, node: str) -> str | None:
    """The device number of a VFIO node, as the kernel shows it; None where it does not."""
    name = os.path.basename(node)
    number = next(filter(None, map(sysfs.attribute_if_there, _numbers(root, node, name))), None)
    return f"c{number}" if number else None


def _numbers(root: Path, node: str, name: str) -> Iterator[str]:
    """Yield the files that may have a node's number."""
    if node.startswith(_VDPA_NODES):
        # vhost-vdpa has no class; its node stands below the vDPA device (drivers/vhost/vdpa.c).
        for device in sysfs.names_if_there(root / VDPA):
            yield f"{root}/{VDPA}/{device}/{name}/dev"
    else:
        place = "vfio-dev" if node.startswith(OWN_NODES) else "vfio"
        yield f"{root}/sys/class/{place}/{name}/dev"


def nodes_of(
    root: Path, address: str, vdpa: Mapping[str, frozenset[str]] | None = None
) -> frozenset[str]:
    """Find the device nodes through which a process holds a function, or a part of it.

    Its group's and its own, and those of the mediated devices that it is cut up into; and those of
    its vDPA devices, which guests have while it is on its native driver.

    Args:
        root: the host's root.
        address: the function.
        vdpa: what `vdpa_nodes` gave; None lets it be read for this function alone.
    """
    vdpa = vdpa_nodes(root) if vdpa is None else vdpa
    device = _device(root, address)
    return frozenset[str]().union(
        *(_nodes(root, each) for each in (device, *_mediated_devices(device))),
        vdpa.get(address, frozenset()),
    )


def vdpa_nodes(root: Path) -> Mapping[str, frozenset[str]]:
    """Map each function to the nodes of the vDPA devices below it, also on its scalable functions.

    A function without such a node is left out.
    """
    directory = root / VDPA
    found: dict[str, set[str]] = {}
    for name, path in sysfs.links_or_raise(directory).items():
        children = (f"/dev/{child}" for child in sysfs.names_if_there(directory / name))
        nodes = [child for child in children if child.startswith(_VDPA_NODES)]
        for address in pci_address.functions_on(path) if nodes else ():
            found.setdefault(address, set()).update(nodes)
    return {address: frozenset(nodes) for address, nodes in found.items()}


def is_cut_up(root: Path, address: str) -> bool:
    """Tell whether a function has mediated devices, such as vGPUs, which guests hold."""
    return bool(_mediated_devices(_device(root, address)))


def is_lent(
    root: Path, address: str, driver: str, vdpa: Mapping[str, frozenset[str]] | None = None
) -> bool:
    """Whether guests can have a function on that driver: whole, or in parts.

    The variants of vfio-pci have its name in theirs (mlx5_vfio_pci); from Linux 6.1 on the kernel
    shows each device that VFIO has, whichever driver gave it (NVIDIA's does, for vGPUs on VFs).
    ``vdpa`` is as for `nodes_of`.
    """
    vdpa = vdpa_nodes(root) if vdpa is None else vdpa
    shown = sysfs.is_there_or_raise(f"{_device(root, address)}/vfio-dev")
    parts = is_cut_up(root, address) or address in vdpa
    return shown or "vfio" in driver or parts


def is_group(node: str) -> bool:
    """Whether a node is that of a group, which the kernel lets one process open."""
    return not node.startswith((OWN_NODES, _VDPA_NODES))


def are_closed(root: Path, addresses: Iterable[str]) -> bool:
    """Tell whether the kernel says of functions on vfio-pci that nobody has them open."""
    kernel = Closed(root)
    return all(kernel.is_closed(each) for each in addresses)


def opens_once(root: Path, node: str) -> bool:
    """Tell whether the kernel lets one process at a time open a node, as it does a group's.

    A function's own node opens any number of times, and a file that is not the kernel's own node of
    the group tells nothing.
    """
    if not is_group(node):
        return False
    try:
        found = os.stat(root / node[1:])
    except OSError:
        return False
    number = f"c{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"
    return stat.S_ISCHR(found.st_mode) and number == number_of(root, node)


def vfs_of(root: Path, address: str) -> list[str]:
    """The addresses of the VFs that a function has now, sorted."""
    device = _device(root, address)
    links = [name for name in sysfs.names_if_there(device) if name.startswith("virtfn")]
    found = (sysfs.link_name_or_raise(f"{device}/{name}") for name in links)
    return sorted(filter(None, found))


def _nodes(root: Path, device: str) -> Iterator[str]:
    """Yield a device's own node, which goes with iommufd, and its group's.

    A kernel with own nodes shows a node's number as ``dev``; a kernel from 6.1 on without them has
    the directory ``vfio-dev`` and no ``dev``.
    """
    for name in sysfs.names_if_there(f"{device}/vfio-dev"):
        if sysfs.is_there_or_raise(f"{device}/vfio-dev/{name}/dev"):
            yield f"{OWN_NODES}{name}"
    group = sysfs.link_name_or_raise(f"{device}/iommu_group")
    if group:  # else no IOMMU is on
        yield f"/dev/vfio/{group}"
        # The group's node in the kernel's "unsafe noiommu mode".
        if (root / f"dev/vfio/noiommu-{group}").exists():
            yield f"/dev/vfio/noiommu-{group}"


def _mediated_devices(device: str) -> list[str]:
    if not sysfs.is_there_or_raise(f"{device}/mdev_supported_types"):
        return []
    children = (f"{device}/{name}" for name in sysfs.names_if_there(device))
    return [each for each in children if sysfs.is_there_or_raise(f"{each}/mdev_type")]


def _device(root: Path, address: str) -> str:
    return os.path.join(root, pci.DEVICES, address)
