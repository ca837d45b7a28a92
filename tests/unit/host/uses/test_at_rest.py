"""Disks that wait for their key, their pool or their first access are not taken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from harness import hosttree, uses

from passthrough.host import pci, usage
from passthrough.planning import guards

NVME, HBA, FC, OTHER = "0000:02:00.0", "0000:04:00.0", "0000:5e:00.0", "0000:05:00.0"
UUID = "11111111-2222-3333-4444-555555555555"


@pytest.fixture
def host(tmp_path: Path) -> hosttree.HostTree:
    tree = hosttree.HostTree(tmp_path / "host")
    for address, identity, class_code, driver in (
        (NVME, "144d:a808", 0x010802, "nvme"),
        (OTHER, "144d:a808", 0x010802, "nvme"),
        (HBA, "1000:0097", 0x010700, "mpt3sas"),
        (FC, "10df:f400", 0x0C0400, "lpfc"),
    ):
        tree.function(address, identity, class_code, driver=driver)
    uses.disk(tree, NVME, "nvme0n1", "259:0", "nvme/nvme0")
    uses.disk(tree, HBA, "sda", "8:0", "host0/target0:0:0/0:0:0:0")
    return tree


@pytest.fixture
def objection(host: hosttree.HostTree) -> Callable[..., str | None]:
    """The guard that objects to a function, and why: ``guard: fact``; None for none."""

    def ask(address: str = NVME, *ours: str) -> str | None:
        functions = pci.read(host.root)
        found = guards.object_to(
            functions.functions[address], usage.read(host.root, functions, ours)
        )
        return f"{found.guard}: {found.fact}" if found else None

    return ask


MEMBER = "storage-member: holds a part of the host's storage: nvme0n1"


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        ("crypto_LUKS", "is a LUKS volume, which may be locked"),
        ("BitLocker", "is a BitLocker volume, which may be locked"),
        ("stratis", "is part of a Stratis pool"),
        ("bcachefs", "is part of a bcachefs file system"),
        ("VMFS_volume_member", "is part of a VMFS datastore"),
        ("mpath_member", "is part of a multipath device"),
        ("vdo", "is part of a VDO volume"),
        ("DM_integrity", "is part of a device-mapper integrity target"),
        ("dm-integrity", "is part of a device-mapper integrity target"),
        ("DM_snapshot_cow", "is part of a device-mapper snapshot"),
        ("jbd", "is part of an ext4 file system, whose journal it is"),
        ("xfs_external_log", "is part of an XFS file system, whose log it is"),
        ("oracleasm", "is part of an Oracle ASM disk group"),
        ("zfs_member", "is part of a ZFS pool"),
        ("linux_raid_member", "is part of a RAID array"),
        ("promise_fasttrack_raid_member", "is part of a RAID array"),
        ("swap", "holds swap space"),
        ("brand_new_member", "is part of something larger (brand_new_member)"),
    ],
)
def test_a_signature_of_something_larger_needs_no_usage(
    host: hosttree.HostTree, objection: Callable, kind: str, what: str
):
    uses.signature(host, "259:0", kind)
    assert objection() == f"{MEMBER} {what}"


@pytest.mark.parametrize(
    ("usage_", "what"),
    [
        ("raid", "is part of something larger (novel)"),
        ("crypto", "is an encrypted volume (novel)"),
        ("other", "belongs to something else (novel)"),
    ],
)
def test_a_signature_that_no_table_knows_counts_by_its_usage(
    host: hosttree.HostTree, objection: Callable, usage_: str, what: str
):
    uses.udev(host, "259:0", ID_FS_TYPE="novel", ID_FS_USAGE=usage_)
    assert objection() == f"{MEMBER} {what}"
    uses.udev(host, "259:0", ID_FS_AMBIVALENT=f"filesystem:ext4:1.0 {usage_}:novel:2")
    assert objection() == f"{MEMBER} {what}"


@pytest.mark.parametrize("kind", ["ext4", "xfs", "vfat", "iso9660"])
def test_a_file_system_that_nothing_names_is_free(
    host: hosttree.HostTree, objection: Callable, kind: str
):
    uses.udev(host, "259:0", ID_FS_TYPE=kind, ID_FS_USAGE="filesystem", ID_FS_UUID=UUID)
    host.write("etc/fstab", "# /dev/nvme0n1 / ext4\nUUID=99 / ext4 defaults 0 1\n\nproc\n")
    host.write("etc/crypttab", "# x\ndata UUID=98 none luks\n")
    assert objection() is None


def test_an_idle_disk_is_free(objection: Callable):
    assert objection() is None


@pytest.mark.parametrize(
    "partition_type",
    [
        "CA7D7CCB-63ED-4C53-861C-1742536059CC",
        "4fbd7e29-9d25-41b8-afd0-5ec00ceff05d",
        "4fbd7e29-9d25-41b8-afd0-062c0ceff05d",
        "45b0969e-9b03-4f30-b4c6-b4b80ceff106",
        "30CD0809-C2B2-499C-8879-2D6B78529876",
        "0xfd",
        "0x8e",
        "0xe8",
    ],
)
def test_a_partition_without_a_signature_counts_by_its_type(
    host: hosttree.HostTree, objection: Callable, partition_type: str
):
    """LUKS with its header elsewhere, plain dm-crypt, and a FileStore's journal leave none."""
    uses.partition(host, "nvme0n1", "nvme0n1p1", "259:1")
    uses.udev(host, "259:1", ID_PART_ENTRY_TYPE=partition_type)
    assert objection()


