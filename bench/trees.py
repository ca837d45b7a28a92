"""Made-up /sys trees of any number of PCI functions, written fast.

They hold what lspci and the charm read, in the forms of the kernel's
Documentation/ABI/testing/sysfs-bus-pci; tests/harness/hosttree makes smaller hosts that are whole.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import struct
from collections.abc import Iterator, Sequence

DEVICES = "sys/bus/pci/devices"
GROUPS = "sys/kernel/iommu_groups"
PCI_IDS = "usr/share/misc/pci.ids"

# What stands behind a root port, in turn: the identity, the class, the driver, and the functions.
_CARDS = (
    ("10de:1bb0", 0x030000, "nouveau", ("10de:10f0", 0x040300, "snd_hda_intel"), 0),
    ("8086:1572", 0x020000, "i40e", None, 6),  # six of its 64 VFs are on
    ("144d:a808", 0x010802, "nvme", None, 0),
    ("8086:0d58", 0x020000, "i40e", None, 0),
)
_PORT, _VF = ("8086:3420", 0x060400, "pcieport"), ("8086:154c", 0x020000, "iavf")
_TOTAL_VFS = 64
_VFIO = "vfio-pci"  # leaves a function disabled until somebody opens it
_BUSES = 256
_NODES = 2
# IORESOURCE_MEM of linux/ioport.h, a BAR of 64 KiB.
_RESOURCES = "0x00000000fe000000 0x00000000fe00ffff 0x0000000000040200\n" + (
    "0x0000000000000000 0x0000000000000000 0x0000000000000000\n" * 12
)


@dataclasses.dataclass(frozen=True)
class Function:
    """One function of a made-up host; ``parent`` is the bridge above, ``physfn`` the VF's PF.

    ``is_open`` tells that a guest has it.
    """

    address: str
    identity: str
    class_code: int
    driver: str
    group: int
    node: int
    parent: str | None = None
    total_vfs: int = 0
    physfn: str | None = None
    is_open: bool = False


def functions(count: int) -> list[Function]:
    """Make up ``count`` functions: root ports with a card each, some cards with VFs.

    A card's functions share an IOMMU group; every root port and VF has its own. Every domain has
    128 buses with a port on each, half of them on either NUMA node.
    """
    found: list[Function] = []
    groups = iter(range(count))
    for function in _all():
        if len(found) == count:
            break
        same_slot = found and function.parent and not function.physfn
        shares = same_slot and found[-1].address[:-1] == function.address[:-1]
        group = found[-1].group if shares else next(groups)
        found.append(dataclasses.replace(function, group=group))
    return found


def _all() -> Iterator[Function]:
    number = 0
    while True:
        domain, bus = divmod(number, _BUSES // 2)
        node = number * _NODES // (_BUSES // 2) % _NODES
        port = f"{domain:04x}:00:{bus // 8:02x}.{bus % 8}"
        slot = f"{domain:04x}:{bus + 1:02x}:00"
        yield Function(port, *_PORT, group=0, node=node)
        identity, class_code, driver, companion, vfs = _CARDS[number % len(_CARDS)]
        total = _TOTAL_VFS if vfs else 0
        yield Function(f"{slot}.0", identity, class_code, driver, 0, node, port, total)
        if companion:
            yield Function(f"{slot}.1", *companion, group=0, node=node, parent=port)
        for vf in range(vfs):
            address = f"{domain:04x}:{bus + 1:02x}:{(vf + 8) // 8:02x}.{vf % 8}"
            yield Function(address, *_VF, 0, node, port, physfn=f"{slot}.0")
        number += 1


def cards(count: int) -> list[Function]:
    """Make up ``count`` equal cards of one function, each behind a root port and in a group."""
    found = []
    for number in range(count):
        domain, bus = divmod(number, _BUSES // 2)
        port = f"{domain:04x}:00:{bus // 8:02x}.{bus % 8}"
        address = f"{domain:04x}:{bus + 1:02x}:00.0"
        identity, class_code, driver, _, _ = _CARDS[0]
        found.append(Function(port, *_PORT, group=2 * number, node=0))
        found.append(
            Function(address, identity, class_code, driver, 2 * number + 1, 0, parent=port)
        )
    return found


def write(root: pathlib.Path, made: Sequence[Function], *, with_groups: bool = True) -> None:
    """Write the functions below ``root``, and this machine's pci.ids.

    Args:
        root: the tree, which may hold other things already.
        made: the functions.
        with_groups: False for a host whose IOMMU is off.
    """
    groups = {each.group for each in made} if with_groups else ()
    drivers = {each.driver for each in made}
    for name in (
        *(DEVICES, GROUPS, "sys/bus/pci/slots", "sys/dev/char", "proc", "etc", "run"),
        *(f"sys/bus/pci/drivers/{driver}" for driver in drivers),
        *(f"{GROUPS}/{group}/devices" for group in groups),
    ):
        (root / name).mkdir(parents=True, exist_ok=True)
    with_vfs: dict[str, list[str]] = {}
    for each in made:
        if each.physfn:
            with_vfs.setdefault(each.physfn, []).append(each.address)
    for each in made:
        _write_function(os.fspath(root), each, with_vfs.get(each.address, []), with_groups)
    (root / PCI_IDS).parent.mkdir(parents=True, exist_ok=True)
    (root / PCI_IDS).write_bytes(pathlib.Path("/", PCI_IDS).read_bytes())


def _write_function(root: str, of: Function, vfs: list[str], with_groups: bool) -> None:
    inside = place(of)
    here = f"{root}/sys/{inside}"
    os.makedirs(here)
    vendor, device = of.identity.split(":")
    files = {
        "uevent": f"DRIVER={of.driver}\nPCI_CLASS={of.class_code:X}\nPCI_ID={of.identity.upper()}\n"
        f"PCI_SUBSYS_ID=1AF4:1100\nPCI_SLOT_NAME={of.address}\n",
        "vendor": f"0x{vendor}\n",
        "device": f"0x{device}\n",
        "class": f"0x{of.class_code:06x}\n",
        "revision": "0x01\n",
        "subsystem_vendor": "0x1af4\n",
        "subsystem_device": "0x1100\n",
        "irq": "16\n",
        "resource": _RESOURCES,
        "numa_node": f"{of.node}\n",
        "driver_override": "(null)\n" if of.driver != _VFIO else f"{_VFIO}\n",
        "enable": f"{int(of.driver != _VFIO or of.is_open)}\n",
        "modalias": _modalias(of),
    }
    if of.total_vfs:
        files["sriov_totalvfs"] = f"{of.total_vfs}\n"
        files["sriov_numvfs"] = f"{len(vfs)}\n"
    if of.class_code >> 16 == 0x03:
        files["boot_vga"] = "0\n"
    for name, text in files.items():
        put(f"{here}/{name}", text.encode())
    put(f"{here}/config", _config(of))
    up = "../" * (inside.count("/") + 1)
    os.symlink(f"{up}bus/pci", f"{here}/subsystem")
    os.symlink(f"{up}bus/pci/drivers/{of.driver}", f"{here}/driver")
    if with_groups:
        os.symlink(f"{up}kernel/iommu_groups/{of.group}", f"{here}/iommu_group")
        os.symlink(f"../../../../{inside}", f"{root}/{GROUPS}/{of.group}/devices/{of.address}")
    os.symlink(f"../../../{inside}", f"{root}/{DEVICES}/{of.address}")
    if of.physfn:
        os.symlink(f"../{of.physfn}", f"{here}/physfn")
    for number, address in enumerate(vfs):
        os.symlink(f"../{address}", f"{here}/virtfn{number}")


def place(of: Function) -> str:
    """The directory of a function, below the tree's /sys."""
    above = f"/{of.parent}" if of.parent else ""
    return f"devices/pci{of.address[:5]}00{above}/{of.address}"


