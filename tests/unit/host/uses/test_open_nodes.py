"""Whoever has a device node below a function open uses it, whatever the node is called."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import hosttree, missing, uses

from passthrough.host import guests, pci, usage
from passthrough.planning import guards
from passthrough.system import open_files, procfs

GPU, NIC, TWIN, VF, NVME = (
    "0000:83:00.0",
    "0000:3b:00.0",
    "0000:3b:00.1",
    "0000:3b:00.2",
    "0000:02:00.0",
)
UART, RAID = "0000:00:16.3", "0000:5e:00.0"
OVS = "/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk"
QEMU = "/usr/bin/qemu-system-x86_64"
NULL = "1:3"  # this machine's own /dev/null, which may be asked anywhere


@pytest.fixture
def host(tmp_path: Path) -> hosttree.HostTree:
    tree = hosttree.HostTree(tmp_path / "host")
    for address, identity, class_code, driver in (
        (GPU, "10de:20b5", 0x030200, "nvidia"),
        (NIC, "15b3:101d", 0x020000, "mlx5_core"),
        (TWIN, "15b3:101d", 0x020000, "mlx5_core"),
        (NVME, "144d:a808", 0x010802, "nvme"),
        (UART, "8086:a13d", 0x070002, "serial"),
        (RAID, "1077:2261", 0x0C0400, "qla2xxx"),
    ):
        tree.function(address, identity, class_code, driver=driver, total_vfs=8 * (address == NIC))
    (tree.root / "sys/class/block").mkdir(parents=True)
    return tree


@pytest.fixture
def objection(host: hosttree.HostTree) -> Callable[..., str | None]:
    """The guard that objects to a function, and why: ``guard: fact``; None for none."""

    def ask(address: str) -> str | None:
        functions = pci.read(host.root)
        found = guards.object_to(functions.functions[address], usage.read(host.root, functions))
        return f"{found.guard}: {found.fact}" if found else None

    return ask


PROGRAM = "program: is in use by a program of the host: "

NODES = [
    (NIC, "infiniband_verbs/uverbs0", "231:192", "/dev/infiniband/uverbs0", OVS),
    (NIC, "infiniband_mad/umad0", "231:0", "/dev/infiniband/umad0", "/usr/sbin/opensm"),
    (NIC, "ptp/ptp0", "249:0", "/dev/ptp0", "/usr/sbin/ptp4l"),
    (GPU, "drm/renderD128", "226:128", "/dev/dri/renderD128", "/usr/bin/python3.12"),
    (GPU, "drm/card1", "226:1", "/dev/dri/card1", "/usr/bin/dcgm-exporter"),
    (GPU, "accel/accel0", "261:0", "/dev/accel/accel0", "/usr/bin/hl-smi"),
    (UART, "tty/ttyS4", "4:68", "/dev/ttyS4", "/usr/sbin/agetty"),
    (UART, "0000:00:16.3:0/0000:00:16.3:0.0/tty/ttyS5", "4:69", "/dev/ttyS5", "/bin/screen"),
    (UART, "watchdog/watchdog0", "249:9", "/dev/watchdog0", "/usr/sbin/watchdog"),
    (NVME, "nvme/nvme0", "242:0", "/dev/nvme0", "/usr/sbin/nvme"),
    (NVME, "nvme/nvme0/ng0n1", "240:0", "/dev/ng0n1", "/usr/bin/fio"),
    (RAID, "host1/rport-1:0-0/target1:0:0/1:0:0:1/scsi_generic/sg1", "21:1", "/dev/sg1", "/bin/sg"),
    (RAID, "usb1/1-1/1-1:1.0/ttyUSB0/tty/ttyUSB0", "188:0", "/dev/ttyUSB0", "/usr/sbin/gpsd"),
]


@pytest.mark.parametrize("listed", [True, False], ids=["listed", "walked"])
@pytest.mark.parametrize("named", [True, False], ids=["named", "unnamed"])
@pytest.mark.parametrize(("address", "below", "number", "path", "program"), NODES)
def test_an_open_node_refuses(
    host: hosttree.HostTree,
    objection: Callable,
    address: str,
    below: str,
    number: str,
    path: str,
    program: str,
    named: bool,
    listed: bool,
):
    uses.node(host, address, below, number, path if named else "")
    if listed:
        uses.list_nodes(host)
    assert objection(address) is None
    uses.process(host, 812, program, "/dev/null", path, "socket:[1]")
    who = f"process 812 ({os.path.basename(program)})"
    assert objection(address) == f"{PROGRAM}{path} is open in {who}"
    others = {GPU, NIC, TWIN, NVME, UART, RAID} - {address}
    assert [each for each in sorted(others) if objection(each)] == []


def test_of_one_name_the_node_of_another_function_is_no_use(
    host: hosttree.HostTree, objection: Callable
):
    for address, number in ((NIC, 0), (TWIN, 1)):
        below = f"infiniband_verbs/uverbs{number}"
        uses.node(host, address, below, f"231:{192 + number}", f"/dev/infiniband/uverbs{number}")
    uses.process(host, 812, OVS, "/dev/infiniband/uverbs1")
    assert objection(NIC) is None
    assert objection(TWIN)


def test_nvidias_own_node_by_its_minor(host: hosttree.HostTree, objection: Callable):
    text = "Model: \t\t NVIDIA A100\nBus Location: \t 0000:83:00.0\nDevice Minor: \t 0\n"
    host.write(f"proc/driver/nvidia/gpus/{GPU}/information", text)
    uses.process(host, 811, "/usr/bin/nvidia-smi", "/dev/nvidiactl", "/dev/nvidia1")
    assert objection(GPU) is None
    uses.process(host, 812, "/usr/bin/nvidia-persistenced", "/dev/nvidiactl", "/dev/nvidia0")
    assert objection(GPU) == f"{PROGRAM}/dev/nvidia0 is open in process 812 (nvidia-persistenced)"


def test_a_gpu_whose_driver_does_not_tell_its_node(host: hosttree.HostTree, objection: Callable):
    """Any node is its own that is no other GPU's."""
    other = "proc/driver/nvidia/gpus/0000:84:00.0/information"
    host.write(other, "Model: \t\t NVIDIA A100\nDevice Minor: \t 1\n")
    uses.process(host, 811, "/usr/bin/nvidia-smi", "/dev/nvidiactl", "/dev/nvidia1")
    assert objection(GPU) is None
    uses.process(host, 812, "/usr/bin/nvidia-persistenced", "/dev/nvidia0")
    assert objection(GPU) == f"{PROGRAM}/dev/nvidia0 is open in process 812 (nvidia-persistenced)"
    host.bind(GPU, "nouveau")
    assert objection(GPU) is None


