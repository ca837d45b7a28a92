"""The machines of the lab: one table of hardware each, and what QEMU is told to build it.

PCI buses follow from the addresses: bus 00 is the root complex itself, every other bus hangs off a
root port of its own (which gives it an IOMMU group of its own), and buses from 0x80 on sit on a
second host bridge in NUMA node 1, as on a machine with two sockets. SeaBIOS numbers buses in the
order of their ports; `test_machine.py` compares this table with what the guest's kernel found.
"""

import dataclasses
import pathlib

from lab import hardware

SECOND_HOST_BRIDGE_BUS = 0x80
FIRST_ROOT_PORT_SLOT = 0x10
SECOND_HOST_BRIDGE_SLOT = 0x1C


@dataclasses.dataclass(frozen=True)
class Device:
    """A piece of hardware in a machine: what it is and the bus (and slot, on bus 00) it sits on."""

    name: str
    model: hardware.Model
    bus: int
    slot: int = 0

    @property
    def functions(self) -> dict[str, hardware.Function]:
        """The device's functions by full address; together they make one IOMMU group."""
        return {self._address(function): function for function in self.model.functions}

    @property
    def address(self) -> str:
        """The address of the first function, such as 0000:83:00.0."""
        return next(iter(self.functions))

    def _address(self, function: hardware.Function) -> str:
        slot, number = function.place.split(".")
        slot_number = self.slot or int(slot, 16)
        return f"0000:{self.bus + function.bus_offset:02x}:{slot_number:02x}.{number}"


@dataclasses.dataclass(frozen=True)
class Machine:
    """A machine: what stands in its slots, and which IOMMU it has ("" for none).

    `qemu_before` is the first major version of QEMU that does not carry it, None where all do.
    """

    name: str
    purpose: str
    devices: tuple[Device, ...] = ()
    iommu: str = ""
    image: str = "base"
    memory_mib: int = 2048
    cpu: str = "qemu64,+npt"
    qemu_before: int | None = None

    def __getitem__(self, name: str) -> Device:
        """Return the device of that name."""
        return next(device for device in self.devices if device.name == name)

    @property
    def functions(self) -> dict[str, hardware.Function]:
        """Every declared function of the machine by address, sorted."""
        found = {
            address: function
            for device in self.devices
            for address, function in device.functions.items()
        }
        return dict(sorted(found.items()))


CHASSIS = (
    Device("management", hardware.MANAGEMENT_NIC, bus=0x00, slot=0x02),
    Device("root", hardware.ROOT_DISK, bus=0x00, slot=0x03),
    Device("entropy", hardware.ENTROPY, bus=0x00, slot=0x04),
)

