"""Disks, interfaces and consoles on a made-up host, as the kernel shows them in /sys and /proc."""

from __future__ import annotations

import os
from pathlib import Path

from harness import hosttree
from harness.hosttree import kernel

SWAPS = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
ROUTES = (
    "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT"
    "                                                       \n"
)
LINK_LOCAL = "fe80000000000000b42e99fffe000001"
GLOBAL = "fd000000000000000000000000000002"


def disk(tree: hosttree.HostTree, address: str, name: str, number: str, below: str = "") -> Path:
    """A whole disk of a function; ``below`` is the path between the two, such as ``nvme/nvme0``."""
    directory = tree.directory(address) / below / "block" / name
    return _block(tree, directory, name, number)


def partition(tree: hosttree.HostTree, parent: str, name: str, number: str) -> Path:
    """A partition of a disk."""
    directory = (tree.root / "sys/class/block" / parent).resolve() / name
    return _block(tree, directory, name, number)


def assembled(
    tree: hosttree.HostTree, name: str, number: str, *members: str, label: str = ""
) -> Path:
    """An md, device-mapper or bcache device on others."""
    directory = _block(tree, tree.root / "sys/devices/virtual/block" / name, name, number)
    for member in members:
        lower = (tree.root / "sys/class/block" / member).resolve()
        for place, there in ((directory / "slaves", lower), (lower / "holders", directory)):
            _link(place / there.name, there)
    if label:
        (directory / "dm").mkdir()
        (directory / "dm/name").write_text(f"{label}\n")
    return directory


