"""Binding and giving back at run time, and what keeps a guest's device where it is."""

from __future__ import annotations

import errno
import os
import pathlib
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from harness import hosttree, uses
from harness.fakekernel import FakeKernel
from harness.hosttree import kernel as model

from passthrough import errors
from passthrough.effects import drivers
from passthrough.host import pci, vfio_users
from passthrough.state import stuck
from passthrough.state import stuck as stuck_note
from passthrough.system import procfs, timed_write

GPU, AUDIO, NIC = "0000:83:00.0", "0000:83:00.1", "0000:3b:00.0"
VF = "0000:3b:02.0"


@pytest.fixture
def host(tree: hosttree.HostTree, kernel: FakeKernel) -> hosttree.HostTree:
    """The issue's host with its IOMMU on and vfio-pci loaded."""
    tree.iommu_on()
    model.load(tree.root, ["vfio-pci"])
    return tree


def override_of(tree: hosttree.HostTree, address: str) -> str:
    return tree.read(f"sys/bus/pci/devices/{address}/driver_override").strip()


def group_node(tree: hosttree.HostTree, address: str) -> str:
    return f"/dev/vfio/{(tree.directory(address) / 'iommu_group').resolve().name}"


def open_in(tree: hosttree.HostTree, node: str) -> None:
    """Process 99 has a device node open."""
    descriptors = tree.root / "proc/99/fd"
    descriptors.mkdir(parents=True)
    (descriptors / "7").symlink_to(node)


def vdpa_of(tree: hosttree.HostTree, address: str, number: str) -> None:
    """A function has a vDPA device whose node vhost-vdpa has made, which has no class in sysfs."""
    node = uses.node(tree, address, "vdpa0/vhost-vdpa-0", number)
    uses.on_bus(tree, "vdpa", "vdpa0", node.parent)


def holders_of(root: pathlib.Path, addresses: list[str]) -> dict[str, tuple[int, ...]]:
    return vfio_users.Users(root, procfs.Processes(root)).of(addresses)


def open_files(process: int) -> set[str]:
    return {os.path.realpath(each) for each in Path(f"/proc/{process}/fd").iterdir()}


def refuse_to_open(monkeypatch: pytest.MonkeyPatch, node: Path, number: int) -> None:
    """Let opening a node fail, as the kernel does that of a group which somebody has."""
    real = os.open

    def refuse(path, *values, **named):
        if os.fspath(path) == os.fspath(node):
            raise OSError(number, os.strerror(number), path)
        return real(path, *values, **named)

    monkeypatch.setattr(os, "open", refuse)


class Native:
    """Loads native drivers, and remembers which."""

    def __init__(self, tree: hosttree.HostTree):
        self.tree = tree
        self.asked: list[str] = []

    def __call__(self, name: str) -> None:
        self.asked.append(name)
        model.load(self.tree.root, [name])


class TestBind:
    def test_moves_a_function_by_its_address_alone(self, host, kernel):
        assert drivers.bind(host.root, GPU) is True
        assert host.driver_of(GPU) == "vfio-pci"
        assert host.driver_of("0000:84:00.0") == "nouveau"
        assert not any("new_id" in each for each in kernel.writes())

    def test_of_what_is_bound_writes_the_override_alone(self, host, kernel):
        host.bind(GPU, "vfio-pci")
        kernel.forget_writes()
        assert drivers.bind(host.root, GPU) is False
        assert kernel.writes() == [f"{_device(host, GPU)}/driver_override='vfio-pci'"]

    @pytest.mark.parametrize(
        ("arrange", "problem"),
        [
            (lambda kernel: kernel.fail_probe(GPU, "vfio-pci"), "vfio-pci did not take it"),
            (lambda kernel: kernel.refuse("driver/unbind"), "driver/unbind: Device or resource"),
            (lambda kernel: kernel.refuse("drivers_probe", errno.EIO), "drivers_probe: Input/out"),
        ],
        ids=["probe-fails", "unbind-refused", "probe-refused"],
    )
    def test_that_fails_puts_the_function_back_and_says_why(self, host, kernel, arrange, problem):
        arrange(kernel)
        with pytest.raises(errors.BindError, match=problem) as caught:
            drivers.bind(host.root, GPU)
        assert caught.value.address == GPU
        kernel.relent()
        kernel.fail_probe(GPU)
        if host.driver_of(GPU) is None:
            model.probe(host.root, GPU)
        assert (host.driver_of(GPU), override_of(host, GPU)) == ("nouveau", "(null)")


