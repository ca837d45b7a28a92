"""The files that sysfs shows for one PCI function, as bytes.

Names, modes and formats as in drivers/pci/pci-sysfs.c of Linux 6 and in
Documentation/ABI/testing/sysfs-bus-pci.
"""

from __future__ import annotations

import dataclasses
import struct

BRIDGE_CLASS = 0x060400
_READ, _WRITE, _BOTH = 0o444, 0o200, 0o644
_ZERO_RESOURCE = b"0x0000000000000000 0x0000000000000000 0x0000000000000000\n"


@dataclasses.dataclass
class Identity:
    """What a function is.

    Attributes:
        address: ``DDDD:BB:SS.F`` in lower-case hex.
        vendor, device: 16-bit ids; also of the subsystem (``subvendor``, ``subdevice``).
        class_code: 24 bits: base class, subclass, programming interface.
        revision: 8 bits.
        numa: NUMA node, -1 where the firmware names none.
        boot_vga: whether the firmware used it as the console; only VGA-compatible functions have
            the file.
        total_vfs: number of VFs it can have; 0 without the SR-IOV capability.
        multifunction: bit 7 of the header type.
        secondary: bus number behind a bridge.
        pcie: PCI Express: 4096 bytes of configuration space instead of 256.
    """

    address: str
    vendor: int
    device: int
    class_code: int
    subvendor: int = 0
    subdevice: int = 0
    revision: int = 0
    numa: int = -1
    boot_vga: bool = False
    total_vfs: int = 0
    multifunction: bool = False
    secondary: int = 0
    pcie: bool = True

    @property
    def is_vga(self) -> bool:
        """A VGA-compatible display controller (class 0300)."""
        return self.class_code >> 8 == 0x0300

    @property
    def is_bridge(self) -> bool:
        """A PCI-to-PCI bridge, hence with a type 1 header."""
        return self.class_code >> 8 == BRIDGE_CLASS >> 8


def modalias(of: Identity) -> str:
    """The string by which modules are found, as ``MODALIAS`` and in the file ``modalias``."""
    base, sub, interface = of.class_code >> 16, of.class_code >> 8 & 0xFF, of.class_code & 0xFF
    return (
        f"pci:v{of.vendor:08X}d{of.device:08X}sv{of.subvendor:08X}sd{of.subdevice:08X}"
        f"bc{base:02X}sc{sub:02X}i{interface:02X}"
    )


def uevent(of: Identity, driver: str | None) -> str:
    """The file ``uevent``; it begins with the driver while there is one."""
    lines = [f"DRIVER={driver}"] if driver else []
    lines += [
        f"PCI_CLASS={of.class_code:04X}",
        f"PCI_ID={of.vendor:04X}:{of.device:04X}",
        f"PCI_SUBSYS_ID={of.subvendor:04X}:{of.subdevice:04X}",
        f"PCI_SLOT_NAME={of.address}",
        f"MODALIAS={modalias(of)}",
    ]
    return "\n".join(lines) + "\n"


def config_space(of: Identity) -> bytes:
    """The standard header of configuration space, zeros behind it (PCI Local Bus 3.0, 6.1)."""
    header = struct.pack(
        "<HHHHBBBBBBBB",
        of.vendor,
        of.device,
        0x0406,  # command: memory, bus master, no INTx
        0x0010,  # status: has a capability list
        of.revision,
        of.class_code & 0xFF,
        of.class_code >> 8 & 0xFF,
        of.class_code >> 16,
        0,
        0,
        int(of.is_bridge) | (0x80 if of.multifunction else 0),
        0,
    )
    space = bytearray(4096 if of.pcie else 256)
    space[: len(header)] = header
    if of.is_bridge:
        bus = int(of.address.split(":")[1], 16)
        space[0x18:0x1B] = bytes([bus, of.secondary, of.secondary])
    else:
        space[0x2C:0x30] = struct.pack("<HH", of.subvendor, of.subdevice)
    return bytes(space)


def attributes(of: Identity) -> dict[str, tuple[int, bytes]]:
    """Every plain file of the function's directory: name to mode and content."""

    def text(value: object) -> bytes:
        return f"{value}\n".encode()

    files = {
        "ari_enabled": (_READ, text(0)),
        "broken_parity_status": (_BOTH, text(0)),
        "class": (_READ, text(f"0x{of.class_code:06x}")),
        "config": (_BOTH, config_space(of)),
        "consistent_dma_mask_bits": (_READ, text(32)),
        "d3cold_allowed": (_BOTH, text(1)),
        "device": (_READ, text(f"0x{of.device:04x}")),
        "dma_mask_bits": (_READ, text(32)),
        "driver_override": (_BOTH, text("(null)")),
        "enable": (_BOTH, text(0)),
        "irq": (_READ, text(0)),
        "local_cpulist": (_READ, text("0-7")),
        "local_cpus": (_READ, text("ff")),
        "modalias": (_READ, text(modalias(of))),
        "msi_bus": (_BOTH, text(1)),
        "numa_node": (_BOTH, text(of.numa)),
        "power_state": (_READ, text("D0")),
        "remove": (0o220, b""),
        "rescan": (_WRITE, b""),
        "resource": (_READ, _ZERO_RESOURCE * 13),
        "revision": (_READ, text(f"0x{of.revision:02x}")),
        "subsystem_device": (_READ, text(f"0x{of.subdevice:04x}")),
        "subsystem_vendor": (_READ, text(f"0x{of.subvendor:04x}")),
        "uevent": (_BOTH, uevent(of, None).encode()),
        "vendor": (_READ, text(f"0x{of.vendor:04x}")),
    }
    if of.is_vga:
        files["boot_vga"] = (_READ, text(int(of.boot_vga)))
    if of.is_bridge:
        files["secondary_bus_number"] = (_READ, text(of.secondary))
        files["subordinate_bus_number"] = (_READ, text(of.secondary))
    else:
        files["reset_method"] = (_BOTH, text("bus"))
    if of.total_vfs:
        files["sriov_drivers_autoprobe"] = (_BOTH, text(1))
        files["sriov_numvfs"] = (_BOTH, text(0))
        files["sriov_totalvfs"] = (_READ, text(of.total_vfs))
    return files
