"""Run in a guest: kill the charm's reconcile before a step that anybody else can see.

usage: crashing.py CHARM OPTIONS learn        remember this host, and how a run to OPTIONS ends
       crashing.py CHARM OPTIONS kill WHERE   put the host back, kill a run before a step: WHERE is
                                              its number, or part of its name
       crashing.py CHARM OPTIONS mend         let a run come to its end, compare with the first
       crashing.py CHARM OPTIONS visit        kill and mend, for every step one after the other

OPTIONS is JSON; null stands for giving everything back. Prints a line of JSON for each kill and
each mending: the step, and what was wrong. What is remembered outlives a reboot.

The kill is a real SIGKILL of a process that really writes, rebuilds and binds. The hook by which it
is found is Python's own (sys.addaudithook); the charm's code has none. Only the two long commands
are run once for the same input, and what they made is put there again afterwards.
"""

import dataclasses
import functools
import hashlib
import itertools
import json
import os
import pathlib
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any

APPLICATION = "pci-passthrough"
LAB = pathlib.Path("/opt/lab")
ROOT = pathlib.Path("/")
MEMORY = pathlib.Path("/var/lib/lab-memory")
START, END = MEMORY / "start.json", MEMORY / "end.json"
GRUB = ROOT / "boot/grub/grub.cfg"
LEFTOVERS = (".new", ".pci-passthrough", ".former", ".kept")
# Where a run writes down its steps, to be read when it is dead.
STEPS = pathlib.Path("/run/lab-steps")
# Where a step leaves something: what else the process writes is Python's own.
PLACES = ("/boot/", "/etc/", "/run/pci-passthrough", "/sys/", "/var/lib/pci-passthrough")
# Of the short commands, those that do not only ask.
CHANGING = ("modprobe",)
# The long commands, and what of the charm's files goes into them: the values of File.feeds.
MEMORABLE = {"update-grub": "grub", "update-initramfs": "initramfs"}


