"""One run at a time: kept by the kernel, gone with its holder, handed down to a rebuild."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.world import World

from passthrough.state import record
from passthrough.system import commands, lock

HOLD = """
import sys, time
from pathlib import Path
from passthrough.system import lock
with lock.hold(Path(sys.argv[1]), "a hook of other"):
    print("held", flush=True)
    time.sleep(600)
"""


@contextlib.contextmanager
def holding(root: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that has the lock; it is killed in the end."""
    path = os.pathsep.join(sys.path)
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(root)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert process.stdout
    assert process.stdout.readline() == b"held\n"
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that has the lock of the test's own directory."""
    with holding(tmp_path) as process:
        yield process


def test_is_ours_alone_and_leaves_nothing(tmp_path: Path):
    with lock.hold(tmp_path, "a hook of x"):
        path = tmp_path / lock.PATH
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert path.read_text() == f"a hook of x (process {os.getpid()})\n"
        assert len(lock.descriptors()) == 1
    assert not path.exists()
    assert lock.descriptors() == ()


def test_is_had_once_within_a_block_that_has_it(tmp_path: Path):
    with lock.hold(tmp_path, "outer"):
        with lock.hold(tmp_path, "inner", seconds=0):
            assert len(lock.descriptors()) == 1
        assert (tmp_path / lock.PATH).read_text().startswith("outer (process ")
        assert len(lock.descriptors()) == 1
    assert lock.descriptors() == ()


def test_of_another_process_ends_in_an_error_that_names_it(tmp_path: Path, holder):
    started = time.monotonic()
    with (
        pytest.raises(lock.LockError) as caught,
        lock.hold(tmp_path, "a hook of x", seconds=0.5),
    ):
        pytest.fail("both have it")
    assert time.monotonic() - started >= 0.5
    assert str(caught.value) == (
        f"a hook of other (process {holder.pid}) is at work on this host and has not ended within"
        " 0 s; nothing was changed, and the next hook tries again"
    )


def test_of_a_killed_process_is_free(tmp_path: Path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / lock.PATH).exists()
    with lock.hold(tmp_path, "a hook of x", seconds=5):
        pass
    assert not (tmp_path / lock.PATH).exists()


def test_is_waited_for(tmp_path: Path, holder):
    threading.Timer(0.5, holder.kill).start()
    with lock.hold(tmp_path, "a hook of x", seconds=30):
        assert holder.wait(10) == -signal.SIGKILL


def _add(root: Path, turns: int) -> None:
    """Read, think, write: what goes wrong where two do it at once."""
    counter = root / "counter"
    for _ in range(turns):
        with lock.hold(root, "a count"):
            number = int(counter.read_text())
            time.sleep(0.001)
            counter.write_text(str(number + 1))


def test_many_processes_take_turns_though_the_file_comes_and_goes(tmp_path: Path):
    (tmp_path / "counter").write_text("0")
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_add, args=(tmp_path, 15)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
        assert worker.exitcode == 0
    assert (tmp_path / "counter").read_text() == "60"


def test_is_kept_by_a_rebuild_that_outlives_its_run(tmp_path: Path):
    """A killed hook leaves its update-initramfs behind, and a second one must not run into it."""
    child = os.fork()
    if child == 0:
        with lock.hold(tmp_path, "a hook of x"):
            script = f"echo $PPID >{tmp_path}/begun; sleep 2"
            commands.run(("sh", "-c", script), 60, lock.descriptors())
        os._exit(0)
    while not (tmp_path / "begun").exists():
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with pytest.raises(lock.LockError), lock.hold(tmp_path, "y", seconds=0.3):
        pytest.fail("the rebuild still runs")
    with lock.hold(tmp_path, "y", seconds=60):
        pass


def test_other_commands_do_not_inherit_it(tmp_path: Path):
    with lock.hold(tmp_path, "a hook of x"):
        listed = "\n".join(commands.run(("ls", "-l", "/proc/self/fd"), 10))
    assert "/dev/null" in listed
    assert lock.PATH not in listed


def test_link_is_not_followed(tmp_path: Path):
    (tmp_path / "run").mkdir()
    (tmp_path / "elsewhere").write_text("precious")
    (tmp_path / lock.PATH).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic"), lock.hold(tmp_path, "a hook of x"):
        pytest.fail("held through a link")
    assert (tmp_path / "elsewhere").read_text() == "precious"


def test_hostile_text_in_it_is_quoted(tmp_path: Path, holder):
    (tmp_path / lock.PATH).write_text("x\x1b[2J\n" * 50)
    with pytest.raises(lock.LockError) as caught, lock.hold(tmp_path, "y", seconds=0):
        pytest.fail("both have it")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


class TestReconcile:
    def test_changes_nothing_while_another_run_is_at_work(self, world: World, monkeypatch):
        monkeypatch.setattr(lock, "WAIT", 0.0)
        before = world.tree.snapshot("etc", "var/lib")
        with holding(world.root), pytest.raises(lock.LockError):
            world.hook("10de:1bb0")
        assert world.tree.snapshot("etc", "var/lib") == before
        assert world.tools.calls == []

    def test_has_it_from_the_first_look_to_the_last_write(self, world: World, monkeypatch):
        seen: list[bool] = []
        written: list[bool] = []
        real, put = record.read, record.Ledger.put
        monkeypatch.setattr(
            record, "read", lambda *values: seen.append(bool(lock.descriptors())) or real(*values)
        )
        monkeypatch.setattr(
            record.Ledger,
            "put",
            lambda *values: written.append(bool(lock.descriptors())) or put(*values),
        )
        world.tools.before_rebuild = lambda what: seen.append(bool(lock.descriptors()))
        world.kernel.before_write = lambda name, text: seen.append(bool(lock.descriptors()))
        world.hook("10de:1bb0")
        assert seen
        assert all(seen)
        assert written
        assert all(written)

    def test_a_look_needs_none(self, world: World):
        with lock.hold(world.root, "another run"):
            found = world.decide("10de:1bb0")
        assert found.plan.changes_host
