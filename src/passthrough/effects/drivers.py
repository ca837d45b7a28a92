"""Bind functions to VFIO drivers and give them back, while the host runs.

The charm binds by address through driver_override, and never through new_id, which takes every
device of an id. Source: the kernel's Documentation/ABI/testing/sysfs-bus-pci.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path

from passthrough import errors
from passthrough.host import modules, pci, vfio_users
from passthrough.state import stuck
from passthrough.system import files, procfs, sysfs, timed_write

# Seconds. A driver releases a device within two, or, while the device is busy, perhaps never.
UNBIND_DEADLINE = 60.0


def bind(
    root: Path, address: str, module: str = modules.VFIO_PCI, *, is_pinned: bool = False
) -> bool:
    """Bind one function to a VFIO driver, whose module must be loaded.

    Where a variant of vfio-pci does not take the function, vfio-pci has to.

    Args:
        root: the host's root.
        address: the function.
        module: the driver's module. The driver's name is asked of the kernel.
        is_pinned: whether vfio-pci will not do instead.

    Returns:
        True if its driver changed, False if it was on that driver already.

    Raises:
        InUseError: when a guest holds the function, a part or a VF of it; nothing was touched.
        StuckError: when its driver has not released it in time.
        BindError: when the kernel shows another driver afterwards; the former one is back then.
    """
    device = device_of(root, address)
    former = pci.driver_of(root, address)
    former_override = sysfs.attribute_if_there(device / "driver_override")
    names = _names_to_bind(root, address, module, is_pinned=is_pinned)
    problem = f"{names[0]} did not take it"
    try:
        # A function loses its VFs with its driver, and a guest may hold one of those.
        lost = vfio_users.vfs_of(root, address)
        if former not in (None, names[0]) and vfio_users.is_lent(root, address, former):
            lost.append(address)
        with kept_from_guests(root, address, lost):
            write(device / "driver_override", names[0])
            if former == names[0]:
                return False
            if former:
                _unbind(root, address)
        _probe(root, address)
        for name in names[1:]:
            if pci.driver_of(root, address) is None:
                write(device / "driver_override", name)
                _probe(root, address)
    except OSError as error:
        problem = f"{_below(root, error.filename)}: {error.strerror}"
    if pci.driver_of(root, address) in names:
        return True
    returns = former is not None and former == former_override
    _put_back(root, address, former_override, () if returns else names)
    now = pci.driver_of(root, address) or "no driver"
    raise errors.BindError(
        address, problem, left=f"it is on {now} (it was on {former or 'no driver'})"
    )


def describe(root: Path, address: str, module: str) -> str:
    """Say which VFIO driver a function was bound to, and why where it is not the module's."""
    now = pci.driver_of(root, address)
    said = f"bound to {now}"
    if now == pci.VFIO_PCI and module != modules.VFIO_PCI:
        said += f", as {modules.driver_of(root, module) or module} did not take it"
    return said


def _names_to_bind(root: Path, address: str, module: str, *, is_pinned: bool) -> tuple[str, ...]:
    """The drivers to try, in that order.

    Raises:
        BindError: when there is none, as the kernel shows no driver of the module.
    """
    if module == modules.VFIO_PCI:
        return (pci.VFIO_PCI,)
    named = modules.driver_of(root, module)
    if is_pinned and not named:
        raise errors.BindError(
            address, f"the kernel shows no driver of {module}: see modprobe {module}, and dmesg"
        )
    return tuple(each for each in (named, None if is_pinned else pci.VFIO_PCI) if each)


def rebind(
    root: Path, address: str, module: str = modules.VFIO_PCI, *, is_pinned: bool = False
) -> None:
    """Take one function from its driver, even from a VFIO driver, and bind it as `bind` does.

    Args:
        root: the host's root.
        address: the function.
        module: the driver's module.
        is_pinned: whether vfio-pci will not do instead.

    Raises:
        InUseError: when a process holds the function; nothing was touched.
        StuckError: when its driver has not released it in time.
        BindError: when the kernel shows another driver afterwards.
    """
    names = _names_to_bind(root, address, module, is_pinned=is_pinned)
    if pci.driver_of(root, address) in names:
        try:
            with kept_from_guests(root, address, [address, *vfio_users.vfs_of(root, address)]):
                _unbind(root, address)
        except OSError as error:
            raise errors.BindError(
                address, f"{_below(root, error.filename)}: {error.strerror}"
            ) from error
    bind(root, address, module, is_pinned=is_pinned)


