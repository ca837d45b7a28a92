"""A charm on disk: unpack it as Juju's agent does and read what it declares."""

from __future__ import annotations

import functools
import json
import os
import pathlib
import shutil
import stat
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from typing import Any

from harness.standin.errors import CharmError

MANIFEST = "manifest.json"

# The standard library has no YAML and the guest of the lab no PyYAML, but every ops charm carries
# one: ops needs it. It is imported (out of the zip file) in a process of its own, so that neither
# the charm's packages nor its version of PyYAML end up in the process that runs the tests.
_READ_YAML = """
import json, pathlib, sys, zipfile
source = pathlib.Path(sys.argv[1])
root = source if source.is_dir() else zipfile.Path(source)
for venv in (root / "venv" / "lib").iterdir() if (root / "venv" / "lib").exists() else ():
    sys.path.insert(0, str(venv / "site-packages"))
import yaml
def read(name):
    path = root / name
    return (yaml.safe_load(path.read_text(encoding="utf-8")) or {}) if path.exists() else {}
print(json.dumps({name: read(name + ".yaml") for name in ("metadata", "config", "actions")}))
"""


def unpack(source: pathlib.Path, target: pathlib.Path) -> None:
    """Put the charm's files into ``target``, over an older version if there is one.

    As Juju does, files of the older version that the new one lacks are deleted and files that
    came from elsewhere (``.unit-state.db``) are kept. The list of files is written beside
    ``target``.

    Args:
        source: a packed charm (zip) or, for tests of the stand-in itself, a directory.
        target: the charm directory of the unit.

    Raises:
        CharmError: the source is no zip file, or without ``dispatch``.
    """
    manifest = target.parent / MANIFEST
    old = set(json.loads(manifest.read_text())) if manifest.exists() else set()
    target.mkdir(parents=True, exist_ok=True)
    try:
        new = set(_copy(source, target) if source.is_dir() else _extract(source, target))
    except zipfile.BadZipFile as error:
        raise CharmError(f"{source}: not a charm file: {error}") from error
    for name in old - new:
        (target / name).unlink(missing_ok=True)
    manifest.write_text(json.dumps(sorted(new)))
    if not os.access(target / "dispatch", os.X_OK):
        raise CharmError(f"{source}: holds no executable `dispatch`")


def _extract(source: pathlib.Path, target: pathlib.Path) -> Iterator[str]:
    # zipfile.extractall() forgets modes and writes symbolic links as plain files.
    with zipfile.ZipFile(source) as archive:
        for entry in archive.infolist():
            path = target / entry.filename
            if not path.resolve().is_relative_to(target.resolve()):
                raise CharmError(f"{source}: {entry.filename} points out of the charm")
            mode = entry.external_attr >> 16
            if entry.is_dir():
                path.mkdir(parents=True, exist_ok=True)
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            if stat.S_ISLNK(mode):
                path.symlink_to(archive.read(entry).decode())
            else:
                with archive.open(entry) as content, path.open("wb") as out:
                    shutil.copyfileobj(content, out)
                path.chmod(stat.S_IMODE(mode) or 0o644)
            yield entry.filename


def _copy(source: pathlib.Path, target: pathlib.Path) -> Iterator[str]:
    shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)
    for path in source.rglob("*"):
        if path.is_symlink() or not path.is_dir():
            yield str(path.relative_to(source))


def read_declarations(source: pathlib.Path) -> dict[str, Any]:
    """What a charm (zip file or directory) declares: its metadata, config and actions YAML.

    Raises:
        CharmError: no such charm, no PyYAML in it nor beside this interpreter, or bad YAML.
    """
    if not source.exists():
        raise CharmError(f"{source}: no such charm")
    if source.is_dir():
        return json.loads(_read_yaml(source))
    return json.loads(_read_packed_yaml(source.resolve(), source.stat().st_mtime_ns))


@functools.lru_cache(maxsize=16)
def _read_packed_yaml(source: pathlib.Path, changed: int) -> str:
    """What `_read_yaml` gives, which takes a tenth of a second, of a file changed at that time."""
    del changed
    return _read_yaml(source)


def _read_yaml(source: pathlib.Path) -> str:
    command = [sys.executable, "-I", "-c", _READ_YAML, str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CharmError(f"{source}: cannot read its YAML files:\n{done.stderr.strip()}")
    return done.stdout


def endpoints(declared: dict[str, Any]) -> dict[str, dict[str, str]]:
    """Endpoint name to its role, interface and scope.

    The implicit ``juju-info`` is among them, as every charm provides it.
    """
    found = {"juju-info": {"role": "provides", "interface": "juju-info", "scope": "global"}}
    for role in ("provides", "requires"):
        for name, endpoint in (declared["metadata"].get(role) or {}).items():
            scope = endpoint.get("scope", "global")
            found[name] = {"role": role, "interface": endpoint["interface"], "scope": scope}
    return found