class TestRelease:
    def test_gives_a_function_back(self, host):
        drivers.bind(host.root, GPU)
        native = Native(host)
        assert drivers.release(host.root, GPU, native) is True
        assert (host.driver_of(GPU), override_of(host, GPU)) == ("nouveau", "(null)")
        assert native.asked == []

    def test_loads_a_driver_that_is_not_there(self, host):
        drivers.bind(host.root, GPU)
        model.remove_driver(host.root, "nouveau")
        native = Native(host)
        drivers.release(host.root, GPU, native, "nouveau")
        assert host.driver_of(GPU) == "nouveau"
        assert native.asked == [host.read(f"sys/bus/pci/devices/{GPU}/modalias").strip()]

    def test_loads_by_name_what_our_blacklist_still_keeps_off(self, host):
        drivers.bind(host.root, GPU)
        model.remove_driver(host.root, "nouveau")
        host.set_command_line("modprobe.blacklist=nouveau")
        native = Native(host)
        drivers.release(host.root, GPU, native, "nouveau")
        assert host.driver_of(GPU) == "nouveau"
        assert native.asked[1:] == ["nouveau"]

    @pytest.mark.parametrize("names", [("qat_c62x",), ("qat_c62x", "uio_qat")], ids=["one", "two"])
    def test_loads_by_its_modules_name_a_driver_of_another_name(self, host, names):
        """Only where the kernel names that module alone."""
        card = "0000:b1:00.0"
        host.function(card, "8086:37c8", 0x0B4000, driver="c6xx")
        host.module("qat_c62x", "c6xx")
        host.iommu_on()
        drivers.bind(host.root, card)
        model.remove_driver(host.root, "c6xx")
        host.set_command_line("modprobe.blacklist=qat_c62x")
        host.aliases(*(f"pci:v00008086d000037C8sv*sd*bc*sc*i* {name}" for name in names))
        native = Native(host)
        drivers.release(host.root, card, native, "c6xx")
        assert native.asked[1:] == ["c6xx", *(names if len(names) == 1 else ())]
        assert host.driver_of(card) == ("c6xx" if len(names) == 1 else None)

    def test_without_a_native_driver_leaves_it_without_one(self, host):
        host.function("0000:05:00.0", "1234:11e8", 0x00FF00)
        host.iommu_on()
        drivers.bind(host.root, "0000:05:00.0")
        assert drivers.release(host.root, "0000:05:00.0", Native(host)) is True
        assert host.driver_of("0000:05:00.0") is None

    def test_of_what_was_never_bound_changes_nothing(self, host, kernel):
        assert drivers.release(host.root, GPU, Native(host)) is False
        assert kernel.writes() == []


OPERATIONS = {
    "rebind": lambda host, address: drivers.rebind(host.root, address),
    "release": lambda host, address: drivers.release(host.root, address, lambda name: None),
}


class TestMove:
    def test_to_a_driver_of_the_hosts_by_its_name(self, host, kernel):
        drivers.bind(host.root, GPU)
        drivers.move(host.root, GPU, "nouveau")
        assert host.driver_of(GPU) == override_of(host, GPU) == "nouveau"
        kernel.forget_writes()
        drivers.move(host.root, GPU, "nouveau")
        assert not [each for each in kernel.writes() if "unbind" in each]

    def test_of_what_a_process_has_touches_nothing(self, host, kernel):
        drivers.bind(host.root, GPU)
        kernel.hold(GPU)
        kernel.forget_writes()
        with pytest.raises(errors.InUseError):
            drivers.move(host.root, GPU, "nouveau")
        assert kernel.writes() == []

    def test_to_one_that_does_not_take_it_is_an_error(self, host, kernel):
        drivers.bind(host.root, GPU)
        kernel.fail_probe(GPU, "nouveau")
        with pytest.raises(errors.BindError) as caught:
            drivers.move(host.root, GPU, "nouveau")
        assert str(caught.value) == f"{GPU}: nouveau did not take it; it is on no driver"

    def test_that_the_kernel_refuses_is_an_error(self, host, kernel):
        kernel.refuse("driver_override", errno.ENODEV)
        with pytest.raises(errors.BindError, match="driver_override: No such device"):
            drivers.move(host.root, GPU, "nouveau")


