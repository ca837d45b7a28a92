"""A machine that stands still is given up, and one that only waits is not."""

import io
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from lab import accelerator, emulator, errors, guest, machine, progress, pulse, qemu, ssh

BUSY = "while True: pass"


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


class Machine:
    """A folder as /proc has it for QEMU: its own loop, and two processors."""

    THREADS = ("qemu-system-x86", "CPU 0/TCG", "CPU 1/TCG")

    def __init__(self, folder: pathlib.Path, threads: tuple[str, ...] = THREADS) -> None:
        self.folder, self.clock = folder, Clock()
        self._threads, self._ticks = threads, dict.fromkeys(threads, 7)
        self.use()
        self.pulse = pulse.Pulse(folder, clock=self.clock)

    def use(self, **ticks: int) -> None:
        """Let threads use clock ticks, each named by how its name begins."""
        for number, name in enumerate(self._threads, start=50):
            self._ticks[name] += sum(ticks[key] for key in ticks if name.startswith(key))
            times = f"{self._ticks[name] - 2} 2"  # in user and in kernel mode
            stat = self.folder / "task" / str(number) / "stat"
            stat.parent.mkdir(parents=True, exist_ok=True)
            stat.write_text(f"{number} ({name}) S 1 50 50 0 -1 4 9 0 0 0 {times} 0 0 20 0 4 0 88\n")

    def look(self, seconds: float, every: float = 1.0) -> None:
        """Look again and again for some seconds."""
        for _ in range(int(seconds / every)):
            self.clock.seconds += every
            self.pulse.check()


@pytest.fixture
def made_up(tmp_path: pathlib.Path) -> Machine:
    return Machine(tmp_path)


def test_a_machine_whose_processors_use_no_time_is_given_up_after_30_s(made_up: Machine) -> None:
    made_up.look(29)
    with pytest.raises(errors.StillError, match="used no time for 30 s"):
        made_up.look(1)


def test_what_qemus_own_loop_uses_does_not_count(made_up: Machine) -> None:
    made_up.look(20)
    made_up.use(qemu=100)
    with pytest.raises(errors.StillError):
        made_up.look(10)


@pytest.mark.parametrize("name", Machine.THREADS[1:])
def test_one_tick_of_one_processor_is_a_sign_of_life(made_up: Machine, name: str) -> None:
    for _ in range(10):
        made_up.look(29)
        made_up.use(**{name: 1})
        made_up.look(1)


def test_before_the_processors_have_names_every_thread_counts(tmp_path: pathlib.Path) -> None:
    starting = Machine(tmp_path, ("qemu-system-x86", "qemu-system-x86 "))
    starting.look(20)
    starting.use(qemu=1)
    starting.look(30)
    with pytest.raises(errors.StillError):
        starting.look(1)


def test_an_hour_in_which_nobody_looked_is_not_held_against_the_machine(made_up: Machine) -> None:
    made_up.look(3600, every=3600)
    made_up.look(20)
    with pytest.raises(errors.StillError):
        made_up.look(10)


