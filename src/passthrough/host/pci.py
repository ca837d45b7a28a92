"""The host's PCI functions, read from sysfs.

Source of every file named here: the kernel's Documentation/ABI/testing/sysfs-bus-pci and
sysfs-kernel-iommu_groups.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Hashable, Iterable, Mapping
from pathlib import Path

from passthrough import TYPE_CHECKING, frozen, pci_address
from passthrough.system import sysfs

if TYPE_CHECKING:
    from typing import TypeVar

    K = TypeVar("K", bound=Hashable)

DEVICES = "sys/bus/pci/devices"
DRIVERS = "sys/bus/pci/drivers"
GROUPS = "sys/kernel/iommu_groups"
_DENYLIST_IS_OFF = "sys/module/vfio_pci/parameters/disable_denylist"
VFIO_PCI = "vfio-pci"
_VFIO_NAMES = ("vfio-pci", "vfio_pci")

# PCI base classes, the highest byte of a class.
_DISPLAYS, _BRIDGES = 0x03, 0x06
# Classes without the programming interface (pci.ids; the kernel's include/linux/pci_ids.h): SMBus,
# and the system peripherals that keep a machine going: interrupt controller, DMA, timer, clock,
# hot-plug controller, IOMMU, root complex event collector.
_OF_THE_MACHINE = (0x0C05, 0x0800, 0x0801, 0x0802, 0x0803, 0x0804, 0x0806, 0x0807)
# A DMA controller by its class, which is a card's way to its own management: BlueField's.
_OF_A_CARD = "15b3:c2d"
_OTHER_BRIDGE, _POWER_MANAGEMENT = 0x0680, ("8086:7113",)
_CXL_MEMORY = 0x0502


class Function(frozen.Value):
    """One PCI function as sysfs shows it.

    ``address`` is ``DOMAIN:BUS:SLOT.FUNCTION`` in lower-case hex; ``vendor`` and ``product`` are
    four hex digits; ``class_code`` is the 24-bit class. ``override`` is its driver_override: the
    only driver that may bind it, None for any. ``group`` is the number of its IOMMU group, None
    while no IOMMU is active; ``numa_node`` is None where the firmware names none. ``total_vfs`` is
    above 0 for a function that can have SR-IOV VFs, ``num_vfs`` counts those that it has, and
    ``physfn`` is the parent's address for a VF. ``module`` is the module that its driver is of,
    None where the kernel shows none; ``modalias`` is by what modules name it. ``has_vfio_dev``
    tells whether the kernel shows it as a device of VFIO.
    """

    address: str
    vendor: str
    product: str
    class_code: int
    driver: str | None = None
    override: str | None = None
    group: int | None = None
    numa_node: int | None = None
    boot_vga: bool = False
    total_vfs: int = 0
    num_vfs: int = 0
    physfn: str | None = None
    module: str | None = None
    modalias: str | None = None
    has_vfio_dev: bool = False

    @property
    def id(self) -> str:
        """``vendor:product``, the way lspci prints it."""
        return f"{self.vendor}:{self.product}"

    @property
    def slot(self) -> str:
        """The address without the function number, which the functions of one card share."""
        return self.address.rpartition(".")[0]

    @property
    def is_bridge(self) -> bool:
        """A bridge or host controller of any kind (PCI base class 06)."""
        return self.class_code >> 16 == _BRIDGES

    @property
    def is_pci_bridge(self) -> bool:
        """A PCI-to-PCI bridge, such as a root port (class 0604); IOMMU groups disregard it."""
        return self.class_code >> 8 == 0x0604

    @property
    def is_of_the_machine(self) -> bool:
        """A part that the machine itself needs, such as a host or ISA bridge, or SMBus.

        Another kind of bridge (0680, as NVIDIA's NVSwitch) serves whoever needs it, but for the
        power management of PIIX4, which drives SMBus.
        """
        kind = self.class_code >> 8
        if kind == _OTHER_BRIDGE:
            return self.id in _POWER_MANAGEMENT or (self.driver or "").endswith("_smbus")
        if self.id.startswith(_OF_A_CARD):
            return False
        return (self.is_bridge and not self.is_pci_bridge) or kind in _OF_THE_MACHINE

    @property
    def is_cxl_memory(self) -> bool:
        """Memory behind CXL (class 0502), which may be a part of the host's own."""
        return self.class_code >> 8 == _CXL_MEMORY

    @property
    def is_display(self) -> bool:
        """A display controller (PCI base class 03)."""
        return self.class_code >> 16 == _DISPLAYS

    @property
    def is_accelerator(self) -> bool:
        """A processing accelerator or co-processor, or what links such, as an NVSwitch does.

        PCI base class 12, and the classes 0b40 and 0680.
        """
        return self.class_code >> 16 == 0x12 or self.class_code >> 8 in (0x0B40, 0x0680)

    @property
    def is_beyond_nova(self) -> bool:
        """Whether it is behind Intel VMD, in a PCI domain that Nova never takes."""
        return pci_address.is_beyond_nova(self.address)

    @property
    def is_on_vfio(self) -> bool:
        """Whether a guest can have it: it is on vfio-pci or on a variant of that.

        From Linux 6.1 on the kernel shows every device that VFIO has, whichever driver registered
        it; before, the names of the variants end like vfio-pci's (mlx5_vfio_pci).
        """
        return self.driver is not None and (self.has_vfio_dev or self.driver.endswith(_VFIO_NAMES))

    @property
    def is_for_variant(self) -> bool:
        """Whether it is on a variant of vfio-pci, or its driver_override names one.

        Such a driver knows the device better than vfio-pci does: it can migrate it, or gives more
        of it to the guest. The function is left to whoever chose that driver.
        """
        named = self.override or ""
        if self.is_on_vfio:
            return self.driver != VFIO_PCI
        return named != VFIO_PCI and named.endswith(_VFIO_NAMES)

    @property
    def device_type(self) -> str:
        """What Nova calls the function: ``type-PF``, ``type-VF`` or ``type-PCI``."""
        if self.physfn:
            return "type-VF"
        return "type-PF" if self.total_vfs else "type-PCI"


class Regions:
    """The reserved regions of IOMMU groups, each read at the first question.

    Args:
        root: the host's root; None for a host that is made up.
        direct: for that, the groups that have a direct region.
    """

    def __init__(self, root: Path | None = None, direct: Iterable[int] = ()):
        self._root = root
        self._direct = dict.fromkeys(direct, True)

    def has_direct(self, group: int) -> bool:
        """Tell whether a group has a region that has to stay mapped one to one.

        The type ``direct-relaxable`` may go, and the kernel says so. Source:
        Documentation/ABI/testing/sysfs-kernel-iommu_groups, iommu_get_resv_regions().
        """
        if group not in self._direct:
            path = f"{self._root}/{GROUPS}/{group}/reserved_regions"
            text = sysfs.value_if_there(path) if self._root else None
            kinds = [line.split()[-1] for line in (text or "").splitlines() if line.strip()]
            self._direct[group] = "direct" in kinds
        return self._direct[group]


class Host(frozen.Value):
    """Every PCI function of a host, by address, in address order.

    ``regions`` are the reserved regions of its IOMMU groups; ``denylist_is_off`` tells that
    vfio-pci, as it is loaded, takes what is on its denylist.
    """

    functions: Mapping[str, Function]
    regions: Regions = frozen.field(default_factory=Regions, compare=False)
    denylist_is_off: bool = False

    def vfs_of(self, address: str) -> tuple[str, ...]:
        """The addresses of a function's VFs."""
        return tuple(each for each, vf in self.functions.items() if vf.physfn == address)

    def has_direct_region(self, group: int) -> bool:
        """Whether a group has a reserved region with which VFIO refuses it: type ``direct``."""
        return self.regions.has_direct(group)

    @functools.cached_property
    def groups(self) -> Mapping[int, tuple[Function, ...]]:
        """The functions of every IOMMU group; empty while no IOMMU is active."""
        found = _group_by(self.functions.values(), lambda function: function.group)
        return {number: found[number] for number in sorted(key for key in found if key is not None)}

    @property
    def has_groups(self) -> bool:
        """Whether an IOMMU is active: the kernel makes groups only then."""
        return bool(self.groups)

    def group_members(self, function: Function) -> tuple[Function, ...]:
        """The functions in the IOMMU group of ``function``, itself among them."""
        return () if function.group is None else self.groups[function.group]

    def slot_members(self, function: Function) -> tuple[Function, ...]:
        """The functions of the same card as ``function``, itself among them.

        A VF whose address falls into the slot of its PF is no part of the card.
        """
        return tuple(each for each in self._slots[function.slot] if each.physfn == function.physfn)

    def with_id(self, identity: str) -> tuple[Function, ...]:
        """The functions of one model (``vendor:product``), in address order."""
        return self._ids.get(identity, ())

    @functools.cached_property
    def _ids(self) -> Mapping[str, tuple[Function, ...]]:
        return _group_by(self.functions.values(), lambda function: function.id)

    @functools.cached_property
    def _slots(self) -> Mapping[str, tuple[Function, ...]]:
        return _group_by(self.functions.values(), lambda function: function.slot)


def _group_by(
    functions: Iterable[Function], key: Callable[[Function], K]
) -> dict[K, tuple[Function, ...]]:
    found: dict[K, list[Function]] = {}
    for function in functions:
        found.setdefault(key(function), []).append(function)
    return {value: tuple(found[value]) for value in found}


def read(root: Path, *, overrides: bool = True) -> Host:
    """Read every PCI function below ``root``'s /sys.

    Args:
        root: the host's root.
        overrides: False leaves every ``override`` None, which saves a fifth of the time.

    Raises:
        OSError: when /sys/bus/pci is there but cannot be read. Without it the host has no function.
    """
    addresses = sysfs.names_or_raise(os.path.join(root, DEVICES))
    return read_some(root, addresses, overrides=overrides)


def read_some(root: Path, addresses: Iterable[str], *, overrides: bool = True) -> Host:
    """Read a few functions; one that is not there is left out.

    Args:
        root: the host's root.
        addresses: which ones.
        overrides: as for `read`.
    """
    directory = os.path.join(root, DEVICES)
    functions: dict[str, Function] = {}
    modules = _Modules(os.path.join(root, DRIVERS))
    for address in sorted(addresses, key=pci_address.sort_key):
        here = sysfs.directory_if_there(f"{directory}/{address}")
        if here is None:
            continue
        try:
            function = _read_function(here, address, overrides, modules)
        finally:
            os.close(here)
        if function:
            functions[address] = function
    is_off = sysfs.value_if_there(os.path.join(root, _DENYLIST_IS_OFF))
    return Host(functions, Regions(root), is_off in ("Y", "1"))


def driver_of(root: Path, address: str) -> str | None:
    """Read the driver that a function is on now; None without one, or without the function."""
    return sysfs.link_name_if_there(os.path.join(root, DEVICES, address, "driver"))


class _Modules(dict[str, "str | None"]):
    """The module of each driver, read once: the link ``module`` that the kernel makes.

    Source: module_add_driver() in the kernel's drivers/base/module.c. Many a driver has another
    name than its module: c6xx is of qat_c62x, nvidia-nvswitch of nvidia.
    """

    def __init__(self, directory: str):
        super().__init__()
        self._directory = directory

    def __missing__(self, driver: str) -> str | None:
        module = self[driver] = sysfs.link_name_if_there(f"{self._directory}/{driver}/module")
        return module


def _read_function(
    here: int, address: str, with_override: bool, modules: Mapping[str, str | None]
) -> Function | None:
    """Read one function out of its directory, which is open as ``here``."""
    text = sysfs.value_if_there("uevent", here)
    if text is None:
        return None
    event = _parse(text.replace(address, ""))
    if not event.product:
        return None
    class_code, driver = event.class_code, event.driver
    # Skip SR-IOV attributes that bridges and VFs never have.
    is_bridge = class_code >> 16 == _BRIDGES
    physfn = None if is_bridge else sysfs.link_name_if_there("physfn", here)
    may_have_vfs = not is_bridge and not physfn
    total_vfs = int(sysfs.value_if_there("sriov_totalvfs", here) or 0) if may_have_vfs else 0
    group = sysfs.link_name_if_there("iommu_group", here)
    return Function(
        address=address,
        vendor=event.vendor,
        product=event.product,
        class_code=class_code,
        driver=driver,
        override=_override(sysfs.value_if_there("driver_override", here))
        if with_override
        else None,
        group=int(group) if group else None,
        numa_node=_numa_node(sysfs.value_if_there("numa_node", here)),
        # Only VGA-compatible functions have the file.
        boot_vga=class_code >> 16 == _DISPLAYS and sysfs.value_if_there("boot_vga", here) == "1",
        total_vfs=total_vfs,
        num_vfs=int(sysfs.value_if_there("sriov_numvfs", here) or 0) if total_vfs else 0,
        physfn=physfn,
        module=modules[driver] if driver else None,
        modalias=event.modalias,
        # The kernel has it from 6.1 on; vfio-pci needs no further proof.
        has_vfio_dev=driver not in (None, VFIO_PCI)
        and not is_bridge
        and sysfs.is_there_or_raise("vfio-dev", here),
    )


class _Event(frozen.Value):
    """What the kernel says of a model of function in ``uevent``."""

    vendor: str
    product: str
    class_code: int
    driver: str | None
    modalias: str | None


@functools.lru_cache(maxsize=256)
def _parse(text: str) -> _Event:
    """Parse a ``uevent`` without its address: the same text for every VF of a card."""
    event = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    vendor, _, product = event.get("PCI_ID", "").lower().partition(":")
    return _Event(
        vendor=vendor.rjust(4, "0"),
        product=product and product.rjust(4, "0"),
        class_code=int(event.get("PCI_CLASS", "0"), 16),
        driver=event.get("DRIVER") or None,
        modalias=event.get("MODALIAS"),
    )


def _override(text: str | None) -> str | None:
    # The kernel prints an absent override as "(null)".
    return text if text and text != "(null)" else None


def _numa_node(text: str | None) -> int | None:
    # The kernel prints -1 where the firmware says nothing.
    return int(text) if text and int(text) >= 0 else None