class TestHeld:
    """Whatever is asked: a function that a guest has keeps its driver and its override."""

    @pytest.fixture(params=OPERATIONS.values(), ids=list(OPERATIONS))
    def operation(self, request):
        return request.param

    @pytest.fixture(autouse=True)
    def bound(self, host):
        for address in (GPU, AUDIO):
            host.bind(address, "vfio-pci")

    def assert_untouched(self, host, kernel, address: str = GPU):
        assert kernel.writes() == []
        assert (host.driver_of(address), override_of(host, address)) == ("vfio-pci", "vfio-pci")

    def test_by_its_group(self, host, kernel, operation):
        kernel.hold(GPU, process=4711)
        with pytest.raises(errors.InUseError) as caught:
            operation(host, GPU)
        assert str(caught.value) == (
            f"{GPU}: a guest holds it ({group_node(host, GPU)} is open in process 4711); stop or"
            " migrate the guest first"
        )
        self.assert_untouched(host, kernel)

    def test_as_the_companion_of_what_is_held(self, host, kernel, operation):
        kernel.hold(GPU)
        with pytest.raises(errors.InUseError):
            operation(host, AUDIO)
        self.assert_untouched(host, kernel, AUDIO)

    def test_through_iommufd(self, host, kernel, operation):
        self.offer_iommufd(host)
        open_in(host, "/dev/vfio/devices/vfio3")
        with pytest.raises(errors.InUseError, match="vfio3 is open in process 99"):
            operation(host, GPU)
        self.assert_untouched(host, kernel)

    def test_not_through_iommufd_where_the_kernel_lacks_that(self, host, operation):
        """Kernels from 6.1 on have the directory, with a number only where there is a node."""
        self.offer_iommufd(host)
        assert "/dev/vfio/devices/vfio3" in vfio_users.nodes_of(host.root, GPU)
        (host.directory(GPU) / "vfio-dev/vfio3/dev").unlink()
        assert vfio_users.nodes_of(host.root, GPU) == {group_node(host, GPU)}

    @staticmethod
    def offer_iommufd(host):
        node = host.directory(GPU) / "vfio-dev/vfio3"
        node.mkdir(parents=True)
        (node / "dev").write_text("511:3\n")

    def test_in_the_kernels_unsafe_mode(self, host, kernel, operation):
        node = group_node(host, GPU).replace("/vfio/", "/vfio/noiommu-")
        host.write(node[1:], "")
        open_in(host, node)
        with pytest.raises(errors.InUseError, match=r"/dev/vfio/noiommu-\d+ is open in process 99"):
            operation(host, GPU)
        self.assert_untouched(host, kernel)

    def test_by_somebody_whom_proc_does_not_show(self, host, kernel, operation, monkeypatch):
        """The kernel refuses a second open of a group; that counts, whoever has the first."""
        refuse_to_open(monkeypatch, host.root / group_node(host, GPU)[1:], errno.EBUSY)
        with pytest.raises(errors.InUseError, match=r"/dev/vfio/\d+ is busy"):
            operation(host, GPU)
        self.assert_untouched(host, kernel)

    @pytest.fixture
    def device(self, host) -> Path:
        """A device node where the group's is: here that is what any process can open."""
        node = host.root / group_node(host, GPU)[1:]
        node.unlink()
        node.symlink_to("/dev/null")
        return node

    def test_is_told_by_the_kernel_and_named_from_proc(
        self, host, kernel, operation, monkeypatch, device
    ):
        kernel.hold(GPU, process=4711)
        refuse_to_open(monkeypatch, device, errno.EBUSY)
        with pytest.raises(errors.InUseError, match=r"/dev/vfio/\d+ is open in process 4711"):
            operation(host, GPU)
        self.assert_untouched(host, kernel)

    def test_by_nobody_is_told_without_a_look_at_all_processes(
        self, host, operation, monkeypatch, device
    ):
        monkeypatch.setattr(
            procfs.Processes, "devices", property(lambda own: pytest.fail("looked"))
        )
        operation(host, GPU)

    def test_through_an_iommufd_that_does_not_have_it_yet(self, host, kernel, operation, device):
        """The group opens as long as the process has not bound its node of the function."""
        self.test_through_iommufd(host, kernel, operation)

    def test_where_nobody_can_tell_is_an_error_and_not_a_no(
        self, host, kernel, operation, monkeypatch
    ):
        refuse_to_open(monkeypatch, host.root / group_node(host, GPU)[1:], errno.EPERM)
        with pytest.raises(errors.BindError, match=r"/dev/vfio/\d+: Operation not permitted"):
            operation(host, GPU)
        self.assert_untouched(host, kernel)

    def test_group_is_ours_while_the_driver_changes(self, host, kernel, operation):
        node = os.fspath(host.root / group_node(host, GPU)[1:])
        answer = host.root / ".made/answer"

        def look(name: str, text: str) -> None:
            if name.endswith("/unbind"):  # a child writes this one, and the parent has the group
                answer.write_text(str(node in open_files(os.getppid())))

        kernel.before_write = look
        operation(host, GPU)
        assert answer.read_text() == "True"
        assert node not in open_files(os.getpid())

    def test_does_not_hinder_what_nobody_holds(self, host, kernel, operation):
        kernel.hold("0000:84:00.0")
        operation(host, GPU)


