"""The guests that run on this host. Reads only."""

from __future__ import annotations

import dataclasses
import itertools
import re
from pathlib import Path

from passthrough.system import procfs, quoting

# Guests under KVM have this open, whatever program runs them; QEMU without KVM is told by name.
_KVM_GUEST = "anon_inode:kvm-vm"
_PROGRAM = re.compile(r"qemu-(system-.*|kvm)|cloud-hypervisor|firecracker")
# The container node says nothing by itself: whoever asks for VFIO's version opens it.
_VFIO_CONTAINER = "/dev/vfio/vfio"
_LIBVIRT = "run/libvirt/qemu"
_LIBVIRT_ITSELF = "driver.pid"
_NAME = re.compile(r"(?:guest=)?([A-Za-z0-9_.-]{1,64})(?:,.*)?")


@dataclasses.dataclass(frozen=True, order=True)
class Guest:
    """A guest: the process that runs it, and the name it was given, or its program's."""

    process: int
    name: str


def running(root: Path) -> tuple[Guest, ...]:
    """Find every guest that runs, in the order of their processes.

    A process with a VFIO group open counts as one: it has a device.
    """
    found = certain(root) | {
        process
        for process, target in procfs.open_files_if_there(root)
        if target.startswith("/dev/vfio/") and target != _VFIO_CONTAINER
    }
    return tuple(Guest(process, _name(root, process)) for process in sorted(found))


def certain(root: Path) -> frozenset[int]:
    """The processes that run a guest for certain: under KVM, QEMU by its name, or libvirt's."""
    alive = frozenset(procfs.processes_if_there(root))
    return frozenset(
        {process for process, target in procfs.open_files_if_there(root) if target == _KVM_GUEST}
        | {each for each in alive if _PROGRAM.fullmatch(procfs.program_if_there(root, each))}
        | (alive & _known_to_libvirt(root))
    )


def _known_to_libvirt(root: Path) -> set[int]:
    """The processes of libvirt's guests, by the files that it keeps while they run."""
    found = set()
    for path in (root / _LIBVIRT).glob("*.pid"):
        try:
            text = path.read_text(encoding="ascii").strip()
        except (FileNotFoundError, UnicodeDecodeError):
            continue  # the guest has ended since; or no number, hence no guest
        if path.name != _LIBVIRT_ITSELF and text.isdecimal():
            found.add(int(text))
    return found


def _name(root: Path, process: int) -> str:
    words = procfs.arguments_if_there(root, process)
    for option, value in itertools.pairwise(words):
        given = _NAME.fullmatch(value)
        if option == "-name" and given:
            return given[1]
    return quoting.bare(procfs.program_if_there(root, process)) or "a process"
