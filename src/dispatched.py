"""What one dispatch of the charm did: the one value that its status is made of.

Named tuples: every hook imports them, and a dataclass takes five times as long to make.
"""

from __future__ import annotations

import enum
import logging
from typing import TYPE_CHECKING, NamedTuple

from passthrough.errors import PassthroughError, unexpected

if TYPE_CHECKING:
    from passthrough import reboot, reconcile
    from passthrough.nova import publication
    from passthrough.survey import Decision

logger = logging.getLogger(__name__)


class Check(enum.Enum):
    """Whether a unit has the NRPE check: nobody asks for it, it waits for nrpe, or it is there."""

    UNASKED = "unasked"
    WAITS = "waits"
    THERE = "there"


class Nothing(NamedTuple):
    """Nothing was looked at."""


class Reconciled(NamedTuple):
    """A compute unit brought its host to what the options ask for."""

    result: reconcile.Result
    verdict: reboot.Verdict


class Published(NamedTuple):
    """A controller unit sent its aliases, or an action looked at what it would send."""

    publication: publication.Publication


class Seen(NamedTuple):
    """An action looked at the host of a compute unit."""

    decision: Decision


class Failed(NamedTuple):
    """Something kept the unit from its work."""

    problem: Exception


class Barred(NamedTuple):
    """The host is not this unit's to look after, so it did nothing there."""

    problem: Exception


class Removed(NamedTuple):
    """The unit leaves; these addresses stay on vfio-pci until the next boot, and those keep VFs.

    Where ``stays`` says why, it has changed nothing, and everything stays in place.
    """

    left: tuple[str, ...] = ()
    stays: str = ""
    vfs: tuple[str, ...] = ()


Done = Nothing | Reconciled | Published | Seen | Failed | Barred | Removed


def fail(error: Exception) -> Failed:
    """Log an error that ends a hook's work; gives what the status tells of.

    None leaves the hook: Juju's error state shows an operator no sentence, stops the unit's other
    hooks, and what was done up to there is safe to be gone on from. But for `stop` and `remove`,
    after which nobody would.
    """
    if isinstance(error, (PassthroughError, OSError)):
        logger.error("%s", error)
        return Failed(error)
    logger.error("unexpected, and a mistake in this charm: %s", error, exc_info=error)
    return Failed(unexpected(error))