@pytest.mark.parametrize(
    ("driver", "identity", "class_code", "place", "path"),
    [
        ("ccp", "1022:1486", 0x108000, "misc/sev", "/dev/sev"),
        ("ipmi_si", "103c:3300", 0x0C0701, "ipmi/ipmi0", "/dev/ipmi0"),
        ("amdgpu", "1002:740f", 0x038000, "", "/dev/kfd"),
    ],
)
def test_a_node_that_stands_for_all_functions_of_a_driver(
    host: hosttree.HostTree,
    objection: Callable,
    driver: str,
    identity: str,
    class_code: int,
    place: str,
    path: str,
):
    host.function("0000:84:00.0", identity, class_code, driver=driver)
    if place:
        host.write(f"sys/class/{place}/dev", "10:124\n")
    assert objection("0000:84:00.0") is None
    uses.process(host, 812, QEMU, path)
    shown = f"{path} is open in process 812 (qemu-system-x86_64)"
    assert objection("0000:84:00.0") == f"guest: is a guest's: {shown}"
    assert objection(GPU) is None


def test_the_first_watchdog_has_an_older_node(host: hosttree.HostTree, objection: Callable):
    uses.node(host, UART, "watchdog/watchdog0", "249:0", "/dev/watchdog0")
    uses.node(host, NIC, "watchdog/watchdog1", "249:1", "/dev/watchdog1")
    uses.process(host, 1, "/usr/lib/systemd/systemd", "/dev/watchdog")
    assert objection(UART) == f"{PROGRAM}/dev/watchdog is open in process 1 (systemd)"
    assert objection(NIC) is None


