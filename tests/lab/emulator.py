"""Which QEMU runs the machines: the distribution's, or a newer one from its backports.

QEMU 10 forks three times as fast as 7.2 under software emulation (update-initramfs in a guest takes
31 s instead of 68 s), so where the distribution's is older, the package of the same archive's
backports is unpacked into the cache, beside the system: nothing is installed.
"""

import dataclasses
import os
import pathlib
import re
import shutil
import subprocess

from lab import apt, cache, errors, progress

BINARY = "qemu-system-x86_64"
BINARY_VARIABLE = "PCI_PASSTHROUGH_LAB_QEMU"
FAST_SINCE = 10
PACKAGE = "qemu-system-x86"
LIBRARIES = "usr/lib/x86_64-linux-gnu"
FIRMWARE = ("usr/share/seabios", "usr/share/qemu")


@dataclasses.dataclass(frozen=True)
class Emulator:
    """A QEMU to run: its binary, arguments that must come first, additions to its environment."""

    binary: str
    version: str
    arguments: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()


def find() -> Emulator:
    """Return the QEMU that the operator names, else the distribution's.

    Raises:
        LabError: there is none, or it does not say its version.
    """
    name = os.environ.get(BINARY_VARIABLE, BINARY)
    binary = shutil.which(name)
    if not binary:
        raise errors.LabError(f"{name} is not installed: see tests/lab/requirements-apt.txt")
    return Emulator(binary, _read_version(binary, {}))


def choose(steps: progress.Progress, before: int | None = None) -> Emulator:
    """Return the fastest QEMU that can be had here, fetched into the cache when it is not there.

    Args:
        steps: told what is fetched.
        before: the first major version that will not do, None where all do.

    Raises:
        UnableError: the QEMU that is installed is too new.
        LabError: none is installed.
    """
    found = find()
    if before and _major(found) >= before:
        raise errors.UnableError(
            f"this machine needs a QEMU before {before}, and {found.binary} is {found.version}:"
            f" name another one with {BINARY_VARIABLE}"
        )
    if before and before <= FAST_SINCE:
        return found
    if BINARY_VARIABLE in os.environ or _major(found) >= FAST_SINCE:
        return found
    suite = apt.choose_suite(apt.read_os_release())
    sources = apt.add_backports(suite, apt.read_sources(suite))
    if not sources or apt.read_os_release().get("ID") != "debian":
        return found
    folder = cache.root() / "emulators"
    entry = folder / f"{suite}-backports"
    waiting = "another run fetches a newer QEMU: waiting for it"
    with cache.lock(folder / "emulators.lock", lambda: steps.say(waiting)):
        try:
            if not entry.exists():
                with steps.step(f"QEMU {found.version} is slow here: fetch a newer one"):
                    _fetch(sources, f"{suite}-backports", folder, entry)
            return _unpacked(entry)
        except errors.LabError as error:
            steps.say(f"no newer QEMU, {found.version} does it, slower: {error}")
            return found


def _fetch(sources: str, suite: str, folder: pathlib.Path, entry: pathlib.Path) -> None:
    """Unpack QEMU and what of its dependencies this host lacks into `entry`."""
    with cache.scratch(folder, "fetching") as work:
        for name in ("sources", "lists/partial", "archives/partial", "result"):
            (work / name).mkdir(parents=True)
        (work / "sources/lab.list").write_text(sources)
        options = [
            *("-o", "Dir::Etc::SourceList=/dev/null"),
            *("-o", f"Dir::Etc::SourceParts={work / 'sources'}"),
            *("-o", f"Dir::State::Lists={work / 'lists'}"),
            *("-o", f"Dir::Cache={work}"),
            *("-o", f"Dir::Cache::Archives={work / 'archives'}"),
            *("-o", "Debug::NoLocking=1"),  # all that is written is ours
            *("-o", "APT::Sandbox::User=root"),  # apt's own user cannot enter a home folder
        ]
        _run("apt-get", *options, "update")
        _run(
            *("apt-get", *options, f"--target-release={suite}", "install", "--yes"),
            *("--no-install-recommends", "--download-only", PACKAGE),
        )
        packages = sorted((work / "archives").glob("*.deb"))
        for package in packages:
            _run("dpkg-deb", "--extract", str(package), str(work / "result"))
        fetched = _unpacked(work / "result")
        if _major(fetched) < FAST_SINCE:
            raise errors.LabError(f"{suite} has QEMU {fetched.version} only")
        (work / "result").rename(entry)


def _unpacked(folder: pathlib.Path) -> Emulator:
    libraries = folder / LIBRARIES
    environment = {
        "LD_LIBRARY_PATH": str(libraries),
        "QEMU_MODULE_DIR": str(libraries / "qemu"),
    }
    binary = str(folder / "usr/bin" / BINARY)
    arguments = [word for path in FIRMWARE for word in ("-L", str(folder / path))]
    version = _read_version(binary, environment)
    return Emulator(binary, version, tuple(arguments), tuple(environment.items()))


def _major(emulator: Emulator) -> int:
    return int(emulator.version.split(".")[0])


def _read_version(binary: str, environment: dict[str, str]) -> str:
    """Return what the binary calls itself, such as 7.2.22."""
    banner = _run(binary, "--version", environment=environment)
    found = re.search(r"version (\d+(?:\.\d+)+)", banner)
    if not found:
        raise errors.LabError(f"{binary} --version said {banner!r}")
    return found[1]


def _run(*command: str, environment: dict[str, str] | None = None) -> str:
    """Return what the command printed.

    Raises:
        LabError: it could not run or failed, with the end of what it printed.
    """
    try:
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,  # the output goes into the error
            env={**os.environ, **(environment or {})},
        )
    except OSError as error:
        raise errors.LabError(f"{command[0]} does not run: {error}") from error
    if done.returncode:
        raise errors.LabError(
            f"{command[0]} ended with status {done.returncode}:\n{errors.tail(done.stdout)}"
        )
    return done.stdout