class TestLent:
    """Guests may have a function that is not on vfio-pci: through a driver like it, or in parts."""

    @pytest.fixture(params=[drivers.bind, drivers.rebind])
    def operation(self, host, request):
        return lambda: request.param(host.root, GPU)

    @pytest.mark.parametrize("driver", ["nvgrace_gpu_vfio_pci", "nvidia"])
    def test_through_another_driver_of_vfios(self, host, kernel, operation, driver):
        host.bind(GPU, driver)
        if driver == "nvidia":
            (host.directory(GPU) / "vfio-dev/vfio3").mkdir(parents=True)
        open_in(host, group_node(host, GPU))
        with pytest.raises(errors.InUseError, match="is open in process 99"):
            operation()
        assert kernel.writes() == []
        assert host.driver_of(GPU) == driver

    def test_in_parts(self, host, kernel, operation):
        self.cut_up(host, "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001", group=90)
        open_in(host, "/dev/vfio/90")
        with pytest.raises(errors.InUseError, match="/dev/vfio/90 is open in process 99"):
            operation()
        assert kernel.writes() == []
        assert host.driver_of(GPU) == "nouveau"

    def test_in_parts_that_nobody_has(self, host, operation):
        self.cut_up(host, "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001", group=90)
        operation()
        assert host.driver_of(GPU) == "vfio-pci"

    @staticmethod
    def cut_up(host, name: str, group: int):
        part = host.directory(GPU) / name
        (host.directory(GPU) / "mdev_supported_types/nvidia-35").mkdir(parents=True)
        part.mkdir()
        (part / "mdev_type").symlink_to("../mdev_supported_types/nvidia-35")
        model.link(part / "iommu_group", host.root / f"sys/kernel/iommu_groups/{group}")


