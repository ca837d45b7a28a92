"""Pack the charm with the real charmcraft on a machine that charmcraft does not support.

charmcraft packs in an Ubuntu builder, a container or a virtual machine that it drives through
snapd. `--destructive-mode` packs on the machine itself, but still insists on Ubuntu, on snaps and
on python3-apt. This script gives it a copy of the charm's own files, with no `build-snaps`, an
os-release that says Ubuntu, python3-apt unpacked beside the system, and uv and the system's Python
first on PATH.

The charm so made is right for the tests and for looking at. It is not for release: its manifest
says Ubuntu, but its compiled modules are for this machine's Python.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import pathlib
import platform
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterable, Iterator

NAME = "pci-passthrough"
PLATFORM_BASE = "ubuntu@24.04"
OS_RELEASE = 'NAME="Ubuntu"\nID=ubuntu\nVERSION_ID="24.04"\nVERSION_CODENAME=noble\n'
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}

# What an Ubuntu builder would see of the checkout. Tests and tools do not change the charm.
INPUTS = (
    "LICENSE",
    "actions.yaml",
    "bin",
    "charmcraft.yaml",
    "config.yaml",
    "icon.svg",
    "lib",
    "metadata.yaml",
    "requirements/build.txt",
    "requirements/charm.txt",
    "share",
    "src",
    "templates",
)
# As charmcraft.yaml leaves them out.
LEFT_OUT = frozenset({"__pycache__", "tests"})
# Published as source only. A wheel made from it serves every Python: it is pure Python.
SOURCE_ONLY = "charmhelpers"

ROOT = pathlib.Path(__file__).resolve().parent.parent
SCRIPTS = ROOT / "scripts"
BUILD = ROOT / "build"
THIS_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


class PackError(Exception):
    """The charm could not be packed; the message says what to do."""


def note(text: str) -> None:
    """Tell the person waiting; stdout is for the result."""
    print(f"── {text}", file=sys.stderr, flush=True)


def input_files(root: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yield every file under `root` that the charm is made of, relative to it and sorted."""
    for name in INPUTS:
        top = root / name
        files = sorted(top.rglob("*")) if top.is_dir() else [top]
        for path in files:
            inside = path.relative_to(root)
            if path.is_file() and "__pycache__" not in inside.parts:
                yield inside


