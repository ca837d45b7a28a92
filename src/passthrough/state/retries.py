"""A rebuild that failed is not tried again at each update-status, but after growing pauses.

The first failure may be chance: the next update-status tries again.

What is remembered stands in a file below /run, which a boot empties, one for each application. A
file in another format is ignored, and costs one rebuild. Times are of the clock that runs since the
boot, which nobody sets.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, NamedTuple

from passthrough import naming
from passthrough.errors import PassthroughError
from passthrough.site import Site
from passthrough.system import files

_PREFIX = "run/pci-passthrough.rebuild-"
_MODE = 0o600
_FORMAT = 1
# Seconds: two update-statuses of Juju's at first, six hours at most.
FIRST_PAUSE = 600.0
LONGEST_PAUSE = 6 * 3600.0


class HeldBackError(PassthroughError):
    """A rebuild failed a while ago, nothing has changed since, and its pause is not over."""


class Failure(NamedTuple):
    """A rebuild that failed.

    Attributes:
        key: the digest of all that it depended on.
        times: how often it has failed, with nothing changed in between.
        due: when to try again.
        said: the error, in words.
    """

    key: str
    times: int
    due: float
    said: str


def recall(site: Site) -> Failure | None:
    """Read what became of the last rebuild; None unless it failed.

    Raises:
        OSError: when the file is there and cannot be read.
    """
    present = files.read(_path(site))
    if not present or present.mode != _MODE:
        return None
    try:
        data: dict[str, Any] = json.loads(present.content)
        if data["format"] != _FORMAT:
            return None
        return Failure(str(data["key"]), int(data["times"]), float(data["due"]), str(data["said"]))
    except (ValueError, TypeError, KeyError, OverflowError):
        return None  # something else wrote it


def check(site: Site, key: str) -> None:
    """Hold a rebuild back that has failed before, until its pause is over.

    Args:
        site: where.
        key: the digest of all that the rebuild depends on now; a change ends the pause.

    Raises:
        HeldBackError: with the words of the former error, while the pause lasts.
        OSError: as `recall`.
    """
    known = recall(site)
    if known and known.key == key and 0 < known.due - time.monotonic() <= LONGEST_PAUSE:
        raise HeldBackError(known.said)


def note(site: Site, key: str, error: Exception) -> None:
    """Write down that a rebuild failed.

    Args:
        site: where.
        key: as for `check`.
        error: why.

    Raises:
        OSError: when it cannot be written.
    """
    known = recall(site)
    times = known.times + 1 if known and known.key == key else 1
    pause = min(FIRST_PAUSE * 2 ** min(times - 2, 16), LONGEST_PAUSE) if times > 1 else 0.0
    kept = Failure(key, times, time.monotonic() + pause, str(error))
    text = json.dumps({"format": _FORMAT, **kept._asdict()})
    files.ensure(_path(site), text, _MODE)


def forget(site: Site) -> None:
    """Forget that a rebuild failed: it is done, or somebody has asked for another try.

    Raises:
        OSError: when the file cannot be removed.
    """
    files.ensure(_path(site), None)


def _path(site: Site) -> Path:
    return site.root / f"{_PREFIX}{naming.check_application(site.application)}"
