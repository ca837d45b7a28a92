"""What a hook that left nothing to do tells the next one, so that it need only look.

A file below /run, which a boot empties, and not Juju's own store: a hook that fails takes back what
it stored there, and the memory of an earlier one would be in force again. One in another format is
no memory: it costs a hook that does all.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from passthrough.system import files

_PREFIX = "run/pci-passthrough.settled-"
_MODE = 0o600
_FORMAT = 2


@dataclasses.dataclass(frozen=True)
class Memory:
    """How the last hook left a unit.

    ``settled`` is what `status.settled` called it, ``options`` are the charm's options that it went
    by, and ``rendered`` is what `templates.learned` gave.
    """

    settled: str
    options: Mapping[str, Any]
    rendered: Mapping[str, str]


def recall(root: Path, unit: str) -> Memory | None:
    """Read what the last hook of a unit left; None where it left nothing that can be trusted.

    Args:
        root: ``/`` on a real host.
        unit: the unit's name, such as ``pci-passthrough/0``.

    Raises:
        OSError: when there is a file that cannot be read.
    """
    present = files.read(root / _path(unit))
    if not present or present.mode != _MODE:
        return None
    try:
        data: dict[str, Any] = json.loads(present.content)
        if data.pop("format") != _FORMAT:
            return None  # by another revision of the charm
        found = Memory(**data)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None  # written by something else
    parts_fit = isinstance(found.options, dict) and isinstance(found.rendered, dict)
    return found if parts_fit and isinstance(data["settled"], str) and found.settled else None


def keep(root: Path, unit: str, memory: Memory) -> None:
    """Write down how this hook leaves the unit; raises OSError."""
    kept = {"format": _FORMAT, **dataclasses.asdict(memory)}
    files.ensure(root / _path(unit), json.dumps(kept, sort_keys=True), _MODE)


def forget(root: Path, unit: str) -> None:
    """Have the next hook do all that any hook does; raises OSError."""
    (root / _path(unit)).unlink(missing_ok=True)


def _path(unit: str) -> str:
    return f"{_PREFIX}{unit.replace('/', '-')}"
