"""dpkg's locks: real processes that lock as dpkg does, the real dpkg, and a killed parent."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import missing

from passthrough.system import commands, lock, package_lock

BOTH = (package_lock.FRONTEND, package_lock.DATABASE)

# As dpkg and apt do it: a lock of the process.
LOCK = """
import fcntl, sys, time
file = open(sys.argv[1], "a")
fcntl.lockf(file, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(600)
"""
# A hook that rebuilds: what it runs says that it runs, and goes on.
HOOK = """
import sys
from pathlib import Path
from passthrough.system import commands, lock, package_lock
root = Path(sys.argv[1])
with package_lock.attempt(root) as holder:
    assert holder is None, holder
    commands.run(("/bin/sh", "-c", "echo $$ >tool; exec sleep 600"), 600, lock.descriptors())
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A host with dpkg, and what `dpkg --configure` reads."""
    folder = tmp_path / "var/lib/dpkg"
    for name in ("info", "updates", "triggers"):
        (folder / name).mkdir(parents=True)
    (folder / "status").touch()
    return tmp_path


@contextlib.contextmanager
def running(script: str, *arguments: str, cwd: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process of Python; it is killed in the end."""
    process = subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        stdout=subprocess.PIPE,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@contextlib.contextmanager
def locked(root: Path, name: str) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that has one of the locks."""
    with running(LOCK, str(root / name), cwd=root) as process:
        assert process.stdout
        assert process.stdout.readline() == b"held\n"
        yield process


def configure(root: Path) -> subprocess.CompletedProcess[str]:
    """The real dpkg, on the host's database: it takes both locks, or fails."""
    if not shutil.which("dpkg"):
        missing.skip("dpkg is not installed")
    return subprocess.run(
        [
            *("dpkg", f"--admindir={root / 'var/lib/dpkg'}", "--force-not-root"),
            *("--force-bad-path", f"--log={root / 'log'}", "--configure", "-a"),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "LC_ALL": "C"},
        check=False,
    )


def test_both_are_had_and_handed_down(root: Path):
    with package_lock.attempt(root) as holder:
        assert holder is None
        assert len(lock.descriptors()) == 2
    assert lock.descriptors() == ()


@pytest.mark.parametrize("name", BOTH)
def test_of_another_process_names_it_and_nothing_is_held(root: Path, name: str):
    with locked(root, name) as process, package_lock.attempt(root) as holder:
        assert holder == package_lock.Holder(process.pid)
        assert lock.descriptors() == ()
        other = next(each for each in BOTH if each != name)
        with locked(root, other):
            pass  # whoever comes for the other one has it
    with package_lock.attempt(root) as holder:
        assert holder is None


def test_dpkg_waits_outside_and_goes_on_behind(root: Path):
    with package_lock.attempt(root) as holder:
        assert holder is None
        refused = configure(root)
        assert refused.returncode == 2
        assert "lock was locked by another process" in refused.stderr
    assert configure(root).returncode == 0


def test_the_rebuild_of_a_killed_hook_keeps_dpkg_out_until_it_ends(root: Path):
    with running(HOOK, str(root), cwd=root) as hook:
        end = time.monotonic() + 30
        while not (root / "tool").exists() or not (root / "tool").read_text():
            assert time.monotonic() < end
            time.sleep(0.02)
        tool = int((root / "tool").read_text())
        hook.send_signal(signal.SIGKILL)
        hook.wait()
        try:
            assert configure(root).returncode == 2
            with package_lock.attempt(root) as holder:
                # The lock is no process's, so the kernel names none.
                assert holder == package_lock.Holder(None)
        finally:
            os.kill(tool, signal.SIGKILL)
        while configure(root).returncode:
            assert time.monotonic() < end
            time.sleep(0.02)
    with package_lock.attempt(root) as holder:
        assert holder is None


def test_a_daemon_that_a_rebuild_leaves_keeps_nobody_out(root: Path):
    with package_lock.attempt(root):
        script = "sleep 600 >/dev/null 2>&1 & echo $!"
        (number,) = commands.run(("/bin/sh", "-c", script), 30, lock.descriptors())
    try:
        assert os.path.exists(f"/proc/{number}")
        assert configure(root).returncode == 0
        with package_lock.attempt(root) as holder:
            assert holder is None
    finally:
        os.kill(int(number), signal.SIGKILL)


def test_an_error_in_the_block_frees_them(root: Path):
    with pytest.raises(ValueError, match="stop"), package_lock.attempt(root):
        raise ValueError("stop")
    assert configure(root).returncode == 0
    assert lock.descriptors() == ()


def test_a_host_without_dpkg_has_none(tmp_path: Path):
    with package_lock.attempt(tmp_path) as holder:
        assert holder is None
        assert lock.descriptors() == ()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", package_lock._CANNOT_LOCK)
def test_a_disk_on_which_nothing_can_be_locked_has_none(
    root: Path, monkeypatch: pytest.MonkeyPatch, number: int
):
    def refuse(*asked: object) -> object:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(package_lock.fcntl, "fcntl", refuse)
    with package_lock.attempt(root) as holder:
        assert holder is None
    monkeypatch.undo()
    monkeypatch.setattr(package_lock.os, "open", refuse)
    with package_lock.attempt(root) as holder:
        assert holder is None


def test_other_errors_are_raised(root: Path, monkeypatch: pytest.MonkeyPatch):
    (root / package_lock.FRONTEND).symlink_to("status")
    with (
        pytest.raises(OSError, match="Too many levels of symbolic links"),
        package_lock.attempt(root),
    ):
        pytest.fail("a link is no lock file")
    (root / package_lock.FRONTEND).unlink()

    def refuse(*asked: object) -> object:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(package_lock.fcntl, "fcntl", refuse)
    with pytest.raises(PermissionError), package_lock.attempt(root):
        pytest.fail("it cannot be told")