def boot(made_up: Machine, seconds: int, ticks: int = 0, every: int = 5, says: int = 0) -> None:
    """Let it boot for some seconds, using ticks and saying so much every few of them."""
    watched, said = pulse.BootPulse(made_up.folder, clock=made_up.clock), 40
    for _ in range(seconds // every):
        made_up.clock.seconds += every
        made_up.use(**{"CPU 0": ticks})
        said += says
        watched.check(said)


@pytest.mark.parametrize("ticks", [0, 5], ids=["none", "1 %"])
def test_a_boot_that_neither_works_nor_says_anything_is_given_up(
    made_up: Machine, ticks: int
) -> None:
    boot(made_up, 90, ticks)
    with pytest.raises(errors.StillError, match="does not get on: for 90 s"):
        boot(made_up, 95, ticks)


def test_a_boot_that_works_or_says_something_is_waited_for(made_up: Machine) -> None:
    boot(made_up, 600, ticks=15)
    boot(made_up, 600, says=1)


def test_a_name_with_parentheses_and_blanks_does_not_move_the_fields(
    tmp_path: pathlib.Path,
) -> None:
    odd = Machine(tmp_path, ("CPU 0) R (CPU 1/TCG",))
    assert pulse.read_ticks(odd.folder) == 7


@pytest.fixture
def child() -> Iterator[subprocess.Popen]:
    """A process of this host that never stops by itself."""
    with subprocess.Popen([sys.executable, "-c", BUSY]) as process:
        yield process
        process.kill()


def test_a_process_that_was_stopped_is_given_up_and_goes_on_when_it_goes_on(
    child: subprocess.Popen,
) -> None:
    clock, folder = Clock(), pathlib.Path(f"/proc/{child.pid}")
    watched = pulse.Pulse(folder, clock=clock)

    def look(times: int) -> None:
        for _ in range(times):
            clock.seconds += pulse.LOOK_SECONDS
            watched.check()

    def wait_until(wanted: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not wanted():
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def uses_time() -> bool:
        before = pulse.read_ticks(folder)
        time.sleep(0.2)
        return pulse.read_ticks(folder) > before

    wait_until(uses_time)
    look(1)
    child.send_signal(signal.SIGSTOP)
    wait_until(lambda: not uses_time())
    look(1)
    with pytest.raises(errors.StillError):
        look(10)
    child.send_signal(signal.SIGCONT)
    wait_until(uses_time)
    look(1)


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """One second without processor time is enough, so that nobody waits for 30."""
    monkeypatch.setattr(pulse, "STILL_SECONDS", 1.0)


SLEEPER = emulator.Emulator("/bin/sh", "0.0", ("-c", "echo asleep; exec sleep 600"))


@pytest.mark.usefixtures("soon")
def test_a_boot_that_stands_still_ends_with_what_the_console_said(tmp_path: pathlib.Path) -> None:
    (tmp_path / "console.log").write_text("Loading initial ramdisk ...\n")
    told = io.StringIO()
    stuck = guest.Guest(
        machine.BARE,
        tmp_path / "disk",
        tmp_path / "key",
        tmp_path,
        progress.Progress(told),
        emulator=SLEEPER,
        accelerator=accelerator.TCG,
    )
    begin = time.monotonic()
    try:
        with pytest.raises(errors.StillError, match=r"(?s)stands still.*Loading initial ramdisk"):
            stuck.power_on()
    finally:
        stuck.close()
    assert time.monotonic() - begin < guest.BOOT_SECONDS / 10
    assert told.getvalue().count("It is switched off and on again.") == guest.ABORTS


@pytest.mark.usefixtures("soon")
def test_a_machine_that_stands_still_is_not_waited_for_to_go_off(tmp_path: pathlib.Path) -> None:
    stuck = qemu.Process(SLEEPER, [], tmp_path / "console.log")
    try:
        with pytest.raises(errors.StillError):
            stuck.wait_off(600)
    finally:
        stuck.cut_power()


def test_a_machine_that_went_off_does_not_stand_still(tmp_path: pathlib.Path) -> None:
    ended = qemu.Process(emulator.Emulator("/bin/true", "0.0"), [], tmp_path / "console.log")
    ended.wait_off(60)
    ended.check_alive()


SSH = """\
#!/bin/sh
cd "$(dirname "$0")"
case " $* " in
*" -O exit "*) kill "$(cat master)"; exit ;;
esac
sleep 600 &
echo $! >master
echo so far
exec sleep 600
"""


class TestCommands:
    """A command over ssh whose guest stands still; `ssh` is a program of the test's own.

    As with the real one, the master has the command's pipes, and keeps them open until it is told
    to exit.
    """

    @pytest.fixture
    def connection(self, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> ssh.Connection:
        program = tmp_path / "bin" / "ssh"
        program.parent.mkdir()
        program.write_text(SSH)
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")

        def give_up() -> None:
            raise errors.StillError("the machine stands still")

        return ssh.Connection(1, tmp_path / "key", tmp_path, give_up)

    def test_is_given_up_with_its_name_and_what_it_printed(
        self, connection: ssh.Connection
    ) -> None:
        with pytest.raises(errors.StillError, match=r"(?s)`uname` in the guest: .*still\n +so far"):
            connection.run("uname")

    def test_ends_at_its_deadline_although_the_master_lives(
        self, connection: ssh.Connection
    ) -> None:
        with pytest.raises(errors.LabError, match=r"(?s)`uname`.* not done after 0 s:\n +so far"):
            connection.run("uname", timeout=0.3)

    def test_is_given_up_while_a_file_is_fetched(
        self, connection: ssh.Connection, tmp_path: pathlib.Path
    ) -> None:
        with pytest.raises(errors.StillError):
            connection.fetch("/etc/hosts", tmp_path / "hosts")
        assert (tmp_path / "hosts").read_text() == "so far\n"