def put(path: str, content: bytes) -> None:
    """Write a new file."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    os.write(handle, content)
    os.close(handle)


def _modalias(of: Function) -> str:
    vendor, device = (part.upper().rjust(8, "0") for part in of.identity.split(":"))
    code = f"{of.class_code:06X}"
    kind = f"bc{code[:2]}sc{code[2:4]}i{code[4:]}"
    return f"pci:v{vendor}d{device}sv00001AF4sd00001100{kind}\n"


def _config(of: Function) -> bytes:
    """The 64 bytes of the standard header, and the rest of the first 256."""
    vendor, device = (int(part, 16) for part in of.identity.split(":"))
    is_bridge = of.class_code >> 8 == 0x0604
    secondary = 1 + int(of.address[8:10], 16) * 8 + int(of.address[-1]) if is_bridge else 0
    front = struct.pack(
        "<HHHHBBHBBBB",
        vendor,
        device,
        0x0406,  # bus master, memory, no INTx
        0x0010,
        0x01,
        of.class_code & 0xFF,
        of.class_code >> 8,
        0x10,
        0,
        0x01 if is_bridge else 0x80 if of.class_code >> 16 in (0x03, 0x04) else 0x00,
        0,
    )
    body = struct.pack("<8xBBBB", 0, secondary & 0xFF, secondary & 0xFF, 0) if is_bridge else b""
    header = (front + body).ljust(0x2C, b"\0")
    subsystem = b"\0" * 4 if is_bridge else struct.pack("<HH", 0x1AF4, 0x1100)
    return (header + subsystem).ljust(256, b"\0")
