"""What a busy compute host has beside its PCI functions: processes, files, interfaces, disks.

Written below a root in the forms of proc(5) and of the kernel's Documentation/ABI, as far as the
charm reads it.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Sequence

from harness import hosttree

from bench import trees

# Of ten files that a program has open, as on a compute host: sockets, a pipe, what has no place,
# and files that have one. Those are this machine's, since the descriptors of a tree lead there.
OPEN = (
    "socket:[41234]",
    "/dev/null",
    "anon_inode:[eventpoll]",
    "socket:[41235]",
    "/etc/passwd",
    "pipe:[51234]",
    "socket:[41236]",
    "anon_inode:[eventfd]",
    "/etc/group",
    "socket:[41237]",
)
_ROOT_MOUNT, _DEV_MOUNT, _UNKNOWN_MOUNT, _FIRST_MOUNT = 21, 22, 23, 40
_MOUNTS_EACH = 40  # of a namespace: a container's layers, and what is shown in it
_MEBI = 1 << 20
_HOST_NAMESPACE = 4026531841
_SCRIPT = """\
import os, signal, sys
processes, files = map(int, sys.argv[1:])
for number in range(files - 3):
    os.open(("/dev/null", "/etc/passwd", "/etc/group")[number % 3], os.O_RDONLY)
for _ in range(processes):
    if not os.fork():
        signal.pause()
