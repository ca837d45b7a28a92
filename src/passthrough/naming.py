"""What the charm calls its things on a host, after the Juju application they are of."""

from __future__ import annotations

import re

# Holds the record of each application on the host.
RECORDS = "var/lib/pci-passthrough"

_APPLICATION = re.compile(r"[a-z][a-z0-9]*(?:-[a-z0-9]*[a-z][a-z0-9]*)*")

_NUMBER = r"(?a)0|[1-9][0-9]*"


def name_for(application: str) -> str:
    """The stem of every owned file: several applications of the charm may share a host."""
    own = "pci-passthrough"
    return own if application == own else f"{own}-{application}"


def is_application(name: str) -> bool:
    """Tell whether ``name`` can be a Juju application's."""
    return bool(_APPLICATION.fullmatch(name))


def check_application(name: str) -> str:
    """Give ``name`` back if it is a Juju application's name.

    Raises:
        ValueError: otherwise; the name becomes part of file names and of shell comments.
    """
    if not is_application(name):
        raise ValueError(f"{name!r} is not the name of a Juju application")
    return name


def check_unit(name: str) -> str:
    """Give ``name`` back if it is a Juju unit's name, such as ``pci-passthrough/0``.

    Raises:
        ValueError: otherwise; the name becomes part of paths.
    """
    application, _, number = name.partition("/")
    if not (_APPLICATION.fullmatch(application) and re.fullmatch(_NUMBER, number)):
        raise ValueError(f"{name!r} is not the name of a Juju unit")
    return name