class Killer:
    """Counts the steps of this process, and kills it before one of them."""

    def __init__(self, wanted: Callable[[int, str], bool]) -> None:
        self.paused = False
        self._wanted = wanted
        self._number = 0
        self._steps = os.open(STEPS, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        sys.addaudithook(self._hear)

    def step(self, name: str) -> None:
        """Tell of a step that is about to be done."""
        self._number += 1
        os.write(self._steps, f"{name}\n".encode())
        if self._wanted(self._number, name):
            os.kill(os.getpid(), signal.SIGKILL)

    def _hear(self, event: str, values: tuple[Any, ...]) -> None:
        name = "" if self.paused else describe(event, values)
        if name:
            self.step(name)


def describe(event: str, values: tuple[Any, ...]) -> str:
    """Name the step that an audit event stands for; "" for none that another process can see."""
    if event == "subprocess.Popen":
        command = os.path.basename(values[1][0])
        return f"run {command}" if command in CHANGING else ""
    if event == "open" and isinstance(values[2], int) and values[2] & (os.O_WRONLY | os.O_RDWR):
        path = str(values[0])
        return f"write {path}" if path.startswith("/sys/") else ""
    if event in ("os.rename", "os.remove"):
        path = str(values[1] if event == "os.rename" else values[0])
        if path.startswith(PLACES) and (event == "os.rename" or os.path.lexists(path)):
            return f"{'replace' if event == 'os.rename' else 'remove'} {path}"
    return ""


@dataclasses.dataclass(frozen=True)
class State:
    """What has to be the same in the end: files by content, images by inode, and the devices."""

    files: dict[str, str | None]
    images: dict[str, int]
    devices: dict[str, tuple[str | None, str | None]]
    leftovers: list[str]

    def differences(self, other: "State") -> list[str]:
        """Name what another state has otherwise."""
        return [
            f"{field.name} {key}"
            for field in dataclasses.fields(self)[:3]
            for key in sorted({**getattr(self, field.name), **getattr(other, field.name)})
            if getattr(self, field.name).get(key) != getattr(other, field.name).get(key)
        ] + [f"left over: {each}" for each in other.leftovers if each not in self.leftovers]

    def save(self, path: pathlib.Path) -> None:
        """Write it down, for `load`."""
        path.write_text(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def load(cls, path: pathlib.Path) -> "State":
        """Read what `save` wrote."""
        kept = json.loads(path.read_text())
        kept["devices"] = {each: tuple(pair) for each, pair in kept["devices"].items()}
        return cls(**kept)


class Host:
    """This machine, and the charm's runs on it."""

    def __init__(self, charm: pathlib.Path) -> None:
        packages = sorted((charm / "venv/lib").glob("python3*/site-packages"))
        sys.path[:0] = [str(charm / "src"), str(charm / "lib"), *map(str, packages)]
        from charmhelpers.core import kernel  # noqa: F401 - slow: once, not in every run

        from passthrough import reconcile
        from passthrough.config import options
        from passthrough.effects import drivers, tools
        from passthrough.host import pci, watch
        from passthrough.planning import boot_files
        from passthrough.site import Site
        from passthrough.state import record
        from passthrough.system import commands, files, timed_write

        self._boot, self._files, self._options, self._pci = boot_files, files, options, pci
        self._tools, self._watch = tools, watch
        self._commands: Any = commands  # `run` below puts something else in its place
        self._reconcile, self._record, self._vfio = reconcile, record, drivers
        self._site = Site(ROOT, APPLICATION)
        self._run_command = commands.run
        # A child of the process that is killed would go on without it.
        timed_write.write = lambda path, text, seconds, do: do(path, text)

    def run(self, config: dict[str, str] | None, wanted: Callable[[int, str], bool]) -> bool:
        """Reconcile in a child process, or give back; return whether it was killed.

        Raises:
            RuntimeError: the run failed by itself.
        """
        child = os.fork()
        if child == 0:
            code = 1
            try:
                killer = Killer(wanted)
                self._commands.run = functools.partial(self._remember, killer)
                leaving = self._options.Options(leaving=True)
                options = leaving if config is None else self._options.parse(config)
                tools = self._tools.HostTools()
                self._reconcile.reconcile(self._site, options, tools, lambda said: None)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status not in (0, -signal.SIGKILL):
            raise RuntimeError(f"the run ended with {status}")
        return status != 0

    def read(self) -> State:
        """Look at everything that a run changes."""
        owned = [file.path for file in self._boot.owned_files(APPLICATION)]
        record = f"{self._record.DIRECTORY}/{APPLICATION}.json"
        watchers = self._watch.owned_files(APPLICATION)
        paths = [*owned, *watchers, record, str(GRUB.relative_to(ROOT))]
        folders = {(ROOT / path).parent for path in paths} | {ROOT / "boot"}
        functions = self._pci.read(ROOT).functions
        return State(
            {path: self._content(ROOT / path) for path in paths},
            {path.name: path.stat().st_ino for path in images()},
            {each: (functions[each].driver, functions[each].override) for each in functions},
            sorted(
                str(path)
                for folder in folders
                for path in folder.glob("*")
                if path.name.endswith(LEFTOVERS)
            ),
        )

    def check_record(self) -> None:
        """Make sure that the application's record can be read, whatever it holds."""
        self._record.read(self._site)

    def put_back(self, state: State) -> None:
        """Make the host what it was."""
        for path in self.read().leftovers:
            os.unlink(path)
        modes = {file.path: file.mode for file in self._boot.owned_files(APPLICATION)}
        for path, content in state.files.items():
            if content is None:
                (ROOT / path).unlink(missing_ok=True)
            elif self._content(ROOT / path) != content:
                there = self._files.read(ROOT / path)
                mode = there.mode if there else modes.get(path, 0o644)
                self._files.ensure(ROOT / path, content, mode)
        for name, inode in state.images.items():
            place_link(MEMORY / str(inode), ROOT / "boot" / name)
        # As after a while, also for a boot loader.
        os.sync()
        self._files.checkpoint(ROOT / "boot/grub")
        now = self.read().devices
        for physfn in {self._parent(address) for address in now.keys() - state.devices.keys()}:
            (physfn / "sriov_numvfs").write_text("0")
            (physfn / "sriov_drivers_autoprobe").write_text("1")
        for address in sorted(state.devices):
            if now[address] == state.devices[address]:
                continue
            if state.devices[address][0] == self._pci.VFIO_PCI:
                self._vfio.bind(ROOT, address)
            else:
                self._vfio.release(ROOT, address, lambda name: None)

    @staticmethod
    def _parent(address: str) -> pathlib.Path:
        """The card of a VF, which makes it and takes it away."""
        return (ROOT / "sys/bus/pci/devices" / address / "physfn").resolve()

    @staticmethod
    def _content(path: pathlib.Path) -> str | None:
        return path.read_text(errors="surrogateescape") if path.exists() else None

    def _remember(self, killer: Killer, command: tuple[str, ...], *rest: Any) -> tuple[str, ...]:
        """Stand in for `commands.run`: what a long command made of the same input is made again."""
        if command[0] not in MEMORABLE:
            return self._run_command(command, *rest)
        killer.step(f"run {command[0]}")
        killer.paused = True
        try:
            return self._make(command, *rest)
        finally:
            killer.paused = False

    def _make(self, command: tuple[str, ...], *rest: Any) -> tuple[str, ...]:
        if not self._folder(command[0]).exists():
            said = self._run_command(command, *rest)
            self.remember(command)
            return said
        for made in sorted(self._folder(command[0]).iterdir()):
            if made.name == GRUB.name:
                shutil.copy(made, command[-1].partition("=")[2])
            else:
                place_link(made, ROOT / "boot" / made.name)
        return ()

    def remember(self, command: tuple[str, ...]) -> None:
        """Remember what a long command has made of the files that are there now."""
        folder = self._folder(command[0])
        folder.mkdir(parents=True, exist_ok=True)
        if command[0] == "update-grub":
            shutil.copy(command[-1].partition("=")[2] or GRUB, folder / GRUB.name)
        else:
            for image in images():
                place_link(image, folder / image.name)

    def _folder(self, name: str) -> pathlib.Path:
        """Where the outcome of a command is kept, by the charm's files that go into it."""
        digest, feeds = hashlib.sha256(), MEMORABLE[name]
        for file in self._boot.owned_files(APPLICATION):
            if file.feeds == feeds:
                line = f"{file.path} {self._content(ROOT / file.path)}\n"
                digest.update(line.encode("utf-8", "surrogateescape"))
        return MEMORY / f"{name}-{digest.hexdigest()[:16]}"


def images() -> list[pathlib.Path]:
    """The initramfs of every kernel."""
    found = sorted((ROOT / "boot").glob("initrd.img-*"))
    return [path for path in found if path.suffix not in (".new", ".dpkg-bak", ".lab")]


def place_link(made: pathlib.Path, path: pathlib.Path) -> None:
    """Put a file that is remembered in its place, in one move.

    A link, since the image itself is what is compared: nobody writes into one, they are replaced.
    """
    beside = path.with_name(f"{path.name}.lab")
    if path.exists() and path.samefile(made):
        return
    os.link(made, beside)
    os.rename(beside, path)


class Kills:
    """Kills of runs from one remembered beginning to one remembered end."""

    def __init__(self, host: Host, options: dict[str, str] | None) -> None:
        self._host, self._options = host, options

    def learn(self) -> dict[str, Any]:
        """Remember how the host is and how an undisturbed run leaves it; return its steps."""
        for path in images():
            place_link(path, MEMORY / str(path.stat().st_ino))
        for command in MEMORABLE:
            self._host.remember((command,))
        self._host.read().save(START)
        self._run()
        self._host.read().save(END)
        return {"steps": STEPS.read_text().splitlines()}

    def kill(self, where: str) -> dict[str, Any]:
        """Put the beginning back and kill a run; without such a step, it comes to its end.

        Returns:
            The step, "" where there is none of that number or name; what could not be put back;
            what is neither old nor new; and whether the images are the new ones.
        """
        start, end = State.load(START), State.load(END)
        self._host.put_back(start)
        away = start.differences(self._host.read())
        by_number = where.isdecimal()
        killed = self._host.run(
            self._options,
            lambda number, name: number == int(where) if by_number else where in name,
        )
        left = self._host.read()
        self._host.check_record()
        torn = [
            path
            for path, content in left.files.items()
            if not path.endswith(".json") and content not in (start.files[path], end.files[path])
        ]
        torn += [
            name
            for name, inode in left.images.items()
            if inode not in (start.images[name], end.images[name])
        ]
        return {
            "step": STEPS.read_text().splitlines()[-1] if killed else "",
            "not put back": away,
            "torn": torn,
            "new images": left.images == end.images,
        }

    def mend(self) -> dict[str, Any]:
        """Let a run come to its end; return how that differs from the undisturbed one's."""
        self._run()
        return {"not mended": State.load(END).differences(self._host.read())}

    def visit(self) -> Iterator[dict[str, Any]]:
        """Kill before every step, and mend; yield what was wrong, step by step."""
        for number in itertools.count(1):
            killed = self.kill(str(number))
            if not killed["step"]:
                return
            yield {**killed, **self.mend()}

    def _run(self) -> None:
        self._host.run(self._options, lambda number, name: False)


def main(charm: str, options: str, command: str, *where: str) -> None:
    """Do what the command line asks.

    Raises:
        SystemExit: this is no machine of the lab, whose files and drivers may be played with.
    """
    if pathlib.Path(__file__).parent != LAB:
        sys.exit(f"{__file__} is for machines of the lab, and runs in {LAB} alone")
    MEMORY.mkdir(parents=True, exist_ok=True)
    kills = Kills(Host(pathlib.Path(charm)), json.loads(options))
    match command:
        case "learn":
            rows = [kills.learn()]
        case "kill":
            rows = [kills.kill(*where)]
        case "mend":
            rows = [kills.mend()]
        case "visit":
            rows = kills.visit()
        case _:
            sys.exit(f"no command {command}: see the head of {__file__}")
    for row in rows:
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
