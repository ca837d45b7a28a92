"""What the host uses: every kind of use, found from the top and followed down to the function."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import hosttree, uses

from passthrough.host import disks, pci, usage
from passthrough.host.uses import kinds, network, storage
from passthrough.system import procfs, quoting

NVME, HBA, NIC, VGA = "0000:02:00.0", "0000:04:00.0", "0000:3b:00.0", "0000:06:00.0"
OTHER_NVME, USB, VIRTIO, VMD = "0000:05:00.0", "0000:00:14.0", "0000:00:03.0", "0000:00:0e.0"


@pytest.fixture
def host(tmp_path: Path) -> hosttree.HostTree:
    tree = hosttree.HostTree(tmp_path / "host")
    for address, identity, class_code, driver in (
        (NVME, "144d:a808", 0x010802, "nvme"),
        (OTHER_NVME, "144d:a808", 0x010802, "nvme"),
        (HBA, "1000:0097", 0x010700, "mpt3sas"),
        (NIC, "8086:1572", 0x020000, "i40e"),
        (USB, "8086:a36d", 0x0C0330, "xhci_hcd"),
        (VIRTIO, "1af4:1042", 0x010000, "virtio-pci"),
        (VMD, "8086:201d", 0x010400, "vmd"),
    ):
        tree.function(address, identity, class_code, driver=driver)
    tree.function(VGA, "1a03:2000", 0x030000, driver="ast", boot_vga=True)
    return tree


def mounted_partition(tree: hosttree.HostTree) -> Iterator[tuple[str, str]]:
    uses.disk(tree, NVME, "nvme0n1", "259:0", "nvme/nvme0")
    uses.partition(tree, "nvme0n1", "nvme0n1p2", "259:2")
    uses.mount(tree, "259:2", "/", "/dev/nvme0n1p2")
    yield NVME, "mount: / on nvme0n1p2"


def mounted_whole_disk(tree: hosttree.HostTree) -> Iterator[tuple[str, str]]:
    uses.disk(tree, HBA, "sdc", "8:32", "host0/port-0:0/end_device-0:0/target0:0:0/0:0:0:0")
    uses.mount(tree, "8:32", "/srv/a\\040b", "/dev/sdc")
    yield HBA, 'mount: "/srv/a b" on sdc'


def many_mounts_of_one(tree: hosttree.HostTree) -> Iterator[tuple[str, str]]:
    uses.disk(tree, NVME, "nvme0n1", "259:0")
    for place in ("/var/lib/docker/x", "/", "/home"):
        uses.mount(tree, "259:0", place, "/dev/nvme0n1")
    yield NVME, "mount: / on nvme0n1"


def in_another_mount_namespace(tree: hosttree.HostTree) -> Iterator[tuple[str, str]]:
    uses.disk(tree, NVME, "nvme0n1", "259:0")
    uses.mount(tree, "0:21", "/proc", "proc", "proc")
    uses.mount(tree, "259:0", "/data", "/dev/nvme0n1", process=812)
    yield NVME, "mount: /data on nvme0n1"


def btrfs_by_its_source(tree: hosttree.HostTree) -> Iterator[tuple[str, str]]:
    uses.disk(tree, NVME, "nvme0n1", "259:0")
    uses.mount(tree, "0:35", "/data", "/dev/nvme0n1", "btrfs")
    yield NVME, "mount: /data on nvme0n1"


def btrfs_on_two_disks(tree: hosttree.HostTree) -> Iterator[tuple[str, str]]:
    uses.disk(tree, NVME, "nvme0n1", "259:0")
    uses.disk(tree, OTHER_NVME, "nvme1n1", "259:1")
    uses.mount(tree, "0:35", "/data", "/dev/nvme0n1", "btrfs")
    devices = tree.root / "sys/fs/btrfs/0f5a1c52/devices"
    devices.mkdir(parents=True)
    (devices / "nvme0n1").mkdir()
    (devices / "nvme1n1").mkdir()
    yield NVME, "mount: /data on nvme0n1"
    yield OTHER_NVME, 'mount: "a live btrfs file system" on nvme1n1'


def bcachefs_on_two_disks(tree: hosttree.HostTree) -> Iterator[tuple[str, str]]:
    uses.disk(tree, NVME, "nvme0n1", "259:0")
    uses.disk(tree, HBA, "sda", "8:0")
    uses.mount(tree, "0:36", "/data", "/dev/nvme0n1:/dev/sda", "bcachefs")
    yield NVME, "mount: /data on nvme0n1"
    yield HBA, "mount: /data on sda"


def bcachefs_by_the_kernels_own_list(tree: hosttree.HostTree) -> Iterator[tuple[str, str]]:
    disk = uses.disk(tree, NVME, "nvme0n1", "259:0")
    member = tree.root / "sys/fs/bcachefs/0f5a1c52/dev-0"
    member.mkdir(parents=True)
    (member / "block").symlink_to(disk)
    yield NVME, 'mount: "a live bcachefs file system" on nvme0n1'


def bcache_that_nothing_is_attached_to(tree: hosttree.HostTree) -> Iterator[tuple[str, str]]:
    disk = uses.disk(tree, NVME, "nvme0n1", "259:0")
    (disk / "bcache").mkdir()
    group = tree.root / "sys/fs/bcache/0f5a1c52"
    group.mkdir(parents=True)
    (group / "cache0").symlink_to(disk / "bcache")
    (group / "cache_available_percent").write_text("100\n")
    yield NVME, "member: nvme0n1 is part of a live bcache set"


def compressed_memory_with_a_disk_behind_it(tree: hosttree.HostTree) -> Iterator[tuple[str, str]]:
    uses.disk(tree, NVME, "nvme0n1", "259:0")
    zram = uses.assembled(tree, "zram0", "252:0")
    (zram / "backing_dev").write_text("/dev/nvme0n1\n")
    yield NVME, "member: nvme0n1 is behind zram0"


def logical_volume(tree: hosttree.HostTree) -> Iterator[tuple[str, str]]:
    uses.disk(tree, NVME, "nvme0n1", "259:0")
    uses.partition(tree, "nvme0n1", "nvme0n1p3", "259:3")
    uses.assembled(tree, "dm-0", "253:0", "nvme0n1p3", label="vg0-root")
    uses.mount(tree, "253:0", "/", "/dev/mapper/vg0-root")
    yield NVME, "member: nvme0n1p3 is part of vg0-root"
    yield NVME, "mount: / on vg0-root"


def multipath_over_two_hbas(tree: hosttree.HostTree) -> Iterator[tuple[str, str]]:
    uses.disk(tree, HBA, "sda", "8:0")
    uses.disk(tree, OTHER_NVME, "sdb", "8:16")
    uses.assembled(tree, "dm-3", "253:3", "sda", "sdb", label="mpatha")
    uses.assembled(tree, "dm-4", "253:4", "dm-3", label="mpatha-part1")
    uses.mount(tree, "253:4", "/srv", "/dev/mapper/mpatha-part1")
    for address, name in ((HBA, "sda"), (OTHER_NVME, "sdb")):
        yield address, "member: dm-3 is part of mpatha-part1"
        yield address, f"member: {name} is part of mpatha"
        yield address, "mount: /srv on mpatha-part1"


def raid(tree: hosttree.HostTree) -> Iterator[tuple[str, str]]:
    uses.disk(tree, NVME, "nvme0n1", "259:0")
    uses.assembled(tree, "md127", "9:127", "nvme0n1")
    yield NVME, "member: nvme0n1 is part of md127"


def bcache(tree: hosttree.HostTree) -> Iterator[tuple[str, str]]:
    uses.disk(tree, NVME, "nvme0n1", "259:0")
    uses.assembled(tree, "bcache0", "252:0", "nvme0n1")
    uses.mount(tree, "252:0", "/srv", "/dev/bcache0")
    yield NVME, "member: nvme0n1 is part of bcache0"
    yield NVME, "mount: /srv on bcache0"


def swap_partition(tree: hosttree.HostTree) -> Iterator[tuple[str, str]]:
    uses.disk(tree, NVME, "nvme0n1", "259:0")
    uses.partition(tree, "nvme0n1", "nvme0n1p4", "259:4")
    uses.swap(tree, "/dev/nvme0n1p4")
    yield NVME, "swap: nvme0n1p4"


def swap_on_a_logical_volume(tree: hosttree.HostTree) -> Iterator[tuple[str, str]]:
    uses.disk(tree, NVME, "nvme0n1", "259:0")
    uses.assembled(tree, "dm-1", "253:1", "nvme0n1", label="vg0-swap")
    uses.swap(tree, "/dev/dm-1")
    yield NVME, "member: nvme0n1 is part of vg0-swap"
    yield NVME, "swap: vg0-swap"


def zfs(tree: hosttree.HostTree) -> Iterator[tuple[str, str]]:
    uses.disk(tree, NVME, "nvme0n1", "259:0")
    uses.partition(tree, "nvme0n1", "nvme0n1p1", "259:1")
    uses.signature(tree, "259:1", "zfs_member")
    uses.mount(tree, "0:40", "/tank", "tank", "zfs")
    yield NVME, "member: nvme0n1p1 is part of a ZFS pool"


def zfs_over_an_older_file_system(tree: hosttree.HostTree) -> Iterator[tuple[str, str]]:
    uses.disk(tree, NVME, "nvme0n1", "259:0")
    uses.udev(
        tree,
        "259:0",
        ID_FS_AMBIVALENT="filesystem:ext4:1.0 filesystem:zfs_member:5000",
    )
    uses.mount(tree, "0:40", "/", "rpool/ROOT/ubuntu", "zfs")
    yield NVME, "member: nvme0n1 is part of a ZFS pool"


def zfs_by_its_partitions_type(tree: hosttree.HostTree) -> Iterator[tuple[str, str]]:
    uses.disk(tree, NVME, "nvme0n1", "259:0")
    uses.partition(tree, "nvme0n1", "nvme0n1p1", "259:1")
    uses.udev(tree, "259:1", ID_PART_ENTRY_TYPE="6A898CC3-1DD2-11B2-99A6-080020736631")
    yield NVME, "member: nvme0n1p1 is part of a ZFS pool"


def raid_over_an_older_file_system(tree: hosttree.HostTree) -> Iterator[tuple[str, str]]:
    uses.disk(tree, HBA, "sda", "8:0")
    uses.udev(tree, "8:0", ID_FS_AMBIVALENT="filesystem:xfs: raid:linux_raid_member:1.2")
    yield HBA, "member: sda is part of a RAID array"


def raid_that_is_not_assembled(tree: hosttree.HostTree) -> Iterator[tuple[str, str]]:
    uses.disk(tree, HBA, "sda", "8:0")
    uses.signature(tree, "8:0", "isw_raid_member")
    yield HBA, "member: sda is part of a RAID array"


def volume_group_that_is_not_active(tree: hosttree.HostTree) -> Iterator[tuple[str, str]]:
    uses.disk(tree, HBA, "sda", "8:0")
    uses.signature(tree, "8:0", "LVM2_member")
    yield HBA, "member: sda is part of an LVM volume group"


def nvme_with_two_controllers(tree: hosttree.HostTree) -> Iterator[tuple[str, str]]:
    uses.multipath_namespace(tree, "nvme0n1", "259:0", {"nvme0": NVME, "nvme1": OTHER_NVME})
    uses.mount(tree, "259:0", "/srv", "/dev/nvme0n1")
    yield NVME, "mount: /srv on nvme0n1"
    yield OTHER_NVME, "mount: /srv on nvme0n1"


def virtio_disk(tree: hosttree.HostTree) -> Iterator[tuple[str, str]]:
    uses.disk(tree, VIRTIO, "vda", "254:0", "virtio0")
    uses.mount(tree, "254:0", "/", "/dev/vda")
    yield VIRTIO, "mount: / on vda"


def usb_disk(tree: hosttree.HostTree) -> Iterator[tuple[str, str]]:
    keyboard = tree.directory(USB) / "usb1/1-2/1-2:1.0/0003:046D:C31C.0001/input/input3"
    keyboard.mkdir(parents=True)
    uses.disk(tree, USB, "sdb", "8:16", "usb1/1-1/1-1:1.0/host7/target7:0:0/7:0:0:0")
    uses.mount(tree, "8:16", "/media/key", "/dev/sdb")
    yield USB, "mount: /media/key on sdb"


def disk_behind_a_controller_with_its_own_bus(
    tree: hosttree.HostTree,
) -> Iterator[tuple[str, str]]:
    uses.disk(tree, VMD, "nvme2n1", "259:9", "pci10000:e0/10000:e0:00.0/10000:e1:00.0/nvme/nvme2")
    uses.mount(tree, "259:9", "/", "/dev/nvme2n1")
    yield VMD, "mount: / on nvme2n1"


def loop_device_on_a_disk(tree: hosttree.HostTree) -> Iterator[tuple[str, str]]:
    uses.disk(tree, NVME, "nvme0n1", "259:0")
    loop = uses.assembled(tree, "loop0", "7:0")
    (loop / "loop").mkdir()
    (loop / "loop/backing_file").write_text("/dev/nvme0n1\n")
    uses.mount(tree, "7:0", "/mnt", "/dev/loop0")
    yield NVME, "mount: /mnt on loop0"


def compressed_swap_with_a_disk_behind_it(tree: hosttree.HostTree) -> Iterator[tuple[str, str]]:
    uses.disk(tree, NVME, "nvme0n1", "259:0")
    zram = uses.assembled(tree, "zram0", "252:0")
    (zram / "backing_dev").write_text("/dev/nvme0n1\n")
    uses.swap(tree, "/dev/zram0")
    yield NVME, "swap: zram0"


def mounted_where_no_process_is(tree: hosttree.HostTree) -> Iterator[tuple[str, str]]:
    """In a namespace that only a bind mount keeps, or after `umount -l` with a file open."""
    uses.disk(tree, NVME, "nvme0n1", "259:0")
    uses.disk(tree, HBA, "sda", "8:0")
    uses.assembled(tree, "dm-0", "253:0", "sda", label="vg0-srv")
    for place in ("ext4/nvme0n1", "ext4/features", "xfs/dm-0", "xfs/stats", "f2fs/features"):
        (tree.root / "sys/fs" / place).mkdir(parents=True)
    yield NVME, 'mount: "a live ext4 file system" on nvme0n1'
    yield HBA, "member: sda is part of vg0-srv"
    yield HBA, 'mount: "a live xfs file system" on vg0-srv'


def mounted_where_a_process_is(tree: hosttree.HostTree) -> Iterator[tuple[str, str]]:
    """The place says more than the kernel's own list."""
    uses.disk(tree, NVME, "nvme0n1", "259:0")
    uses.mount(tree, "259:0", "/srv", "/dev/nvme0n1")
    (tree.root / "sys/fs/ext4/nvme0n1").mkdir(parents=True)
    yield NVME, "mount: /srv on nvme0n1"


