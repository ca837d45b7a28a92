"""Whether the unit that looks after the host is gone, by Juju's folders and services. Reads only.

Juju keeps a folder for the agent of the machine and for each unit below /var/lib/juju/agents, and
removes that of a unit with the unit. The machine's is named after its number, as ``machine-3``, and
so is its service.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from passthrough import enums
from passthrough.host import agents

AGENTS = "var/lib/juju/agents"
_FOLDERS_OF_SERVICES = ("etc/systemd/system", "lib/systemd/system", "usr/lib/systemd/system")
_SERVICE = "jujud-"
_AGENT = re.compile(r"(?:machine|unit|controller|application)-.+")
_MACHINE = re.compile(r"machine-[0-9]+")


class Sight(enums.StrEnum):
    """What a look at the agents says about the unit that looks after the host."""

    LIVES = "lives"
    FOLDER_GONE = "folder-gone"
    OTHER_MODEL = "other-model"
    NO_AGENT = "no-agent"
    UNCLEAR = "unclear"


def look(
    root: Path, unit: str, filesystem: str, is_running: Callable[[str], bool], application: str
) -> Sight:
    """Look for the unit that owns an application's record.

    Args:
        root: the host's root.
        unit: the owner's name, such as ``pci-passthrough/0``; empty where the record names none.
        filesystem: what `filesystem` gave when the record was written.
        is_running: whether a service runs; asked only where the owner seems to be gone.
        application: the record's application.

    Raises:
        CommandError: as ``is_running``.
    """
    try:
        names = _names(root)
        if not names:
            return Sight.UNCLEAR if _has_service(root) else Sight.NO_AGENT
        machines = [name for name in names if _MACHINE.fullmatch(name)]
        if len(machines) != 1:
            return Sight.UNCLEAR
        machine, model = machines[0], agents.model_in(root / AGENTS / machines[0])
        units = [name for name in names if re.fullmatch(rf"unit-{application}-[0-9]+", name)]
        models = [agents.model_in(root / AGENTS / name) for name in units]
        strangers = [each for each in models if model and each not in (None, model)]
        if len(strangers) < len(units):
            return Sight.LIVES  # the owner, or another unit that can look after the host
        told = unit and model and filesystem and filesystem == find_filesystem(root)
    except OSError:
        return Sight.UNCLEAR
    if not told or not is_running(f"{_SERVICE}{machine}"):
        return Sight.UNCLEAR
    return Sight.OTHER_MODEL if strangers else Sight.FOLDER_GONE


def find_filesystem(root: Path) -> str:
    """Name the file system that holds the agents' folders; empty where there is none.

    The id that the file system itself tells outlives a boot, where the kernel may number devices
    anew; not every kind tells one.
    """
    folder = root / AGENTS
    try:
        number = os.statvfs(folder).f_fsid
        return f"id {number:x}" if number else f"device {os.stat(folder).st_dev:x}"
    except OSError:
        return ""


def _names(root: Path) -> list[str]:
    try:
        return [name for name in os.listdir(root / AGENTS) if _AGENT.fullmatch(name)]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _has_service(root: Path) -> bool:
    for folder in _FOLDERS_OF_SERVICES:
        try:
            if any(name.startswith(_SERVICE) for name in os.listdir(root / folder)):
                return True
        except (FileNotFoundError, NotADirectoryError):
            continue
    return False