@pytest.mark.parametrize("listed", [True, False], ids=["listed", "walked"])
def test_the_character_device_of_a_namespace_behind_two_controllers(
    host: hosttree.HostTree, objection: Callable, listed: bool
):
    """It stands beside its disk, below no function."""
    uses.multipath_namespace(host, "nvme5n1", "259:5", {"nvme5": NVME})
    place = host.root / "sys/devices/virtual/nvme-subsystem/nvme-subsys0/ng5n1"
    place.mkdir()
    (place / "dev").write_text("240:5\n")
    (place / "uevent").write_text("DEVNAME=ng5n1\n")
    if listed:
        uses.list_nodes(host)
    uses.process(host, 812, QEMU, "/dev/ng5n1")
    shown = "/dev/ng5n1 is open in process 812 (qemu-system-x86_64)"
    assert objection(NVME) == f"guest: is a guest's: {shown}"
    assert objection(RAID) is None


def test_amds_compute_node_stands_for_its_gpus(host: hosttree.HostTree, objection: Callable):
    host.function("0000:84:00.0", "1002:740f", 0x038000, driver="amdgpu")
    host.write("sys/class/kfd/kfd/dev", "236:0\n")
    assert objection("0000:84:00.0") is None
    uses.process(host, 812, "/usr/bin/python3", "/dev/kfd")
    assert objection("0000:84:00.0") == f"{PROGRAM}/dev/kfd is open in process 812 (python3)"
    assert objection(GPU) is None


def test_switches_are_in_use_while_a_fabric_manager_has_one(
    host: hosttree.HostTree, objection: Callable
):
    """They are no host controllers, whatever their class (0680) says."""
    switches = ("0000:05:00.0", "0000:06:00.0")
    for address in switches:
        host.function(address, "10de:22a3", 0x068000, driver="nvidia-nvswitch")
        assert objection(address) is None
    uses.process(host, 812, "/usr/bin/nv-fabricmanager", "/dev/nvidia-nvswitch0")
    for address in switches:
        expected = "/dev/nvidia-nvswitch0 is open in process 812 (nv-fabricmanager)"
        assert objection(address) == f"{PROGRAM}{expected}"


@pytest.mark.parametrize(
    ("program", "more", "expected"),
    [
        ("/usr/sbin/mysqld", (), f"{PROGRAM}/dev/nvme0n1 is open in process 812 (mysqld)"),
        (QEMU, (), "guest: is a guest's: /dev/nvme0n1 is open in process 812 (qemu-system-x86_64)"),
        (
            "/opt/vmm",
            (open_files.KVM_GUEST,),
            "guest: is a guest's: /dev/nvme0n1 is open in process 812 (vmm)",
        ),
    ],
)
def test_a_raw_disk(
    host: hosttree.HostTree, objection: Callable, program: str, more: tuple, expected: str
):
    uses.disk(host, NVME, "nvme0n1", "259:0", "nvme/nvme0")
    assert objection(NVME) is None
    uses.process(host, 812, program, "/dev/nvme0n1", *more)
    assert objection(NVME) == expected


def test_a_raw_disk_behind_two_controllers(host: hosttree.HostTree, objection: Callable):
    uses.multipath_namespace(host, "nvme5n1", "259:5", {"nvme5": NVME})
    uses.process(host, 812, "/usr/bin/ceph-osd", "/dev/nvme5n1")
    assert objection(NVME) == f"{PROGRAM}/dev/nvme5n1 is open in process 812 (ceph-osd)"


def test_a_partition_of_a_raw_disk(host: hosttree.HostTree, objection: Callable):
    uses.disk(host, RAID, "sdb", "8:16", "host1/rport-1:0-0/target1:0:0/1:0:0:1")
    uses.partition(host, "sdb", "sdb1", "8:17")
    uses.process(host, 812, QEMU, "/dev/sdb1")
    assert str(objection(RAID)).startswith("guest: ")


