"""Commands and files over ssh to a machine on a forwarded port.

One master connection is kept open: under emulation a login costs more than a second, a command
over an open connection a tenth of one.
"""

import dataclasses
import io
import math
import pathlib
import shlex
import socket
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable, Sequence

from lab import errors

COMMAND_SECONDS = 900.0
# How often whoever waits for the guest looks whether it still runs.
LOOK_SECONDS = 1.0
BANNER = b"SSH-"
CONNECTION_LOST = 255  # ssh's own status, as ssh(1) has it


@dataclasses.dataclass(frozen=True)
class Result:
    """What a command in the guest returned, printed, and how many seconds it took."""

    command: str
    status: int
    stdout: str
    stderr: str
    seconds: float

    @property
    def output(self) -> str:
        """Both streams, standard output first."""
        return self.stdout + self.stderr


class CommandError(errors.LabError):
    """A command in the guest failed; `result` holds what it printed."""

    def __init__(self, result: Result, more: str = "") -> None:
        super().__init__(
            f"`{result.command}` in the guest ended with status {result.status} after "
            f"{result.seconds:.1f} s:\n{errors.tail(result.output)}" + (f"\n{more}" if more else "")
        )
        self.result = result


def pick_port() -> int:
    """Return a port of the loopback interface that is free now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Connection:
    """A way into one guest: `folder` (a short path: a socket goes there) holds the master.

    `check_alive` is called every second of a wait, and raises StillError for a guest that stands
    still.
    """

    def __init__(
        self,
        port: int,
        key: pathlib.Path,
        folder: pathlib.Path,
        check_alive: Callable[[], None] = lambda: None,
    ) -> None:
        self.port = port
        self._check_alive = check_alive
        self._options = [
            *("-p", str(port), "-i", str(key), "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes"),
            # The guest was made a moment ago and is reached through the loopback interface.
            *("-o", "StrictHostKeyChecking=no", "-o", f"UserKnownHostsFile={folder / 'hosts'}"),
            *("-o", f"ControlPath={folder / 'master'}", "-o", "LogLevel=ERROR", "-F", "none"),
            *(
                "-o",
                "ConnectTimeout=60",
                "-o",
                "ServerAliveInterval=60",
                "-o",
                "ServerAliveCountMax=5",
            ),
        ]
        self._log = folder / "ssh.log"

    def has_banner(self) -> bool:
        """Say whether sshd itself answers: the port accepts before there is one."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as plug:
                return plug.recv(len(BANNER)) == BANNER
        except OSError:
            return False

    def open(self) -> None:
        """Log in and keep the connection for the commands to come, in place of any former one.

        Raises:
            LabError: sshd refused; with what ssh said. Or the guest stands still.
        """
        self.close()
        # Started by itself: a master that a command brings along keeps that command's pipes open.
        with (
            self._log.open("w") as log,
            subprocess.Popen(
                ["ssh", *self._options, "-M", "-N", "-f", "root@127.0.0.1"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            ) as process,
        ):
            status = self._wait(process, math.inf)
        if status:
            raise errors.LabError(f"ssh found no way in:\n{errors.tail(self._log.read_text())}")

    def close(self) -> None:
        """End the master connection, if there is one."""
        subprocess.run(
            ["ssh", *self._options, "-O", "exit", "root@127.0.0.1"],
            check=False,  # there may be none
            capture_output=True,
        )

    def run(
        self,
        command: str | Sequence[str],
        *,
        check: bool = True,
        timeout: float = COMMAND_SECONDS,
        stdin: bytes = b"",
        on_line: Callable[[str], None] | None = None,
    ) -> Result:
        """Run a command as root, its text given to the guest's shell, a list quoted for it.

        `on_line` gets every line of both streams as it comes.

        Raises:
            CommandError: the status was not 0 and `check` was asked.
            LabError: it was not done after `timeout` seconds, or the guest stands still.
        """
        text = command if isinstance(command, str) else shlex.join(command)
        begin = time.monotonic()
        with subprocess.Popen(
            ["ssh", *self._options, "root@127.0.0.1", text],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            readers = [_Reader(pipe, on_line) for pipe in (process.stdout, process.stderr)]
            feeder = threading.Thread(target=_feed, args=(process.stdin, stdin), daemon=True)
            feeder.start()
            try:
                status = self._wait(process, timeout)
            except subprocess.TimeoutExpired as error:
                printed = errors.tail("".join(reader.text() for reader in readers))
                raise errors.LabError(
                    f"`{text}` in the guest was not done after {timeout:.0f} s:\n{printed}"
                ) from error
            except errors.StillError as error:
                printed = errors.tail("".join(reader.text() for reader in readers))
                raise errors.StillError(f"`{text}` in the guest: {error}\n{printed}") from error
            feeder.join()
            stdout, stderr = (reader.text() for reader in readers)
        result = Result(text, status, stdout, stderr, time.monotonic() - begin)
        if check and status:
            raise CommandError(result)
        return result

    def open_shell(self) -> int:
        """Run a login shell on this process's own terminal; return its status."""
        return subprocess.call(["ssh", *self._options, "root@127.0.0.1"])

    def put(self, local: pathlib.Path, remote: str) -> None:
        """Copy a file or a folder to that path in the guest, modes kept, owner root.

        Caches of compiled Python stay behind: they name the host's paths.
        """
        packed = io.BytesIO()
        target = pathlib.PurePosixPath(remote)
        with tarfile.open(fileobj=packed, mode="w") as archive:
            archive.add(local, arcname=target.name, filter=_own_by_root)
        folder = shlex.quote(str(target.parent))
        self.run(f"mkdir -p {folder} && tar -C {folder} -xf -", stdin=packed.getvalue())

    def fetch(self, remote: str, local: pathlib.Path) -> None:
        """Copy a file of the guest, whatever its bytes, to that path here.

        Raises:
            LabError: it cannot be read, or the guest stands still.
        """
        command = ["ssh", *self._options, "root@127.0.0.1", shlex.join(["cat", remote])]
        with (
            local.open("wb") as file,
            subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.PIPE
            ) as process,
        ):
            reader = _Reader(process.stderr, None)
            status = self._wait(process, COMMAND_SECONDS)
            said = reader.text()
        if status:
            raise errors.LabError(f"{remote} of the guest: {errors.tail(said)}")

    def write(self, remote: str, content: str) -> None:
        """Write a text file in the guest, its folder made when missing."""
        folder = shlex.quote(str(pathlib.PurePosixPath(remote).parent))
        path = shlex.quote(remote)
        self.run(f"mkdir -p {folder} && cat > {path}", stdin=content.encode())

    def read(self, remote: str) -> str:
        """Return a file of the guest as text."""
        return self.run(["cat", remote]).stdout

    def _wait(self, process: subprocess.Popen, seconds: float) -> int:
        """Return the status of an ssh once it ends; kill it when the guest will not answer.

        Raises:
            TimeoutExpired: it did not end within that many seconds.
            StillError: the guest stands still.
        """
        deadline = time.monotonic() + seconds
        try:
            while True:
                try:
                    return process.wait(max(0.0, min(LOOK_SECONDS, deadline - time.monotonic())))
                except subprocess.TimeoutExpired:
                    if time.monotonic() >= deadline:
                        raise
                self._check_alive()
        except BaseException:
            process.kill()
            # It handed its pipes to the master, which would keep them open for minutes: until a
            # guest that is silent has missed every answer (ServerAliveCountMax).
            self.close()
            raise


class _Reader(threading.Thread):
    """Reads one stream to its end, so that neither of the two can fill up and block."""

    def __init__(self, pipe, on_line: Callable[[str], None] | None) -> None:
        super().__init__(daemon=True)
        self._pipe = pipe
        self._on_line = on_line
        self._lines: list[str] = []
        self.start()

    def run(self) -> None:
        for raw in self._pipe:
            line = raw.decode(errors="replace")
            self._lines.append(line)
            if self._on_line:
                self._on_line(line.rstrip("\n"))

    def text(self) -> str:
        self.join()
        return "".join(self._lines)


def _feed(pipe, content: bytes) -> None:
    try:
        pipe.write(content)
        pipe.close()
    except BrokenPipeError:
        # The command ended without reading it all; its status tells whether that was wrong.
        return


def _own_by_root(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
    if pathlib.PurePosixPath(info.name).name == "__pycache__":
        return None
    info.uid = info.gid = 0
    info.uname = info.gname = "root"
    return info
