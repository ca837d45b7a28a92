"""Boot a machine of the lab on a throw-away copy of its disk, and drive it.

Nothing here sleeps for a fixed time: it polls for what it waits for, gives a slow and busy host
generous time, and ends early when QEMU has died or the machine stands still. Every error carries
the console's last lines.
"""

import contextlib
import pathlib
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence

from lab import accelerator as accelerators
from lab import cache, errors, monitor, progress, qemu, ssh
from lab import emulator as emulators
from lab import machine as machines

# QEMU 10.0 can trip over its own assertion (iotlb_to_section in system/physmem.c) while a kernel
# lays out the BARs and the processors are busy elsewhere, and its guest can lose an interrupt that
# it then waits for: nothing is said of the charm by that. A charm that stops a boot stops each.
ABORTS = 2
# A kernel that has lost a processor says so every 21 s, and does not come up.
STALL = "rcu_preempt detected stalls"
STALLS = 3
BOOT_SECONDS = 600.0
POWER_OFF_SECONDS = 300.0
SETTLE_SECONDS = 300
POLL_SECONDS = 0.5
# QEMU's fastest cache mode: the guest's flushes are ignored, so only an orderly end is safe.
FORGETFUL = "unsafe"
BOOT_ID = "/proc/sys/kernel/random/boot_id"
NEEDED_BYTES = 2 << 30
# What a boot says that will never come to its end.
DEAD_ENDS = (
    "Kernel panic - not syncing",
    "ALERT!  ",
    "grub rescue>",
    "You are in emergency mode",
    "Entering emergency mode.",  # dracut's
)


