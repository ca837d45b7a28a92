"""The files of an application's exporter as this revision of the charm has them. Pure.

Like the caretaker, it runs a copy of the charm's code in one file, by the system's Python: the
folder of a unit's charm is Juju's, and goes with the unit.
"""

from __future__ import annotations

import functools
import ipaddress
from typing import NamedTuple

from passthrough.host import exporter_files
from passthrough.planning import caretaking, templates

LOOPBACK = "127.0.0.1"

# What the exporter imports, and no more: it holds nothing that could change a host. A test runs it.
PARTS = (
    "__init__.py",
    "enums.py",
    "exporter.py",
    "frozen.py",
    "host/__init__.py",
    "host/health.py",
    "host/pci.py",
    "naming.py",
    "pci_address.py",
    "planning/__init__.py",
    "planning/health.py",
    "reporting/__init__.py",
    "reporting/metrics.py",
    "site.py",
    "state/__init__.py",
    "state/look.py",
    "system/__init__.py",
    "system/files.py",
    "system/procfs.py",
    "system/sysfs.py",
)


class Listen(NamedTuple):
    """Where an exporter listens.

    Attributes:
        port: the number of the TCP port.
        own: the unit's own address, for a Prometheus elsewhere; empty for this host alone.
    """

    port: int
    own: str = ""

    @property
    def addresses(self) -> tuple[str, ...]:
        """What systemd listens on, in the words of ``ListenStream=`` (systemd.socket(5))."""
        addresses = [LOOPBACK, *([self.own] if self.own else [])]
        return tuple(f"{_in_brackets(each)}:{self.port}" for each in addresses)


def _in_brackets(address: str) -> str:
    known = ipaddress.ip_address(address)  # nothing else gets into the file
    return f"[{known}]" if known.version == 6 else str(known)


def contents(application: str, listen: Listen) -> dict[str, str]:
    """What each of the exporter's files holds, by its path below the root, the program first.

    Args:
        application: the Juju application.
        listen: where it listens.

    Raises:
        ValueError: when the unit's own address is none.
    """
    context = {
        "application": application,
        "program": exporter_files.program_path(application),
        "unit": exporter_files.unit_name(application),
        "addresses": list(listen.addresses),
    }
    renderer = templates.Renderer()
    return {
        exporter_files.program_path(application): pack(),
        exporter_files.service_path(application): renderer.render("exporter.service.j2", context),
        exporter_files.socket_path(application): renderer.render("exporter.socket.j2", context),
        exporter_files.boot_path(application): renderer.render("exporter-boot.conf.j2", context),
    }


@functools.lru_cache(maxsize=1)
def pack() -> str:
    """Pack the exporter's code into one file, as text in the manner of `files.read`."""
    return caretaking.pack_modules("exporter", PARTS)
