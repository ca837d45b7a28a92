"""What this application has taken and activated: the only state that cannot be read off the host.

One JSON file an application below /var/lib/pci-passthrough. A function is written into it before
its driver_override is, and leaves it only after the kernel has shown the function given back, so
that a crash in between is mended by the next run.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path

from passthrough import PassthroughError, files

DIRECTORY = "var/lib/pci-passthrough"

_APPLICATION = re.compile(r"[a-z][a-z0-9]*(?:-[a-z0-9]*[a-z][a-z0-9]*)*")


class RecordError(PassthroughError):
    """The record of an application cannot be read."""


@dataclasses.dataclass(frozen=True)
class Record:
    """What one application has done to this host.

    ``taken`` maps the address of every function it took to the driver that had it before, or
    None. ``activated`` maps ``initramfs`` and ``grub`` to the fingerprint of the files that the
    last successful rebuild took in.
    """

    taken: Mapping[str, str | None] = dataclasses.field(default_factory=dict)
    activated: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        """Nothing is taken and nothing was activated."""
        return not (self.taken or self.activated)


def check_application(name: str) -> str:
    """Give ``name`` back if it is a Juju application's name.

    Raises:
        ValueError: otherwise; the name becomes part of file names and of shell comments.
    """
    if not _APPLICATION.fullmatch(name):
        raise ValueError(f"{name!r} is not the name of a Juju application")
    return name


def read(root: Path, application: str) -> Record:
    """Read an application's record; an empty one when it has none.

    Raises:
        RecordError: when the file is there but is not what `write` wrote.
    """
    path = _path(root, application)
    present = files.read(path)
    if present is None:
        return Record()
    try:
        data = json.loads(present.content)
        return Record(taken=dict(data["taken"]), activated=dict(data["activated"]))
    except (ValueError, KeyError, TypeError) as error:
        raise RecordError(
            f"/{path.relative_to(root)} is not readable ({error}); move it away, and what it held"
            " is found again from the configuration"
        ) from error


def write(root: Path, application: str, record: Record) -> bool:
    """Store an application's record, or remove the file when it is empty.

    Returns:
        True if anything was changed.
    """
    path = _path(root, application)
    if not record.is_empty:
        return files.ensure(path, json.dumps(dataclasses.asdict(record), indent=1, sort_keys=True))
    changed = files.ensure(path, None)
    if changed and not any(path.parent.iterdir()):
        path.parent.rmdir()
    return changed


def taken_by_others(root: Path, application: str) -> dict[str, str]:
    """Map every address that another application of this charm has taken to its name."""
    found = {}
    for path in sorted((root / DIRECTORY).glob("*.json")):
        if path.stem != application:
            found.update(dict.fromkeys(read(root, path.stem).taken, path.stem))
    return found


def _path(root: Path, application: str) -> Path:
    return root / DIRECTORY / f"{check_application(application)}.json"
