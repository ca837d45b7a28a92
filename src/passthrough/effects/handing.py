"""Hand a claimed NVMe function to the host's driver nvme for a while, with udev kept off its disks.

A guest may have left a volume group, an array or a file system on them, and udev's rules would
have the host assemble it. So a rules file comes before the driver, and goes once the function is
back on vfio-pci; below /run, it does not outlive a boot. Where a run was killed in between,
`recover` brings the function back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from passthrough import errors
from passthrough.effects import drivers
from passthrough.host import disks, held_disks, pci
from passthrough.system import files, sysfs

if TYPE_CHECKING:
    from passthrough.effects.tools import Tools

NATIVE = "nvme"
_RULES = "run/udev/rules.d"
# Read before all rules of Debian's and Ubuntu's. What each line keeps off:
# - UDEV_DISABLE_PERSISTENT_STORAGE_RULES_FLAG: 60-persistent-storage.rules, which calls blkid. LVM
#   (69-lvm*.rules), btrfs, md and bcache go by ID_FS_TYPE, which that alone sets.
# - SYSTEMD_READY: md and btrfs also, and whatever systemd starts or mounts for the disk.
# - DM_MULTIPATH_DEVICE_PATH: LVM, for older rules, and multipath.
# - UDISKS_IGNORE: udisks2. ZED and ZFS import by ID_FS_TYPE or at boot alone.
# - RUN, for good (:=): whatever else a rule starts, such as the mount of snapd's auto-import.
# - OPTIONS: a watch that has the rules run again.
# The head of a multipath subsystem stands below no PCI function; links beside it lead there.
_TEXT = """\
# Written by the action erase of the Juju charm pci-passthrough, and removed behind it.
SUBSYSTEM!="block", GOTO="pci_passthrough_erase_end"
ACTION=="remove", GOTO="pci_passthrough_erase_end"
KERNELS=="{address}", GOTO="pci_passthrough_erase"
SUBSYSTEMS=="nvme-subsystem", PROGRAM=="/bin/sh -c '{links} | grep -q /{address}$$'", \
GOTO="pci_passthrough_erase"
GOTO="pci_passthrough_erase_end"
LABEL="pci_passthrough_erase"
ENV{{UDEV_DISABLE_PERSISTENT_STORAGE_RULES_FLAG}}="1"
ENV{{SYSTEMD_READY}}="0"
ENV{{DM_MULTIPATH_DEVICE_PATH}}="1"
ENV{{UDISKS_IGNORE}}="1"
OPTIONS:="nowatch"
RUN:="/bin/true"
LABEL="pci_passthrough_erase_end"
"""
# Of a head, and of a partition of one.
_LINKS = "readlink -f /sys$devpath/../nvme*/device /sys$devpath/../../nvme*/device"


def rules_path(address: str) -> str:
    """The rules file for a function, below the root."""
    return f"{_RULES}/00-pci-passthrough-erase-{address.replace(':', '-')}.rules"


def take(root: Path, address: str, tools: Tools) -> None:
    """Bind a function that nobody has open to nvme, with udev kept off its disks.

    Raises:
        InUseError: when a process has the function, or one of its IOMMU group; its driver is the
            same.
        BindError: when the kernel shows another driver afterwards, or no driver.
        CommandError: when udev does not read the rules, or does not come to an end.
        OSError: when the rules cannot be written.
    """
    files.ensure(root / rules_path(address), _TEXT.format(address=address, links=_LINKS))
    tools.reload_udev()
    tools.load_native(NATIVE)
    drivers.move(root, address, NATIVE)
    tools.settle_devices()


def is_away(root: Path, address: str) -> bool:
    """Whether a function may be where `take` has taken it, or on the way."""
    override = sysfs.attribute_if_there(drivers.device_of(root, address) / "driver_override")
    return override == NATIVE or (root / rules_path(address)).exists()


def give_back(root: Path, address: str, tools: Tools) -> None:
    """Bring a function back to vfio-pci, where it came from, and let udev have its disks again.

    Raises:
        StuckError: when nvme has not released it in time; udev is kept off then.
        BindError: when the kernel shows another driver afterwards; the same.
        CommandError: when udev does not read its rules.
        OSError: when the rules cannot be removed.
    """
    drivers.bind(root, address)
    if files.ensure(root / rules_path(address), None):
        tools.reload_udev()


def recover(
    root: Path, addresses: Iterable[str], tools: Tools, progress: Callable[[str], object]
) -> bool:
    """Bring functions back that a killed run has left on nvme.

    One whose disks somebody has come to use stays there, and keeps its rules.

    Args:
        root: the host's root.
        addresses: the functions; one that is where it belongs, or not there, is left alone.
        tools: have udev read its rules.
        progress: takes a sentence about each one.

    Returns:
        Whether there was any to bring back.

    Raises:
        CommandError, OSError: as `give_back`.
    """
    away = [each for each in addresses if is_away(root, each)]
    for address in away:
        if not drivers.device_of(root, address).exists():
            files.ensure(root / rules_path(address), None)
            continue
        try:
            with held_disks.hold(root, disks.read(root), address) as uses:
                if uses:
                    what = "; ".join(each.what for each in uses)
                    raise errors.PostponedError(address, f"stays on {NATIVE}: {what}")
                give_back(root, address, tools)
            progress(f"{address}: back on {pci.driver_of(root, address)}, its erase not at its end")
        except errors.BindError as error:
            progress(str(error))
    return bool(away)