class Guest:
    """A machine that runs, or ran: `start` (or `boot`) makes one."""

    def __init__(
        self,
        machine: machines.Machine,
        disk: pathlib.Path,
        key: pathlib.Path,
        folder: pathlib.Path,
        steps: progress.Progress,
        *,
        emulator: emulators.Emulator,
        accelerator: accelerators.Accelerator,
        disk_format: str = "qcow2",
        disk_cache: str = FORGETFUL,
        arguments: Sequence[str] = (),
    ) -> None:
        self.machine = machine
        self.progress = steps
        self.boot_id = ""
        self._boots = False
        self._console_read = 0
        self._disk_cache = disk_cache
        self._folder = folder
        self._emulator = emulator
        self._sockets = tempfile.TemporaryDirectory(prefix="lab-")
        self._ssh = ssh.Connection(
            ssh.pick_port(), key, pathlib.Path(self._sockets.name), self._check_alive
        )
        self._monitor = pathlib.Path(self._sockets.name) / "monitor"
        root = str(disk).replace(",", ",,")
        self._processor = (*accelerator.arguments, "-cpu", accelerator.cpu or machine.cpu)
        self._links = (
            *("-drive", f"file={root},if=none,id=root,format={disk_format},cache={disk_cache}"),
            *("-netdev", f"user,id=management,hostfwd=tcp:127.0.0.1:{self._ssh.port}-:22"),
            *monitor.arguments(self._monitor),
            *arguments,
        )
        self._command: list[str] = []
        self._qemu: qemu.Process | None = None

    def power_on(self, title: str = "boot", arguments: Sequence[str] = ()) -> None:
        """Start QEMU and wait until the guest is ready: logged in, its services and devices up.

        `arguments` are QEMU's for this time alone.
        """
        with self.progress.step(title):
            hardware = machines.qemu_arguments(self.machine, self._folder)
            self._command = [*self._processor, *hardware, *self._links, *arguments]
            self._start()
            self._wait_ready()

    def rebuild(self, machine: machines.Machine, title: str) -> None:
        """Shut down, and switch the same disk on in a machine whose devices stand elsewhere."""
        self.power_off()
        self.machine = machine
        self.power_on(title)

    def reboot(self, title: str = "reboot") -> None:
        """Reboot in an orderly way and wait until the next boot is ready."""
        with self.progress.step(title):
            self._console_read = len(self._running().read_console())
            result = self._ssh.run("systemctl reboot", check=False)
            if result.status not in (0, ssh.CONNECTION_LOST):
                raise ssh.CommandError(result)
            self._ssh.close()
            self._wait_ready()

    def _start(self) -> None:
        console = self._folder / "console.log"
        self._console_read = len(console.read_text(errors="replace")) if console.exists() else 0
        self._qemu = qemu.Process(self._emulator, self._command, console)

    def power_off(self) -> None:
        """Shut down in an orderly way and wait until the machine is off."""
        self._ssh.run("systemctl poweroff", check=False)  # the connection may end before the answer
        self._ssh.close()
        self._running().wait_off(POWER_OFF_SECONDS)

    def cut_power(self) -> None:
        """Take the power away at once; `power_on` starts the machine again on the same disk.

        Raises:
            LabError: the disk's cache loses what the guest has flushed, as no real disk would.
        """
        if self._disk_cache == FORGETFUL:
            raise errors.LabError(
                f"a power cut with cache={FORGETFUL} ruins the disk: boot with another disk_cache"
            )
        self._ssh.close()
        self._running().cut_power()

    def close(self) -> None:
        """End the machine, whatever its state, and forget the way into it."""
        self._ssh.close()
        if self._qemu and self._qemu.is_running:
            self._qemu.cut_power()
        self._sockets.cleanup()

    def run(
        self,
        command: str | Sequence[str],
        *,
        check: bool = True,
        timeout: float = ssh.COMMAND_SECONDS,
        on_line: Callable[[str], None] | None = None,
    ) -> ssh.Result:
        """Run a command in the guest as `ssh.Connection.run` does.

        Raises:
            LabError: as there, with the console's last lines.
        """
        try:
            return self._ssh.run(command, check=check, timeout=timeout, on_line=on_line)
        except ssh.CommandError as error:
            raise ssh.CommandError(error.result, self._running().report()) from None
        except errors.StillError:
            raise  # it has them
        except errors.LabError as error:
            raise errors.LabError(f"{error}\n{self._running().report()}") from error

    def open_shell(self) -> int:
        """Give this terminal a shell in the guest; return the status it ended with."""
        return self._ssh.open_shell()

    def tell_hardware(self, command: str) -> str:
        """Give QEMU's monitor a command; return what it says, as `monitor.ask` does."""
        return monitor.ask(self._monitor, command)

    def put(self, local: pathlib.Path, remote: str) -> None:
        """Copy a file or a folder of the host to that path in the guest."""
        self._ssh.put(local, remote)

    def fetch(self, remote: str, local: pathlib.Path) -> None:
        """Copy a file of the guest to the host."""
        self._ssh.fetch(remote, local)

    def write(self, remote: str, content: str) -> None:
        """Write a text file in the guest, its folder made when missing."""
        self._ssh.write(remote, content)

    def read(self, remote: str) -> str:
        """Return a file of the guest as text."""
        return self._ssh.read(remote)

    def read_kernel_log(self) -> list[str]:
        """Return the lines of the kernel's log of this boot, without their times."""
        return self.run(["dmesg", "--notime"]).stdout.splitlines()

    def read_console(self) -> str:
        """Return everything the serial console said since the machine was first switched on."""
        return self._running().read_console()

    def report(self) -> str:
        """Return the console's last lines, and QEMU's own when it ended."""
        return self._running().report()

    def _running(self) -> qemu.Process:
        if not self._qemu:
            raise errors.LabError(f"the machine {self.machine.name} was never switched on")
        return self._qemu

    def _check_alive(self) -> None:
        self._running().check_alive(boots=self._boots)

    def _wait_ready(self) -> None:
        for aborts in range(ABORTS + 1):
            self._running().begin_boot()
            self._boots = True
            try:
                self._wait_login(time.monotonic() + BOOT_SECONDS)
                break
            except errors.StillError as error:
                if aborts == ABORTS:
                    raise
                self.progress.say(f"{error}\nIt is switched off and on again.")
                self._ssh.close()
                self._running().end()
            except errors.LabError:
                if aborts == ABORTS or not self._running().has_aborted:
                    raise
                self.progress.say("the emulator aborted: the machine is switched on again")
            self._start()
        self._boots = False
        # A boot is over when the devices have their drivers and systemd has nothing left to start.
        self.progress.waiting("udev and systemd")
        self.run(["udevadm", "settle", f"--timeout={SETTLE_SECONDS}"])
        self.run("systemctl is-system-running --wait", check=False)  # degraded is an end, too

    def _wait_login(self, deadline: float) -> None:
        reason = "nobody answered on the port of ssh"
        running = self._running()
        while time.monotonic() < deadline:
            if not running.is_running:
                raise errors.LabError(f"the machine went off while booting\n{running.report()}")
            running.check_alive(boots=True)
            said = running.read_console()[self._console_read :]
            if said.count(STALL) >= STALLS:
                raise errors.StillError(f"the kernel has lost a processor\n{running.report()}")
            if any(sign in said for sign in DEAD_ENDS):
                raise errors.LabError(f"the machine does not boot\n{running.report()}")
            self.progress.waiting(f"ssh; the console says: {_last_line(said)}")
            if self._ssh.has_banner():
                try:
                    self._ssh.open()
                    boot_id = self._ssh.read(BOOT_ID).strip()
                except errors.LabError as error:
                    # sshd of the former boot on its way out, or of this one on its way in.
                    reason = str(error)
                else:
                    if boot_id != self.boot_id:
                        self.boot_id = boot_id
                        self._console_read = len(running.read_console())
                        return
                    self._ssh.close()
                    reason = "the former boot still runs"
            time.sleep(POLL_SECONDS)
        raise errors.LabError(
            f"the machine was not up after {BOOT_SECONDS:.0f} s: {reason}\n{self.report()}"
        )