def release(
    root: Path,
    address: str,
    load: Callable[[str], object],
    former: str | None = None,
    variant: str | None = None,
) -> bool:
    """Give one function back to its native driver, if the host has one.

    Args:
        root: the host's root.
        address: the function.
        load: loads modules by a modalias or by name; called when no loaded driver takes the
            function.
        former: the driver that had the function before. The blacklist on the running kernel's
            command line keeps modprobe from loading its module by modalias, but not by name.
        variant: the variant of vfio-pci that has it; None where only vfio-pci can.

    Returns:
        True if its driver changed.

    Raises:
        InUseError: when a process holds the function; nothing was touched.
        StuckError: when the VFIO driver has not released it in time.
        BindError: when the function is still on that afterwards.
    """
    return Releases(root, load).release(address, former, variant)


class Releases:
    """Functions that are given back one after the other.

    Args:
        root: the host's root.
        load: loads modules by a modalias or by name; called when no loaded driver takes a function.
    """

    def __init__(self, root: Path, load: Callable[[str], object]):
        self._root = root
        self._load = load
        self._processes = procfs.Processes(root)

    def release(self, address: str, former: str | None, variant: str | None) -> bool:
        """Give one back, as the function `release` does; the processes are asked once for all."""
        return _release(self._root, address, self._load, (former, variant), self._processes)


def _release(
    root: Path,
    address: str,
    load: Callable[[str], object],
    names: tuple[str | None, str | None],
    processes: procfs.Processes,
) -> bool:
    former, variant = names
    device = device_of(root, address)
    before = pci.driver_of(root, address)
    ours = (pci.VFIO_PCI, *([variant] if variant else ()))
    bound = before in ours
    functions = [address, *vfio_users.vfs_of(root, address)] if bound else []
    try:
        with kept_from_guests(root, address, functions, processes):
            if sysfs.attribute_if_there(device / "driver_override") in ours:
                # A lone newline clears it; the kernel never sees an empty write.
                write(device / "driver_override", "\n")
            if bound:
                _unbind(root, address)
        if pci.driver_of(root, address) is None:
            _probe(root, address)
        for name in _names_to_load(root, sysfs.attribute_if_there(device / "modalias"), former):
            if pci.driver_of(root, address) is None:
                load(name)
                _probe(root, address)
    except OSError as error:
        raise errors.BindError(
            address, f"{_below(root, error.filename)}: {error.strerror}"
        ) from error
    now = pci.driver_of(root, address)
    if now in ours:
        raise errors.BindError(address, f"is still on {now} after it was unbound from it")
    return now != before


def move(root: Path, address: str, driver: str) -> None:
    """Bind one function to a driver of the host's, by its name, for the charm's own work.

    Args:
        root: the host's root.
        address: the function.
        driver: the driver's name; its module is loaded.

    Raises:
        InUseError: when a process holds the function; nothing was touched.
        StuckError: when its driver has not released it in time.
        BindError: when the kernel shows another driver afterwards, or none.
    """
    try:
        with kept_from_guests(root, address, [address]):
            write(device_of(root, address) / "driver_override", driver)
            if pci.driver_of(root, address) not in (None, driver):
                _unbind(root, address)
        if pci.driver_of(root, address) is None:
            _probe(root, address)
    except OSError as error:
        raise errors.BindError(
            address, f"{_below(root, error.filename)}: {error.strerror}"
        ) from error
    now = pci.driver_of(root, address) or "no driver"
    if now != driver:
        raise errors.BindError(address, f"{driver} did not take it", left=f"it is on {now}")


def _names_to_load(root: Path, modalias: str | None, former: str | None) -> Iterator[str]:
    """Yield what modprobe may load the native driver by, the likelier first."""
    if modalias:
        yield modalias
    if former:
        yield former
    # The module may have another name than its driver. Where the kernel names several, as it does
    # for a GPU, none of them is loaded by name: it may be the one that the host does not want.
    named = modules.Aliases(root).of(modalias)
    if len(named) == 1:
        yield from named