print("ready", flush=True)
signal.pause()
"""


@dataclasses.dataclass(frozen=True)
class Size:
    """How much of everything a made-up host has.

    Attributes:
        functions: PCI functions, as `trees.functions` makes them up.
        on_vfio: how many of them, GPUs and their companions, are on vfio-pci.
        processes: how many run.
        files: how many each has open.
        interfaces: half of them on functions, half virtual ones, as guests have.
        disks: half of them on functions, half volumes on those.
        namespaces: the mount namespaces that the processes are in.
        is_open: whether somebody has each function that is on vfio-pci.
        by_guests: whether those are guests, and libvirt's files name them; else they are programs.
        in_one_group: whether all functions are in one IOMMU group.
    """

    functions: int = 64
    on_vfio: int = 8
    processes: int = 0
    files: int = 0
    interfaces: int = 0
    disks: int = 0
    namespaces: int = 1
    is_open: bool = False
    by_guests: bool = True
    in_one_group: bool = False


def write(root: pathlib.Path, size: Size) -> list[trees.Function]:
    """Make up a host of that size below ``root``; gives its functions."""
    made = trees.functions(size.functions)
    for number in [at for at, each in enumerate(made) if _is_for_guests(each)][: size.on_vfio]:
        made[number] = dataclasses.replace(made[number], driver="vfio-pci", is_open=size.is_open)
    if size.in_one_group:
        made = [dataclasses.replace(each, group=0) for each in made]
    hosttree.HostTree(root)
    trees.write(root, made)
    held: dict[int, list[str]] = {}
    for each in made:
        if each.is_open:
            held.setdefault(each.group, []).append(each.address)
    groups = sorted(held)
    add_processes(root, size, [f"/dev/vfio/{group}" for group in groups])
    if size.by_guests:
        for process, group in enumerate(groups[: size.processes], 1):
            add_domain(root, process, held[group])
    ports = [trees.place(each) for each in made if each.total_vfs]
    add_interfaces(root, ports, size.interfaces)
    carriers = [trees.place(each) for each in made if each.class_code >> 16 == 0x01]
    add_disks(root, carriers, size.disks)
    return made


def _is_for_guests(function: trees.Function) -> bool:
    return function.class_code >> 16 in (0x03, 0x04)


def add_processes(root: pathlib.Path, size: Size, nodes: Sequence[str] = ()) -> None:
    """Write processes with their open files; the first ones have a device node open as well."""
    for process in range(1, size.processes + 1):
        here = f"{root}/proc/{process}"
        for name in ("fd", "fdinfo", "ns"):
            os.makedirs(f"{here}/{name}")
        os.symlink("/usr/bin/python3", f"{here}/exe")
        namespace = (process - 1) % size.namespaces
        os.symlink(f"mnt:[{_HOST_NAMESPACE + namespace}]", f"{here}/ns/mnt")
        if process <= size.namespaces:
            _put(f"{here}/mountinfo", _mounts(namespace))
        files = [OPEN[number % len(OPEN)] for number in range(size.files)]
        for descriptor, target in enumerate([*files, *nodes[process - 1 : process]]):
            os.symlink(target, f"{here}/fd/{descriptor}")
            if target.startswith("/"):
                mount = _mount_of(target)
                text = f"pos:\t0\nflags:\t0100002\nmnt_id:\t{mount}\nino:\t7\n"
                _put(f"{here}/fdinfo/{descriptor}", text)


def add_domain(root: pathlib.Path, process: int, functions: Sequence[str]) -> None:
    """Make a process a guest with functions, of which libvirt keeps a file."""
    program = pathlib.Path(f"{root}/proc/{process}/exe")
    program.unlink()
    program.symlink_to("/usr/bin/qemu-system-x86_64")
    numbers = (each.replace(".", ":").split(":") for each in functions)
    devices = "".join(
        f"<hostdev mode='subsystem' type='pci' managed='yes'><source><address domain='0x{domain}'"
        f" bus='0x{bus}' slot='0x{slot}' function='0x{function}'/></source></hostdev>\n"
        for domain, bus, slot, function in numbers
    )
    name = f"instance-{process:08x}"
    place = root / "run/libvirt/qemu"
    place.mkdir(parents=True, exist_ok=True)
    _put(
        f"{place}/{process}-{name}.xml",
        f"<domstatus state='running' reason='booted' pid='{process}'>\n<domain type='kvm'>\n"
        f"<name>{name}</name>\n<uuid>6a3c1a4e-52a5-4f0c-9b58-{process:012x}</uuid>\n"
        f"<devices>\n{devices}</devices>\n</domain>\n</domstatus>\n",
    )


def _mount_of(target: str) -> int:
    # The node of a group is not on this machine, so that only its name can tell.
    if target.startswith("/dev/vfio/"):
        return _UNKNOWN_MOUNT
    return _DEV_MOUNT if target.startswith("/dev/") else _ROOT_MOUNT


def _mounts(namespace: int) -> str:
    lines = [
        f"{_ROOT_MOUNT} 1 259:2 / / rw,relatime shared:1 - ext4 /dev/root rw",
        f"{_DEV_MOUNT} {_ROOT_MOUNT} 0:6 / /dev rw,nosuid shared:2 - devtmpfs udev rw",
    ]
    for number in range(_MOUNTS_EACH):
        place = f"/var/lib/containers/{namespace}/{number}"
        identity = _FIRST_MOUNT + namespace * _MOUNTS_EACH + number
        lines.append(
            f"{identity} {_ROOT_MOUNT} 0:{identity} / {place} rw,relatime shared:{identity}"
            f" - overlay overlay rw,lowerdir=/lower,upperdir=/upper,workdir=/work"
        )
    return "\n".join(lines) + "\n"


def add_interfaces(root: pathlib.Path, ports: Sequence[str], count: int) -> None:
    """Write interfaces that are up, each with a link-local address; half of them on ``ports``.

    Such are the representors of VFs, which stand on their PF; the others are guests' taps.

    Args:
        root: the tree.
        ports: directories of functions, such as ``devices/pci0000:00/0000:00:03.0/0000:01:00.0``.
        count: how many.
    """
    addresses: list[str] = []
    sessions = ["  sl  local_address                         remote_address"]
    for number in range(count):
        on_port = number % 2 == 0 and bool(ports)
        name = f"port{number}" if on_port else f"tap{number}"
        above = ports[number // 2 % len(ports)] if on_port else "devices/virtual"
        here = f"{root}/sys/{above}/net/{name}"
        os.makedirs(here)
        for attribute, text in (
            ("flags", "0x1003"),
            ("address", f"52:54:00:00:{number >> 8:02x}:{number & 255:02x}"),
            ("type", "1"),
            ("ifindex", f"{number + 2}"),
        ):
            _put(f"{here}/{attribute}", f"{text}\n")
        _link(root, f"sys/class/net/{name}", f"sys/{above}/net/{name}")
        last = f"{number + 1:08x}"
        addresses.append(f"fe80000000000000505400ff{last} {number + 2:02x} 40 20 80 {name:>8}")
        sessions.append(f"{number:4}: {'0' * 24}{last}:0016 {'0' * 24}{last}:9C40 0A 00000000")
    if count:
        (root / "proc/net").mkdir(parents=True, exist_ok=True)
        for name, lines in (("if_inet6", addresses), ("tcp6", sessions)):
            _put(f"{root}/proc/net/{name}", "\n".join(lines) + "\n")


def add_disks(root: pathlib.Path, carriers: Sequence[str], count: int) -> None:
    """Write disks, every second one a volume on the one before it, mounted by its name.

    Args:
        root: the tree.
        carriers: directories of the functions that they are on, as for `add_interfaces`.
        count: how many.
    """
    mounts: list[str] = []
    for number in range(count):
        lower, upper = f"sd{number}", f"dm-{number}"
        is_volume = number % 2 == 1
        name = upper if is_volume else lower
        above = carriers[number // 2 % len(carriers)] if carriers else "devices/virtual"
        place = f"sys/devices/virtual/block/{upper}" if is_volume else f"sys/{above}/block/{lower}"
        for part in ("holders", "slaves"):
            (root / place / part).mkdir(parents=True)
        major = 253 if is_volume else 8
        _put(f"{root}/{place}/dev", f"{major}:{number}\n")
        _link(root, f"sys/class/block/{name}", place)
        event = f"S:disk/by-id/made-up-{number}\nE:ID_FS_TYPE={'ext4' if is_volume else ''}\n"
        (root / "run/udev/data").mkdir(parents=True, exist_ok=True)
        _put(f"{root}/run/udev/data/b{major}:{number}", event)
        if is_volume:
            (root / place / "dm").mkdir()
            _put(f"{root}/{place}/dm/name", f"group-volume{number}\n")
            below = (root / f"sys/class/block/sd{number - 1}").resolve().relative_to(root.resolve())
            _link(root, f"{place}/slaves/sd{number - 1}", os.fspath(below))
            _link(root, f"{below}/holders/{name}", place)
            # As btrfs is mounted: under a number of its own, by the name of its device.
            mounts.append(
                f"{_MEBI + number} {_ROOT_MOUNT} 0:{_MEBI + number} / /srv/{number} rw - btrfs"
                f" /dev/mapper/group-volume{number} rw"
            )
    if mounts and not (root / "proc/1").exists():
        add_processes(root, Size(processes=1))
    if mounts:
        with open(f"{root}/proc/1/mountinfo", "a", encoding="utf-8") as file:
            file.write("\n".join(mounts) + "\n")


def program(processes: int, files: int) -> list[str]:
    """What to run so that so many processes wait, each with so many files open; says ``ready``."""
    return ["-IS", "-c", _SCRIPT, str(processes), str(files)]


def _link(root: pathlib.Path, path: str, target: str) -> None:
    link = f"{root}/{path}"
    os.makedirs(os.path.dirname(link), exist_ok=True)
    os.symlink(os.path.relpath(f"{root}/{target}", os.path.dirname(link)), link)


def _put(path: str, text: str) -> None:
    trees.put(path, text.encode())
