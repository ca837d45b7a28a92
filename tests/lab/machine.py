"""The machines of the lab: one table of hardware each, and what QEMU is told to build it.

PCI buses follow from the addresses: bus 00 is the root complex itself, every other bus hangs off a
root port of its own (which gives it an IOMMU group of its own), and buses from 0x80 on sit on a
second host bridge in NUMA node 1, as on a machine with two sockets. SeaBIOS numbers buses in the
order of their ports; `test_machine.py` compares this table with what the guest's kernel found.
"""

import dataclasses
import pathlib

SECOND_HOST_BRIDGE_BUS = 0x80
FIRST_ROOT_PORT_SLOT = 0x10
SECOND_HOST_BRIDGE_SLOT = 0x1C


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

    The arguments know {bus} and {slot} (where to plug it), {name} (unique in the machine), {mac}
    and {disk} (a file of `disk_mib` mebibytes).
    """

    functions: tuple[Function, ...]
    arguments: tuple[str, ...]
    disk_mib: int = 0


@dataclasses.dataclass(frozen=True)
class Device:
    """A piece of hardware in a machine: what it is and the bus (and slot, on bus 00) it sits on."""

    name: str
    model: Model
    bus: int
    slot: int = 0

    @property
    def functions(self) -> dict[str, Function]:
        """The device's functions by full address; together they make one IOMMU group."""
        return {self._address(function): function for function in self.model.functions}

    @property
    def address(self) -> str:
        """The address of the first function, such as 0000:83:00.0."""
        return next(iter(self.functions))

    def _address(self, function: Function) -> str:
        slot, number = function.place.split(".")
        slot_number = self.slot or int(slot, 16)
        return f"0000:{self.bus + function.bus_offset:02x}:{slot_number:02x}.{number}"