def interface_with_an_address(tree: hosttree.HostTree) -> Iterator[tuple[str, str]]:
    uses.interface(tree, NIC, "ens1")
    uses.route(tree, "ens1", default=False)
    yield NIC, "address: ens1 is up with an IPv4 address"


def interface_with_an_ipv6_address(tree: hosttree.HostTree) -> Iterator[tuple[str, str]]:
    uses.interface(tree, NIC, "ens1")
    uses.address6(tree, "ens1", uses.GLOBAL, "00")
    yield NIC, "address: ens1 is up with an IPv6 address"


def interface_with_a_session(tree: hosttree.HostTree) -> Iterator[tuple[str, str]]:
    uses.interface(tree, NIC, "ens1")
    uses.address6(tree, "ens1", uses.LINK_LOCAL, "20")
    # The kernel prints fe80::b42e:99ff:fe00:1 like this.
    uses.session6(tree, "000080FE00000000FF992EB4010000FE", "01")
    yield NIC, "address: ens1 is up with a connection over its link-local address"


def default_route(tree: hosttree.HostTree) -> Iterator[tuple[str, str]]:
    uses.interface(tree, NIC, "ens1")
    uses.route(tree, "ens1", default=True)
    yield NIC, "address: ens1 is up with an IPv4 address"
    yield NIC, "route: ens1 has the default route"


