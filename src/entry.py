"""The way from Juju's dispatch into the charm."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import garbage
import quiet
import roles
from passthrough.site import Site

if TYPE_CHECKING:
    from passthrough import survey

# The hooks that can prove that a unit leaves.
LEAVING = re.compile(r"^hooks/(?:stop|remove|.*-relation-(?:departed|broken))$")


def run(root: Path) -> None:
    """Run the hook or action that Juju asks for.

    An update-status or config-changed with nothing new ends here. In a unit that leaves, the host
    comes before anything that Juju answers: its tools may fail in the middle, and the hook may be
    the last. A failure of what comes behind stops nothing.

    Args:
        root: the host's root.
    """
    path, unit = os.environ.get("JUJU_DISPATCH_PATH", ""), os.environ.get("JUJU_UNIT_NAME", "")
    site = Site(root, roles.application_of(unit))
    if path in quiet.HOOKS:
        quiet.HOOKS[path](site, unit, _run_charm)
        return
    if not LEAVING.search(path):
        _run_charm()
        return
    import leaving

    if not leaving.give_back_first(site, os.environ):
        _run_charm()
        return
    try:
        _run_charm()
    except Exception as error:
        leaving.tell(site, f"all is done, and Juju was not told: {error}")


def _run_charm(facts: survey.Facts | None = None) -> None:
    import ops

    import charm

    garbage.resume()
    charm.PciPassthroughCharm.seen = facts
    ops.main(charm.PciPassthroughCharm)
