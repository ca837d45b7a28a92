"""Rules that keep the charm's hands off devices the host itself needs.

Each guard is one row of ``GUARDS``: a name, a pure rule that gives the reason for refusing a
function or None, and whether ``allow-in-use: true`` on the item overrides it. To add a guard,
write the rule and add its row.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from passthrough import pci


@dataclasses.dataclass(frozen=True)
class Guard:
    """One rule: ``reason`` maps a function of a host to why it must not be claimed, or None."""

    name: str
    reason: Callable[[pci.Function, pci.Host], str | None]
    overridable: bool


@dataclasses.dataclass(frozen=True)
class Objection:
    """A guard's refusal of one function."""

    guard: str
    reason: str
    overridable: bool


def _pci_bridge(function: pci.Function, host: pci.Host) -> str | None:
    del host
    # vfio-pci's probe refuses every header type but "normal" (drivers/vfio/pci/vfio_pci_core.c).
    return "is a PCI bridge, which no guest can have" if function.is_pci_bridge else None


def _host_controller(function: pci.Function, host: pci.Host) -> str | None:
    del host
    if function.is_bridge and not function.is_pci_bridge:
        return "is a bridge or host controller that the machine itself needs"
    return None


GUARDS = (
    Guard("pci-bridge", _pci_bridge, overridable=False),
    Guard("host-controller", _host_controller, overridable=True),
)


def object_to(function: pci.Function, host: pci.Host) -> Objection | None:
    """Give the first objection to claiming ``function``; one that cannot be overridden first."""
    found = None
    for guard in GUARDS:
        reason = guard.reason(function, host)
        if reason and not (found and guard.overridable):
            objection = Objection(guard.name, reason, guard.overridable)
            if not guard.overridable:
                return objection
            found = objection
    return found