class TestVdpa:
    @pytest.fixture(autouse=True)
    def vf(self, host: hosttree.HostTree) -> None:
        host.virtual_functions(NIC, [VF], "15b3:101e", driver="mlx5_core")
        uses.node(host, VF, "vdpa0/vhost-vdpa-0", "511:0", "/dev/vhost-vdpa-0")

    HELD = "guest: is a guest's: /dev/vhost-vdpa-0 is open in process 4711 (anything)"

    @pytest.mark.parametrize("listed", [True, False])
    def test_a_vf_that_a_process_has_through_vhost_vdpa_is_a_guests(
        self, host: hosttree.HostTree, objection: Callable, listed: bool
    ):
        if listed:
            uses.list_nodes(host)
        assert objection(VF) is None
        uses.process(host, 4711, "/bin/anything", "/dev/vhost-vdpa-0")
        assert objection(VF) == self.HELD

    def test_so_is_its_parent(self, host: hosttree.HostTree, objection: Callable):
        uses.process(host, 4711, "/bin/anything", "/dev/vhost-vdpa-0")
        assert objection(NIC) == self.HELD
        assert objection(TWIN) is None


def test_what_a_guest_has_through_a_variant_driver_is_a_guests(
    host: hosttree.HostTree, objection: Callable
):
    host.function(VF, "15b3:101e", 0x020000, driver="mlx5_vfio_pci", group=17)
    uses.process(host, 4711, "/bin/anything", "/dev/vfio/17")
    assert objection(VF) == "guest: is a guest's: /dev/vfio/17 is open in process 4711 (anything)"


class TestByNumber:
    """The number of the file behind a descriptor says what it is, where that may be asked."""

    @pytest.fixture(autouse=True)
    def verbs(self, host: hosttree.HostTree) -> None:
        uses.node(host, NIC, "infiniband_verbs/uverbs0", NULL, "/dev/infiniband/uverbs0")
        uses.mount_line(host, 25, "devtmpfs")
        uses.mount_line(host, 40, "overlay")
        uses.mount_line(host, 50, "fuse.lxcfs")
        uses.mount_line(host, 51, "nfs4")
        uses.mount_line(host, 52, "tmpfs", "rw,nosuid,nodev")

    @pytest.fixture
    def renamed(self, tmp_path: Path) -> str:
        """A node under another name, as a container may have."""
        path = tmp_path / "nodes/card"
        path.parent.mkdir()
        path.symlink_to("/dev/null")
        return os.fspath(path)

    @pytest.mark.parametrize("mount", [25, 40])
    def test_a_renamed_node_is_seen(
        self, host: hosttree.HostTree, objection: Callable, renamed: str, mount: int
    ):
        uses.process(host, 812, OVS, renamed, mount=mount)
        expected = f"{PROGRAM}/dev/infiniband/uverbs0 is open in process 812 (ovs-vswitchd-dpdk)"
        assert objection(NIC) == expected

    @pytest.mark.parametrize("mount", [25, 40])
    def test_a_regular_file_with_a_nodes_name_is_none(
        self, host: hosttree.HostTree, objection: Callable, tmp_path: Path, mount: int
    ):
        path = tmp_path / "dev/infiniband/uverbs0"
        path.parent.mkdir(parents=True)
        path.write_text("")
        uses.process(host, 812, OVS, os.fspath(path), mount=mount)
        assert objection(NIC) is None

    def test_so_is_one_with_a_vfio_groups_name(self, host: hosttree.HostTree, tmp_path: Path):
        path = tmp_path / "dev/vfio/17"
        path.parent.mkdir(parents=True)
        path.write_text("")
        uses.process(host, 812, "/bin/cat", os.fspath(path), mount=25)
        assert guests.running(procfs.Processes(host.root)) == ()

    @pytest.mark.parametrize("mount", [50, 51, 52, 99])
    def test_where_nobody_may_be_asked_nobody_is(
        self,
        host: hosttree.HostTree,
        objection: Callable,
        renamed: str,
        mount: int,
        monkeypatch: pytest.MonkeyPatch,
    ):
        """A stopped server would never answer; a path that looks like the node's has to do."""
        asked: list[str] = []
        monkeypatch.setattr(open_files, "_number_of", asked.append)
        uses.process(host, 811, "/bin/cat", renamed, "/srv/dev/other", mount=mount)
        assert objection(NIC) is None
        uses.process(host, 812, OVS, "/dev/infiniband/uverbs0 (deleted)", mount=mount)
        assert str(objection(NIC)).startswith(PROGRAM)
        assert asked == []