def ipv6_default_route(tree: hosttree.HostTree) -> Iterator[tuple[str, str]]:
    uses.interface(tree, NIC, "ens1")
    uses.route6(tree, "ens1")
    yield NIC, "route: ens1 has the default route"


def bond_port(tree: hosttree.HostTree) -> Iterator[tuple[str, str]]:
    uses.interface(tree, NIC, "ens1")
    uses.upper(tree, "ens1", "bond0", "bonding", master=True)
    yield NIC, "port: ens1 is a port of the bond bond0"


def bridge_port_that_is_down(tree: hosttree.HostTree) -> Iterator[tuple[str, str]]:
    uses.interface(tree, NIC, "ens1", up=False)
    uses.upper(tree, "ens1", "br-ex", "bridge", master=True)
    yield NIC, "port: ens1 is a port of the bridge br-ex"


def open_vswitch_port(tree: hosttree.HostTree) -> Iterator[tuple[str, str]]:
    uses.interface(tree, NIC, "ens1")
    uses.upper(tree, "ens1", "ovs-system", master=True)
    yield NIC, "port: ens1 is a port of Open vSwitch"


def team_port(tree: hosttree.HostTree) -> Iterator[tuple[str, str]]:
    uses.interface(tree, NIC, "ens1")
    uses.upper(tree, "ens1", "team0", master=True)
    yield NIC, "port: ens1 is a port of team0"


