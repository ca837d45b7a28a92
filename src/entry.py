"""The way from Juju's dispatch into the charm."""

from __future__ import annotations

import os
import re
from pathlib import Path

import ops

import roles
from passthrough.site import Site

# The hooks that can prove that a unit leaves.
LEAVING = re.compile(r"^hooks/(?:stop|remove|.*-relation-(?:departed|broken))$")


def run(charm: type[ops.CharmBase], root: Path) -> None:
    """Run the hook or action that Juju asks for.

    In a unit that leaves, the host comes before anything that Juju answers: its tools may fail in
    the middle, and the hook may be the last. A failure of what comes behind stops nothing.

    Args:
        charm: the charm.
        root: the host's root.
    """
    if not LEAVING.search(os.environ.get("JUJU_DISPATCH_PATH", "")):
        ops.main(charm)
        return
    import leaving

    site = Site(root, roles.application_of(os.environ.get("JUJU_UNIT_NAME", "")))
    if not leaving.give_back_first(site, os.environ):
        ops.main(charm)
        return
    try:
        ops.main(charm)
    except Exception as error:
        leaving.tell(site, f"all is done, and Juju was not told: {error}")
