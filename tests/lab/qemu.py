"""The QEMU process: started, watched, ended."""

import os
import pathlib
import signal
import subprocess
import time

from lab import emulator as emulators
from lab import errors, pulse

STOP_SECONDS = 10.0
POLL_SECONDS = 0.5


class Process:
    """A running QEMU process whose serial console goes to a file."""

    def __init__(
        self, emulator: emulators.Emulator, arguments: list[str], console: pathlib.Path
    ) -> None:
        self.console = console
        self._log = console.with_suffix(".qemu.log")
        command = [emulator.binary, *emulator.arguments, *arguments, *pulse.ARGUMENTS]
        command += ["-chardev", f"file,id=console,path={console},append=on"]
        command += ["-serial", "chardev:console"]
        with self._log.open("w") as log:
            log.write(f"{command}\n")
            log.flush()
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **dict(emulator.environment)},
                start_new_session=True,  # an interrupt from the keyboard stops the tests first
            )
        self._folder = pathlib.Path(f"/proc/{self._process.pid}")
        self._pulse = pulse.Pulse(self._folder)
        self._boot_pulse = pulse.BootPulse(self._folder)

    @property
    def process_id(self) -> int:
        """The process's id on the host."""
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the process is alive."""
        return self._process.poll() is None

    @property
    def has_aborted(self) -> bool:
        """Whether QEMU ended itself over an assertion of its own."""
        return self._process.poll() == -signal.SIGABRT

    def begin_boot(self) -> None:
        """Note that the machine boots from here on."""
        self._boot_pulse = pulse.BootPulse(self._folder)

    def check_alive(self, *, boots: bool = False) -> None:
        """Look whether the machine still runs. Whoever waits for it calls this every few seconds.

        Args:
            boots: whether it boots, so that it works or says something.

        Raises:
            StillError: it is on and stands still, with the console's tail.
        """
        if self.is_running:
            try:
                self._pulse.check()
                if boots:
                    self._boot_pulse.check(len(self.read_console()))
            except errors.StillError as error:
                raise errors.StillError(f"{error}\n{self.report()}") from error

    def wait_off(self, seconds: float) -> None:
        """Wait until the guest has powered itself off.

        Raises:
            LabError: it had not within that time, or stands still, with the console's tail.
        """
        deadline = time.monotonic() + seconds
        while self.is_running:
            self.check_alive()
            if time.monotonic() > deadline:
                raise errors.LabError(
                    f"the machine was still on after {seconds:.0f} s\n{self.report()}"
                )
            time.sleep(POLL_SECONDS)

    def end(self) -> None:
        """Have QEMU end itself: what the guest has written is on the disk, whatever its cache."""
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.cut_power()

    def cut_power(self) -> None:
        """Kill the process at once: what the guest had not written is lost."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(STOP_SECONDS)

    def read_console(self) -> str:
        """Return everything the serial console has said so far."""
        return self.console.read_text(errors="replace") if self.console.exists() else ""

    def report(self) -> str:
        """Return the ends of the console and, where QEMU complained, of its own output."""
        parts = [f"the console's last lines:\n{errors.tail(self.read_console())}"]
        if not self.is_running:
            parts.insert(0, f"QEMU ended with status {self._process.returncode}")
            parts.append(f"QEMU's output:\n{errors.tail(self._log.read_text(), 10)}")
        return "\n".join(parts)
