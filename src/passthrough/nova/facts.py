"""What is known of Nova on a compute host, read from its files."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from passthrough.nova import conf as nova_conf
from passthrough.nova import lines as nova_lines
from passthrough.nova import release as nova_release
from passthrough.system import files

SERVICE = "nova-compute"


@dataclasses.dataclass(frozen=True)
class Facts:
    """What is known of Nova on this unit.

    ``config`` is what its files say, our drop-in among them; ``present`` is what the drop-in
    holds. ``group`` is the number of the group that Nova's services run as, None where there is
    no such group. ``held`` are the addresses in the drop-in of functions that a guest holds.
    """

    release: nova_release.Release | None = None
    config: nova_conf.Config = dataclasses.field(default_factory=nova_conf.Config)
    present: files.Present | None = None
    group: int | None = None
    held: frozenset[str] = frozenset()


def read(root: Path, application: str) -> Facts:
    """Read what Nova has below ``root``; who holds a function is not asked here.

    Raises:
        OSError: when a file cannot be read.
    """
    return Facts(
        release=nova_release.installed(root),
        config=nova_conf.read(root, (SERVICE,)),
        present=files.read(root / nova_lines.path_of(application)),
        group=_group(root),
    )


def _group(root: Path) -> int | None:
    """The number of Nova's group, from the tree's own /etc/group."""
    present = files.read(root / "etc/group")
    for line in present.content.splitlines() if present else ():
        name, _, number, *_ = [*line.split(":"), "", "", ""]
        if name == nova_lines.GROUP and number.isdigit():
            return int(number)
    return None