def digest_inputs(files: Iterable[pathlib.Path]) -> str:
    """Return one hash over the names, modes and contents of `files` and over this machine."""
    digest = hashlib.sha256(f"{platform.machine()} {THIS_PYTHON}\n".encode())
    for path in (*files, SCRIPTS.relative_to(ROOT) / "pack.py"):
        content = (ROOT / path).read_bytes()
        mode = stat.S_IMODE((ROOT / path).stat().st_mode)
        digest.update(f"{path} {mode:o} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def run_script(name: str, *arguments: str | pathlib.Path) -> str:
    """Run a script of this directory; return what it prints. Its progress stays visible."""
    command = [str(SCRIPTS / name), *map(str, arguments)]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if result.returncode:
        raise PackError(f"scripts/{name} failed (above)")
    return result.stdout.strip()


def copy_project(work: pathlib.Path, files: Iterable[pathlib.Path]) -> pathlib.Path:
    """Copy `files` to a project in `work` that asks for no snap; return its directory."""
    project = work / "project"
    for path in files:
        (project / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, project / path)
    recipe = project / "charmcraft.yaml"
    text, removed = re.subn(r"(?m)^ *build-snaps:.*\n", "", recipe.read_text(encoding="utf-8"))
    if removed != 1:
        raise PackError("charmcraft.yaml: expected exactly one line with build-snaps")
    recipe.write_text(text, encoding="utf-8")
    return project


def run_charmcraft(project: pathlib.Path, cache: pathlib.Path) -> pathlib.Path:
    """Pack `project` in place and return the artefact; show charmcraft's log when it fails."""
    architecture = ARCHITECTURES.get(platform.machine())
    if architecture is None:
        raise PackError(f"charmcraft.yaml has no platform for {platform.machine()} machines")

    lock = ROOT / "requirements" / "pack.txt"
    lock_digest = hashlib.sha256(lock.read_bytes()).hexdigest()[:12]
    environment = cache / f"pack-env-{lock_digest}"
    run_script("sync-env", environment, lock)
    apt_bindings = run_script("apt-bindings")

    work = project.parent
    (work / "etc").mkdir()
    (work / "etc" / "os-release").write_text(OS_RELEASE, encoding="utf-8")
    (work / "bin").mkdir()
    (work / "bin" / "uv").symlink_to(SCRIPTS / "uv")
    path = [work / "bin", pathlib.Path(sys.executable).parent, environment / "bin"]
    command = [
        environment / "bin" / "charmcraft",
        "pack",
        "--destructive-mode",
        f"--platform={PLATFORM_BASE}:{architecture}",
        "--verbosity=brief",
    ]
    variables = {
        "PATH": ":".join([*map(str, path), os.environ["PATH"]]),
        "PYTHONPATH": apt_bindings,
        "PYTHONWARNINGS": "ignore",
        "UNIXCONFDIR": str(work / "etc"),
        "XDG_STATE_HOME": str(cache / "charmcraft-logs"),
    }
    note(f"charmcraft pack, for Python {THIS_PYTHON}")
    result = subprocess.run(
        list(map(str, command)),
        cwd=project,
        env=os.environ | variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    charms = list(project.glob("*.charm"))
    if result.returncode or len(charms) != 1:
        raise PackError(f"charmcraft pack failed (exit code {result.returncode}):\n{result.stdout}")
    return charms[0]


def install_packages_for(version: str, target: pathlib.Path) -> None:
    """Put the charm's Python packages for Python `version` into `target`, from wheels."""
    requirements = ROOT / "requirements"
    run_script(
        "uv",
        *("pip", "install", "--quiet", "--target", target, "--python", sys.executable),
        *("--python-version", version, "--only-binary", ":all:", "--no-binary", SOURCE_ONLY),
        *("--no-deps", "--require-hashes", "--requirement", requirements / "charm.txt"),
        *("--build-constraints", requirements / "build.txt"),
    )
    shutil.rmtree(target / "bin", ignore_errors=True)
    (target / ".lock").unlink(missing_ok=True)


def derive_variant(charm: pathlib.Path, version: str, destination: pathlib.Path) -> None:
    """Write to `destination` the same charm as `charm` with the packages for Python `version`."""
    note(f"the same charm for Python {version}")
    with tempfile.TemporaryDirectory(dir=destination.parent) as work:
        packages = pathlib.Path(work, "packages")
        install_packages_for(version, packages)
        partial = pathlib.Path(work, "charm")
        with (
            zipfile.ZipFile(charm) as source,
            zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as target,
        ):
            for item in source.infolist():
                if item.filename.startswith("venv/lib/"):
                    continue
                content = source.read(item)
                if item.filename == "venv/pyvenv.cfg":
                    pattern = rb"(?m)^version_info = .*$"
                    content = re.sub(pattern, f"version_info = {version}".encode(), content)
                target.writestr(item, content)
            for path in sorted(packages.rglob("*")):
                inside = path.relative_to(packages)
                if path.is_file() and not LEFT_OUT.intersection(inside.parts):
                    target.write(path, f"venv/lib/python{version}/site-packages/{inside}")
        partial.replace(destination)


def describe(charm: pathlib.Path) -> str:
    """Return a table of what takes how much room in `charm`, compressed, largest first."""
    sizes: dict[str, int] = {}
    with zipfile.ZipFile(charm) as archive:
        items = archive.infolist()
    for item in items:
        parts = item.filename.split("/")
        part = parts[0]
        if part == "venv" and len(parts) > 4:  # venv/lib/python3.11/site-packages/PACKAGE/…
            package = parts[4]
            part = "venv/…/" + ("*.dist-info" if package.endswith(".dist-info") else package)
        sizes[part] = sizes.get(part, 0) + item.compress_size
    rows = sorted(sizes.items(), key=lambda row: (-row[1], row[0]))
    shown = [row for row in rows if row[1] >= 4096 or row[0] in INPUTS]
    rest = sum(size for _, size in rows) - sum(size for _, size in shown)
    shown.append(("everything else", rest))
    lines = [f"   {size / 1000:8.1f} kB  {part}" for part, size in shown]
    total = charm.stat().st_size / 1000
    return "\n".join([*lines, f"   {total:8.1f} kB  {charm.name}, {len(items)} files"])


class Stamp:
    """Remembers beside a charm what it was made from."""

    def __init__(self, charm: pathlib.Path, digest: str):
        self._charm = charm
        self._digest = digest
        self._path = charm.with_name(charm.name + ".json")

    def is_current(self) -> bool:
        """Whether the charm exists, was made from these inputs, and is as it was made."""
        try:
            stored = json.loads(self._path.read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError):
            return False
        return self._charm.is_file() and stored == self._current()

    def write(self) -> None:
        """Record the charm as made from these inputs."""
        self._path.write_text(json.dumps(self._current()), encoding="utf-8")

    def _current(self) -> dict[str, str]:
        content = hashlib.sha256(self._charm.read_bytes()).hexdigest()
        return {"inputs": self._digest, "charm": content}


def pack(cache: pathlib.Path, version: str) -> pathlib.Path:
    """Have the charm for Python `version`; return its path. Quick when nothing has changed."""
    files = list(input_files(ROOT))
    digest = digest_inputs(files)
    charm = BUILD / f"{NAME}.charm"
    stamp = Stamp(charm, digest)
    if not stamp.is_current():
        started = time.monotonic()
        for left_behind in BUILD.glob("pack-*"):  # by a run that was killed
            shutil.rmtree(left_behind)
        with tempfile.TemporaryDirectory(prefix="pack-", dir=BUILD) as work:
            project = copy_project(pathlib.Path(work), files)
            run_charmcraft(project, cache).replace(charm)
        stamp.write()
        note(f"packed in {time.monotonic() - started:.0f} s")
        print(describe(charm), file=sys.stderr)
    if version == THIS_PYTHON:
        return charm

    variant = BUILD / f"{NAME}-python{version}.charm"
    stamp = Stamp(variant, digest)
    if not stamp.is_current():
        derive_variant(charm, version, variant)
        stamp.write()
    return variant


def main() -> int:
    """Parse the arguments, pack one charm at a time, print its path."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--cache", type=pathlib.Path, required=True, help="where tools are kept")
    parser.add_argument(
        "--python-version",
        default=THIS_PYTHON,
        metavar="X.Y",
        help="the Python the charm will run under (default: this machine's, %(default)s)",
    )
    arguments = parser.parse_args()
    if not re.fullmatch(r"3\.\d+", arguments.python_version):
        parser.error(f"--python-version {arguments.python_version}: expected e.g. 3.11")
    try:
        print(pack(arguments.cache, arguments.python_version))
    except PackError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
