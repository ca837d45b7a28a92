"""`HostTree`: builds a made-up host and changes it as its kernel or a reboot would."""

from __future__ import annotations

import dataclasses
import os
import shutil
import stat
import uuid

from harness.hosttree import etcfiles, kernel, pcitree, services
from harness.hosttree.kernel import DEVICES, MODULES, VARIANTS, VFIO_PCI


@dataclasses.dataclass(frozen=True)
class Release:
    """What differs between the Ubuntu releases, as far as the charm is concerned.

    ``iommu_default`` is the kernel's CONFIG_INTEL_IOMMU_DEFAULT_ON, ``vfio_built_in`` its
    CONFIG_VFIO_PCI=y; ``nova`` is the version of the package nova-common.
    """

    kernel: str
    codename: str
    iommu_default: bool
    vfio_built_in: bool
    generator: str
    nova: str


UBUNTU = {
    "22.04": Release(
        "5.15.0-130-generic", "jammy", False, True, "initramfs-tools", "3:25.2.1-0ubuntu2"
    ),
    "24.04": Release(
        "6.8.0-51-generic", "noble", True, False, "initramfs-tools", "3:29.2.0-0ubuntu1"
    ),
    "26.04": Release("7.0.0-14-generic", "resolute", True, False, "dracut", "3:33.0.0-0ubuntu1"),
}