class TestVfs:
    """A parent that loses its driver loses its VFs, and a guest may have one of those."""

    @pytest.fixture(autouse=True)
    def vf(self, host):
        host.virtual_functions(NIC, [VF], "8086:154c", driver="iavf")
        host.iommu_on()
        host.bind(VF, "vfio-pci")

    @pytest.mark.parametrize("address", [VF, NIC])
    @pytest.mark.parametrize("holder", [True, False])
    def test_that_a_guest_has_through_vdpa_stay_and_so_does_their_parent(
        self, host, kernel, address, holder
    ):
        host.bind(VF, "iavf")
        vdpa_of(host, VF, "511:0")
        before = host.driver_of(address)
        open_in(host, "/dev/vhost-vdpa-0" if holder else "/dev/vhost-vdpa-1")
        if not holder:
            assert drivers.bind(host.root, address)
            return
        with pytest.raises(errors.InUseError, match="/dev/vhost-vdpa-0 is open in process 99"):
            drivers.bind(host.root, address)
        assert host.driver_of(address) == before
        assert kernel.writes() == []

    @pytest.mark.parametrize("address", [VF, NIC])
    def test_also_by_a_node_of_another_name_in_another_mount_namespace(
        self, host, kernel, address, tmp_path
    ):
        host.bind(VF, "iavf")
        vdpa_of(host, VF, "1:3")  # this machine's own /dev/null
        renamed = tmp_path / "card"
        renamed.symlink_to("/dev/null")
        uses.mount_line(host, 25, "devtmpfs")
        uses.process(host, 99, "/bin/anything", os.fspath(renamed), mount=25)
        with pytest.raises(errors.InUseError, match="/dev/vhost-vdpa-0 is open in process 99"):
            drivers.bind(host.root, address)
        assert kernel.writes() == []

    def test_that_a_guest_has_keep_their_parent_on_its_native_driver(self, host, kernel):
        kernel.hold(VF)
        with pytest.raises(errors.InUseError):
            drivers.bind(host.root, NIC)
        assert kernel.writes() == []
        assert host.driver_of(NIC) == "i40e"

    @pytest.mark.parametrize("operation", OPERATIONS.values(), ids=list(OPERATIONS))
    def test_that_a_guest_has_keep_their_parent_on_vfio_pci(self, host, kernel, operation):
        host.bind(NIC, "vfio-pci")
        kernel.hold(VF)
        with pytest.raises(errors.InUseError):
            operation(host, NIC)
        assert host.driver_of(NIC) == "vfio-pci"

    def test_count_as_a_hold_of_their_parent(self, host, kernel):
        host.bind(NIC, "vfio-pci")
        kernel.hold(VF, process=77)
        assert holders_of(host.root, [NIC, GPU]) == {NIC: (77,)}


def test_holders_are_found_by_node_and_by_function(host, kernel):
    for address in (GPU, AUDIO, "0000:84:00.0"):
        host.bind(address, "vfio-pci")
    kernel.hold(GPU, process=12)
    kernel.hold(GPU, process=3)
    node = group_node(host, GPU)
    assert vfio_users.of_nodes(procfs.Processes(host.root), frozenset({node, "/dev/vfio/99"})) == {
        node: (3, 12)
    }
    assert vfio_users.of_nodes(procfs.Processes(host.root), frozenset()) == {}
    assert holders_of(host.root, [GPU, AUDIO, "0000:84:00.0"]) == {
        GPU: (3, 12),
        AUDIO: (3, 12),
    }


def test_only_a_groups_device_tells_by_opening_who_has_it(tmp_path):
    nodes, shown = tmp_path / "dev/vfio", tmp_path / "sys/class/vfio"
    (nodes / "devices").mkdir(parents=True)
    for name, number in {"1": "1:3", "2": "1:3", "4": "238:0"}.items():
        (shown / name).mkdir(parents=True)
        (shown / name / "dev").write_text(f"{number}\n")
    (nodes / "1").symlink_to("/dev/null")
    (nodes / "2").touch()
    (nodes / "4").symlink_to("/dev/null")
    (nodes / "5").symlink_to("/dev/null")
    (nodes / "devices/vfio0").symlink_to("/dev/null")
    told = {
        name: vfio_users.opens_once(tmp_path, f"/dev/vfio/{name}")
        for name in ("1", "2", "3", "4", "5", "devices/vfio0")
    }
    assert told == {
        "1": True,
        "2": False,
        "3": False,
        "4": False,
        "5": False,
        "devices/vfio0": False,
    }


