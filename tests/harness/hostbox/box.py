"""`Box`: a made-up host tree as the root of its own mount, process and network namespaces."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness.hosttree import HostTree, kernel, programs

HERE = pathlib.Path(__file__).parent
TESTS = HERE.parents[1]  # what holds the package harness
# Programs that would change a host, or ask it: recorded and imitated (stub.py) where the tree
# has them. The path is where Ubuntu has them.
STUBS = {
    "deb-systemd-invoke": "usr/bin",
    "depmod": "usr/sbin",
    "dracut": "usr/bin",
    "grub-mkconfig": "usr/sbin",
    "insmod": "usr/sbin",
    "invoke-rc.d": "usr/sbin",
    "lsinitramfs": "usr/bin",
    "lsinitrd": "usr/bin",
    "modprobe": "usr/sbin",
    "poweroff": "usr/sbin",
    "reboot": "usr/sbin",
    "rmmod": "usr/sbin",
    "service": "usr/sbin",
    "shutdown": "usr/sbin",
    "systemctl": "usr/bin",
    "udevadm": "usr/bin",
    "update-grub": "usr/sbin",
    "update-initramfs": "usr/sbin",
}
# These say what kind of host it is: what the tree does not have is hidden where this machine has.
_TELLING = (
    "usr/bin/dracut",
    "usr/bin/lsinitrd",
    "usr/lib/dracut",
    "usr/sbin/dracut",
    "usr/bin/lsinitramfs",
    "usr/sbin/grub-mkconfig",
    "usr/sbin/mkinitramfs",
    "usr/sbin/policy-rc.d",
    "usr/sbin/update-grub",
    "usr/sbin/update-initramfs",
    "usr/share/initramfs-tools",
)
# Files of this machine's /etc without which its own programs do not run.
_BORROWED = ("alternatives", "ld.so.cache", "ld.so.conf", "ld.so.conf.d")
_READY_SECONDS = 30


class BoxError(Exception):
    """The box cannot be made, or a program in it did something that is not modelled."""


@dataclasses.dataclass(frozen=True)
class StubCall:
    """One run of a recorded program: its arguments, its exit code, seconds since the epoch."""

    name: str
    args: tuple[str, ...]
    exit_code: int
    at: float


class Box:
    """Runs programs on a made-up host; a context manager, or `start` and `stop`.

    Args:
        tree: the made-up host; what programs write lands in it.
        control: directory of the box's own files; created.
        writable: further directories of this machine that programs may write to. The one for
            temporary files is among them anyhow.
        still: show the tree's ``/sys`` as plain files that cannot be written, instead of one that
            answers: nothing but the program itself then costs time.
    """

    def __init__(
        self,
        tree: HostTree,
        control: str | os.PathLike[str],
        *,
        writable: Sequence[str | os.PathLike[str]] = (),
        still: bool = False,
    ):
        self.tree = tree
        self.control = pathlib.Path(control).resolve()
        self._writable = [tempfile.gettempdir(), *(os.fspath(path) for path in writable)]
        self._still = still
        self._process: subprocess.Popen[str] | None = None
        (self.control / "rules").mkdir(parents=True)
        self._install_stubs()
        self._borrow()

    def __enter__(self) -> Box:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        self.stop()
        if kind is None:
            self.check_modelled()

    def start(self) -> None:
        """Make the namespaces and mounts.

        Raises:
            BoxError: this machine does not let us; the message says what is missing.
        """
        hidden = [path for path in _TELLING if not os.path.lexists(self.tree.root / path)]
        spec = {
            "root": str(self.tree.root.resolve()),
            "control": str(self.control),
            "hidden": [path for path in hidden if os.path.lexists("/" + path)],
            "writable": [os.path.realpath(path) for path in self._writable],
            "as_root": os.geteuid() == 0,
            "still": self._still,
        }
        (self.control / "spec.json").write_text(json.dumps(spec))
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "init.py"), str(self.control / "spec.json")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={"PATH": os.environ.get("PATH", ""), "PYTHONPATH": str(TESTS)},
        )
        assert self._process.stdout
        if self._process.stdout.readline() != "ready\n":
            _, said = self._process.communicate(timeout=_READY_SECONDS)
            self._process = None
            raise BoxError(f"cannot make a host box on this machine: {said.strip()}")

    def stop(self) -> None:
        """End every process of the box; its mounts vanish with it."""
        if self._process is None:
            return
        try:
            self._process.communicate(timeout=_READY_SECONDS)  # its standard input is closed
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
        self._process = None

    @property
    def command_prefix(self) -> list[str]:
        """What to put before a command to run it in the box, in JUJU_CHARM_DIR or in ``/``."""
        if self._process is None:
            raise BoxError("the box is not started")
        ns = f"/proc/{self._process.pid}/ns"
        user = [] if os.geteuid() == 0 else [f"--user={ns}/user", "--preserve-credentials"]
        enter = ["nsenter", *user, f"--mount={ns}/mnt", f"--net={ns}/net"]
        script = 'cd "${JUJU_CHARM_DIR:-/}" && exec "$@"'
        return [*enter, f"--pid={ns}/pid_for_children", "--", "/bin/sh", "-c", script, "sh"]

    def run(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        text: str | None = None,
        timeout: float = 60.0,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the box to its end, with its output captured; never raises for its code.

        Args:
            command: program and arguments.
            env: added to a plain environment.
            text: standard input.
            timeout: seconds until it is killed and `subprocess.TimeoutExpired` raised.
        """
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        return subprocess.run(
            [*self.command_prefix, *command],
            env={"PATH": path, "LANG": "C.UTF-8", **(env or {})},
            input=text if text is not None else "",
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    @contextlib.contextmanager
    def holding(self, path: str) -> Iterator[int]:
        """Let a process of the box hold a device node open, as a guest holds ``/dev/vfio/17``.

        Args:
            path: an empty file of the tree, as seen in the box; a device node lies over it.

        Yields:
            Its process id as seen in the box.
        """
        # Only real root makes device nodes, but anybody can mount one of the box over a file.
        self._change_mounts("mount", "--bind", "/dev/zero", path)
        script = (
            "import os,sys\nfile=open(sys.argv[1],'rb')\nprint(os.getpid(),flush=True)\ninput()"
        )
        command = [*self.command_prefix, sys.executable, "-IS", "-c", script, path]
        holder = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={}
        )
        assert holder.stdin
        assert holder.stdout
        try:
            number = holder.stdout.readline()
            if not number:
                raise BoxError(f"{path}: cannot be held open in the box")
            with self._seen_in_tree(int(number), path):
                yield int(number)
        finally:
            holder.communicate("\n")
            self._change_mounts("umount", path)

    @contextlib.contextmanager
    def _seen_in_tree(self, process: int, path: str) -> Iterator[None]:
        """Let the tree's kernel know that a process of the box has a file open."""
        place = self.tree.root / f"proc/{process}"
        (place / "fd").mkdir(parents=True)
        (place / "fd/3").symlink_to(path)
        kernel.show_open(self.tree.root)
        try:
            yield
        finally:
            shutil.rmtree(place)
            kernel.show_open(self.tree.root)

    def stub(
        self,
        name: str,
        *,
        exit_code: int = 0,
        stdout: str = "",
        stderr: str = "",
        seconds: float = 0.0,
    ) -> None:
        """Tell a recorded program what to do from now on; without arguments, to work again.

        Args:
            name: one of `STUBS`.
            exit_code: when it is not 0 the program fails and changes nothing.
            stdout: what it prints.
            stderr: what it prints there.
            seconds: how long it takes.
        """
        if name not in STUBS:
            raise BoxError(f"{name}: not a recorded program")
        rule = {"exit_code": exit_code, "stdout": stdout, "stderr": stderr, "seconds": seconds}
        (self.control / "rules" / name).write_text(json.dumps(rule))

    def calls(self, *names: str) -> list[StubCall]:
        """Runs of the named programs (of all by default) since `forget_calls`, oldest first."""
        path = self.control / "calls.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        found = [StubCall(**{**raw, "args": tuple(raw["args"])}) for raw in map(json.loads, lines)]
        return [call for call in found if not names or call.name in names]

    def forget_calls(self) -> None:
        """Begin a new record of calls."""
        (self.control / "calls.jsonl").unlink(missing_ok=True)

    def check_modelled(self) -> None:
        """Raise BoxError when a program wrote something below /sys that has no modelled effect."""
        path = self.control / "not-modelled"
        if path.exists():
            raise BoxError(f"not modelled by the host box: {path.read_text().strip()}")

    def reboot(self) -> list[subprocess.CompletedProcess[str]]:
        """Reboot the made-up host with what its initramfs and grub.cfg hold by now.

        The kernel starts afresh (`HostTree.power_cycle`), the boot scripts of the initramfs run in
        the box, then the native drivers load, then the boot units that make VFs run.

        Returns:
            The runs of the boot scripts, for a test to look into.
        """
        self.tree.power_cycle()
        runs = []
        with tempfile.TemporaryDirectory(dir=self.control) as scratch:
            for script in programs.unpack_boot_scripts(self.tree.root, pathlib.Path(scratch)):
                runs.append(self.run(["/bin/sh", str(script)]))
        self.tree.load_natives()
        for unit in sorted(self.tree.root.glob("etc/systemd/system/*-vfs.service")):
            lines = unit.read_text(encoding="utf-8").splitlines()
            (start,) = [line for line in lines if line.startswith("ExecStart=")]
            runs.append(self.run(start.removeprefix("ExecStart=").split()))
        return runs

    def _change_mounts(self, *command: str) -> None:
        done = self.run(command)
        if done.returncode:
            raise BoxError(f"{' '.join(command)}: {done.stderr.strip()}")

    def _install_stubs(self) -> None:
        source = (HERE / "stub.py").read_text(encoding="utf-8")
        settings = {
            "CONTROL": str(self.control),
            "ROOT": str(self.tree.root.resolve()),
            "TESTS": str(TESTS),
        }
        lines = [f"{name} = {value!r}" for name, value in settings.items()]
        head = f"#!{os.path.realpath(sys.executable)} -ISE"
        scripts = self.control / "stubs"
        scripts.mkdir()
        for name, directory in STUBS.items():
            path = self.tree.root / directory / name
            # What tells kinds of host apart stands only where the tree put it.
            if f"{directory}/{name}" in _TELLING and not path.exists():
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            # By its text a program of the tree tells what it runs, so its stub still holds that.
            replaced = f"\nREPLACED = r'''\n{self._keep_text(path)}'''\n"
            script = scripts / name
            script.write_text("\n".join([head, *lines, source, replaced]), encoding="utf-8")
            script.chmod(0o755)
            path.unlink(missing_ok=True)
            path.symlink_to(script)

    def _keep_text(self, path: pathlib.Path) -> str:
        """The text of a program of the tree, also where an earlier box has put a stub over it."""
        kept = self.tree.root / "replaced" / path.name
        if path.is_file() and not path.is_symlink():
            kept.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, kept)
        return kept.read_text(encoding="utf-8") if kept.exists() else ""

    def _borrow(self) -> None:
        for name in _BORROWED:
            source, target = pathlib.Path("/etc", name), self.tree.root / "etc" / name
            if target.exists():
                continue  # from an earlier box of the same tree
            if source.is_dir():
                shutil.copytree(source, target, symlinks=True)
            elif source.exists():
                shutil.copy(source, target)
