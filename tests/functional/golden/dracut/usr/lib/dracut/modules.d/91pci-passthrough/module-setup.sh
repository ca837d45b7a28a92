#!/bin/bash
# Written by the Juju charm pci-passthrough (application pci-passthrough).
# Edits are overwritten; change the charm's options instead: juju config pci-passthrough
# Puts the vfio modules and the hook into the initramfs; see dracut.modules(7).

check() {
    return 0
}

depends() {
    return 0
}

installkernel() {
    hostonly='' instmods vfio vfio_iommu_type1 vfio_pci
}

install() {
    inst_hook pre-udev 00 "$moddir/claim.sh"
    # A generic image (hostonly=no) takes nothing from /etc/modprobe.d by itself.
    inst_multiple -o /etc/modprobe.d/pci-passthrough.conf
}
