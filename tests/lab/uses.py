"""Ways in which a host uses its own devices: how to bring each about in a guest, and end it."""

import dataclasses

from lab import machine

WAY_OUT = "; free it, or set allow-in-use: true on the item"
GUEST_WAY_OUT = "; stop or migrate the guest first"
DISK = "/dev/nvme0n1"
NVME = machine.GUARDED["nvme"].address
NIC0 = machine.GUARDED["nic0"].address
NIC1 = machine.GUARDED["nic1"].address
OLD_NIC = "0000:05:01.0"
NO_DRIVER = machine.GUARDED["nodriver"].address
SERIAL = machine.GUARDED["serial"].address
SPARE = machine.GUARDED["spare"].address
SPARE_DISK = "/dev/vdb"
BUSY_PORT, IDLE_PORT = machine.GUARDED["ports"].functions

# What mdadm puts on a member of an array with metadata 1.2, as far as blkid looks: the magic
# number, the major version, and at which sector it stands (linux/raid/md_p.h).
RAID_MEMBER = f"""\
python3 -c 'import struct
block = bytearray(4096)
struct.pack_into("<II", block, 0, 0xA92B4EFC, 1)
struct.pack_into("<Q", block, 144, 8)
with open("{DISK}", "r+b") as disk:
    disk.seek(4096)
    disk.write(block)'
udevadm settle"""


# The head of a LUKS volume, as far as blkid looks (cryptsetup's docs/on-disk-format.pdf).
LUKS_HEADER = f"""\
python3 -c 'import struct
block = bytearray(4096)
struct.pack_into(">6sH32s32s", block, 0, b"LUKS" + bytes([0xba, 0xbe]), 1, b"aes", b"xts-plain64")
block[168:204] = b"11111111-2222-3333-4444-555555555555"
with open("{DISK}", "r+b") as disk:
    disk.write(block)'
udevadm settle"""
WIPE = f"wipefs -qa {DISK} && udevadm settle"
IMAGE = "/var/tmp/lab.img"
CONFIGFS = "mountpoint -q /sys/kernel/config || mount -t configfs none /sys/kernel/config"
SUBSYSTEM = "/sys/kernel/config/nvmet/subsystems/lab"
TARGET = "/sys/kernel/config/target/core/iblock_0"


def run(name: str, *script: str) -> str:
    """Return a command that runs a script, and then a program that keeps what the script opened."""
    lines = "; ".join([*script, "systemd-notify --ready", "exec sleep infinity"])
    return (
        f"systemd-run --quiet --unit={name} --property=Type=notify --property=NotifyAccess=all"
        f" sh -c '{lines}'"
    )


def run_elsewhere(name: str, kind: str, number: str) -> str:
    """Return one for a program that has a node open, by a name of its own in namespaces of its own.

    Args:
        name: the unit.
        kind: b or c, as mknod(1) has it.
        number: a command that prints the node's number as sysfs does, such as 511:0.
    """
    lines = "; ".join(
        [
            "mount -t tmpfs none /srv",
            f'mknod /srv/card {kind} $({number} | tr : " ")',
            "exec 3</srv/card",
            "systemd-notify --ready",
            "mount -t proc none /proc",
            "exec sleep infinity",
        ]
    )
    # The first process of a namespace heeds no other signal.
    return (
        f"systemd-run --quiet --unit={name} --property=Type=notify --property=NotifyAccess=all"
        f" --property=KillSignal=SIGKILL unshare --mount --pid --fork sh -ec '{lines}'"
    )


@dataclasses.dataclass(frozen=True)
class Use:
    """One use of one function.

    `make` and `undo` are for the guest's shell; {nic} stands for the function's interface, {line}
    for the serial card's port, and {process} for the process that systemd runs as `unit`. `rule`
    and `fact` are what the charm has to refuse the function with.
    """

    address: str
    rule: str
    fact: str
    make: str = ""
    undo: str = ""
    unit: str = ""
    way_out: str = WAY_OUT