# The table. A machine is a row; the tests address its devices by name.
BARE = Machine("bare", purpose="finishes a disk image", devices=CHASSIS)
INTEL = Machine(
    "intel",
    purpose="the main job: VT-d, three identical graphics cards, two of them to give away",
    iommu="intel",
    devices=(
        *CHASSIS,
        Device("nodriver", hardware.NO_DRIVER, bus=0x00, slot=0x08),
        Device("nic0", hardware.NIC, bus=0x01),
        Device("nic1", hardware.NIC, bus=0x02),
        Device("nvme", hardware.NVME, bus=0x03),
        Device("oldpci", hardware.OLD_PCI_PAIR, bus=0x04),
        Device("gpu0", hardware.GPU, bus=0x83),
        Device("gpu1", hardware.GPU, bus=0x84),
        Device("gpu2", hardware.GPU, bus=0x85),
    ),
)
GUARDED = dataclasses.replace(
    INTEL,
    name="guarded",
    purpose="devices that the host itself needs: as 'intel', with a display chip for the console, a"
    " serial card, a second disk of the root disk's model, a NIC of two ports, and a graphics card"
    " with USB",
    image="storage",
    devices=(
        *INTEL.devices,
        Device("vga", hardware.BOOT_VGA, bus=0x00, slot=0x05),
        Device("serial", hardware.SERIAL_CARD, bus=0x00, slot=0x09),
        Device("spare", hardware.SPARE_DISK, bus=0x00, slot=0x0A),
        Device("ports", hardware.TWO_PORT_NIC, bus=0x06),
        Device("gpu3", hardware.GPU_WITH_USB, bus=0x86),
    ),
)
NOVA = Machine(
    "nova",
    purpose="Nova, libvirt and a guest that gets one of two identical cards given away of three",
    iommu="intel",
    image="nova",
    memory_mib=4096,
    devices=(
        *CHASSIS,
        Device("nvme", hardware.NVME, bus=0x01),
        Device("gpu0", hardware.GPU, bus=0x83),
        Device("gpu1", hardware.GPU, bus=0x84),
        Device("gpu2", hardware.GPU, bus=0x85),
    ),
)
NEWER_NOVA = Machine(
    "newer-nova",
    purpose="the kernel, libvirt and Nova of Debian 13, a card whose native driver makes a vDPA"
    " device, and two identical NICs for which there is a variant of vfio-pci",
    iommu="intel",
    image="newer-nova",
    memory_mib=4096,
    devices=(
        *CHASSIS,
        Device("vdpa", hardware.VDPA_CARD, bus=0x00, slot=0x08),
        Device("nic0", hardware.NIC, bus=0x01),
        Device("nic1", hardware.NIC, bus=0x02),
    ),
)
NOVA_VFS = dataclasses.replace(
    NOVA,
    name="nova-vfs",
    purpose="as 'nova', with a NIC that has virtual functions",
    devices=(*NOVA.devices, Device("sriov", hardware.SRIOV_NIC, bus=0x02)),
)
DRACUT = Machine(
    "dracut",
    purpose="dracut in place of initramfs-tools, as on Ubuntu 26.04",
    iommu="intel",
    image="dracut",
    devices=(
        *CHASSIS,
        Device("nic0", hardware.NIC, bus=0x01),
        Device("gpu0", hardware.GPU, bus=0x83),
        Device("gpu1", hardware.GPU, bus=0x84),
        Device("gpu2", hardware.GPU, bus=0x85),
    ),
)
NEWER_DRACUT = dataclasses.replace(
    DRACUT,
    name="newer-dracut",
    purpose="the dracut of Debian 13, of Ubuntu 26.04's generation, and a kernel of its time",
    image="newer-dracut",
)
NO_IOMMU = Machine(
    "no-iommu",
    purpose="an IOMMU that is off in the firmware's settings, or none",
    devices=(*CHASSIS, Device("gpu0", hardware.GPU, bus=0x01)),
)
MIXED = Machine(
    "mixed",
    purpose="devices with peculiarities, a second kernel, and room for a container",
    iommu="intel",
    image="upgrade",
    devices=(
        *CHASSIS,
        Device("serial", hardware.SERIAL_CARD, bus=0x00, slot=0x08),
        Device("gpu0", hardware.GPU, bus=0x01),
        Device("oldpci", hardware.OLD_PCI_PAIR, bus=0x02),
        Device("sriov", hardware.SRIOV_NIC, bus=0x04),
        Device("whole", hardware.SRIOV_NIC, bus=0x05),
    ),
)
VFS = Machine(
    "vfs",
    purpose="two NICs and two NVMe that can have VFs, one of each kind stays as it is",
    iommu="intel",
    devices=(
        *CHASSIS,
        Device("sriov", hardware.SRIOV_NIC, bus=0x01),
        Device("other", hardware.SRIOV_NIC, bus=0x02),
        Device("split", hardware.SRIOV_NVME, bus=0x03),
        Device("whole", hardware.SRIOV_NVME, bus=0x04),
    ),
)
LVM = Machine(
    "lvm",
    purpose="an NVMe to give away, on a host whose udev activates volume groups",
    iommu="intel",
    image="lvm",
    devices=(*CHASSIS, Device("nvme", hardware.NVME, bus=0x01)),
)
AMD = Machine(
    "amd",
    purpose="AMD-Vi; its emulation carries devices right on the root complex, and no DMA behind it",
    iommu="amd",
    qemu_before=10,  # under software emulation the kernel panics in that one's amd-iommu
    devices=(
        *CHASSIS,
        Device("gpu0", hardware.GPU, bus=0x00, slot=0x08),
        Device("gpu1", hardware.GPU, bus=0x00, slot=0x09),
        Device("nic0", hardware.NIC, bus=0x00, slot=0x0A),
    ),
)
NO_GRUB = Machine(
    "no-grub",
    purpose="a boot loader other than GRUB",
    iommu="intel",
    devices=(
        *CHASSIS,
        Device("gpu0", hardware.GPU, bus=0x01),
        Device("gpu1", hardware.GPU, bus=0x02),
    ),
)
MACHINES = {
    machine.name: machine
    for machine in (
        *(BARE, INTEL, GUARDED, NOVA, NOVA_VFS, NEWER_NOVA, DRACUT, NEWER_DRACUT),
        *(NO_IOMMU, MIXED, VFS, LVM, AMD, NO_GRUB),
    )
}

IOMMUS = {
    "": (),
    "intel": ("-device intel-iommu,caching-mode=on,intremap=on",),
    "amd": ("-device amd-iommu",),
}


def exchange(machine: Machine, first: str, second: str) -> Machine:
    """Return the machine with two of its devices in each other's slots."""
    one, other = machine[first], machine[second]
    moved = {
        first: dataclasses.replace(one, bus=other.bus, slot=other.slot),
        second: dataclasses.replace(other, bus=one.bus, slot=one.slot),
    }
    devices = tuple(moved.get(device.name, device) for device in machine.devices)
    return dataclasses.replace(machine, devices=devices)


def change_model(machine: Machine, name: str, model: hardware.Model) -> Machine:
    """Return the machine with another model in the place of one of its devices."""
    devices = tuple(
        dataclasses.replace(device, model=model) if device.name == name else device
        for device in machine.devices
    )
    return dataclasses.replace(machine, devices=devices)


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
            "second_mac": f"52:54:00:00:01:{number:02x}",
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
