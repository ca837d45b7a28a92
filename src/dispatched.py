"""What one dispatch of the charm did: the one value that its status is made of."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from passthrough import reboot, reconcile
    from passthrough.nova import publication
    from passthrough.survey import Decision


@dataclasses.dataclass(frozen=True)
class Nothing:
    """Nothing was looked at."""


@dataclasses.dataclass(frozen=True)
class Settled:
    """All is as the last hook left it, so the status that is set is still right."""


@dataclasses.dataclass(frozen=True)
class Reconciled:
    """A compute unit brought its host to what the options ask for."""

    result: reconcile.Result
    verdict: reboot.Verdict


@dataclasses.dataclass(frozen=True)
class Published:
    """A controller unit sent its aliases, or an action looked at what it would send."""

    publication: publication.Publication


@dataclasses.dataclass(frozen=True)
class Seen:
    """An action looked at the host of a compute unit."""

    decision: Decision


@dataclasses.dataclass(frozen=True)
class Failed:
    """Something kept the unit from its work."""

    problem: Exception


@dataclasses.dataclass(frozen=True)
class Removed:
    """The unit leaves; these addresses stay on vfio-pci until the next boot."""

    left: tuple[str, ...] = ()


Done = Nothing | Settled | Reconciled | Published | Seen | Failed | Removed