def vlan(tree: hosttree.HostTree) -> Iterator[tuple[str, str]]:
    uses.interface(tree, NIC, "ens1")
    uses.upper(tree, "ens1", "ens1.100", master=False)
    yield NIC, "port: ens1 carries ens1.100"


def interface_in_another_namespace(tree: hosttree.HostTree) -> Iterator[tuple[str, str]]:
    (tree.directory(NIC) / "net").mkdir()
    yield NIC, "namespace: its interface is in another network namespace"


def virtio_interface_in_another_namespace(
    tree: hosttree.HostTree,
) -> Iterator[tuple[str, str]]:
    tree.function("0000:00:04.0", "1af4:1041", 0x020000, driver="virtio-pci")
    (tree.directory("0000:00:04.0") / "virtio1/net").mkdir(parents=True)
    yield "0000:00:04.0", "namespace: its interface is in another network namespace"


def console_on_the_drivers_framebuffer(tree: hosttree.HostTree) -> Iterator[tuple[str, str]]:
    uses.framebuffer(tree, "fb0", f"pci0000:06/{VGA}/drm/card0")
    uses.console(tree, 1, "(M) frame buffer device", bound=True)
    yield VGA, "console: the console is on its framebuffer fb0"


def console_that_waits_for_its_first_line(tree: hosttree.HostTree) -> Iterator[tuple[str, str]]:
    uses.framebuffer(tree, "fb0", f"pci0000:06/{VGA}")
    uses.console(tree, 0, "(S) dummy device", bound=True)
    yield VGA, "console: the console is on its framebuffer fb0"


