"""What a hook that left nothing to do tells the next one, which then only looks.

It is a file below /run, which a boot empties. Juju's own store does not serve: Juju discards what a
failed hook stored there, and the memory of an earlier hook would hold again. A file in another
format is ignored, and costs one full hook.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from passthrough import frozen
from passthrough.system import files

_PREFIX = "run/pci-passthrough.settled-"
_MODE = 0o600
_FORMAT = 3


class Memory(frozen.Value):
    """How the last hook left a unit.

    Attributes:
        settled: the name of the unit's state, as `status.settled` gives it.
        options: the charm's options that the hook went by.
        rendered: what the hook learned of the templates, as `templates.Renderer.learned` gives it.
        has_check: whether the NRPE check is on the host, and waits for a report of each hook.
    """

    settled: str
    options: Mapping[str, Any]
    rendered: Mapping[str, str]
    has_check: bool


def recall(root: Path, unit: str) -> Memory | None:
    """Read how the last hook left a unit; None where it left no file, or none to be trusted.

    Args:
        root: ``/`` on a real host.
        unit: the unit's name, such as ``pci-passthrough/0``.

    Raises:
        OSError: when the file is there and cannot be read.
    """
    present = files.read(root / _path(unit))
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
    return found if parts_fit and isinstance(data["settled"], str) and found.settled else None


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
    """Have the next hook of a unit do everything, instead of only looking.

    Raises:
        OSError: when the file cannot be removed.
    """
    (root / _path(unit)).unlink(missing_ok=True)


def _path(unit: str) -> str:
    return f"{_PREFIX}{unit.replace('/', '-')}"
