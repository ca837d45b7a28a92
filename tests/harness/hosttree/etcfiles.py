"""What a made-up host has outside /sys: Ubuntu's /etc, /boot, /usr and /proc, as far as needed."""

from __future__ import annotations

import re
import struct
import uuid
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.hosttree.tree import HostTree

ROOT_DEVICE = "UUID=0f5a1c52-7f7e-4d57-9c7e-3f1f6a0d9b11"
GRUB_CFG = "boot/grub/grub.cfg"

UPDATE_INITRAMFS = "usr/sbin/update-initramfs"
KERNEL_HOOKS = "etc/kernel/postinst.d"

_DEFAULT_GRUB = """\
# If you change this file, run 'update-grub' afterwards to update
# /boot/grub/grub.cfg.
GRUB_DEFAULT=0
GRUB_TIMEOUT_STYLE=hidden
GRUB_TIMEOUT=0
GRUB_DISTRIBUTOR=`( . /etc/os-release; echo ${NAME:-Ubuntu} ) 2>/dev/null || echo Ubuntu`
GRUB_CMDLINE_LINUX_DEFAULT="quiet splash"
GRUB_CMDLINE_LINUX=""
"""
NOVA_USER = "nova:x:64060:64060::/var/lib/nova:/usr/sbin/nologin\n"
_USERS = "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n"
_CPU = """\
processor\t: 0
vendor_id\t: {vendor}
model name\t: {model}
flags\t\t: fpu vme de pse msr pae {virtualization}

"""


def write(tree: HostTree, ubuntu: str, *, grub: bool) -> None:
    """Write the files; the programs of /usr/sbin are the host box's, here they only exist."""
    release = tree.release
    long_name = f"Ubuntu {ubuntu} LTS"
    tree.write(
        "etc/os-release",
        f'PRETTY_NAME="{long_name}"\nNAME="Ubuntu"\nVERSION_ID="{ubuntu}"\n'
        f"VERSION_CODENAME={release.codename}\nID=ubuntu\nID_LIKE=debian\n"
        f"UBUNTU_CODENAME={release.codename}\n",
    )
    tree.write(
        "etc/lsb-release",
        f"DISTRIB_ID=Ubuntu\nDISTRIB_RELEASE={ubuntu}\nDISTRIB_CODENAME={release.codename}\n"
        f'DISTRIB_DESCRIPTION="{long_name}"\n',
    )
    tree.write("etc/passwd", _USERS)
    tree.write("etc/group", "root:x:0:\nkvm:x:993:\nnogroup:x:65534:\n")
    tree.write("etc/hostname", "made-up\n")
    tree.write("proc/sys/kernel/hostname", "made-up\n")
    tree.write("etc/machine-id", f"{uuid.uuid4().hex}\n")
    for name in ("modprobe.d", "modules-load.d", "udev/rules.d", "systemd/system"):
        (tree.root / "etc" / name).mkdir(parents=True)
    tree.write("etc/modules", "# /etc/modules: kernel modules to load at boot time.\n")
    for name in ("lib", "log"):
        (tree.root / "var" / name).mkdir(parents=True)
    for name in ("run", "dev", "tmp"):
        (tree.root / name).mkdir()
    tree.write(f"boot/vmlinuz-{release.kernel}", "")
    tree.write(f"boot/initrd.img-{release.kernel}", "")
    if grub:
        tree.write("etc/default/grub", _DEFAULT_GRUB)
        (tree.root / "etc/default/grub.d").mkdir()
        tree.write(GRUB_CFG, grub_cfg(release.kernel, "quiet splash"))
        tree.write("usr/sbin/update-grub", "", mode=0o755)
    _write_generator(tree)
    _write_modules(tree)
    _write_proc(tree)


