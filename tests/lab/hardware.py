"""The kinds of hardware that the lab's machines are made of, and what QEMU is told to make one."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Function:
    """One PCI function as a fresh boot shows it, placed relative to the device it belongs to."""

    id: str
    """vendor:product, four hexadecimal digits each, lower case."""
    driver: str | None
    """What the kernel binds to it when nobody interferes."""
    place: str = "00.0"
    """slot.function on the bus."""
    bus_offset: int = 0
    """0: on the device's bus. 1: on the bus behind it, when the device is a bridge."""


@dataclasses.dataclass(frozen=True)
class Model:
    """A kind of hardware: its functions, and the QEMU arguments that make it.

    The arguments know {bus} and {slot} (where to plug it), {name} (unique in the machine), {mac},
    {second_mac} and {disk} (a file of `disk_mib` mebibytes).
    """

    functions: tuple[Function, ...]
    arguments: tuple[str, ...]
    disk_mib: int = 0


# The standard VGA adapter without its VGA part is a display function (class 0380) with a native
# driver; the HD audio controller beside it is what a graphics card's HDMI output looks like.
GPU = Model(
    functions=(
        Function("1234:1111", "bochs-drm", place="00.0"),
        Function("8086:293e", "snd_hda_intel", place="00.1"),
    ),
    arguments=(
        "-device secondary-vga,bus={bus},addr={slot}.0,multifunction=on,romfile=",
        "-audiodev none,id={name}-sound",
        "-device ich9-intel-hda,bus={bus},addr={slot}.1,id={name}-audio",
        "-device hda-output,bus={name}-audio.0,audiodev={name}-sound",
    ),
)
# A card of the same ids; nothing but the size of its memory, half of the others', tells it apart.
SMALLER_GPU = Model(
    functions=GPU.functions,
    arguments=(f"{GPU.arguments[0]},vgamem_mb=8", *GPU.arguments[1:]),
)
# Four functions, as a graphics card has that brings a USB connector.
GPU_WITH_USB = Model(
    functions=(
        *GPU.functions,
        Function("1b36:000d", "xhci_hcd", place="00.2"),
        Function("8086:24cd", "ehci-pci", place="00.3"),
    ),
    arguments=(
        *GPU.arguments,
        "-device qemu-xhci,bus={bus},addr={slot}.2",
        "-device usb-ehci,bus={bus},addr={slot}.3",
    ),
)
# The machine's own display chip, with its VGA part: what the firmware and the kernel show text on.
BOOT_VGA = Model(
    functions=(Function("1234:1111", "bochs-drm"),),
    arguments=("-device VGA,bus={bus},addr={slot}.0",),
)
NIC = Model(
    functions=(Function("8086:10d3", "e1000e"),),
    arguments=("-device e1000e,id={name},bus={bus},addr={slot}.0,mac={mac},romfile=",),
)
NVME = Model(
    functions=(Function("1b36:0010", "nvme"),),
    arguments=(
        "-drive file={disk},if=none,format=raw,id={name}-disk",
        "-device nvme,bus={bus},addr={slot}.0,serial={name},drive={name}-disk",
    ),
    disk_mib=64,
)
# Two cards behind a PCIe-to-PCI bridge, which cannot tell their requests apart: one group.
OLD_PCI_PAIR = Model(
    functions=(
        Function("1b36:000e", None),
        Function("8086:100e", "e1000", place="01.0", bus_offset=1),
        Function("8086:100e", "e1000", place="02.0", bus_offset=1),
    ),
    arguments=(
        "-device pcie-pci-bridge,id={name},bus={bus},addr={slot}.0",
        "-device e1000,bus={name},addr=0x1,romfile=",
        "-device e1000,bus={name},addr=0x2,romfile=",
    ),
)
# Its driver, 8250_pci, is built into Debian's kernel and Ubuntu's: it binds before any script.
SERIAL_CARD = Model(
    functions=(Function("1b36:0002", "serial"),),
    arguments=(
        "-chardev null,id={name}-line",
        "-device pci-serial,bus={bus},addr={slot}.0,chardev={name}-line",
    ),
)
# A NIC that can have seven virtual functions (8086:10ca), each in a group of its own.
SRIOV_NIC = Model(
    functions=(Function("8086:10c9", "igb"),),
    arguments=("-device igb,bus={bus},addr={slot}.0,mac={mac},romfile=",),
)
# Two of them as one NIC of two ports; the kernel knows that this model's do not reach each other,
# so each has a group of its own (pci_quirk_mf_endpoint_acs in drivers/pci/quirks.c).
TWO_PORT_NIC = Model(
    functions=(Function("8086:10c9", "igb"), Function("8086:10c9", "igb", place="00.1")),
    arguments=(
        # QEMU names no next function by itself; without it the kernel sees the first port alone.
        "-device igb,bus={bus},addr={slot}.0,multifunction=on,mac={mac},romfile=,"
        "x-pcie-ari-nextfn-1=on",
        "-device igb,bus={bus},addr={slot}.1,mac={second_mac},romfile=",
    ),
)
# An NVMe that can have two virtual functions, which bear its own id.
SRIOV_NVME = Model(
    functions=(Function("1b36:0010", "nvme"),),
    arguments=(
        "-device nvme-subsys,id={name}-subsystem",
        "-drive file={disk},if=none,format=raw,id={name}-disk",
        "-device nvme,id={name},bus={bus},addr={slot}.0,serial={name},subsys={name}-subsystem,"
        "sriov_max_vfs=2,sriov_vq_flexible=4,sriov_vi_flexible=2",
        "-device nvme-ns,bus={name},drive={name}-disk",
    ),
    disk_mib=64,
)
NO_DRIVER = Model(
    functions=(Function("1234:11e8", None),),
    arguments=("-device edu,bus={bus},addr={slot}.0",),
)
# The same card where the lab's own driver for it is installed, which makes a vDPA device of it.
VDPA_CARD = dataclasses.replace(NO_DRIVER, functions=(Function("1234:11e8", "lab-vdpa"),))
MANAGEMENT_NIC = Model(
    functions=(Function("1af4:1000", "virtio-pci"),),
    arguments=("-device virtio-net-pci,bus={bus},addr={slot}.0,netdev=management,romfile=",),
)
ROOT_DISK = Model(
    functions=(Function("1af4:1001", "virtio-pci"),),
    arguments=("-device virtio-blk-pci,bus={bus},addr={slot}.0,drive=root,bootindex=1",),
)
SPARE_DISK = Model(
    functions=ROOT_DISK.functions,
    arguments=(
        "-drive file={disk},if=none,format=raw,id={name}-disk",
        "-device virtio-blk-pci,bus={bus},addr={slot}.0,drive={name}-disk",
    ),
    disk_mib=64,
)
ENTROPY = Model(
    functions=(Function("1af4:1005", "virtio-pci"),),
    arguments=("-device virtio-rng-pci,bus={bus},addr={slot}.0",),
)
