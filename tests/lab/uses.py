"""Ways in which a host uses its own devices: how to bring each about in a guest, and end it."""

import dataclasses

from lab import machine

WAY_OUT = "; free it, or set allow-in-use: true on the item"
DISK = "/dev/nvme0n1"
NVME = machine.GUARDED["nvme"].address
NIC0 = machine.GUARDED["nic0"].address
NIC1 = machine.GUARDED["nic1"].address
OLD_NIC = "0000:05:01.0"
NO_DRIVER = machine.GUARDED["nodriver"].address

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


@dataclasses.dataclass(frozen=True)
class Use:
    """One use of one function.

    `make` and `undo` are for the guest's shell; {nic} stands for the function's interface, and
    {process} for the process that systemd runs as `unit`. `rule` and `fact` are what the charm has
    to refuse the function with.
    """

    address: str
    rule: str
    fact: str
    make: str = ""
    undo: str = ""
    unit: str = ""


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

# Made together, one round after the other: each function has one use at a time.
ROUNDS = (
    (RAID,),
    (MAPPED, VLAN),
    (SWAP, MACVLAN, BOND_PORT),
    (MOUNTED_ELSEWHERE, MACVLAN_ELSEWHERE, IPV6),
    (MOUNTED, BRIDGE_PORT, NAMESPACE, IPV4, UIO),
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
