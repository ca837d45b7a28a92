"""The guests that run on this host. Reads only."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

from passthrough import frozen
from passthrough.host import domains as defined
from passthrough.system import files, procfs, quoting, sysfs

# Whatever program runs a guest under KVM has this open; QEMU without KVM is known by its name.
_KVM_GUEST = "anon_inode:kvm-vm"
_PROGRAM = re.compile(r"qemu-(system-.*|kvm)|cloud-hypervisor|firecracker")
# VFIO's container node tells nothing: whoever asks for VFIO's version opens it.
_VFIO_CONTAINER = "/dev/vfio/vfio"
_LIBVIRT = "run/libvirt/qemu"
_LIBVIRT_ITSELF = "driver.pid"
_STATUS = re.compile(r"<domstatus\b[^>]*\bpid=['\"]([0-9]{1,10})['\"]")
_DOMAIN = re.compile(
    r"<domain\b[^>]*>\s*<name>([A-Za-z0-9_.-]{1,64})</name>"
    r"\s*<uuid>([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})</uuid>"
)
_NAME = re.compile(r"(?:guest=)?([A-Za-z0-9_.-]{1,64})(?:,.*)?")


class Guest(frozen.Value):
    """A guest: the process that runs it, and its name, or else the program's."""

    process: int
    name: str


def running(processes: procfs.Processes) -> tuple[Guest, ...]:
    """Find every guest that runs, in the order of their processes.

    A process that has a VFIO node open counts as a guest: it has a device.
    """
    found = set(certain(processes))
    for node, users in processes.devices.items():
        if node.startswith("/dev/vfio/") and node != _VFIO_CONTAINER:
            found.update(users)
    return tuple(Guest(process, _name(processes, process)) for process in sorted(found))


def certain(processes: procfs.Processes) -> frozenset[int]:
    """Find the processes that are guests for certain: under KVM, named QEMU, or libvirt's."""
    programs = processes.programs
    return frozenset(
        {
            *processes.devices.get(_KVM_GUEST, ()),
            *(each for each in programs if _PROGRAM.fullmatch(programs[each])),
            *(programs.keys() & _known_to_libvirt(processes)),
        }
    )


def proven(processes: procfs.Processes, among: frozenset[int]) -> frozenset[int]:
    """Find those of some processes that are guests by what they run or have open themselves.

    What libvirt's files say does not do here, since a number can be another process's by now.
    """
    under_kvm = processes.opened_by(among).paths.get(_KVM_GUEST, ())
    named = (each for each in among if _PROGRAM.fullmatch(processes.program(each)))
    return frozenset({*under_kvm, *named})


def _known_to_libvirt(processes: procfs.Processes) -> set[int]:
    """Find the processes of libvirt's guests by the files that libvirt keeps while they run."""
    numbers = ((name, text.strip()) for name, text in processes.texts(f"{_LIBVIRT}/*.pid"))
    return {int(text) for name, text in numbers if name != _LIBVIRT_ITSELF and text.isdecimal()}


def _name(processes: procfs.Processes, process: int) -> str:
    words = processes.arguments(process)
    for option, value in itertools.pairwise(words):
        given = _NAME.fullmatch(value)
        if option == "-name" and given:
            return given[1]
    return quoting.bare(processes.programs.get(process, "")) or "a process"


class Domain(frozen.Value):
    """A guest as libvirt knows it; Nova gives a domain the UUID of its instance."""

    name: str
    uuid: str


def domains(root: Path) -> dict[int, Domain]:
    """Map the processes of the domains that run to these, by what libvirt keeps of them.

    libvirt asks nobody for that: it writes a file for each domain that runs, and reads it again
    when it starts (virDomainObjFormat() of libvirt's src/conf/domain_conf.c). What does not look
    like one is left out.
    """
    found: dict[int, Domain] = {}
    for process, text in _running_domains(root):
        domain = _DOMAIN.search(text)
        if domain:
            found[process] = Domain(domain[1], domain[2])
    return found


def with_functions(root: Path) -> frozenset[int]:
    """The processes of the domains that run and name functions of the host, by libvirt's files.

    That a file names a process does not say that it is a guest, nor that it has the function: the
    file can be older than the process, and a device can have been taken away.
    """
    found = (each for each, text in _running_domains(root) if defined.functions_in(text))
    return frozenset(found)


def _running_domains(root: Path) -> Iterator[tuple[int, str]]:
    """Yield the process and the text of each domain's file; one that cannot be read tells none."""
    for path in sysfs.paths_if_there(root / _LIBVIRT, "*.xml"):
        try:
            present = files.read(Path(path))
        except OSError:
            continue
        status = _STATUS.search(present.content) if present else None
        if present and status:
            yield int(status[1]), present.content


def program(processes: procfs.Processes, process: int) -> str:
    """The program of a process, for a message."""
    return quoting.bare(processes.program(process)) or "a program"
