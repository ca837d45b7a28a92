"""Take turns with whoever else makes images and grub.cfg: packages by dpkg's locks, anybody."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator
from pathlib import Path

from passthrough.errors import BusyError
from passthrough.host import rebuilders
from passthrough.system import package_lock, procfs, quoting

# Seconds. A package or two are installed within that time. Behind more of them the next hook makes
# up for it: a hook that waits holds up the machine's other units.
WAIT = 120.0
_PAUSE = 0.5


@contextlib.contextmanager
def taken(
    root: Path, report: Callable[[str], object], seconds: float | None = None
) -> Generator[None]:
    """Keep dpkg out while the block runs, begun when nobody makes an image or grub.cfg.

    What a rebuild within the block starts has dpkg's locks too, and keeps them when this process is
    killed.

    Args:
        root: the host's root.
        report: takes a sentence when there is somebody to wait for.
        seconds: how long to wait; WAIT when not given.

    Raises:
        BusyError: when somebody is still at work after that time.
        OSError: when dpkg's lock files cannot be opened.
    """
    seconds = WAIT if seconds is None else seconds
    end = time.monotonic() + seconds
    told = ""
    while True:
        with package_lock.attempt(root) as holder:
            # Looked at with the locks: whoever runs now has not begun under dpkg.
            busy = _describe_holder(root, holder) if holder else _describe_rebuilder(root)
            if not busy:
                yield
                return
        if time.monotonic() >= end:
            raise BusyError(
                f"{busy}, for {seconds:.0f} s now",
                "nothing was changed, and the next hook tries again",
            )
        if busy != told:
            report(f"waiting: {busy}")
            told = busy
        time.sleep(_PAUSE)


def _describe_holder(root: Path, holder: package_lock.Holder) -> str:
    if holder.process is None:
        return "another process installs packages (it has dpkg's lock)"
    name = procfs.text_if_there(root, f"{holder.process}/comm").rstrip("\n")
    shown = f"{holder.process}, {quoting.bare(name)}" if name else f"{holder.process}"
    return f"packages are being installed (process {shown}, has dpkg's lock)"


def _describe_rebuilder(root: Path) -> str:
    found = rebuilders.find(root)
    return f"{found.program} runs (process {found.process})" if found else ""