@pytest.mark.parametrize(
    "partition_type",
    [
        "0x83",
        "0xef",
        "0fc63daf-8483-4772-8e79-3d69d8477de4",
        "c12a7328-f81f-11d2-ba4b-00a0c93ec93b",
    ],
)
def test_an_ordinary_partition_is_free(
    host: hosttree.HostTree, objection: Callable, partition_type: str
):
    uses.partition(host, "nvme0n1", "nvme0n1p1", "259:1")
    uses.udev(host, "259:1", ID_PART_ENTRY_TYPE=partition_type)
    assert objection() is None


@pytest.mark.parametrize(
    "device",
    [
        f"UUID={UUID}",
        f'UUID="{UUID.upper()}"',
        "LABEL=images",
        "PARTUUID=aa-01",
        "PARTLABEL=data",
        "ID=nvme-SAMSUNG",
        "/dev/nvme0n1",
        f"/dev/disk/by-uuid/{UUID}",
        "/dev/disk/by-id/nvme-SAMSUNG",
        "/dev/disk/by-path/pci-0000:02:00.0-nvme-1",
    ],
)
class TestConfigured:
    @pytest.fixture(autouse=True)
    def known(self, host: hosttree.HostTree) -> None:
        lines = (
            "S:disk/by-id/nvme-SAMSUNG",
            "S:disk/by-path/pci-0000:02:00.0-nvme-1",
            "E:ID_FS_TYPE=ext4",
            "E:ID_FS_USAGE=filesystem",
            f"E:ID_FS_UUID={UUID}",
            "E:ID_FS_LABEL=images",
            "E:ID_PART_ENTRY_UUID=aa-01",
            "E:ID_PART_ENTRY_NAME=data",
        )
        host.write("run/udev/data/b259:0", "\n".join(lines) + "\n")

    def test_in_fstab(self, host: hosttree.HostTree, objection: Callable, device: str):
        host.write("etc/fstab", f"{device} /srv/images ext4 nofail,x-systemd.automount 0 2\n")
        assert objection() == (
            "configured: is meant for the host's own storage: /srv/images in /etc/fstab on nvme0n1"
        )
        assert objection(HBA) is None

    def test_as_swap(self, host: hosttree.HostTree, objection: Callable, device: str):
        host.write("etc/fstab", f"{device} none swap sw 0 0\n")
        assert "swap in /etc/fstab on nvme0n1" in str(objection())

    def test_as_the_log_of_another(self, host: hosttree.HostTree, objection: Callable, device: str):
        host.write("etc/fstab", f"/dev/sda /srv xfs logdev={device.replace(chr(34), '')} 0 2\n")
        assert "/srv in /etc/fstab on nvme0n1" in str(objection())

    def test_in_crypttab(self, host: hosttree.HostTree, objection: Callable, device: str):
        host.write("etc/crypttab", f"data {device} none luks,nofail\n")
        assert "data in /etc/crypttab on nvme0n1" in str(objection())

    def test_in_a_unit(self, host: hosttree.HostTree, objection: Callable, device: str):
        host.write("etc/systemd/system/srv.mount", f"[Mount]\nWhat={device}\nWhere=/srv\n")
        assert '"srv.mount" of systemd' in str(objection()) or "srv.mount of systemd" in str(
            objection()
        )