class HostTree(pcitree.PciTree):
    """A made-up host below ``root``: an Ubuntu machine with GRUB, an IOMMU and no PCI function yet.

    Args:
        root: directory that becomes the host's ``/``; created.
        ubuntu: release, one of `UBUNTU`.
        iommu_table: ACPI table of the firmware's IOMMU: ``DMAR`` (Intel), ``IVRS`` (AMD) or None.
        generator: ``initramfs-tools``, ``dracut``, or None for neither; the release's by default.
        grub: whether GRUB boots the host.
        command_line: of the running kernel, behind the tokens that GRUB adds.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        ubuntu: str = "24.04",
        iommu_table: str | None = "DMAR",
        generator: str | None = "",
        grub: bool = True,
        command_line: str = "quiet splash",
    ):
        super().__init__(root, iommu_table)
        self.release = UBUNTU[ubuntu]
        self.generator = self.release.generator if generator == "" else generator
        if iommu_table:
            self.write(f"sys/firmware/acpi/tables/{iommu_table}", etcfiles.acpi_table(iommu_table))
        etcfiles.write(self, ubuntu, grub=grub)
        self.set_command_line(command_line)
        if self.release.vfio_built_in:
            self.built_in.add(VFIO_PCI)
            kernel.add_driver(self.root, VFIO_PCI)

    def set_command_line(self, options: str) -> None:
        """Let the running kernel have these options, behind those that GRUB itself adds."""
        image = f"BOOT_IMAGE=/boot/vmlinuz-{self.release.kernel} root={etcfiles.ROOT_DEVICE} ro"
        self.write("proc/cmdline", f"{image} {options}".rstrip() + "\n")

    def package(self, name: str, version: str) -> None:
        """Let dpkg know a package as installed."""
        path = self.root / "var/lib/dpkg/status"
        known = path.read_text() if path.exists() else ""
        stanza = f"Package: {name}\nStatus: install ok installed\nArchitecture: all\n"
        self.write("var/lib/dpkg/status", f"{known}{stanza}Version: {version}\n\n")
        for name in ("lock", "lock-frontend"):
            self.write(f"var/lib/dpkg/{name}", "", mode=0o640)

    def aliases(self, *lines: str, kernel: str = "") -> None:
        """Let a kernel, the running one by default, name modules by alias: ``PATTERN MODULE``."""
        text = "".join(f"alias {line}\n" for line in lines)
        self.write(
            f"lib/modules/{kernel or self.release.kernel}/modules.alias", f"# by depmod\n{text}"
        )

    def variant(self, driver: str, *patterns: str, module: str = "", kernel: str = "") -> None:
        """Let a kernel have a variant of vfio-pci as a module.

        Args:
            driver: its driver's name.
            patterns: its rows in modules.alias, such as ``v000010DEd00002348sv*sd*bc*sc*i*``.
            module: its name, where it differs from the driver's by more than ``-`` and ``_``.
            kernel: which one names it; the running one by default.
        """
        named = module or driver.replace("-", "_")
        self.write(f"{VARIANTS}/{driver}", named)
        self.write(f"{MODULES}/{driver}", named)
        path = f"lib/modules/{kernel or self.release.kernel}/modules.alias"
        text = self.read(path) if (self.root / path).exists() else "# by depmod\n"
        rows = [f"alias vfio_pci:{pattern} {named}\n" for pattern in patterns]
        self.write(path, "".join([text, *rows]))

    def install_nova(self, *packages: str, version: str | None = None) -> None:
        """Install Nova as the release's packages do: group, nova.conf, running services.

        Args:
            packages: beside nova-common; nova-compute by default.
            version: of all of them; the release's own by default.
        """
        for name in ("nova-common", *(packages or ("nova-compute",))):
            self.package(name, version or self.release.nova)
        self.write("etc/group", self.read("etc/group") + "nova:x:64060:\n")
        self.write("etc/passwd", self.read("etc/passwd") + etcfiles.NOVA_USER)
        self.write("etc/nova/nova.conf", "[DEFAULT]\n", mode=0o640)
        (self.root / "etc/nova/nova.conf.d").mkdir(exist_ok=True)
        for name in packages or ("nova-compute",):
            self.service(name)

    def add_kernel(self, release: str) -> None:
        """Install another kernel, with an image that was never made."""
        self.write(f"boot/vmlinuz-{release}", "")
        self.write(f"boot/initrd.img-{release}", "")
        self.write(f"usr/lib/modules/{release}/modules.builtin", "")

    def service(self, name: str, *, active: bool = True) -> None:
        """Let a systemd service exist, running or not."""
        services.set_state(self.root, name, active=active)

    def power_cycle(self) -> None:
        """Reset what does not survive a reboot, up to where the initramfs would start.

        The command line is the one in grub.cfg, the IOMMU is on if that and the kernel's default
        say so, no module is loaded and only drivers that are part of the kernel have bound.
        """
        for physfn in self._with_vfs():
            (self.directory(physfn) / kernel.AUTOPROBE).write_text("1\n")
            if self.driver_of(physfn):
                kernel.set_number_of_vfs(self.root, physfn, 0)
        for driver in os.listdir(self.root / kernel.DRIVERS):
            kernel.remove_driver(self.root, driver)
        shutil.rmtree(self.root / "sys/module")
        (self.root / "sys/module").mkdir()
        shutil.rmtree(self.root / "dev/vfio", ignore_errors=True)
        self.write("proc/sys/kernel/random/boot_id", f"{uuid.uuid4()}\n")
        self.write(kernel.KMSG, "")
        if (self.root / etcfiles.GRUB_CFG).exists():
            self.write("proc/cmdline", etcfiles.command_line_of(self.read(etcfiles.GRUB_CFG)))
        self.iommu_off()
        if self.iommu_starts():
            self.iommu_on()
        for address in self._functions:
            (self.directory(address) / "driver_override").write_text(f"{kernel.NO_OVERRIDE}\n")
        for driver in sorted(self.built_in):
            kernel.load_built_in(self.root, driver)

    def _with_vfs(self) -> list[str]:
        """The functions that `can_have_vfs` was called for."""
        place = self.root / kernel.VFS
        return sorted(os.listdir(place)) if place.exists() else []

    def iommu_starts(self) -> bool:
        """Whether a kernel with this command line turns the IOMMU on."""
        on = self.iommu_table is not None
        if self.iommu_table == "DMAR":
            on = self.release.iommu_default
        never = {"DMAR": ("iommu",), "IVRS": ("iommu", "amd_iommu")}.get(self.iommu_table or "", ())
        for token in self.read("proc/cmdline").split():
            name, _, value = token.partition("=")
            parts = value.split(",")
            if name in never and "off" in parts:
                return False
            if self.iommu_table == "DMAR" and name == "intel_iommu":
                for part in parts:
                    on = {"on": True, "off": False}.get(part, on)
        return on

    def load_natives(self) -> None:
        """Load the native drivers that are not blacklisted, as udev does after the initramfs."""
        for address in sorted(self._functions):
            kernel.load(self.root, [self.read(f"{DEVICES}/{address}/modalias").strip()])

    def kernel_log(self) -> list[str]:
        """Lines that were written to /dev/kmsg, in a host box, since the last power cycle."""
        return self.read(kernel.KMSG).splitlines()

    def snapshot(self, *directories: str) -> dict[str, tuple[int, bytes | str]]:
        """Every file below the given directories: path to mode and content (or link target)."""
        found: dict[str, tuple[int, bytes | str]] = {}
        for directory in directories:
            for path in sorted((self.root / directory).rglob("*")):
                name = str(path.relative_to(self.root))
                if path.is_symlink():
                    found[name] = (0, os.readlink(path))
                elif path.is_file():
                    found[name] = (path.stat().st_mode & 0o7777, path.read_bytes())
        return found

    def identities(self, *directories: str) -> dict[str, tuple[int, int]]:
        """Every file and link below the given directories: path to inode and time of change.

        What is written again, be it the same bytes, has another.
        """
        found: dict[str, tuple[int, int]] = {}
        for directory in directories:
            for path in (self.root / directory).rglob("*"):
                entry = path.lstat()
                if not stat.S_ISDIR(entry.st_mode):
                    found[str(path.relative_to(self.root))] = (entry.st_ino, entry.st_mtime_ns)
        return found