MOUNTED = Use(
    NVME,
    "mounted",
    "holds a mounted file system: /srv on nvme0n1",
    make=f"mkfs.ext4 -q -F {DISK} && mount {DISK} /srv",
    undo=f"umount /srv && wipefs -qa {DISK}",
)
MOUNTED_ELSEWHERE = dataclasses.replace(
    MOUNTED,
    make=f"mkfs.ext4 -q -F {DISK} && systemd-run --quiet --unit=lab-mount --property=Type=notify"
    " --property=PrivateMounts=yes --property=NotifyAccess=all"
    f" sh -c 'mount {DISK} /srv && systemd-notify --ready && exec sleep infinity'",
    undo=f"systemctl stop lab-mount && wipefs -qa {DISK}",
)
SWAP = Use(
    NVME,
    "swap",
    "holds swap space: nvme0n1",
    make=f"mkswap -q {DISK} && swapon {DISK}",
    undo=f"swapoff {DISK} && wipefs -qa {DISK}",
)
MAPPED = Use(
    NVME,
    "storage-member",
    "holds a part of the host's storage: nvme0n1 is part of lab",
    make=f"dmsetup create lab --table '0 8192 linear {DISK} 0'",
    undo="dmsetup remove lab",
)
RAID = Use(
    NVME,
    "storage-member",
    "holds a part of the host's storage: nvme0n1 is part of a RAID array",
    make=RAID_MEMBER,
    undo=f"wipefs -qa {DISK} && udevadm settle",
)
BRIDGE_PORT = Use(
    NIC0,
    "network-port",
    "carries the host's traffic: {nic} is a port of the bridge lab",
    make="ip link add lab type bridge && ip link set {nic} master lab",
    undo="ip link delete lab",
)
BOND_PORT = Use(
    NIC0,
    "network-port",
    "carries the host's traffic: {nic} is a port of the bond lab",
    make="ip link add lab type bond && ip link set {nic} down && ip link set {nic} master lab",
    undo="ip link delete lab",
)
VLAN = Use(
    NIC1,
    "network-port",
    "carries the host's traffic: {nic} carries lab.7",
    make="ip link add link {nic} name lab.7 type vlan id 7",
    undo="ip link delete lab.7",
)
MACVLAN = Use(
    NIC1,
    "network-port",
    "carries the host's traffic: {nic} carries lab.mv",
    make="ip link add link {nic} name lab.mv type macvlan",
    undo="ip link delete lab.mv",
)
# As a container has one: no link of the interface's leads to it any more.
MACVLAN_ELSEWHERE = dataclasses.replace(
    MACVLAN,
    fact=f"{MACVLAN.fact} in another network namespace",
    make=f"ip netns add lab && {MACVLAN.make} && ip link set lab.mv netns lab",
    undo="ip netns delete lab",
)
NAMESPACE = Use(
    NIC1,
    "network-namespace",
    "is in use: its interface is in another network namespace",
    make="ip netns add lab && ip link set {nic} netns lab",
    undo="ip -n lab link set {nic} netns 1 && ip netns delete lab",
)
IPV4 = Use(
    OLD_NIC,
    "network-address",
    "carries the host's traffic: {nic} is up with an IPv4 address",
    make="ip address add 192.0.2.1/24 dev {nic} && ip link set {nic} up",
    undo="ip address flush dev {nic} && ip link set {nic} down",
)
IPV6 = Use(
    OLD_NIC,
    "network-address",
    "carries the host's traffic: {nic} is up with an IPv6 address",
    make="ip address add 2001:db8::1/64 dev {nic} && ip link set {nic} up",
    undo="ip address flush dev {nic} && ip link set {nic} down",
)
# The NIC's other port stays idle.
PORT = dataclasses.replace(
    IPV4,
    address=BUSY_PORT,
    make="ip address add 198.51.100.1/24 dev {nic} && ip link set {nic} up",
)
UIO = Use(
    NO_DRIVER,
    "program",
    "is in use by a program of the host: /dev/uio0 is open in process {process} (sleep)",
    make="modprobe uio_pci_generic && echo 1234 11e8 >/sys/bus/pci/drivers/uio_pci_generic/new_id"
    " && systemd-run --quiet --unit=lab-uio --property=Type=notify --property=NotifyAccess=all"
    " sh -c 'exec 3<>/dev/uio0; systemd-notify --ready; exec sleep infinity'",
    undo="systemctl stop lab-uio && rmmod uio_pci_generic",
    unit="lab-uio",
)