@pytest.mark.parametrize(
    ("device", "line"),
    [
        (r"LABEL=my\040disk/1", "E:ID_FS_LABEL_ENC=my\\x20disk\\x2f1"),
        (r"LABEL=my\040disk/1", "S:disk/by-label/my\\x20disk\\x2f1"),
        (r"/dev/disk/by-label/my\134x20disk", "S:disk/by-label/my\\x20disk"),
        (r"PARTLABEL=EFI\040System", "E:ID_PART_ENTRY_NAME=EFI\\x20System"),
        ("LABEL=größe", "E:ID_FS_LABEL_ENC=größe"),
    ],
)
def test_a_label_with_odd_characters_in_fstab(
    host: hosttree.HostTree, objection: Callable, device: str, line: str
):
    host.write("run/udev/data/b259:0", f"{line}\n")
    host.write("etc/fstab", f"{device} /srv ext4 noauto 0 2\n")
    assert str(objection()).startswith("configured: ")


@pytest.mark.parametrize("target", ["/dev/nvme0n1", "../dev/nvme0n1", "/srv/other"])
def test_a_link_of_an_administrators_own_in_fstab(
    host: hosttree.HostTree, objection: Callable, target: str
):
    (host.root / "srv").mkdir()
    (host.root / "srv/disk").symlink_to(target)
    (host.root / "srv/other").symlink_to("/dev/nvme0n1")
    host.write("etc/fstab", "/srv/disk /mnt ext4 defaults 0 2\n")
    assert "/mnt in /etc/fstab on nvme0n1" in str(objection())


@pytest.mark.parametrize(
    "line",
    [
        "data /dev/sda none luks,header=/dev/nvme0n1",
        "data /dev/sda none luks,header=/keys/data:UUID=11111111-2222-3333-4444-555555555555",
        "data /dev/sda /keys/data:UUID=11111111-2222-3333-4444-555555555555 luks",
        "data /dev/sda /keys/data:/dev/nvme0n1 luks",
    ],
)
def test_a_key_or_a_header_on_another_disk_in_crypttab(
    host: hosttree.HostTree, objection: Callable, line: str
):
    uses.udev(host, "259:0", ID_FS_TYPE="ext4", ID_FS_USAGE="filesystem", ID_FS_UUID=UUID)
    host.write("etc/crypttab", f"{line}\n")
    assert "data in /etc/crypttab on nvme0n1" in str(objection())


@pytest.mark.parametrize(
    ("path", "text", "what"),
    [
        ("run/systemd/system/srv.mount", "[Mount]\nWhat=/dev/nvme0n1\n", "srv.mount of systemd"),
        ("usr/lib/systemd/system/x.swap", "[Swap]\nWhat=/dev/nvme0n1\n", "x.swap of systemd"),
        (
            "etc/systemd/system/srv.mount.d/disk.conf",
            "[Mount]\nWhat = /dev/nvme0n1\n",
            "srv.mount of systemd",
        ),
        (
            "etc/rtslib-fb-target/saveconfig.json",
            '{"storage_objects": [{"dev": "/dev/nvme0n1", "plugin": "block"}]}',
            "an entry of /etc/rtslib-fb-target/saveconfig.json",
        ),
        (
            "etc/nvmet/config.json",
            '{"subsystems": [{"namespaces": [{"device": {"path": "/dev/nvme0n1"}}]}]}',
            "an entry of /etc/nvmet/config.json",
        ),
        (
            "etc/tgt/conf.d/lab.conf",
            "<target iqn.x>\n  backing-store /dev/nvme0n1\n</target>\n",
            "an entry of /etc/tgt/conf.d/lab.conf",
        ),
        ("etc/drbd.d/r0.res", "disk /dev/nvme0n1;\n", "an entry of /etc/drbd.d/r0.res"),
        ("etc/auto.misc", "data -fstype=ext4 :/dev/nvme0n1\n", "an entry of /etc/auto.misc"),
        (
            "etc/libvirt/qemu/vm.xml",
            "<disk type='block'><source dev='/dev/nvme0n1'/></disk>\n",
            "an entry of /etc/libvirt/qemu/vm.xml",
        ),
        (
            "etc/libvirt/storage/pool.xml",
            "<source><device path='/dev/nvme0n1'/></source>\n",
            "an entry of /etc/libvirt/storage/pool.xml",
        ),
        ("etc/scst.conf", "filename /dev/nvme0n1\n", "an entry of /etc/scst.conf"),
    ],
)
def test_a_service_that_will_have_the_disk(
    host: hosttree.HostTree, objection: Callable, path: str, text: str, what: str
):
    host.write(path, text)
    assert objection() == f"configured: is meant for the host's own storage: {what} on nvme0n1"
    host.write(path, text.replace("/dev/nvme0n1", "/dev/sdz"))
    assert objection() is None


