"""How this host boots, and which IOMMU it has. Reads only."""

from __future__ import annotations

from pathlib import Path

from passthrough import frozen
from passthrough.host import generators, grub
from passthrough.system import files, procfs, quoting, sysfs

# The ACPI table with which firmware announces each kind of IOMMU.
_IOMMU_TABLES = ("DMAR", "IVRS", "IORT")

_BOOT_IMAGE = "BOOT_IMAGE="
_LOADER_VARIABLES = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
UNNAMED = "another boot loader"

_SWITCH = "pci-passthrough="
# GRUB's 10_linux adds one of these to a recovery entry: Ubuntu's the first, Debian's the second.
_RECOVERY = ("recovery", "single")


class Platform(frozen.Value):
    """The facts about a host that decide which boot files it needs.

    ``iommu_table`` is the ACPI table that announces an IOMMU: DMAR (Intel VT-d), IVRS (AMD-Vi),
    IORT (Arm SMMU), or None. ``generator`` makes the initramfs. It is None where no known one can,
    and where several can and the host does not tell which does: ``rivals`` names those then.
    ``command_line`` holds the running kernel's tokens, ``boot_id`` differs after every boot, and
    ``grub`` says what boots next. ``has_grub`` tells whether GRUB is installed; ``other_loader``
    names what started the running kernel where GRUB did not, and is empty where that is not told.
    ``name`` is the host's own, as its kernel has it.
    """

    iommu_table: str | None = None
    has_grub: bool = False
    generator: generators.Generator | None = None
    rivals: tuple[generators.Generator, ...] = ()
    command_line: tuple[str, ...] = ()
    is_container: bool = False
    boot_id: str = ""
    grub: grub.Grub = frozen.field(default_factory=grub.Grub)
    other_loader: str = ""
    name: str = ""

    @property
    def boots_by_grub(self) -> bool:
        """Whether what update-grub writes decides how the host starts."""
        return self.has_grub and not self.other_loader

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
    command_line = procfs.command_line_if_there(root)
    return Platform(
        iommu_table=next((name for name in _IOMMU_TABLES if name in tables), None),
        has_grub=(root / grub.CONFIG).exists() and (root / "usr/sbin/update-grub").exists(),
        generator=found[0] if len(found) == 1 else None,
        rivals=found if len(found) > 1 else (),
        command_line=command_line,
        # systemd writes this file in every kind of container (systemd.io/CONTAINER_INTERFACE).
        is_container=(root / "run/systemd/container").exists(),
        boot_id=procfs.boot_id_if_there(root),
        grub=grub.read(root),
        other_loader=_other_loader(root, command_line),
        name=procfs.host_name_if_there(root),
    )


def _other_loader(root: Path, command_line: tuple[str, ...]) -> str:
    """Name what started the running kernel, where that was not GRUB.

    GRUB puts BOOT_IMAGE in front of every kernel's command line. Boot loaders on EFI name
    themselves in a variable (systemd.io/BOOT_LOADER_INTERFACE).
    """
    if not command_line or any(each.startswith(_BOOT_IMAGE) for each in command_line):
        return ""
    for name in ("LoaderInfo", "StubInfo"):
        found = _efi_text(root / f"sys/firmware/efi/efivars/{name}-{_LOADER_VARIABLES}")
        if found.startswith("GRUB"):
            return ""
        if found:
            return found
    return UNNAMED


def _efi_text(path: Path) -> str:
    """Read an EFI variable of text; empty where there is none or it cannot be read."""
    try:
        present = files.read(path)
    except OSError:
        return ""
    content = present.content.encode("utf-8", "surrogateescape") if present else b""
    # Four bytes of attributes come first.
    text = content[4:].decode("utf-16-le", "replace").rstrip("\0")
    return quoting.bare(text)
