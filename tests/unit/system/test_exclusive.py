"""Who has a block device: the kernel is asked by a child that cannot hang its caller."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import missing

from passthrough.system import exclusive

PATIENT = 10.0
_real_open = os.open


def opened(*devices: exclusive.Device, seconds: float = PATIENT) -> dict[str, int]:
    with exclusive.hold(devices, seconds) as errors:
        return dict(errors)


def children() -> list[str]:
    listed = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    return listed.split()


def descriptors() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[name] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue  # the listing's own
    return found


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[exclusive.Device]:
    """A real block device, of this machine's kernel."""
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(1 << 20)
    command = [shutil.which("losetup") or "/sbin/losetup", "--find", "--show", image]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        missing.skip("losetup is not installed")
    if done.returncode and (os.geteuid() or not os.path.exists("/dev/loop-control")):
        pytest.skip(f"loop devices need root and a kernel that has them: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    path = done.stdout.strip()
    number = os.stat(path).st_rdev
    try:
        yield exclusive.Device(path, f"{os.major(number)}:{os.minor(number)}", keep=True)
    finally:
        subprocess.run([command[0], "--detach", path], check=True)


def is_free(device: exclusive.Device) -> bool:
    try:
        os.close(os.open(device.path, os.O_RDONLY | os.O_EXCL))
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        return False
    return True


class TestARealDisk:
    def test_nobody_gets_it_while_it_is_held_and_anybody_afterwards(self, loop: exclusive.Device):
        with exclusive.hold([loop], PATIENT) as errors:
            assert errors == {}
            assert not is_free(loop)
            assert opened(loop) == {loop.path: errno.EBUSY}
        assert is_free(loop)

    def test_one_that_is_only_asked_for_is_free_at_once(self, loop: exclusive.Device):
        with exclusive.hold([loop._replace(keep=False)], PATIENT) as errors:
            assert errors == {}
            assert is_free(loop)

    def test_it_is_free_after_an_error_in_the_block(self, loop: exclusive.Device):
        with pytest.raises(RuntimeError), exclusive.hold([loop], PATIENT):
            raise RuntimeError
        assert is_free(loop)

    def test_whoever_has_it_is_seen(self, loop: exclusive.Device):
        handle = os.open(loop.path, os.O_RDONLY | os.O_EXCL)
        try:
            assert opened(loop) == {loop.path: errno.EBUSY}
        finally:
            os.close(handle)

    def test_whoever_has_it_open_without_a_claim_is_not(self, loop: exclusive.Device):
        """So the processes are asked as well."""
        with open(loop.path, "rb"):
            assert opened(loop) == {}

    def test_a_node_of_another_number_is_not_the_device(self, loop: exclusive.Device):
        wrong = loop._replace(number="259:99")
        assert opened(wrong) == {loop.path: errno.ENOTBLK}


class TestNode:
    @pytest.fixture
    def node(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> exclusive.Device:
        """A node that looks like a block device's, 8:16; nobody needs to be root for it."""
        path = os.fspath(tmp_path / "sdb")
        real = os.stat

        def stat(given, *rest, **named):
            if given == path:
                values = list(real("/dev/null"))
                values[0] = 0o060600
                return os.stat_result(values, {"st_rdev": os.makedev(8, 16)})
            return real(given, *rest, **named)

        monkeypatch.setattr(os, "stat", stat)
        return exclusive.Device(path, "8:16", keep=True)

    @pytest.mark.parametrize(
        "number", [errno.EBUSY, errno.EIO, errno.EACCES, errno.ENXIO, errno.ENOMEDIUM, errno.EROFS]
    )
    def test_every_error_is_told(
        self, node: exclusive.Device, monkeypatch: pytest.MonkeyPatch, number: int
    ):
        real = os.open

        def fail(path, flags, *rest):
            if path != node.path:
                return real(path, flags, *rest)
            # For reading alone: udev would tell of a change behind a writer.
            wrong = flags != os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC
            raise OSError(errno.EINVAL if wrong else number, "injected")

        monkeypatch.setattr(os, "open", fail)
        other = exclusive.Device("/dev/null", "1:3", keep=True)
        assert opened(node, other) == {node.path: number, "/dev/null": errno.ENOTBLK}
        assert list(exclusive._open([node, other])) == [number, errno.ENOTBLK]

    @pytest.mark.parametrize("keep", [True, False])
    def test_what_is_only_asked_for_is_closed_at_once(
        self, node: exclusive.Device, monkeypatch: pytest.MonkeyPatch, keep: bool
    ):
        self._do(monkeypatch, node, lambda: _real_open("/dev/null", os.O_RDONLY))
        before = descriptors()
        assert list(exclusive._open([node._replace(keep=keep)])) == [0]
        left = [each for each in descriptors() if each not in before]
        assert len(left) == keep
        for each in left:
            os.close(int(each))

    def test_one_that_never_answers_costs_its_time_and_no_more(
        self, node: exclusive.Device, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(exclusive, "_END", 0.05)
        self._sleep(monkeypatch, node)
        before, start = descriptors(), time.monotonic()
        assert opened(node, seconds=0.1) == {node.path: errno.ETIMEDOUT}
        assert time.monotonic() - start < 5
        assert children() == []
        assert descriptors() == before

    def test_nobody_waits_for_one_that_cannot_be_killed(
        self, node: exclusive.Device, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(exclusive, "_END", 0.05)
        self._sleep(monkeypatch, node)
        with monkeypatch.context() as patch:
            patch.setattr(os, "kill", lambda process, number: None)
            assert opened(node, seconds=0.1) == {node.path: errno.ETIMEDOUT}
        (child,) = map(int, children())
        os.kill(child, 9)
        os.waitpid(child, 0)

    def test_one_whose_child_ends_is_not_known(
        self, node: exclusive.Device, monkeypatch: pytest.MonkeyPatch
    ):
        self._do(monkeypatch, node, lambda: os._exit(0))
        assert opened(node) == {node.path: errno.EIO}

    def _sleep(self, monkeypatch: pytest.MonkeyPatch, node: exclusive.Device) -> None:
        self._do(monkeypatch, node, lambda: time.sleep(60))

    def _do(self, monkeypatch: pytest.MonkeyPatch, node: exclusive.Device, what) -> None:
        real = os.open

        def act(path, *rest):
            return what() if path == node.path else real(path, *rest)

        monkeypatch.setattr(os, "open", act)


def test_a_regular_file_is_not_the_device(tmp_path: Path):
    path = tmp_path / "sdb"
    path.touch()
    assert opened(exclusive.Device(os.fspath(path), "8:16", keep=True)) == {
        os.fspath(path): errno.ENOTBLK
    }


def test_a_device_that_has_gone_is_nobodys(tmp_path: Path):
    device = exclusive.Device(os.fspath(tmp_path / "sdb"), "8:16", keep=True)
    assert opened(device) == {}
    assert list(exclusive._open([device])) == [0]


def test_without_a_device_nobody_is_asked(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "fork", pytest.fail)
    assert opened() == {}


def test_nothing_stays_open_and_nobody_stays_behind(tmp_path: Path):
    before = descriptors()
    for _ in range(3):
        opened(exclusive.Device(os.fspath(tmp_path / "sdb"), "8:16", keep=True))
    assert descriptors() == before
    assert children() == []


def test_the_child_keeps_no_descriptor_of_its_caller(tmp_path: Path):
    """Such as the host's lock, which one that hangs would hold for ever."""
    with open(tmp_path / "lock", "w"):
        device = exclusive.Device(os.fspath(tmp_path / "sdb"), "8:16", keep=True)
        with exclusive.hold([device], PATIENT):
            (child,) = children()
            held = {os.readlink(each) for each in Path(f"/proc/{child}/fd").iterdir()}
    assert {each for each in held if not each.startswith("pipe:")} == {"/dev/null"}
