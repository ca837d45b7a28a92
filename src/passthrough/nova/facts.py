"""What is known of Nova on a compute host, read from its files."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from passthrough.nova import conf as nova_conf
from passthrough.nova import lines as nova_lines
from passthrough.nova import release as nova_release
from passthrough.site import Site
from passthrough.state import record
from passthrough.system import files

SERVICE = "nova-compute"


@dataclasses.dataclass(frozen=True)
class Facts:
    """What is known of Nova on this unit.

    Attributes:
        application: the Juju application whose drop-in is meant.
        release: the installed Nova; None where nova-common is not installed.
        config: what its files say, our drop-in among them.
        present: what the drop-in holds.
        group: the number of the group that Nova's services run as; None where there is none.
        known: what nova-compute knows of the drop-in, by the record.
        held: the addresses in the drop-in of functions that a guest holds.
    """

    application: str = "pci-passthrough"
    release: nova_release.Release | None = None
    config: nova_conf.Config = dataclasses.field(default_factory=nova_conf.Config)
    present: files.Present | None = None
    group: int | None = None
    known: record.Nova = dataclasses.field(default_factory=record.Nova)
    held: frozenset[str] = frozenset()

    @property
    def path(self) -> str:
        """The drop-in, as the host sees it."""
        return f"/{nova_lines.path_of(self.application)}"


def read(site: Site, known: record.Nova) -> Facts:
    """Read what Nova has on a site; who holds a function is not asked here.

    Args:
        site: where.
        known: what nova-compute knows of the drop-in, by the record.

    Raises:
        OSError: when a file cannot be read.
    """
    root = site.root
    return Facts(
        application=site.application,
        release=nova_release.installed(root),
        config=nova_conf.read(root, (SERVICE,)),
        present=files.read(root / nova_lines.path_of(site.application)),
        group=_group(root),
        known=known,
    )


def _group(root: Path) -> int | None:
    """The number of Nova's group, from the tree's own /etc/group."""
    present = files.read(root / "etc/group")
    for line in present.content.splitlines() if present else ():
        name, _, number, *_ = [*line.split(":"), "", "", ""]
        if name == nova_lines.GROUP and number.isdigit():
            return int(number)
    return None
