"""What the last look at a host has shown, for the exporter of its metrics.

A hook writes it once it is through, and only while the exporter is there. Everybody may read it:
the exporter is nobody in particular. It is below /run, which a boot empties: until a hook has
looked again, nothing of before is told.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from passthrough import naming, pci_address
from passthrough.site import Site
from passthrough.system import files

FOLDER = "run/pci-passthrough"
_FORMAT = 1


class Function(NamedTuple):
    """One function that is claimed, or that is missing.

    Attributes:
        address: where it is, or was.
        id: ``vendor:product``.
        alias: the alias of its item, both names with ``|`` between them while one is renamed;
            empty for none, and for what is missing.
        is_companion: whether it only goes with another function of its card.
        is_offered: whether Nova is offered it.
        is_quarantined: whether it is kept from Nova because it was sick.
        is_held: whether somebody has it open, where the kernel does not tell at each scrape, as of
            one on a variant of vfio-pci; else None.
    """

    address: str
    id: str
    alias: str = ""
    is_companion: bool = False
    is_offered: bool = False
    is_quarantined: bool = False
    is_held: bool | None = None


class Look(NamedTuple):
    """What a hook has seen.

    Attributes:
        at: when, in seconds since 1970; None where no hook of this boot has seen the host.
        functions: what is claimed, and what is missing, in address order.
        aliases: the aliases that the options name, whether or not anything is claimed for them.
        needs_reboot: whether only a reboot completes the work; None where that was not seen.
        is_blocked: whether the unit waits for an operator.
        restarts: how often the charm has restarted nova-compute; None where nobody has counted.
    """

    at: float | None = None
    functions: tuple[Function, ...] = ()
    aliases: tuple[str, ...] = ()
    needs_reboot: bool | None = None
    is_blocked: bool = False
    restarts: int | None = None


def path_of(application: str) -> str:
    """The file below the root."""
    return f"{FOLDER}/{naming.check_application(application)}.look"


def write(site: Site, seen: Look) -> None:
    """Write down what a hook has seen.

    Raises:
        OSError: when the file cannot be written.
    """
    functions = [each._asdict() for each in seen.functions]
    data = {"format": _FORMAT, **seen._asdict(), "functions": functions}
    files.ensure(site.root / path_of(site.application), json.dumps(data, sort_keys=True))


def forget(site: Site) -> None:
    """Remove the file.

    Raises:
        OSError: when it cannot be removed.
    """
    files.ensure(site.root / path_of(site.application), None)


def read(site: Site) -> Look | None:
    """Read what the last look has shown; None where no hook of this boot has looked.

    What is damaged, or of another revision of the charm, tells nothing either.
    """
    try:
        present = files.read(site.root / path_of(site.application))
        return _parse(json.loads(present.content)) if present else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _parse(data: dict[str, Any]) -> Look | None:
    if data.pop("format") != _FORMAT:
        return None
    functions = tuple(Function(**each) for each in data.pop("functions"))
    if not all(pci_address.is_exact(each.address) for each in functions):
        return None
    aliases = tuple(map(str, data.pop("aliases")))
    return Look(functions=functions, aliases=aliases, **data)