def console_on_the_firmwares_framebuffer(tree: hosttree.HostTree) -> Iterator[tuple[str, str]]:
    uses.framebuffer(tree, "fb0", "platform/efi-framebuffer.0")
    uses.console(tree, 1, "(M) frame buffer device", bound=True)
    yield VGA, "console: the console is on its framebuffer fb0"


def text_console(tree: hosttree.HostTree) -> Iterator[tuple[str, str]]:
    uses.console(tree, 0, "(S) VGA+", bound=True)
    yield VGA, "console: the text console is on it"


@pytest.mark.parametrize(
    "arrange",
    [
        mounted_partition,
        mounted_whole_disk,
        many_mounts_of_one,
        in_another_mount_namespace,
        btrfs_by_its_source,
        btrfs_on_two_disks,
        bcachefs_on_two_disks,
        bcachefs_by_the_kernels_own_list,
        bcache_that_nothing_is_attached_to,
        compressed_memory_with_a_disk_behind_it,
        logical_volume,
        multipath_over_two_hbas,
        raid,
        bcache,
        swap_partition,
        swap_on_a_logical_volume,
        zfs,
        zfs_over_an_older_file_system,
        zfs_by_its_partitions_type,
        raid_over_an_older_file_system,
        raid_that_is_not_assembled,
        volume_group_that_is_not_active,
        nvme_with_two_controllers,
        virtio_disk,
        usb_disk,
        disk_behind_a_controller_with_its_own_bus,
        loop_device_on_a_disk,
        compressed_swap_with_a_disk_behind_it,
        mounted_where_no_process_is,
        mounted_where_a_process_is,
        interface_with_an_address,
        interface_with_an_ipv6_address,
        interface_with_a_session,
        default_route,
        ipv6_default_route,
        bond_port,
        bridge_port_that_is_down,
        open_vswitch_port,
        team_port,
        vlan,
        interface_in_another_namespace,
        virtio_interface_in_another_namespace,
        console_on_the_drivers_framebuffer,
        console_that_waits_for_its_first_line,
        console_on_the_firmwares_framebuffer,
        text_console,
    ],
    ids=lambda arrange: arrange.__name__.replace("_", "-"),
)
def test_use_is_found(host: hosttree.HostTree, find: Callable, arrange: Callable):
    expected: dict[str, list[str]] = {}
    for address, what in arrange(host):
        expected.setdefault(address, []).append(what)
    assert find() == expected


