"""The kinds of disk the lab's machines boot from: one row each. `image.py` builds them."""

import dataclasses

BOOT_PACKAGES = ("linux-image-amd64", "grub-pc", "grub2-common", "systemd-sysv", "udev", "kmod")
DRIVING_PACKAGES = ("openssh-server", "python3", "dbus", "iproute2", "procps", "pciutils")
TOOL_PACKAGES = ("busybox", "zstd", "e2fsprogs", "less")
COMMON_PACKAGES = (*BOOT_PACKAGES, *DRIVING_PACKAGES, *TOOL_PACKAGES)
# Nova brings its driver for libvirt, libvirt and QEMU; the scheduler's filters come with it.
NOVA_PACKAGES = ("nova-compute", "nova-compute-kvm", "libvirt-daemon-system", "libvirt-clients")
# What they start at boot that no test looks at.
NOVA_MASKED_UNITS = (
    "blk-availability.service",
    "iscsid.service",
    "libvirt-guests.service",
    "lvm2-monitor.service",
    "multipathd.service",
    "netfilter-persistent.service",
    "open-iscsi.service",
    "openvswitch-switch.service",
    "ovs-vswitchd.service",
    "ovsdb-server.service",
)


@dataclasses.dataclass(frozen=True)
class Image:
    """One disk image.

    `trees` are the folders of rootfs/ that are laid over its root. Of what the packages bring,
    systemd starts neither `disabled_units`, unless a test does, nor ever `masked_units`, nor
    `image.MASKED_UNITS`. `suite` is a release of Debian; without one it is the host's own.
    """

    name: str
    packages: tuple[str, ...]
    trees: tuple[str, ...]
    disabled_units: tuple[str, ...] = ()
    masked_units: tuple[str, ...] = ()
    size_mib: int = 4096
    suite: str = ""


BASE = Image("base", (*COMMON_PACKAGES, "initramfs-tools"), trees=("common", "initramfs-tools"))
NOVA = Image(
    "nova",
    (*BASE.packages, *NOVA_PACKAGES),
    trees=BASE.trees,
    # Without a message broker its start never ends, and neither does the machine's boot.
    disabled_units=("nova-compute.service",),
    masked_units=NOVA_MASKED_UNITS,
    size_mib=6144,
)
DRACUT = Image("dracut", (*COMMON_PACKAGES, "dracut"), trees=("common", "dracut"))
# A dracut of the generation that Ubuntu 26.04 has, with a newer kernel, systemd and Python.
NEWER_DRACUT = dataclasses.replace(DRACUT, name="newer-dracut", suite="trixie")
# Nova 31, a libvirt that prefers variants of vfio-pci, and drivers of the lab's own, which are
# built when the kernel's headers come (rootfs/drivers).
NEWER_NOVA = dataclasses.replace(
    NOVA,
    name="newer-nova",
    packages=(*NOVA.packages, "linux-headers-amd64", "make"),
    trees=(*NOVA.trees, "drivers"),
    size_mib=7168,
    suite="trixie",
)
# A newer kernel than Debian 12's own, which stands in its security archive, to upgrade to; and what
# makes containers.
UPGRADE = Image(
    "upgrade", (*BASE.packages, "linux-image-6.12-amd64", "systemd-container"), trees=BASE.trees
)
# More kinds of file systems, such as one whose log lies on a disk of its own; QEMU without Nova.
STORAGE = Image("storage", (*BASE.packages, "xfsprogs", "qemu-system-x86"), trees=BASE.trees)
# LVM with its rules for udev, which activate what a disk brings.
LVM = Image("lvm", (*BASE.packages, "lvm2"), trees=BASE.trees)
# The table. Another kind of host is another row.
IMAGES = {
    image.name: image
    for image in (BASE, NOVA, NEWER_NOVA, DRACUT, NEWER_DRACUT, UPGRADE, STORAGE, LVM)
}