@dataclasses.dataclass(frozen=True)
class Machine:
    """A machine: what stands in its slots, and which IOMMU it has ("" for none)."""

    name: str
    purpose: str
    devices: tuple[Device, ...] = ()
    iommu: str = ""
    image: str = "base"
    memory_mib: int = 2048
    cpu: str = "qemu64,+npt"

    def __getitem__(self, name: str) -> Device:
        """Return the device of that name."""
        return next(device for device in self.devices if device.name == name)

    @property
    def functions(self) -> dict[str, Function]:
        """Every declared function of the machine by address, sorted."""
        found = {
            address: function
            for device in self.devices
            for address, function in device.functions.items()
        }
        return dict(sorted(found.items()))


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
# The machine's own display chip, with its VGA part: what the firmware and the kernel show text on.
BOOT_VGA = Model(
    functions=(Function("1234:1111", "bochs-drm"),),
    arguments=("-device VGA,bus={bus},addr={slot}.0",),
)
NIC = Model(
    functions=(Function("8086:10d3", "e1000e"),),
    arguments=("-device e1000e,bus={bus},addr={slot}.0,mac={mac},romfile=",),
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
NO_DRIVER = Model(
    functions=(Function("1234:11e8", None),),
    arguments=("-device edu,bus={bus},addr={slot}.0",),
)
MANAGEMENT_NIC = Model(
    functions=(Function("1af4:1000", "virtio-pci"),),
    arguments=("-device virtio-net-pci,bus={bus},addr={slot}.0,netdev=management,romfile=",),
)
ROOT_DISK = Model(
    functions=(Function("1af4:1001", "virtio-pci"),),
    arguments=("-device virtio-blk-pci,bus={bus},addr={slot}.0,drive=root,bootindex=1",),
)
ENTROPY = Model(
    functions=(Function("1af4:1005", "virtio-pci"),),
    arguments=("-device virtio-rng-pci,bus={bus},addr={slot}.0",),
)

CHASSIS = (
    Device("management", MANAGEMENT_NIC, bus=0x00, slot=0x02),
    Device("root", ROOT_DISK, bus=0x00, slot=0x03),
    Device("entropy", ENTROPY, bus=0x00, slot=0x04),
)

# The table. A machine is a row; the tests address its devices by name.
BARE = Machine("bare", purpose="finishes a disk image", devices=CHASSIS)
INTEL = Machine(
    "intel",
    purpose="the main job: VT-d, three identical graphics cards, two of them to give away",
    iommu="intel",
    devices=(
        *CHASSIS,
        Device("nodriver", NO_DRIVER, bus=0x00, slot=0x08),
        Device("nic0", NIC, bus=0x01),
        Device("nic1", NIC, bus=0x02),
        Device("nvme", NVME, bus=0x03),
        Device("oldpci", OLD_PCI_PAIR, bus=0x04),
        Device("gpu0", GPU, bus=0x83),
        Device("gpu1", GPU, bus=0x84),
        Device("gpu2", GPU, bus=0x85),
    ),
)
GUARDED = dataclasses.replace(
    INTEL,
    name="guarded",
    purpose="devices that the host itself needs: as 'intel', with a display chip for the console",
    devices=(*INTEL.devices, Device("vga", BOOT_VGA, bus=0x00, slot=0x05)),
)
NOVA = Machine(
    "nova",
    purpose="Nova, libvirt and a guest that gets one of two identical cards given away of three",
    iommu="intel",
    image="nova",
    memory_mib=4096,
    devices=(
        *CHASSIS,
        Device("nvme", NVME, bus=0x01),
        Device("gpu0", GPU, bus=0x83),
        Device("gpu1", GPU, bus=0x84),
        Device("gpu2", GPU, bus=0x85),
    ),
)
MACHINES = {machine.name: machine for machine in (BARE, INTEL, GUARDED, NOVA)}

IOMMUS = {
    "": (),
    "intel": ("-device intel-iommu,caching-mode=on,intremap=on",),
}


def qemu_arguments(machine: Machine, folder: pathlib.Path) -> list[str]:
    """Return the QEMU arguments for the machine's hardware, its IOMMU first.

    `folder` is where the files behind its disks go; `create_disks` makes them.
    """
    lines = ["-nodefaults", "-no-user-config", "-display none", f"-m {machine.memory_mib}"]
    lines += ["-smp 2", *IOMMUS[machine.iommu], *_bridges(machine)]
    words = [word for line in lines for word in line.split()]
    for number, device in enumerate(machine.devices):
        where = {
            "bus": f"bus{device.bus:02x}" if device.bus else "pcie.0",
            "slot": f"{device.slot:#x}",
            "name": device.name,
            "mac": f"52:54:00:00:00:{number:02x}",
            "disk": str(_disk(device, folder)).replace(",", ",,"),  # QEMU's way to quote one
        }
        words += [word.format(**where) for line in device.model.arguments for word in line.split()]
    return words


def create_disks(machine: Machine, folder: pathlib.Path) -> None:
    """Make the empty, sparse files behind the machine's own disks."""
    for device in machine.devices:
        if device.model.disk_mib:
            with _disk(device, folder).open("wb") as file:
                file.truncate(device.model.disk_mib << 20)


def _disk(device: Device, folder: pathlib.Path) -> pathlib.Path:
    return folder / f"{device.name}.img"


def _bridges(machine: Machine) -> list[str]:
    """Return one root port per bus, on the host bridge its number belongs to, lowest bus first."""
    buses = sorted({device.bus for device in machine.devices if device.bus})
    near = [bus for bus in buses if bus < SECOND_HOST_BRIDGE_BUS]
    far = [bus for bus in buses if bus >= SECOND_HOST_BRIDGE_BUS]
    lines = [
        _root_port(bus, "pcie.0", FIRST_ROOT_PORT_SLOT + index) for index, bus in enumerate(near)
    ]
    if far:
        half = machine.memory_mib // 2
        for node in (0, 1):
            lines.append(f"-object memory-backend-ram,id=memory{node},size={half}M")
            lines.append(f"-numa node,nodeid={node},cpus={node},memdev=memory{node}")
        lines.append(
            f"-device pxb-pcie,id=socket1,bus=pcie.0,addr={SECOND_HOST_BRIDGE_SLOT:#x},"
            f"bus_nr={far[0] - 1:#x},numa_node=1"
        )
        lines += [_root_port(bus, "socket1", index) for index, bus in enumerate(far)]
    return lines


def _root_port(bus: int, host_bridge: str, slot: int) -> str:
    return (
        f"-device pcie-root-port,id=bus{bus:02x},bus={host_bridge},addr={slot:#x},"
        f"chassis={bus},slot={bus}"
    )