def disks_that_nobody_uses(tree: hosttree.HostTree) -> None:
    uses.disk(tree, NVME, "nvme0n1", "259:0")
    uses.signature(tree, "259:0", "ext4")


def compressed_swap_alone(tree: hosttree.HostTree) -> None:
    uses.disk(tree, NVME, "nvme0n1", "259:0")
    zram = uses.assembled(tree, "zram0", "252:0")
    (zram / "backing_dev").write_text("none\n")
    uses.swap(tree, "/dev/zram0")


def signatures_that_nothing_assembles(tree: hosttree.HostTree) -> None:
    uses.disk(tree, NVME, "nvme0n1", "259:0")
    uses.udev(
        tree,
        "259:0",
        ID_FS_AMBIVALENT="filesystem:ext4:1.0 filesystem:xfs:",
        ID_FS_LABEL="zfs_member",
        ID_PART_ENTRY_TYPE="0fc63daf-8483-4772-8e79-3d69d8477de4",
    )


def swap_file(tree: hosttree.HostTree) -> None:
    uses.disk(tree, NVME, "nvme0n1", "259:0")
    uses.swap(tree, "/swap.img", "file")


def file_systems_without_a_device(tree: hosttree.HostTree) -> None:
    uses.mount(tree, "0:21", "/proc", "proc", "proc")
    uses.mount(tree, "0:50", "/mnt", "server:/export", "nfs4")


def interface_that_is_down(tree: hosttree.HostTree) -> None:
    uses.interface(tree, NIC, "ens1", up=False)
    uses.address6(tree, "ens1", uses.GLOBAL, "00")


def interface_that_is_up_and_idle(tree: hosttree.HostTree) -> None:
    """As MAAS and netplan leave the ones that nobody has configured."""
    uses.interface(tree, NIC, "ens1")
    uses.address6(tree, "ens1", uses.LINK_LOCAL, "20")
    uses.session6(tree, "000080FE00000000FF992EB4010000FE", "0A")