LUKS = Use(
    NVME,
    "storage-member",
    "holds a part of the host's storage: nvme0n1 is a LUKS volume, which may be locked",
    make=LUKS_HEADER,
    undo=WIPE,
)
JOURNAL = Use(
    NVME,
    "mounted",
    'holds a mounted file system: "the journal of a live file system" on nvme0n1',
    make=f"mke2fs -q -F -b 4096 -O journal_dev {DISK} && truncate -s 64M {IMAGE}"
    f" && mkfs.ext4 -q -F -b 4096 -J device={DISK} {IMAGE} && mount -o loop {IMAGE} /srv",
    undo=f"umount /srv && rm {IMAGE} && {WIPE}",
)
XFS_LOG = Use(
    NVME,
    "mounted",
    "holds a mounted file system: /srv on nvme0n1",
    make=f"truncate -s 400M {IMAGE} && mkfs.xfs --unsupported -q -f -l logdev={DISK} {IMAGE}"
    f" && mount -t xfs -o loop,logdev={DISK} {IMAGE} /srv",
    undo=f"umount /srv && rm {IMAGE} && {WIPE}",
)
NVMET = Use(
    NVME,
    "storage-member",
    "holds a part of the host's storage: nvme0n1 is exported through NVMe over fabrics",
    make=f"modprobe nvmet && {{ {CONFIGFS}; }} && mkdir {SUBSYSTEM} {SUBSYSTEM}/namespaces/1"
    f" && printf {DISK} >{SUBSYSTEM}/namespaces/1/device_path"
    f" && echo 1 >{SUBSYSTEM}/namespaces/1/enable",
    undo=f"echo 0 >{SUBSYSTEM}/namespaces/1/enable && rmdir {SUBSYSTEM}/namespaces/1 {SUBSYSTEM}",
)
# Without the name that targetcli writes: the kernel's own text says which device it is.
SCSI_TARGET = Use(
    NVME,
    "storage-member",
    "holds a part of the host's storage: nvme0n1 is exported through a SCSI target",
    make=f"modprobe target_core_mod && modprobe target_core_iblock && {{ {CONFIGFS}; }}"
    f" && mkdir {TARGET} {TARGET}/lab && printf udev_path={DISK} >{TARGET}/lab/control"
    f" && echo 1 >{TARGET}/lab/enable",
    undo=f"rmdir {TARGET}/lab {TARGET}",
)
# A guest whose disk is the whole device, as Nova's raw volumes are. Its processor stands still.
GUEST_DISK = Use(
    NVME,
    "guest",
    f"is a guest's: {DISK} is open in process {{process}} (qemu-system-x86_64)",
    make="systemd-run --quiet --unit=lab-disk --property=Type=forking"
    " --property=PIDFile=/run/lab-disk.pid qemu-system-x86_64 -machine pc,accel=tcg -m 64 -S"
    f" -nodefaults -display none -drive file={DISK},format=raw,if=none,id=disk"
    " -device virtio-blk-pci,drive=disk -daemonize -pidfile /run/lab-disk.pid",
    undo="systemctl stop lab-disk",
    unit="lab-disk",
    way_out=GUEST_WAY_OUT,
)
DISK_ELSEWHERE = Use(
    NVME,
    "program",
    f"is in use by a program of the host: {DISK} is open in process {{process}} (sleep)",
    make=run_elsewhere("lab-elsewhere", "b", f"lsblk -dno MAJ:MIN {DISK}"),
    undo="systemctl stop lab-elsewhere",
    unit="lab-elsewhere",
)
CLOCK = Use(
    NIC0,
    "program",
    "is in use by a program of the host: /dev/ptp0 is open in process {process} (sleep)",
    make=run("lab-clock", "exec 3</dev/ptp0"),
    undo="systemctl stop lab-clock",
    unit="lab-clock",
)
SERIAL_LINE = Use(
    SERIAL,
    "program",
    "is in use by a program of the host: /dev/{line} is open in process {process} (sleep)",
    make=run("lab-line", "exec 3<>/dev/{line}"),
    undo="systemctl stop lab-line",
    unit="lab-line",
)
# A file system that no list shows: unmounted while a file of it is open.
HIDDEN = Use(
    SPARE,
    "held",
    "holds a disk that is in use: something in the kernel has vdb",
    make=f"mkfs.minix {SPARE_DISK} >/dev/null && mount -t minix {SPARE_DISK} /srv && "
    + run("lab-hidden", "exec 3>/srv/file")
    + " && umount -l /srv",
    undo=f"systemctl stop lab-hidden && until wipefs -qa {SPARE_DISK}; do sleep 1; done"
    " && udevadm settle",
)

# Made together, one round after the other: each function has one use at a time.
ROUNDS = (
    (RAID, PORT),
    (LUKS, CLOCK),
    (JOURNAL,),
    (XFS_LOG,),
    (NVMET,),
    (SCSI_TARGET,),
    (GUEST_DISK,),
    (DISK_ELSEWHERE,),
    (MAPPED, VLAN),
    (SWAP, MACVLAN, BOND_PORT),
    (MOUNTED_ELSEWHERE, MACVLAN_ELSEWHERE, IPV6),
    (MOUNTED, BRIDGE_PORT, NAMESPACE, IPV4, PORT, UIO, SERIAL_LINE),
)
# The host itself uses these, whatever is done.
ALWAYS = (
    Use(
        machine.GUARDED["management"].address,
        "default-route",
        "carries the host's traffic: {nic} has the default route",
    ),
    Use(machine.GUARDED["root"].address, "mounted", "holds a mounted file system: / on vda2"),
    Use(
        machine.GUARDED["vga"].address,
        "console",
        "is the boot VGA, and the console is on its framebuffer fb0",
    ),
)
