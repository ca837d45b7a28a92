"""How this host boots, and which IOMMU it has. Reads only."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from passthrough.host import generators, grub
from passthrough.system import procfs, sysfs

# The ACPI table with which firmware announces each kind of IOMMU.
_IOMMU_TABLES = ("DMAR", "IVRS", "IORT")

_SWITCH = "pci-passthrough="
# GRUB's 10_linux adds one of these to a recovery entry: Ubuntu's the first, Debian's the second.
_RECOVERY = ("recovery", "single")


@dataclasses.dataclass(frozen=True)
class Platform:
    """The facts about a host that decide which boot files it needs.

    ``iommu_table`` is the ACPI table that announces an IOMMU: DMAR (Intel VT-d), IVRS (AMD-Vi),
    IORT (Arm SMMU), or None. ``generator`` makes the initramfs. It is None where no known one can,
    and where several can and the host does not tell which does: ``rivals`` names those then.
    ``command_line`` holds the running kernel's tokens, ``boot_id`` differs after every boot, and
    ``grub`` says what boots next.
    """

    iommu_table: str | None = None
    has_grub: bool = False
    generator: generators.Generator | None = None
    rivals: tuple[generators.Generator, ...] = ()
    command_line: tuple[str, ...] = ()
    is_container: bool = False
    boot_id: str = ""
    grub: grub.Grub = dataclasses.field(default_factory=grub.Grub)

    @property
    def switch(self) -> str:
        """What on the running kernel's command line says to claim nothing in this boot.

        ``pci-passthrough=off``, of several the last one, as udev reads it; or the word that GRUB's
        recovery entries carry. Empty where nothing does.
        """
        named = [each for each in self.command_line if each.replace("_", "-").startswith(_SWITCH)]
        if named and named[-1].partition("=")[2] == "off":
            return named[-1]
        return next((each for each in self.command_line if each in _RECOVERY), "")


def read(root: Path) -> Platform:
    """Read the facts below ``root``.

    Raises:
        OSError: when a file that tells is there and cannot be read.
    """
    found = generators.find(root)
    tables = sysfs.names_or_raise(root / "sys/firmware/acpi/tables")
    return Platform(
        iommu_table=next((name for name in _IOMMU_TABLES if name in tables), None),
        has_grub=(root / grub.CONFIG).exists() and (root / "usr/sbin/update-grub").exists(),
        generator=found[0] if len(found) == 1 else None,
        rivals=found if len(found) > 1 else (),
        command_line=procfs.command_line_if_there(root),
        # systemd writes this file in every kind of container (systemd.io/CONTAINER_INTERFACE).
        is_container=(root / "run/systemd/container").exists(),
        boot_id=procfs.boot_id_if_there(root),
        grub=grub.read(root),
    )
