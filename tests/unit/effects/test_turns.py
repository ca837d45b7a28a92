"""Turns with dpkg and with anybody's rebuild: waited for, for a while, and told of."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from harness.constants import GPUS
from harness.world import World

from passthrough.effects import turns
from passthrough.errors import BusyError
from passthrough.reporting import status
from passthrough.system import package_lock

# All that boots the host. The caretaker, which gives back what vanishes, is there before.
BOOT_FILES = (
    *("boot", "etc/default", "etc/initramfs-tools", "etc/modprobe.d", "etc/modules-load.d"),
    *("etc/udev",),
)
# Has dpkg's lock until it is told to go, as apt has it.
APT = """
import fcntl, sys
file = open(sys.argv[1], "a")
fcntl.lockf(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


# Ends with 7 where somebody else has the lock.
TRY = """
import fcntl, sys
try:
    fcntl.lockf(open(sys.argv[1], "a"), fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    sys.exit(7)
"""


@pytest.fixture
def world(world: World) -> World:
    """The world of a host with dpkg."""
    world.tree.package("base-files", "13ubuntu10")
    return world


@pytest.fixture
def apt(world: World, monkeypatch: pytest.MonkeyPatch):
    """A process that installs packages on the world's host; nobody waits long for it."""
    monkeypatch.setattr(turns, "WAIT", 0.3)
    path = world.root / package_lock.FRONTEND
    process = subprocess.Popen(
        [sys.executable, "-c", APT, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin
    assert process.stdout
    assert process.stdout.readline() == b"held\n"
    world.tree.write(f"proc/{process.pid}/comm", "unattended-upgr\n")
    yield process
    process.stdin.close()
    process.wait()
    process.stdout.close()


def rebuilds(world: World, number: int = 4711) -> Path:
    """Let somebody run update-grub."""
    world.tree.write(f"proc/{number}/cmdline", "/bin/sh\0/usr/sbin/update-grub\0")
    return world.root / f"proc/{number}"


class TestPackages:
    def test_nothing_is_changed_while_they_are_installed(self, world: World, apt):
        before = world.tree.snapshot(*BOOT_FILES)
        with pytest.raises(BusyError) as caught:
            world.hook(GPUS)
        assert str(caught.value) == (
            f"packages are being installed (process {apt.pid}, unattended-upgr, has dpkg's lock),"
            " for 0 s now; nothing was changed, and the next hook tries again"
        )
        assert world.said == [
            f"waiting: packages are being installed (process {apt.pid}, unattended-upgr, has"
            " dpkg's lock)"
        ]
        assert world.tools.calls == []
        assert world.tree.snapshot(*BOOT_FILES) == before

    def test_the_unit_waits_and_is_not_blocked(self, world: World, apt):
        with pytest.raises(BusyError) as caught:
            world.hook(GPUS)
        assert status.summarize_failure(caught.value).kind == "waiting"
        assert status.summarize_failure(OSError("disk")).kind == "blocked"

    def test_the_next_hook_makes_up_for_it(self, world: World, apt):
        with pytest.raises(BusyError):
            world.hook(GPUS)
        apt.stdin.close()
        apt.wait()
        world.hook()
        assert world.status.startswith("blocked: reboot required")
        assert world.tools.calls == ["rebuild initramfs", "rebuild grub"]

    def test_a_short_one_is_waited_for(self, world: World, apt, monkeypatch):
        monkeypatch.setattr(turns, "WAIT", 60.0)
        threading.Timer(0.3, apt.stdin.close).start()
        world.hook(GPUS)
        assert world.tools.calls == ["rebuild initramfs", "rebuild grub"]

    def test_keep_out_until_both_rebuilds_are_done(self, world: World):
        """The other order: dpkg comes while the hook rebuilds."""
        tried: list[str] = []

        def try_lock(what: str) -> None:
            for name in (package_lock.FRONTEND, package_lock.DATABASE):
                done = subprocess.run([sys.executable, "-c", TRY, world.root / name], check=False)
                tried.append(f"{what} {done.returncode}")

        world.tools.before_rebuild = try_lock
        world.hook(GPUS)
        assert tried == ["initramfs 7", "initramfs 7", "grub 7", "grub 7"]
        try_lock("after")
        assert tried[4:] == ["after 0", "after 0"]

    def test_a_host_that_is_as_it_should_be_waits_for_nobody(self, ready: World):
        ready.tree.package("base-files", "13ubuntu10")
        before = ready.tree.identities("var/lib")
        with open(ready.root / package_lock.FRONTEND, "a") as file:
            fcntl.lockf(file, fcntl.LOCK_EX)
            assert ready.hook().kind == "active"
        assert ready.tree.identities("var/lib") == before

    def test_a_holder_without_a_name_is_still_told_of(self, world: World):
        held = package_lock.Holder(None)
        assert turns._describe_holder(world.root, held) == (
            "another process installs packages (it has dpkg's lock)"
        )
        assert turns._describe_holder(world.root, package_lock.Holder(99)) == (
            "packages are being installed (process 99, has dpkg's lock)"
        )


class TestOthers:
    def test_a_rebuild_by_hand_is_waited_for(self, world: World, monkeypatch):
        folder = rebuilds(world)
        monkeypatch.setattr(turns, "WAIT", 60.0)
        timer = threading.Timer(0.3, shutil.rmtree, [folder])
        timer.start()
        started = time.monotonic()
        world.hook(GPUS)
        assert time.monotonic() - started > 0.25
        assert "waiting: update-grub runs (process 4711)" in world.said
        assert world.tools.calls == ["rebuild initramfs", "rebuild grub"]

    def test_but_not_for_ever(self, world: World, monkeypatch):
        folder = rebuilds(world)
        monkeypatch.setattr(turns, "WAIT", 0.3)
        before = world.tree.snapshot(*BOOT_FILES)
        with pytest.raises(BusyError) as caught:
            world.hook(GPUS)
        assert str(caught.value) == (
            "update-grub runs (process 4711), for 0 s now; nothing was changed, and the next hook"
            " tries again"
        )
        assert world.tree.snapshot(*BOOT_FILES) == before
        shutil.rmtree(folder)
        world.hook()
        assert world.tools.calls == ["rebuild initramfs", "rebuild grub"]

    def test_dpkg_is_free_while_it_is_waited_for(self, world: World, monkeypatch):
        """Whoever waits must not keep apt out for nothing."""
        rebuilds(world)
        monkeypatch.setattr(turns, "_PAUSE", 0.2)
        free: list[bool] = []

        def look() -> None:
            with open(world.root / package_lock.FRONTEND, "a") as file:
                try:
                    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    free.append(True)
                except BlockingIOError:
                    free.append(False)

        threading.Timer(0.1, look).start()
        with pytest.raises(BusyError), turns.taken(world.root, world.said.append, 0.4):
            pytest.fail("somebody rebuilds")
        assert free == [True]

    def test_a_hook_that_rebuilds_nothing_waits_for_nobody(self, ready: World, monkeypatch):
        rebuilds(ready)
        monkeypatch.setattr(turns, "WAIT", 0.0)
        assert ready.hook().kind == "active"