def test_a_folder_of_autofs_is_no_map(host: hosttree.HostTree, objection: Callable):
    (host.root / "etc/auto.master.d").mkdir()
    assert objection() is None


@pytest.mark.parametrize(
    "place",
    [
        "var/lib/ceph/osd/ceph-3/block.db",
        "var/lib/ceph/osd/ceph-3/journal",
        "var/lib/ceph/0f5a1c52/osd.3/block",
        "var/snap/microceph/common/data/osd/ceph-3/block",
    ],
)
def test_an_osd_that_is_down_has_its_devices(
    host: hosttree.HostTree, objection: Callable, place: str
):
    path = host.root / place
    path.parent.mkdir(parents=True)
    path.write_text("a file, as of a FileStore's journal on the root disk")
    assert objection() is None
    path.unlink()
    path.symlink_to("/dev/nvme0n1")
    assert objection() == (
        f"configured: is meant for the host's own storage: the device of Ceph's /{place} on nvme0n1"
    )


def test_a_mounted_one_is_told_once(host: hosttree.HostTree, objection: Callable):
    host.write("etc/fstab", "/dev/nvme0n1 /srv ext4 defaults 0 2\n")
    uses.mount(host, "259:0", "/srv", "/dev/nvme0n1")
    found = usage.read(host.root, pci.read(host.root)).uses
    assert [each.kind for each in found[NVME]] == ["mount"]


def test_an_fstab_that_cannot_be_read_is_not_an_empty_one(host: hosttree.HostTree):
    (host.root / "etc/fstab").unlink(missing_ok=True)
    (host.root / "etc/fstab").mkdir()
    with pytest.raises(IsADirectoryError):
        usage.read(host.root, pci.read(host.root))


class TestOurs:
    """A card of ours that fell back to its native driver carries what guests wrote."""

    def test_what_a_guest_wrote_says_nothing(self, host: hosttree.HostTree, objection: Callable):
        uses.udev(host, "259:0", ID_FS_TYPE="crypto_LUKS", ID_FS_USAGE="crypto", ID_FS_UUID=UUID)
        host.write("etc/fstab", f"UUID={UUID} /srv ext4 defaults 0 2\n")
        assert objection(NVME)
        assert objection(NVME, NVME) is None

    def test_a_mount_does_all_the_same(self, host: hosttree.HostTree, objection: Callable):
        uses.mount(host, "259:0", "/srv", "/dev/nvme0n1")
        assert str(objection(NVME, NVME)).startswith("mounted: ")

    def test_so_does_what_names_the_card_itself(self, host: hosttree.HostTree, objection: Callable):
        host.write("etc/fstab", "/dev/disk/by-path/../../nvme0n1 /srv ext4 defaults 0 2\n")
        assert str(objection(NVME, NVME)).startswith("configured: ")


def journal_by_the_kernel(tree: hosttree.HostTree) -> None:
    (tree.root / "proc/fs/jbd2/nvme0n1").mkdir(parents=True)
    (tree.root / "proc/fs/jbd2/sda-8").mkdir(parents=True)


def journal_of_a_file_system_that_shows_nowhere_else(tree: hosttree.HostTree) -> None:
    (tree.root / "proc/fs/jbd2/nvme0n1-65").mkdir(parents=True)


def log_by_mountinfo(tree: hosttree.HostTree) -> None:
    super_options("xfs", tree, "rw,attr2,logbufs=8,logdev=/dev/nvme0n1,noquota")