def _write_generator(tree: HostTree) -> None:
    if tree.generator == "initramfs-tools":
        for name in ("conf.d", "hooks", "scripts/init-top"):
            (tree.root / "etc/initramfs-tools" / name).mkdir(parents=True)
        tree.write("etc/initramfs-tools/initramfs.conf", "MODULES=most\nBUSYBOX=auto\n")
        tree.write("etc/initramfs-tools/modules", "# List of modules to include.\n")
        tree.write("usr/share/initramfs-tools/hook-functions", "# -*- shell-script -*-\n")
        write_update_initramfs(tree, "mkinitramfs")
    elif tree.generator == "dracut":
        (tree.root / "etc/dracut.conf.d").mkdir()
        (tree.root / "usr/lib/dracut/modules.d").mkdir(parents=True)
        tree.write("usr/bin/dracut", "", mode=0o755)
        # dracut on Ubuntu 26.04 ships an update-initramfs of its own.
        write_update_initramfs(tree, "dracut --force")
    if tree.generator:
        tree.write(f"{KERNEL_HOOKS}/{tree.generator}", "#!/bin/sh\n", mode=0o755)


def write_update_initramfs(tree: HostTree, builder: str) -> None:
    """Write the command that has a builder make the images, as the packages' scripts do."""
    tree.write(
        UPDATE_INITRAMFS,
        "#!/bin/sh\n# Taken from initramfs-tools and adapted for dracut.\n"
        f'if {builder} ${{OPTS}} "${{initramfs}}" "${{version}}"; then\n'
        '\tsync -f "${initramfs}"\nfi\n',
        mode=0o755,
    )


def _write_modules(tree: HostTree) -> None:
    directory = f"usr/lib/modules/{tree.release.kernel}"
    built_in = ["kernel/drivers/pci/pcie/pcieportdrv.ko"]
    if tree.release.vfio_built_in:
        built_in += [
            "kernel/drivers/vfio/pci/vfio-pci.ko",
            "kernel/drivers/vfio/vfio.ko",
            "kernel/drivers/vfio/vfio_iommu_type1.ko",
        ]
    tree.write(f"{directory}/modules.builtin", "\n".join(built_in) + "\n")
    (tree.root / "lib").symlink_to("usr/lib")


def _write_proc(tree: HostTree) -> None:
    is_amd = tree.iommu_table == "IVRS"
    cpu = _CPU.format(
        vendor="AuthenticAMD" if is_amd else "GenuineIntel",
        model="AMD EPYC 7003" if is_amd else "Intel Xeon Gold 6330",
        virtualization="svm" if is_amd else "vmx",
    )
    tree.write("proc/cpuinfo", cpu)
    tree.write("proc/modules", "")
    tree.write("proc/swaps", "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n")
    tree.write("proc/sys/kernel/random/boot_id", f"{uuid.uuid4()}\n")


def acpi_table(signature: str) -> bytes:
    """An ACPI table of that signature: a valid header and the least content behind it.

    A DMAR says with bit 0 of its flags that interrupts can be remapped (VT-d specification, 8.1).
    """
    if signature == "DMAR":
        unit = struct.pack("<HHBBHQ", 0, 16, 1, 0, 0, 0xFED90000)
        content = struct.pack("<BB10x", 45, 1) + unit
    else:
        content = bytes(12)
    size = 36 + len(content)
    head = struct.pack("<4sIBB6s8sI4sI", signature.encode(), size, 1, 0, b"MADEUP", b"", 1, b"", 1)
    checksum = -sum(head + content) & 0xFF
    return head[:9] + bytes([checksum]) + head[10:] + content


def grub_cfg(kernel: str, options: str) -> str:
    """What grub-mkconfig would write: one entry with the options, one for recovery without."""
    image = f"\tlinux\t/boot/vmlinuz-{kernel} root={ROOT_DEVICE} ro"
    return (
        "# DO NOT EDIT THIS FILE: it is generated by grub-mkconfig\n"
        "menuentry 'Ubuntu' {\n"
        f"{image} {options}\n\tinitrd\t/boot/initrd.img-{kernel}\n}}\n"
        "menuentry 'Ubuntu (recovery mode)' {\n"
        f"{image} recovery nomodeset\n\tinitrd\t/boot/initrd.img-{kernel}\n}}\n"
    )


def command_line_of(grub_cfg_text: str) -> str:
    """The command line with which the first entry of a grub.cfg boots."""
    found = re.search(r"^\s*linux\s+(\S+)\s+(.*)$", grub_cfg_text, re.MULTILINE)
    if not found:
        raise ValueError("grub.cfg has no linux line")
    return f"BOOT_IMAGE={found[1]} {' '.join(found[2].split())}\n"
