"""`PciTree`: the /sys of a made-up host: PCI functions, drivers, IOMMU groups."""

from __future__ import annotations

import os
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

from harness.hosttree import kernel, pcifiles
from harness.hosttree.kernel import DEVICES, link
from harness.hosttree.pcifiles import BRIDGE_CLASS, Identity

GROUPS = "sys/kernel/iommu_groups"
_UNPLUGGED = ".made/unplugged"
# The IOMMU remaps interrupts while it is on: arch/x86/kernel/apic/io_apic.c puts "IR-" before the
# names of the interrupt controllers then.
_INTERRUPTS = """\
            CPU0       CPU1
   0:         23          0  {remapped}IO-APIC    2-edge      timer
  24:          0         12  {remapped}PCI-MSI 524288-edge      ahci
"""


class PciTree:
    """A directory tree with an empty PCI bus in it; base of `hosttree.HostTree`.

    Args:
        root: directory that becomes the host's ``/``; created.
        iommu_table: ACPI table of the firmware's IOMMU, which its device in sysfs is named after.
    """

    def __init__(self, root: str | os.PathLike[str], iommu_table: str | None):
        self.root = pathlib.Path(root)
        self.iommu_table = iommu_table
        self.built_in: set[str] = set()
        self._functions: dict[str, Identity] = {}
        self._unplugged: dict[str, tuple[str, Identity]] = {}
        for name in ("devices", "drivers", "slots"):
            (self.root / "sys/bus/pci" / name).mkdir(parents=True)
        self.write("sys/bus/pci/drivers_autoprobe", "1\n")
        for name in ("drivers_probe", "rescan", "uevent"):
            self.write(f"sys/bus/pci/{name}", "", mode=0o200)
        for name in (GROUPS, "sys/class/iommu", "sys/class/net", "sys/module", kernel.NATIVE):
            (self.root / name).mkdir(parents=True)
        self.write(kernel.KMSG, "")
        self.iommu_off()

    def write(self, path: str, content: str | bytes, mode: int = 0o644) -> pathlib.Path:
        """Write a file below the root, making its directories."""
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content.encode() if isinstance(content, str) else content)
        target.chmod(mode)
        return target

    def read(self, path: str) -> str:
        """Text of a file below the root."""
        return (self.root / path).read_text(encoding="utf-8")

    def function(
        self,
        address: str,
        identity: str,
        class_code: int,
        *,
        driver: str | None = None,
        parent: str | None = None,
        group: int | None = None,
        subsystem: str = "1af4:1100",
        loaded: bool = True,
        built_in: bool = False,
        **facts: Any,
    ) -> pathlib.Path:
        """Add a PCI function.

        Args:
            address: ``DDDD:BB:SS.F``.
            identity: ``vendor:device`` in hex.
            class_code: 24 bits, such as 0x030000.
            driver: its native driver, which it is bound to.
            parent: address of the bridge above it; without one it is on a root bus.
            group: IOMMU group, for a host whose IOMMU is on; see also `iommu_on`.
            subsystem: ``vendor:device`` of the subsystem.
            loaded: False leaves the native driver unloaded and the function without one.
            built_in: the native driver is part of the kernel image.
            facts: further fields of `pcifiles.Identity`, such as ``numa`` or ``total_vfs``.

        Returns:
            The function's directory below ``sys/devices``.
        """
        vendor, device = (int(part, 16) for part in identity.split(":"))
        subvendor, subdevice = (int(part, 16) for part in subsystem.split(":"))
        siblings = [other for other in self._functions if other[:-1] == address[:-1]]
        facts.setdefault("multifunction", bool(siblings) or address[-1] != "0")
        of = Identity(address, vendor, device, class_code, subvendor, subdevice, **facts)
        domain_bus = address[:7]
        root_bus = self.root.resolve() / f"sys/devices/pci{domain_bus}"
        above = self.directory(parent) if parent else root_bus
        directory = above / address
        directory.mkdir(parents=True)
        below = directory.relative_to(self.root.resolve())
        for name, (mode, content) in pcifiles.attributes(of).items():
            self.write(f"{below}/{name}", content, mode)
        link(directory / "subsystem", self.root / "sys/bus/pci")
        link(self.root / DEVICES / address, directory)
        self._functions[address] = of
        for other in siblings:
            self._functions[other].multifunction = True
            self._rewrite_config(other)
        if parent and not self._functions[parent].secondary:
            self._functions[parent].secondary = int(address[5:7], 16)
            self._rewrite_config(parent)
        if group is not None:
            self._join_group(address, group)
        if driver:
            self.write(f"{kernel.NATIVE}/{address}", driver)
            if built_in:
                self.built_in.add(driver)
            if loaded or built_in:
                kernel.set_driver(self.root, address, driver)
        return directory

    def module(self, name: str, *drivers: str) -> None:
        """Let drivers be of a module of another name, as sysfs shows while they are loaded."""
        for driver in drivers:
            self.write(f"{kernel.MODULES}/{driver}", name)
            if (self.root / kernel.DRIVERS / driver).is_dir():
                kernel.add_driver(self.root, driver)

    def bridge(self, address: str, **more: Any) -> pathlib.Path:
        """Add a PCI-to-PCI bridge: a root port on pcieport unless ``more`` says otherwise."""
        more = {"driver": "pcieport", "built_in": True, **more}
        return self.function(address, more.pop("identity", "8086:3420"), BRIDGE_CLASS, **more)

    def virtual_functions(
        self, physfn: str, addresses: list[str], identity: str, *, driver: str | None = None
    ) -> None:
        """Turn on SR-IOV VFs of a function that has the capability."""
        of, above = self._functions[physfn], self.directory(physfn).parent
        parent = above.name if above.name in self._functions else None
        (self.directory(physfn) / "sriov_numvfs").write_text(f"{len(addresses)}\n")
        for number, address in enumerate(addresses):
            directory = self.function(
                address, identity, of.class_code, parent=parent, driver=driver, numa=of.numa
            )
            link(directory / "physfn", self.directory(physfn))
            link(self.directory(physfn) / f"virtfn{number}", directory)

    def can_have_vfs(
        self, physfn: str, addresses: list[str], identity: str, *, driver: str | None = None
    ) -> None:
        """Let a function that has the capability have these VFs once it is told to.

        Args:
            physfn: the function.
            addresses: where its VFs stand.
            identity: ``vendor:device`` of each.
            driver: their native driver, which is not loaded yet.
        """
        of, above = self._functions[physfn], self.directory(physfn).parent
        parent = above.name if above.name in self._functions else None
        stash = self.root / kernel.VFS / physfn
        stash.mkdir(parents=True)
        for number, address in enumerate(addresses):
            directory = self.function(
                address,
                identity,
                of.class_code,
                parent=parent,
                driver=driver,
                numa=of.numa,
                loaded=False,
                multifunction=False,
            )
            (self.root / DEVICES / address).unlink()
            directory.rename(stash / f"{number}-{address}")
            del self._functions[address]

    def unplug(self, address: str) -> None:
        """Take a function out of the host; it is not to be seen any more."""
        kernel.set_driver(self.root, address, None)
        directory = self.directory(address)
        self._leave_group(address)
        (self.root / DEVICES / address).unlink()
        kept = self.root / _UNPLUGGED / address
        kept.parent.mkdir(exist_ok=True)
        directory.rename(kept)
        place = os.fspath(directory.relative_to(self.root.resolve()))
        self._unplugged[address] = (place, self._functions.pop(address))

    def plug(self, address: str) -> None:
        """Put a function back that `unplug` took out; a native driver takes it, where it may."""
        place, self._functions[address] = self._unplugged.pop(address)
        directory = self.root.resolve() / place
        (self.root / _UNPLUGGED / address).rename(directory)
        link(self.root / DEVICES / address, directory)
        (directory / "driver_override").write_text(f"{kernel.NO_OVERRIDE}\n")
        groups = {path.parents[1].name for path in self.root.glob(f"{GROUPS}/*/devices/*")}
        if groups:
            card = self.root.glob(f"{GROUPS}/*/devices/{address[:-2]}.*")
            mine = next((path.parents[1].name for path in card), max(map(int, groups)) + 1)
            self._join_group(address, int(mine))
        kernel.probe(self.root, address)
        kernel.load(self.root, [self.read(f"{DEVICES}/{address}/modalias").strip()])

    @property
    def unplugged(self) -> tuple[str, ...]:
        """The addresses of what was taken out."""
        return tuple(sorted(self._unplugged))

    def nic(self, address: str, name: str, *, mac: str, up: bool = False) -> pathlib.Path:
        """Give a function a network interface."""
        directory = self.directory(address) / "net" / name
        directory.mkdir(parents=True)
        state = {"operstate": "up" if up else "down", "carrier": str(int(up)), "address": mac}
        flags = "0x1003" if up else "0x1002"
        for file, text in {**state, "flags": flags, "type": "1", "ifindex": "2"}.items():
            (directory / file).write_text(text + "\n")
        link(directory / "device", self.directory(address))
        link(self.root / "sys/class/net" / name, directory)
        return directory

    def directory(self, address: str) -> pathlib.Path:
        """The function's own directory below ``sys/devices``."""
        return (self.root / DEVICES / address).resolve(strict=True)

    def driver_of(self, address: str) -> str | None:
        """The driver a function is on."""
        return kernel.driver_of(self.root, address)

    def bind(self, address: str, driver: str | None) -> None:
        """Let a function be on a driver (or none), as after a reboot.

        vfio-pci and its variants bind by driver_override alone, so that is set too; for another
        driver it is cleared.
        """
        override = driver if kernel.is_vfio(self.root, driver) else kernel.NO_OVERRIDE
        (self.directory(address) / "driver_override").write_text(f"{override}\n")
        kernel.set_driver(self.root, address, driver)

    def iommu_on(self, groups: Mapping[str, int] | None = None) -> None:
        """Turn the IOMMU on.

        Args:
            groups: address to group; by default the functions of one slot share a group, as those
                of a card without ACS do, in address order.
        """
        self.iommu_off()
        name = "ivhd0" if self.iommu_table == "IVRS" else "dmar0"
        device = self.root / "sys/devices/virtual/iommu" / name
        device.mkdir(parents=True)
        link(self.root / "sys/class/iommu" / name, device)
        if groups is None:
            slots = sorted({address[:-2] for address in self._functions})
            groups = {a: slots.index(a[:-2]) for a in sorted(self._functions)}
            groups.update(self._groups_of_vfs(len(slots)))
        for address, group in groups.items():
            self._join_group(address, group)
            link(self.directory(address) / "iommu", device)

    def _groups_of_vfs(self, first: int) -> dict[str, int]:
        """A group for each VF that its card was told to have."""
        made = sorted(path.resolve().name for path in self.root.glob(f"{DEVICES}/*/virtfn*"))
        return {
            address: first + number
            for number, address in enumerate(each for each in made if each not in self._functions)
        }

    def iommu_off(self) -> None:
        """Turn the IOMMU off: no group is left."""
        self.write("proc/interrupts", _INTERRUPTS.format(remapped=""))
        for address in (*self._functions, *self._groups_of_vfs(0)):
            for name in ("iommu_group", "iommu"):
                (self.directory(address) / name).unlink(missing_ok=True)
        for directory in (GROUPS, "sys/class/iommu", "sys/devices/virtual/iommu"):
            shutil.rmtree(self.root / directory, ignore_errors=True)
        (self.root / GROUPS).mkdir()
        (self.root / "sys/class/iommu").mkdir()

    def _join_group(self, address: str, group: int) -> None:
        self.write("proc/interrupts", _INTERRUPTS.format(remapped="IR-"))
        directory = self.root / GROUPS / str(group)
        (directory / "devices").mkdir(parents=True, exist_ok=True)
        (directory / "type").write_text("DMA-FQ\n")
        (directory / "reserved_regions").write_text("0x00000000fee00000 0x00000000feefffff msi\n")
        link(directory / "devices" / address, self.directory(address))
        link(self.directory(address) / "iommu_group", directory)

    def _leave_group(self, address: str) -> None:
        directory = self.directory(address)
        for name in ("iommu_group", "iommu"):
            (directory / name).unlink(missing_ok=True)
        for entry in list(self.root.glob(f"{GROUPS}/*/devices/{address}")):
            entry.unlink()
            if not any(entry.parent.iterdir()):
                shutil.rmtree(entry.parents[1])

    def _rewrite_config(self, address: str) -> None:
        of = self._functions[address]
        for name, (mode, content) in pcifiles.attributes(of).items():
            if name in ("config", "secondary_bus_number", "subordinate_bus_number"):
                (self.directory(address) / name).unlink()  # some are read-only
                self.write(f"{DEVICES}/{address}/{name}", content, mode)