def realtime_device_by_mountinfo(tree: hosttree.HostTree) -> None:
    super_options("xfs", tree, "rw,attr2,logbufs=8,rtdev=/dev/nvme0n1,noquota")


def super_options(kind: str, tree: hosttree.HostTree, options: str) -> None:
    uses.mount(tree, "8:0", "/srv", "/dev/sda", kind)
    line = f"30 1 8:0 / /srv rw,relatime shared:1 - {kind} /dev/sda {options}\n"
    (tree.root / "proc/1/mountinfo").write_text(line)


@pytest.mark.parametrize(
    "arrange",
    [
        journal_by_the_kernel,
        journal_of_a_file_system_that_shows_nowhere_else,
        log_by_mountinfo,
        realtime_device_by_mountinfo,
    ],
)
def test_a_file_systems_second_device_is_as_mounted_as_its_first(
    host: hosttree.HostTree, objection: Callable, arrange: Callable
):
    arrange(host)
    assert str(objection()).startswith("mounted: ")


@pytest.mark.parametrize(
    ("place", "whom"),
    [
        ("usb_gadget/g1/functions/mass_storage.0/lun.0/file", "USB"),
        ("target/core/iblock_0/vol1/udev_path", "a SCSI target"),
        ("target/core/pscsi_1/vol2/udev_path", "a SCSI target"),
        ("nvmet/subsystems/nqn.x/namespaces/1/device_path", "NVMe over fabrics"),
    ],
)
def test_a_disk_that_the_kernel_exports_is_refused(
    host: hosttree.HostTree, objection: Callable, place: str, whom: str
):
    host.write(f"sys/kernel/config/{place}", "/dev/nvme0n1\n")
    assert objection() == f"{MEMBER} is exported through {whom}"
    host.write(f"sys/kernel/config/{place}", "/srv/image.raw\n")
    assert objection() is None


@pytest.mark.parametrize(
    "place", ["target/core/iblock_0/vol/udev_path", "nvmet/subsystems/n/namespaces/1/device_path"]
)
@pytest.mark.parametrize(
    "device",
    [
        "/dev/nvme0n1p1",
        "/dev/disk/by-id/nvme-SAMSUNG-part1",
        "/dev/disk/by-path/pci-0000:02:00.0-nvme-1-part1",
        "/dev/mine",
        "/srv/link",
    ],
)
def test_an_exported_partition_is_found_by_any_of_its_names(
    host: hosttree.HostTree, objection: Callable, device: str, place: str
):
    uses.partition(host, "nvme0n1", "nvme0n1p1", "259:1")
    links = ("disk/by-id/nvme-SAMSUNG-part1", "disk/by-path/pci-0000:02:00.0-nvme-1-part1")
    host.write("run/udev/data/b259:1", "".join(f"S:{each}\n" for each in links))
    (host.root / "dev").mkdir(exist_ok=True)
    (host.root / "dev/mine").symlink_to("/dev/nvme0n1p1")
    (host.root / "srv").mkdir()
    (host.root / "srv/link").symlink_to("../dev/mine")
    host.write(f"sys/kernel/config/{place}", f"{device}\n")
    assert str(objection()).startswith(
        "storage-member: holds a part of the host's storage: nvme0n1p1 is exported through "
    )
    assert objection(HBA) is None


LIO = "sys/kernel/config/target/core"


@pytest.mark.parametrize(
    ("place", "text", "name"),
    [
        (
            "iblock_0/vol",
            "Status: ACTIVATED  Max Queue Depth: 0  SectorSize: 512\n"
            "        iBlock device: nvme0n1  readonly: 0\n"
            "        Major: 259 Minor: 0  CLAIMED: IBLOCK\n",
            "nvme0n1",
        ),
        (
            "pscsi_0/vol",
            "Status: ACTIVATED\n        SCSI Device Bus Location: Channel ID: 0 Target ID: 1"
            " LUN: 2 Host ID: 3\n",
            "3:0:1:2",
        ),
    ],
)
def test_a_target_is_known_by_its_own_text_where_it_bears_no_name(
    host: hosttree.HostTree, objection: Callable, place: str, text: str, name: str
):
    uses.device(host, NVME, "host3/target3:0:1/3:0:1:2/scsi_device/3:0:1:2", "scsi_device")
    host.write(f"{LIO}/{place}/info", text)
    assert str(objection()).endswith(f": {name} is exported through a SCSI target")
    assert objection(HBA) is None
    host.write(f"{LIO}/{place}/info", "Status: ACTIVATED  SectorSize: 512\n")
    assert objection() is None