class TestStuck:
    """A driver that does not let go: the hook goes on, and nobody waits for it again."""

    @pytest.fixture
    def stuck(self, host, monkeypatch) -> hosttree.HostTree:
        unbind = host.directory(GPU) / "driver/unbind"
        unbind.unlink()
        os.mkfifo(unbind)  # a writer waits until somebody reads
        monkeypatch.setattr(drivers, "UNBIND_DEADLINE", 0.3)
        return host

    def test_ends_the_wait_and_puts_the_function_back(self, stuck, monkeypatch):
        """A writer that can be killed is, and the function stays where it was."""
        monkeypatch.setattr(
            drivers, "write", lambda path, text: path.open("w").write(text) and None
        )
        started = time.monotonic()
        with pytest.raises(errors.BindError, match="driver/unbind: not done after 0 s"):
            drivers.bind(stuck.root, GPU)
        assert time.monotonic() - started < 20
        assert stuck.driver_of(GPU) == "nouveau"
        assert not (stuck.root / stuck_note.PATH).exists()

    def test_that_no_signal_wakes_is_said_and_remembered(self, stuck, monkeypatch):
        sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        try:
            self.pretend_stuck(stuck, sleeper.pid, monkeypatch)
            with pytest.raises(
                errors.StuckError, match="was told to let go and sleeps in the kern"
            ):
                drivers.bind(stuck.root, GPU)
            # Nothing more was asked of the function: reading its override would sleep too.
            assert override_of(stuck, GPU) == "vfio-pci"
            with pytest.raises(errors.StuckError, match=GPU):
                stuck_note.check_responsive(stuck.root)
        finally:
            sleeper.kill()
            sleeper.wait()
        (stuck.root / f"proc/{sleeper.pid}/stat").unlink()
        stuck_note.check_responsive(stuck.root)

    @staticmethod
    def pretend_stuck(tree: hosttree.HostTree, process: int, monkeypatch) -> None:
        stat = Path(f"/proc/{process}/stat").read_text()
        tree.write(f"proc/{process}/stat", stat)
        monkeypatch.setattr(timed_write, "write", lambda path, text, seconds, do: process)

    def test_is_over_when_the_process_is_another_one(self, host):
        host.write(stuck.PATH, f"{GPU} 4711 100\n")
        fields = " ".join(["S", *map(str, range(4, 22)), "101", *map(str, range(23, 53))])
        host.write("proc/4711/stat", f"4711 (a ) b) {fields}\n")
        assert procfs.started_if_there(host.root, 4711) == "101"
        stuck.check_responsive(host.root)


class TestBoundedWrite:
    def test_writes_in_a_child_and_waits_for_it(self, tmp_path):
        path = tmp_path / "file"
        assert (
            timed_write.write(path, "text", 10, lambda where, what: where.write_text(what)) is None
        )
        assert path.read_text() == "text"

    def test_gives_back_what_the_write_failed_with(self, tmp_path):
        with pytest.raises(FileNotFoundError) as caught:
            timed_write.write(
                tmp_path / "no/file", "x", 10, lambda where, what: where.write_text(what)
            )
        assert caught.value.filename == str(tmp_path / "no/file")

    def test_that_fails_otherwise_is_an_error_too(self, tmp_path):
        with pytest.raises(OSError, match="ended with code 255"):
            timed_write.write(tmp_path, "x", 10, lambda where, what: [][0])

    def test_child_holds_none_of_our_files(self, tmp_path):
        """A child that hangs must not keep Juju's pipes open, nor the lock."""
        with open(tmp_path / "ours", "w") as ours:
            listing = tmp_path / "listing"

            def look(where: Path, what: str) -> None:
                where.write_text("\n".join(map(os.path.realpath, Path("/proc/self/fd").iterdir())))

            timed_write.write(listing, "", 10, look)
            assert ours.name not in listing.read_text()

    def test_leaves_no_process_behind(self, tmp_path):
        with pytest.raises(TimeoutError):
            timed_write.write(tmp_path, "", 0.1, lambda where, what: time.sleep(600))
        with pytest.raises(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)

    def test_child_that_is_killed_is_an_error(self, tmp_path):
        with pytest.raises(OSError, match="ended with code -9"):
            timed_write.write(
                tmp_path, "", 10, lambda where, what: os.kill(os.getpid(), signal.SIGKILL)
            )


def _device(tree: hosttree.HostTree, address: str) -> str:
    return os.fspath(tree.directory(address).relative_to(tree.root.resolve()))


def test_driver_override_is_what_pci_reads(host):
    drivers.bind(host.root, GPU)
    assert pci.read(host.root).functions[GPU].override == "vfio-pci"
