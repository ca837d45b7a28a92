#!/bin/sh
# Written by the Juju charm pci-passthrough (application pci-passthrough).
# Edits are overwritten; change the charm's options instead: juju config pci-passthrough
# A pre-udev hook: no driver module can be loaded before udev runs, so the override is there first.
# A driver that is built into the kernel is bound already, and is asked to let go.
# Add pci-passthrough=off to the kernel command line to boot without it.
# dracut sources its hooks: the subshell keeps an exit from ending them all.
(

pci=/sys/bus/pci
claimed=

say() {
    echo "pci-passthrough: $*" >/dev/kmsg
}

identify() {
    found=gone
    [ -e "$pci/devices/$1/device" ] || return 0
    # It may vanish meanwhile, and read then leaves a variable as it was.
    vendor=
    product=
    read -r vendor <"$pci/devices/$1/vendor"
    read -r product <"$pci/devices/$1/device"
    found=$vendor:$product
}

# ADDRESS VENDOR PRODUCT TWIN...; twins are functions of this id that the host keeps. When one of
# them is not where it was, addresses have shifted, and this may be what the host boots from.
claim() {
    address=$1
    wanted=$2:$3
    shift 3
    device=$pci/devices/$address
    if [ ! -e "$device/driver_override" ]; then
        say "$address is not there"
        return
    fi
    identify "$address"
    if [ "$found" != "$wanted" ]; then
        say "$address is $found, not $wanted: left alone"
        return
    fi
    for twin in "$@"; do
        identify "$twin"
        if [ "$found" != "$wanted" ]; then
            say "$twin is $found, not $wanted, so $address may be another one: left alone"
            return
        fi
    done
    if [ ! -e "$device/iommu_group" ]; then
        say "$address has no IOMMU group, the IOMMU is off: left alone"
        return
    fi
    echo vfio-pci >"$device/driver_override"
    claimed="$claimed $address"
}

read -r command_line </proc/cmdline
switch=
for token in $command_line; do
    case "$token" in
    pci-passthrough=* | pci_passthrough=*) switch=${token#*=} ;;
    esac
done
for token in $command_line; do
    case "$token" in
    recovery | single) switch=off ;; # what GRUB's recovery entries carry
    esac
done
if [ "$switch" = off ]; then
    say "switched off on the kernel command line"
    exit 0
fi

claim 0000:83:00.0 0x10de 0x1bb0 0000:85:00.0
claim 0000:83:00.1 0x10de 0x10f0 0000:85:00.1
claim 0000:84:00.0 0x10de 0x1bb0 0000:85:00.0
claim 0000:84:00.1 0x10de 0x10f0 0000:85:00.1

[ -n "$claimed" ] || exit 0
modprobe -q vfio_iommu_type1
modprobe vfio-pci
for address in $claimed; do
    driver=$pci/devices/$address/driver
    bound=$pci/drivers/vfio-pci/$address
    if [ -e "$driver" ] && [ ! -e "$bound" ]; then
        say "$address: a driver that is built in or was loaded before has it, asking it to let go"
        echo "$address" >"$driver/unbind"
    fi
    [ -e "$driver" ] || echo "$address" >$pci/drivers_probe
    if [ -e "$bound" ]; then
        say "$address is on vfio-pci"
    else
        say "$address is not on vfio-pci"
    fi
done
)