@pytest.mark.parametrize(
    ("place", "text"),
    [
        (
            f"{LIO}/fileio_0/vol/info",
            "Status: ACTIVATED\n        TCM FILEIO ID: 0        File: %s  Size: 1099\n",
        ),
        ("sys/kernel/scst_tgt/devices/lun/filename", "%s\n[key]\n"),
    ],
)
def test_a_disk_that_a_target_has_as_a_file(
    host: hosttree.HostTree, objection: Callable, place: str, text: str
):
    host.write(place, text % "/dev/nvme0n1")
    assert objection() == f"{MEMBER} is exported through a SCSI target"
    host.write(place, text % "/srv/image.raw")
    assert objection() is None


def test_a_whole_controller_that_is_exported_is_refused(
    host: hosttree.HostTree, objection: Callable
):
    uses.device(host, NVME, "nvme/nvme0", "nvme")
    host.write("sys/kernel/config/nvmet/subsystems/n/passthru/device_path", "/dev/nvme0\n")
    assert objection() == (
        "storage-member: holds a part of the host's storage: nvme0 is exported through NVMe over"
        " fabrics"
    )


def test_a_disk_behind_a_loop_device_that_is_idle_is_refused(
    host: hosttree.HostTree, objection: Callable
):
    loop = uses.assembled(host, "loop0", "7:0")
    (loop / "loop").mkdir()
    (loop / "loop/backing_file").write_text("/dev/nvme0n1\n")
    assert objection() == f"{MEMBER} is behind loop0"
    (loop / "loop/backing_file").write_text("/dev/nvme0n1 (deleted)\n")
    assert objection() == f"{MEMBER} is behind loop0"
    (loop / "loop/backing_file").write_text("/srv/image.raw\n")
    assert objection() is None


class TestOverFibreChannel:
    @pytest.fixture(autouse=True)
    def controller(self, host: hosttree.HostTree) -> None:
        uses.fibre_channel_host(host, FC, "host1", "0x100000109b1c2a3f")

    @pytest.mark.parametrize("multipath", [True, False])
    def test_a_mounted_namespace_refuses_its_port(
        self, host: hosttree.HostTree, objection: Callable, multipath: bool
    ):
        uses.namespace_over_fibre_channel(
            host, "nvme9n1", "259:9", "nvme9", "0x100000109B1C2A3F", multipath=multipath
        )
        uses.mount(host, "259:9", "/", "/dev/nvme9n1")
        assert objection(FC) == "mounted: holds a mounted file system: / on nvme9n1"

    def test_a_partition_of_it_carries_its_own_signature(
        self, host: hosttree.HostTree, objection: Callable
    ):
        uses.namespace_over_fibre_channel(
            host, "nvme9n1", "259:9", "nvme9", "0x100000109b1c2a3f", multipath=True
        )
        uses.partition(host, "nvme9n1", "nvme9n1p1", "259:10")
        uses.signature(host, "259:10", "zfs_member")
        assert str(objection(FC)).endswith("nvme9n1p1 is part of a ZFS pool")

    def test_another_port_stays_free(self, host: hosttree.HostTree, objection: Callable):
        uses.namespace_over_fibre_channel(
            host, "nvme9n1", "259:9", "nvme9", "0x100000109b1c0000", multipath=True
        )
        uses.mount(host, "259:9", "/", "/dev/nvme9n1")
        assert objection(FC) is None


def test_a_partition_of_a_disk_with_two_controllers_carries_its_own_signature(
    host: hosttree.HostTree, objection: Callable
):
    uses.multipath_namespace(host, "nvme5n1", "259:5", {"nvme5": OTHER})
    uses.partition(host, "nvme5n1", "nvme5n1p1", "259:6")
    uses.signature(host, "259:6", "zfs_member")
    assert str(objection(OTHER)).endswith("nvme5n1p1 is part of a ZFS pool")