@contextlib.contextmanager
def kept_from_guests(
    root: Path,
    address: str,
    functions: Iterable[str],
    earlier: procfs.Processes | None = None,
) -> Generator[None]:
    """Make sure that no guest has ``functions``, and that none gets them while the block runs.

    The kernel lets one process at a time open a VFIO group, and none while a member of the group is
    bound to an iommufd (vfio_group_fops_open() in drivers/vfio/group.c). So the charm opens the
    groups: this proves that nobody has them, and keeps everybody else out. Looking at all processes
    takes longer than the rest of a release, so it is left for what opening cannot tell: a
    function's own node that a process has opened and not bound yet, and which process has a node.

    Args:
        root: the host's root.
        address: the function that an error is about.
        functions: which ones.
        earlier: the processes as this run has seen them before another of its functions. They
            answer for the own nodes of functions that the kernel calls closed: nobody can bind
            one to an iommufd while this has the group open.

    Raises:
        InUseError: when a process has one of them, naming it.
        OSError: when that cannot be told.
    """
    asked = tuple(functions)
    nodes = frozenset[str]().union(*(vfio_users.nodes_of(root, each) for each in asked))
    unsure = frozenset(node for node in nodes if not vfio_users.opens_once(root, node))
    are_own = all(node.startswith(vfio_users.OWN_NODES) for node in unsure)
    kept = earlier if are_own and vfio_users.are_closed(root, asked) else None
    _refuse_held(root, address, unsure, kept)
    with contextlib.ExitStack() as opened:
        for node in sorted(nodes):
            if vfio_users.is_group(node):
                handle = _open_group(root, address, node, nodes)
                if handle is not None:
                    opened.callback(os.close, handle)
        yield


def _open_group(root: Path, address: str, node: str, nodes: frozenset[str]) -> int | None:
    """Open a group's node; None where nobody can have it open.

    Args:
        root: the host's root.
        address: the function that the error is about.
        node: the group's node.
        nodes: every node of the function, to find who has one.

    Raises:
        InUseError: when a process has it open, naming who has one of the nodes.
        OSError: when that cannot be told.
    """
    try:
        return os.open(root / node[1:], os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        # The node is missing or has no group: no member is on a VFIO driver, so nobody holds it.
        if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
            return None
        if error.errno == errno.EBUSY:
            _refuse_held(root, address, nodes)
            raise _in_use(address, f"{node} is busy") from error
        raise


def _refuse_held(
    root: Path, address: str, nodes: frozenset[str], earlier: procfs.Processes | None = None
) -> None:
    """Look at all processes, or at what was seen of them, for one that has a node open.

    Raises:
        InUseError: when one has, naming it.
    """
    for node, found in vfio_users.of_nodes(earlier or procfs.Processes(root), nodes).items():
        raise _in_use(address, f"{node} is open in process {', '.join(map(str, found))}")


def _in_use(address: str, how: str) -> errors.InUseError:
    return errors.InUseError(
        address, f"a guest holds it ({how})", "stop or migrate the guest first"
    )


def _unbind(root: Path, address: str) -> None:
    """Take a function from its driver.

    Raises:
        StuckError: when the driver has not released it in time; reading the function's attributes
            would sleep then, too.
        OSError: when the kernel refuses.
    """
    path = device_of(root, address) / "driver/unbind"
    write_in_time(root, address, path, address, UNBIND_DEADLINE)


def write_in_time(root: Path, address: str, path: Path, text: str, seconds: float) -> None:
    """Write to sysfs what has a driver release a function, or one of its VFs.

    Args:
        root: the host's root.
        address: the function.
        path: the file.
        text: what to write.
        seconds: how long that can take.

    Raises:
        StuckError: when the driver has not released it in time.
        OSError: when the kernel refuses.
    """
    child = timed_write.write(path, text, seconds, write)
    if child is not None:
        started = procfs.started_if_there(root, child)
        files.ensure(root / stuck.PATH, f"{address} {child} {started}\n", 0o600)
        raise errors.StuckError(address, stuck.FACT, stuck.WAY_OUT)


def _put_back(root: Path, address: str, former_override: str | None, tried: Iterable[str]) -> None:
    """Put back the override and the driver of before; an override of those tried is cleared."""
    device = device_of(root, address)
    kept = former_override if former_override not in (None, "(null)", *tried) else "\n"
    try:
        write(device / "driver_override", kept or "\n")
        if pci.driver_of(root, address) is None:
            _probe(root, address)
    except OSError as error:
        raise errors.BindError(
            address, f"could not be put back: {_below(root, error.filename)}: {error.strerror}"
        ) from error


def _probe(root: Path, address: str) -> None:
    write(root / "sys/bus/pci/drivers_probe", address)


def write(path: Path, text: str) -> None:
    """Write a value to a file of sysfs.

    Raises:
        OSError: when the kernel refuses.
    """
    # Unbuffered: sysfs takes each write() as a whole value.
    with open(path, "wb", buffering=0) as file:
        file.write(text.encode())


def device_of(root: Path, address: str) -> Path:
    """The function's directory in sysfs."""
    return root / pci.DEVICES / address


def _below(root: Path, path: str | bytes | None) -> str:
    return "/" + os.path.relpath(os.fsdecode(path or ""), root)
