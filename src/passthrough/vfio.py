"""Bind functions to vfio-pci and give them back, while the host runs.

By address through driver_override, never through new_id, which takes every device of an id.
Source: the kernel's Documentation/ABI/testing/sysfs-bus-pci.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from passthrough import PassthroughError, pci


class BindError(PassthroughError):
    """A function did not change its driver; it was put back where it was.

    Attributes:
        address: the function's address.
    """

    def __init__(self, address: str, reason: str):
        self.address = address
        super().__init__(f"{address}: {reason}")


class InUseError(BindError):
    """A guest holds the function, so it must not be unbound."""


def bind(root: Path, address: str) -> bool:
    """Bind one function to vfio-pci; the module must be loaded.

    Returns:
        True if its driver changed, False if it was on vfio-pci already.

    Raises:
        BindError: when the kernel shows another driver afterwards; the former one is back then.
    """
    device = _device(root, address)
    former = pci.driver_of(root, address)
    former_override = pci.read_text(device / "driver_override")
    try:
        _write(device / "driver_override", pci.VFIO_PCI)
        if former == pci.VFIO_PCI:
            return False
        if former:
            _write(device / "driver/unbind", address)
        _probe(root, address)
        problem = "vfio-pci did not take it"
    except OSError as error:
        problem = f"{_below(root, error.filename)}: {error.strerror}"
    if pci.driver_of(root, address) == pci.VFIO_PCI:
        return True
    _put_back(root, address, former_override)
    now = pci.driver_of(root, address) or "no driver"
    raise BindError(address, f"{problem}; it is on {now} (it was on {former or 'no driver'})")


def rebind(root: Path, address: str) -> None:
    """Take one function from whatever driver has it, vfio-pci too, and bind it to vfio-pci.

    Raises:
        InUseError: when a process holds it; nothing was touched.
        BindError: when the kernel shows another driver afterwards.
    """
    if pci.driver_of(root, address) == pci.VFIO_PCI:
        _refuse_held(root, address)
        try:
            _write(_device(root, address) / "driver/unbind", address)
        except OSError as error:
            raise BindError(address, f"{_below(root, error.filename)}: {error.strerror}") from error
    bind(root, address)


def release(root: Path, address: str, load: Callable[[str], object]) -> bool:
    """Give one function back to its native driver, if the host has one.

    Args:
        root: the host's root.
        address: the function.
        load: loads the modules that a modalias names; called when no loaded driver wants it.

    Returns:
        True if its driver changed.

    Raises:
        InUseError: when a process holds the function.
        BindError: when it is still on vfio-pci afterwards.
    """
    device = _device(root, address)
    before = pci.driver_of(root, address)
    if before == pci.VFIO_PCI:
        _refuse_held(root, address)
    try:
        if pci.read_text(device / "driver_override") == pci.VFIO_PCI:
            # A lone newline clears it; an empty write is not seen by the kernel at all.
            _write(device / "driver_override", "\n")
        if before == pci.VFIO_PCI:
            _write(device / "driver/unbind", address)
        if pci.driver_of(root, address) is None:
            _probe(root, address)
        modalias = pci.read_text(device / "modalias")
        if pci.driver_of(root, address) is None and modalias:
            load(modalias)
            _probe(root, address)
    except OSError as error:
        raise BindError(address, f"{_below(root, error.filename)}: {error.strerror}") from error
    if pci.driver_of(root, address) == pci.VFIO_PCI:
        raise BindError(address, "is still on vfio-pci after it was unbound from it")
    return pci.driver_of(root, address) != before


def holders(root: Path, nodes: frozenset[str]) -> dict[str, tuple[int, ...]]:
    """Find the processes that have a VFIO device node open.

    Args:
        root: the host's root.
        nodes: paths such as ``/dev/vfio/17`` or ``/dev/vfio/devices/vfio0``.

    Returns:
        For each of the nodes that is open, the sorted process ids. A process that ends while it
        is looked at is passed over.
    """
    found: dict[str, set[int]] = {}
    for process in _listdir(root / "proc"):
        if not process.isdigit():
            continue
        directory = root / "proc" / process / "fd"
        for descriptor in _listdir(directory):
            try:
                target = os.readlink(directory / descriptor)
            except OSError:
                continue  # closed since it was listed
            if target in nodes:
                found.setdefault(target, set()).add(int(process))
    return {node: tuple(sorted(found[node])) for node in sorted(found)}


def nodes_of(root: Path, address: str) -> frozenset[str]:
    """The device nodes through which a process holds a function: its group's, and its own.

    The second kind is iommufd's (``vfio-dev`` in sysfs, from kernel 6.2 on).
    """
    device = _device(root, address)
    nodes = {f"/dev/vfio/devices/{name}" for name in _listdir(device / "vfio-dev")}
    with contextlib.suppress(FileNotFoundError):  # no IOMMU, hence no group
        nodes.add(f"/dev/vfio/{os.path.basename(os.readlink(device / 'iommu_group'))}")
    return frozenset(nodes)


def _refuse_held(root: Path, address: str) -> None:
    for node, processes in holders(root, nodes_of(root, address)).items():
        raise InUseError(
            address,
            f"a guest holds it ({node} is open in process"
            f" {', '.join(map(str, processes))}); stop or migrate the guest first",
        )


def _put_back(root: Path, address: str, former_override: str | None) -> None:
    device = _device(root, address)
    kept = former_override if former_override not in (None, "(null)", pci.VFIO_PCI) else "\n"
    try:
        _write(device / "driver_override", kept or "\n")
        if pci.driver_of(root, address) is None:
            _probe(root, address)
    except OSError as error:
        raise BindError(
            address, f"could not be put back: {_below(root, error.filename)}: {error.strerror}"
        ) from error


def _probe(root: Path, address: str) -> None:
    _write(root / "sys/bus/pci/drivers_probe", address)


def _write(path: Path, text: str) -> None:
    # One unbuffered write: sysfs takes each write() as a whole value.
    with open(path, "wb", buffering=0) as file:
        file.write(text.encode())


def _device(root: Path, address: str) -> Path:
    return root / pci.DEVICES / address


def _below(root: Path, path: str | bytes | None) -> str:
    return "/" + os.path.relpath(os.fsdecode(path or ""), root)


def _listdir(path: Path) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []  # gone, or not a directory