def _last_line(console: str) -> str:
    lines = [line.strip() for line in console.splitlines() if line.strip()]
    return lines[-1][:100] if lines else "nothing yet"


@contextlib.contextmanager
def install(
    disk: pathlib.Path,
    key: pathlib.Path,
    folder: pathlib.Path,
    steps: progress.Progress,
    arguments: Sequence[str],
) -> Iterator[Guest]:
    """Boot the bare machine on a raw disk that cannot boot yet, its kernel named by `arguments`.

    Yields:
        The guest, ready; what it writes stays on the disk.
    """
    with _one_at_a_time(steps):
        guest = Guest(
            machines.BARE,
            disk,
            key,
            folder,
            steps,
            emulator=emulators.choose(steps),
            accelerator=accelerators.TCG,
            disk_format="raw",
            arguments=arguments,
        )
        with _switched_on(guest):
            yield guest


@contextlib.contextmanager
def boot(
    machine: machines.Machine,
    disk: pathlib.Path,
    key: pathlib.Path,
    steps: progress.Progress,
    *,
    disk_cache: str = FORGETFUL,
) -> Iterator[Guest]:
    """Boot a machine on an overlay of the disk, which stays as it is; everything else is deleted.

    `disk_cache` is QEMU's cache mode; a test that cuts the power wants writeback or writethrough.

    Yields:
        The guest, ready.
    """
    root = cache.root()
    cache.need_space(root, NEEDED_BYTES)
    with _one_at_a_time(steps), cache.scratch(root / "runs", machine.name) as folder:
        emulator = emulators.choose(steps, machine.qemu_before)
        # An emulated IOMMU that only some versions carry is not tried under KVM.
        careful = machine.qemu_before is not None
        accelerator = accelerators.TCG if careful else accelerators.choose(emulator, disk, steps)
        steps.say(f"QEMU {emulator.version}, {accelerator.name}")
        overlay = folder / "root.qcow2"
        subprocess.run(
            ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", disk, overlay],
            check=True,
        )
        machines.create_disks(machine, folder)
        guest = Guest(
            machine,
            overlay,
            key,
            folder,
            steps,
            emulator=emulator,
            accelerator=accelerator,
            disk_cache=disk_cache,
        )
        with _switched_on(guest):
            yield guest


@contextlib.contextmanager
def _one_at_a_time(steps: progress.Progress) -> Iterator[None]:
    """Keep other machines of this cache waiting: two on a small host make both too slow."""
    waiting = "another machine of the lab is running on this host: waiting for it to end"
    with cache.lock(cache.root() / "machine.lock", lambda: steps.say(waiting)):
        yield


@contextlib.contextmanager
def _switched_on(guest: Guest) -> Iterator[None]:
    try:
        guest.power_on(f"boot the machine '{guest.machine.name}'")
        yield
    finally:
        guest.close()