class TestNotKnown:
    @pytest.fixture(autouse=True)
    def verbs(self, host: hosttree.HostTree) -> None:
        uses.node(host, NIC, "infiniband_verbs/uverbs0", "231:192", "/dev/infiniband/uverbs0")
        uses.process(host, 811, "/bin/cat", "/dev/null")
        uses.process(host, 812, OVS, "/dev/null")

    @pytest.mark.parametrize("call", ["listdir", "readlink"])
    @pytest.mark.parametrize(
        ("error", "user", "seen"),
        [
            (PermissionError(13, "no"), 0, True),
            (PermissionError(1, "not permitted"), 0, True),
            (OSError(5, "I/O"), 0, True),
            (FileNotFoundError(2, "gone"), 0, False),
            (ProcessLookupError(3, "ended"), 0, False),
            # Whoever is not root only looks, and the kernel shows them their own processes alone.
            (PermissionError(13, "no"), 1000, False),
            (OSError(5, "I/O"), 1000, True),
        ],
    )
    def test_a_descriptor_that_cannot_be_read_is_not_none_and_an_ended_process_is(
        self,
        host: hosttree.HostTree,
        objection: Callable,
        monkeypatch: pytest.MonkeyPatch,
        call: str,
        error: OSError,
        user: int,
        seen: bool,
    ):
        real = getattr(os, call)

        def fail(path, *rest, **named):
            if "/proc/812/fd" in os.fspath(path):
                raise error
            return real(path, *rest, **named)

        monkeypatch.setattr(os, call, fail)
        monkeypatch.setattr(os, "geteuid", lambda: user)
        expected = "it cannot be told what process 812 (ovs-vswitchd-dpdk) has open"
        assert objection(NIC) == (f"unknown: may be in use: {expected}" if seen else None)

    def test_a_function_without_a_node_is_not_asked_for(
        self, host: hosttree.HostTree, objection: Callable, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(open_files, "look", pytest.fail)
        assert objection(GPU) is None
        host.bind(NIC, None)

    def test_one_pass_answers_for_all(
        self, host: hosttree.HostTree, monkeypatch: pytest.MonkeyPatch
    ):
        uses.node(host, TWIN, "infiniband_verbs/uverbs1", "231:193", "/dev/infiniband/uverbs1")
        passes: list[object] = []
        real = open_files.look
        monkeypatch.setattr(open_files, "look", lambda *all: passes.append(all) or real(*all))
        functions = pci.read(host.root)
        used = usage.read(host.root, functions)
        assert passes == []
        for each in functions.functions.values():
            assert guards.object_to(each, used) is None
        assert len(passes) == 1


def test_this_very_machines_nodes_are_told_by_number():
    """With a real descriptor, of a real file system, in this very process."""
    with open("/dev/null", "rb"), open(__file__, "rb"):
        opened = procfs.Processes(Path("/")).opened
    assert os.getpid() in (*opened.numbers.get("c1:3", ()), *opened.unasked.get("/dev/null", ()))
    assert __file__ not in opened.paths


# Mounts a FUSE file system whose server never answers, has it open, and looks at itself.
STOPPED_SERVER = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
place = sys.argv[1].encode()
NEWNS, PRIVATE = 0x20000, 1 << 18 | 1 << 14
def check(result):
    if result:
        sys.exit(f"{os.strerror(ctypes.get_errno())}")
check(libc.unshare(NEWNS))
check(libc.mount(None, b"/", None, ctypes.c_ulong(PRIVATE), None))
server = os.open("/dev/fuse", os.O_RDWR)
options = b"fd=%d,rootmode=40000,user_id=0,group_id=0" % server
check(libc.mount(b"stopped", place, b"fuse", ctypes.c_ulong(0), options))
os.open(place, os.O_PATH)
from passthrough.system import open_files, procfs
root = procfs.Path("/")
mounts = procfs.Processes(root).mounts
print(open_files.look(root, [os.getpid()], mounts).unasked.get(sys.argv[1]) == (os.getpid(),))
"""


def test_a_file_system_whose_server_has_stopped_is_not_asked(tmp_path: Path):
    """It would never answer, and the hook, and with it every unit of the machine, would hang."""
    if os.geteuid() or not os.path.exists("/dev/fuse"):
        missing.skip("mounting needs root and /dev/fuse")
    place = tmp_path / "dev/vfio"
    place.mkdir(parents=True)
    done = subprocess.run(
        [sys.executable, "-c", STOPPED_SERVER, os.fspath(place)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("True\n", "")
