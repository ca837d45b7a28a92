"""Where something is done: a host's root, and the application whose files and record are meant."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class Site(NamedTuple):
    """One application of the charm on one host.

    ``root`` is ``/`` on a real host; a copy of another machine's /sys, /proc and /etc serves too.
    ``application`` is the Juju application's name, such as ``pci-passthrough``.
    """

    root: Path
    application: str