def _link(path: Path, target: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    kernel.link(path, target)


def _block(tree: hosttree.HostTree, directory: Path, name: str, number: str) -> Path:
    for place in ("holders", "slaves"):
        (directory / place).mkdir(parents=True)
    (directory / "dev").write_text(f"{number}\n")
    _link(tree.root / "sys/class/block" / name, directory)
    return directory


def multipath_namespace(
    tree: hosttree.HostTree, name: str, number: str, controllers: dict[str, str]
) -> None:
    """An NVMe namespace behind several controllers: the name of each and its function."""
    subsystem = tree.root / "sys/devices/virtual/nvme-subsystem/nvme-subsys0"
    _block(tree, subsystem / name, name, number)
    for controller, address in controllers.items():
        there = tree.directory(address) / "nvme" / controller
        there.mkdir(parents=True)
        _link(subsystem / controller, there)


def fibre_channel_host(tree: hosttree.HostTree, address: str, name: str, port: str) -> None:
    """A port of a Fibre Channel adapter."""
    directory = tree.directory(address) / name / "fc_host" / name
    directory.mkdir(parents=True)
    (directory / "port_name").write_text(f"{port}\n")
    _link(tree.root / "sys/class/fc_host" / name, directory)


def namespace_over_fibre_channel(
    tree: hosttree.HostTree, name: str, number: str, controller: str, port: str, *, multipath: bool
) -> None:
    """An NVMe namespace over a port; its controller stands on no PCI function's path."""
    above = tree.root / "sys/devices/virtual/nvme-fabrics/ctl" / controller
    above.mkdir(parents=True)
    remote = "traddr=nn-0x200a00a09890f5bf:pn-0x200b00a09890f5bf"
    local = f"host_traddr=nn-0x200000109b1c2a3f:pn-{port}"
    (above / "address").write_text(f"{remote},{local}\n")
    subsystem = tree.root / "sys/devices/virtual/nvme-subsystem/nvme-subsys9"
    if multipath:
        _link(subsystem / controller, above)
    _block(tree, (subsystem if multipath else above) / name, name, number)


def mount(
    tree: hosttree.HostTree,
    number: str,
    place: str,
    source: str,
    kind: str = "ext4",
    process: int = 1,
) -> None:
    """Mount a file system in the mount namespace of a process, which has one of its own."""
    directory = tree.root / f"proc/{process}"
    (directory / "ns").mkdir(parents=True, exist_ok=True)
    if not (directory / "ns/mnt").is_symlink():
        os.symlink(f"mnt:[{4026531840 + process}]", directory / "ns/mnt")
    with (directory / "mountinfo").open("a") as file:
        file.write(f"30 1 {number} / {place} rw,relatime shared:1 - {kind} {source} rw\n")


def swap(tree: hosttree.HostTree, path: str, kind: str = "partition") -> None:
    """Swap to a device or a file."""
    tree.write("proc/swaps", f"{SWAPS}{path}\t\t\t{kind}\t8388604\t0\t-2\n")


def signature(tree: hosttree.HostTree, number: str, kind: str) -> None:
    """The one signature that udev has found on a device."""
    udev(tree, number, ID_FS_TYPE=kind)


def udev(tree: hosttree.HostTree, number: str, **properties: str) -> None:
    """What udev's database holds of a device."""
    lines = (f"E:{key}={value}\n" for key, value in properties.items())
    tree.write(f"run/udev/data/b{number}", "".join(["S:disk/by-id/x\n", *lines]))


def interface(tree: hosttree.HostTree, address: str, name: str, *, up: bool = True) -> Path:
    """An interface of a function."""
    return tree.nic(address, name, mac="b4:2e:99:00:00:01", up=up)


def two_ports(root: Path, first: str, second: str, usb: str) -> hosttree.HostTree:
    """Two idle ports of a NIC, each with its interface up, as MAAS and netplan leave them.

    Beside them stands a USB controller.
    """
    tree = hosttree.HostTree(root)
    for number, address in enumerate((first, second)):
        tree.function(address, "8086:1572", 0x020000, driver="i40e")
        interface(tree, address, f"ens1f{number}")
    tree.function(usb, "8086:a36d", 0x0C0330, driver="xhci_hcd")
    return tree


def upper(tree: hosttree.HostTree, lower: str, name: str, kind: str = "", *, master: bool) -> None:
    """A bond, bridge, VLAN or the like on an interface; ``kind`` is its own directory's name."""
    directory = tree.root / "sys/devices/virtual/net" / name
    (directory / kind).mkdir(parents=True)
    (directory / "flags").write_text("0x1003\n")
    _link(tree.root / "sys/class/net" / name, directory)
    below = (tree.root / "sys/class/net" / lower).resolve()
    _link(below / f"upper_{name}", directory)
    if master:
        _link(below / "master", directory)


def on_bus(tree: hosttree.HostTree, bus: str, name: str, directory: Path) -> Path:
    """A device of another bus that stands below a function: of ``auxiliary``, ``usb``, ``vdpa``."""
    directory.mkdir(parents=True, exist_ok=True)
    _link(tree.root / f"sys/bus/{bus}/devices" / name, directory)
    return directory


def subfunction(tree: hosttree.HostTree, address: str, name: str) -> Path:
    """A subfunction of a function, such as ``mlx5_core.sf.4``."""
    return on_bus(tree, "auxiliary", name, tree.directory(address) / name)


def usb_interface(tree: hosttree.HostTree, address: str, name: str) -> Path:
    """An interface, as USB has it, of a device behind a controller, such as ``1-2:1.0``."""
    below = f"usb1/{name.partition(':')[0]}/{name}"
    return on_bus(tree, "usb", name, tree.directory(address) / below)


def interface_below(tree: hosttree.HostTree, directory: Path, name: str, flags: int) -> Path:
    """A network interface of a device that is no PCI function."""
    made = directory / "net" / name
    made.mkdir(parents=True)
    (made / "flags").write_text(f"{flags:#x}\n")
    (made / "address").write_text("b4:2e:99:00:00:02\n")
    _link(tree.root / "sys/class/net" / name, made)
    return made


def route(tree: hosttree.HostTree, name: str, *, default: bool) -> None:
    """An IPv4 route through an interface."""
    where = "00000000\t010200C0" if default else "000200C0\t00000000"
    mask = "00000000" if default else "00FFFFFF"
    tree.write("proc/net/route", f"{ROUTES}{name}\t{where}\t0003\t0\t0\t0\t{mask}\t0\t0\t0\n")


def route6(tree: hosttree.HostTree, name: str) -> None:
    """An IPv6 default route through an interface."""
    tree.write("proc/net/ipv6_route", f"{'0' * 32} 00 {'0' * 32} 00 fe80 400 2 0 3 {name}\n")


def address6(tree: hosttree.HostTree, name: str, address: str, scope: str) -> None:
    """An IPv6 address of an interface."""
    tree.write("proc/net/if_inet6", f"{address} 02 40 {scope} 80 {name:>8}\n")


def session6(tree: hosttree.HostTree, local: str, state: str) -> None:
    """A TCP connection of a local IPv6 address, in a state of net/tcp_states.h."""
    head = "  sl  local_address                         remote_address\n"
    tree.write("proc/net/tcp6", f"{head}   0: {local}:00B3 {local}:BFD0 {state} 00000000\n")


def framebuffer(tree: hosttree.HostTree, name: str, path: str) -> None:
    """A framebuffer below a path of /sys/devices."""
    directory = tree.root / "sys/devices" / path / "graphics" / name
    directory.mkdir(parents=True)
    _link(tree.root / "sys/class/graphics" / name, directory)


def console(tree: hosttree.HostTree, number: int, name: str, *, bound: bool) -> None:
    """A driver of the text console."""
    directory = tree.root / f"sys/devices/virtual/vtconsole/vtcon{number}"
    directory.mkdir(parents=True)
    (directory / "name").write_text(f"{name}\n")
    (directory / "bind").write_text(f"{int(bound)}\n")
    _link(tree.root / f"sys/class/vtconsole/vtcon{number}", directory)


def node(
    tree: hosttree.HostTree, address: str, below: str, number: str, name: str = "", kind: str = ""
) -> Path:
    """A character device below a function; ``name`` is its node's, ``kind`` its class."""
    directory = tree.directory(address) / below
    directory.mkdir(parents=True)
    (directory / "dev").write_text(f"{number}\n")
    if name:
        major, minor = number.split(":")
        event = f"MAJOR={major}\nMINOR={minor}\nDEVNAME={name.removeprefix('/dev/')}\n"
        (directory / "uevent").write_text(event)
    if kind:
        _link(tree.root / "sys/class" / kind / directory.name, directory)
    return directory


def device(tree: hosttree.HostTree, address: str, below: str, kind: str) -> Path:
    """A device below a function that has no node; ``kind`` is its class."""
    directory = tree.directory(address) / below
    directory.mkdir(parents=True, exist_ok=True)
    _link(tree.root / "sys/class" / kind / directory.name, directory)
    return directory


def list_nodes(tree: hosttree.HostTree) -> None:
    """Let the kernel list every character device, as it does in /sys/dev/char."""
    (tree.root / "sys/dev/char").mkdir(parents=True)
    for path in sorted((tree.root / "sys/devices").rglob("dev")):
        if path.parent.name not in os.listdir(tree.root / "sys/class/block"):
            _link(tree.root / "sys/dev/char" / path.read_text().strip(), path.parent)


def process(
    tree: hosttree.HostTree, number: int, program: str, *files: str, mount: int | None = None
) -> Path:
    """A process of a program that has files open; ``mount`` is what they lie on, if it is told."""
    directory = tree.root / f"proc/{number}"
    for name in ("fd", "fdinfo", "ns"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    os.symlink(program, directory / "exe")
    os.symlink("mnt:[4026531841]", directory / "ns/mnt")
    for descriptor, file in enumerate(files):
        os.symlink(file, directory / f"fd/{descriptor}")
        if mount is not None:
            text = f"pos:\t0\nflags:\t02\nmnt_id:\t{mount}\nino:\t7\n"
            (directory / f"fdinfo/{descriptor}").write_text(text)
    kernel.show_open(tree.root)
    return directory


def mount_line(tree: hosttree.HostTree, number: int, kind: str, options: str = "rw") -> None:
    """One more mount, which nothing is known of but its id, its type and its options."""
    directory = tree.root / "proc/1"
    (directory / "ns").mkdir(parents=True, exist_ok=True)
    if not (directory / "ns/mnt").is_symlink():
        os.symlink("mnt:[4026531841]", directory / "ns/mnt")
    with (directory / "mountinfo").open("a") as file:
        file.write(f"{number} 1 0:{number} / /m{number} {options} - {kind} none rw\n")
