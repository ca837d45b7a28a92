"""Nova on a compute host, as its files show it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from passthrough import frozen
from passthrough.nova import conf as nova_conf
from passthrough.nova import lines as nova_lines
from passthrough.nova import release as nova_release
from passthrough.site import Site
from passthrough.state import record
from passthrough.system import files

SERVICE = "nova-compute"


class Facts(frozen.Value):
    """Nova on this unit.

    Attributes:
        application: the Juju application that owns the drop-in.
        release: the installed Nova; None where nova-common is not installed.
        config: what Nova's files say, our drop-in among them.
        present: what the drop-in holds; None without one.
        group: the number of the group that Nova's services run as; None without that group.
        known: what nova-compute knows of the drop-in, by the record.
        held: the addresses in the drop-in of functions that a guest holds.
        missing: the device_specs of functions that are not there any more, by address.
    """

    application: str = "pci-passthrough"
    release: nova_release.Release | None = None
    config: nova_conf.Config = frozen.field(default_factory=nova_conf.Config)
    present: files.Present | None = None
    group: int | None = None
    known: record.Nova = frozen.field(default_factory=record.Nova)
    held: frozenset[str] = frozenset()
    missing: Mapping[str, nova_lines.Fields] = frozen.field(
        default_factory=dict[str, nova_lines.Fields]
    )

    @property
    def path(self) -> str:
        """The absolute path of the drop-in."""
        return f"/{nova_lines.path_of(self.application)}"


def read(site: Site, known: record.Nova) -> Facts:
    """Read Nova's files; leaves ``held`` to the caller, who knows the processes.

    Args:
        site: the application on its host.
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
    """Read the number of Nova's group from /etc/group below ``root``."""
    present = files.read(root / "etc/group")
    for line in present.content.splitlines() if present else ():
        name, _, number, *_ = [*line.split(":"), "", "", ""]
        if name == nova_lines.GROUP and number.isdigit():
            return int(number)
    return None
