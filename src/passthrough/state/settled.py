"""What a hook that left nothing to do tells the next one, which then only looks.

The options are kept where there is more to do, too: the command line goes by them. It is a file
below /run, which a boot empties. Juju's own store does not serve: Juju discards what a failed hook
stored there, and the memory of an earlier hook would hold again. A file in another format is
ignored, and costs one full hook.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from passthrough import frozen
from passthrough.system import files, sysfs

_PREFIX = "run/pci-passthrough.settled-"
_MODE = 0o600
_FORMAT = 3


class Memory(frozen.Value):
    """How the last hook left a unit.

    Attributes:
        settled: the name of the unit's state, as `status.settled` gives it; empty where the unit is
            not settled, so that only the options count.
        options: the charm's options that the hook went by.
        rendered: what the hook learned of the templates, as `templates.Renderer.learned` gives it.
        has_check: whether the NRPE check is on the host, and waits for a report of each hook.
    """

    settled: str
    options: Mapping[str, Any]
    rendered: Mapping[str, str]
    has_check: bool


def recall(root: Path, unit: str) -> Memory | None:
    """Read how the last hook left a unit; None where it is not settled, or that is not known.

    Args:
        root: ``/`` on a real host.
        unit: the unit's name, such as ``pci-passthrough/0``.

    Raises:
        OSError: when the file is there and cannot be read.
    """
    found = _read(root / _path(unit))
    return found if found and found.settled else None


def unsettle(root: Path, unit: str) -> None:
    """Have the next hook of a unit do everything; the options that are kept stay.

    Raises:
        OSError: when the file cannot be read or written.
    """
    found = _read(root / _path(unit))
    if found is None:
        forget(root, unit)
    elif found.settled:
        keep(root, unit, unsettled(found.options))


def unsettled(options: Mapping[str, Any]) -> Memory:
    """What is kept of a unit that is not settled: its options."""
    return Memory("", options, {}, False)


def is_kept(root: Path, unit: str) -> bool:
    """Whether a hook of a unit has left anything on this host since it booted."""
    return (root / _path(unit)).exists()


def kept_options(root: Path, application: str = "") -> dict[str, Mapping[str, Any]]:
    """Read the options that units were last told, by their application.

    Args:
        root: ``/`` on a real host.
        application: whose units; empty for those of every application.

    Raises:
        OSError: when a file is there and cannot be read.
    """
    found: dict[str, Mapping[str, Any]] = {}
    folder, pattern = os.path.split(f"{_PREFIX}{application or '*'}-*")
    # A unit beside another principal may be there too, so the one told last counts.
    for path in sorted(map(Path, sysfs.paths_if_there(root / folder, pattern)), key=_written):
        name, _, number = path.name.removeprefix(os.path.basename(_PREFIX)).rpartition("-")
        if not number.isdecimal() or name != (application or name):
            continue
        memory = _read(path)
        if memory:
            found[name] = memory.options
    return {name: found[name] for name in sorted(found)}


def _written(path: Path) -> int:
    return path.stat().st_mtime_ns


def _read(path: Path) -> Memory | None:
    """Read one file; None where it is not there, or not to be trusted."""
    present = files.read(path)
    if not present or present.mode != _MODE:
        return None
    try:
        data: dict[str, Any] = json.loads(present.content)
        if data.pop("format") != _FORMAT:
            return None  # another revision of the charm wrote it
        found = Memory(**data)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None  # something else wrote it
    parts_fit = (
        isinstance(found.options, dict)
        and isinstance(found.rendered, dict)
        and isinstance(data["has_check"], bool)
    )
    return found if parts_fit and isinstance(data["settled"], str) else None


def keep(root: Path, unit: str, memory: Memory) -> None:
    """Write down how this hook leaves a unit.

    Args:
        root: ``/`` on a real host.
        unit: the unit's name.
        memory: how the hook leaves it.

    Raises:
        OSError: when the file cannot be written.
    """
    kept = {"format": _FORMAT, **frozen.as_dict(memory)}
    files.ensure(root / _path(unit), json.dumps(kept, sort_keys=True), _MODE)


def forget(root: Path, unit: str) -> None:
    """Have the next hook of a unit do everything, and keep nothing, not even its options.

    Raises:
        OSError: when the file cannot be removed.
    """
    (root / _path(unit)).unlink(missing_ok=True)


def _path(unit: str) -> str:
    return f"{_PREFIX}{unit.replace('/', '-')}"