def console_elsewhere(tree: hosttree.HostTree) -> None:
    tree.function("0000:07:00.0", "10de:1bb0", 0x030000, driver="nouveau")
    uses.framebuffer(tree, "fb0", "pci0000:07/0000:07:00.0/drm/card0")
    uses.console(tree, 1, "(M) frame buffer device", bound=True)


def console_that_was_unbound(tree: hosttree.HostTree) -> None:
    uses.framebuffer(tree, "fb0", "platform/efi-framebuffer.0")
    uses.console(tree, 1, "(M) frame buffer device", bound=False)


@pytest.mark.parametrize(
    "arrange",
    [
        lambda tree: None,
        disks_that_nobody_uses,
        signatures_that_nothing_assembles,
        compressed_swap_alone,
        swap_file,
        file_systems_without_a_device,
        interface_that_is_down,
        interface_that_is_up_and_idle,
        console_elsewhere,
        console_that_was_unbound,
    ],
)
def test_no_use_is_made_up(host: hosttree.HostTree, find: Callable, arrange: Callable):
    arrange(host)
    assert find() == {}


def test_a_virtio_function_that_is_unplugged_meanwhile_has_no_interface(
    host: hosttree.HostTree,
):
    host.function("0000:00:04.0", "1af4:1041", 0x020000, driver="virtio-pci")
    listed = pci.read(host.root)
    shutil.rmtree(host.directory("0000:00:04.0"))
    assert list(network.find(host.root, listed)) == []


def test_a_display_that_is_not_the_boot_vga_is_no_console(host: hosttree.HostTree, find: Callable):
    """Without a boot VGA the console is put somewhere; claiming that is the operator's call."""
    host.function("0000:83:00.0", "1234:1111", 0x038000, driver="bochs-drm")
    uses.framebuffer(host, "fb0", "pci0000:83/0000:83:00.0/drm/card0")
    assert find() == {}


def test_what_is_on_vfio_pci_has_no_uses(host: hosttree.HostTree, find: Callable):
    host.bind(NIC, "vfio-pci")
    (host.directory(NIC) / "net").mkdir()
    assert find() == {}


@pytest.mark.parametrize("kind", ["bond0\x1b[2J", "eth0; rm -rf /", "a" * 200])
def test_a_hostile_name_is_quoted(host: hosttree.HostTree, kind: str):
    shown = quoting.plain(kind)
    assert shown.startswith('"')
    assert shown.isprintable()
    assert len(shown) <= 60


def test_uses_by_kind():
    found = usage.Usage({NIC: (kinds.Use(kinds.Kind.ROUTE, "a"), kinds.Use(kinds.Kind.PORT, "b"))})
    assert found.of(NIC, kinds.Kind.ROUTE) == ("a",)
    assert found.of(NIC, kinds.Kind.SWAP) == ()
    assert found.of(NVME, kinds.Kind.SWAP) == ()


def test_a_damaged_mountinfo_is_passed_over(host: hosttree.HostTree, find: Callable):
    uses.disk(host, NVME, "nvme0n1", "259:0")
    uses.mount(host, "259:0", "/data", "/dev/nvme0n1")
    path = host.root / "proc/1/mountinfo"
    path.write_text("\n30 1\nx - y\n30 1 8:0 / /mnt\n" + path.read_text())
    assert find() == {NVME: ["mount: /data on nvme0n1"]}


def test_the_disks_of_this_very_machine_are_read():
    """No made-up tree is as odd as a real one."""
    known = disks.read(Path("/"))
    mounted = storage.find_mounts(Path("/"), known, procfs.Processes(Path("/")).mounts)
    numbers = {line.split()[2] for line in Path("/proc/self/mountinfo").read_text().splitlines()}
    for number in numbers & known.numbers.keys():
        assert known.numbers[number] in mounted


def test_the_addresses_of_this_very_machine_are_read():
    """The loopback interface has an address wherever tests run, and no route in the main table."""
    found = network.interfaces_with_ipv4(Path("/"))
    assert "lo" in found
    assert found <= {name for _, name in socket.if_nameindex()}
