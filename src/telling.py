"""A status that is true while a hook works: what the unit does now, said at once.

ops sets the status when a hook ends. A rebuild takes a minute for each kernel, and the status of
before would stand meanwhile, with what it asked an operator for. The tool says which kernel it
comes to, and so does the status.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

import ops

from passthrough import enums
from passthrough.effects import tools
from passthrough.host import generators, modules
from passthrough.reporting import status

logger = logging.getLogger(__name__)

_KERNEL = "vmlinuz-"


def find_kernels(root: Path) -> tuple[str, ...]:
    """The releases of the kernels on /boot, the newest first.

    Args:
        root: ``/`` on a real host.
    """
    found = {path.name.removeprefix(_KERNEL) for path in (root / "boot").glob(f"{_KERNEL}*")}
    return tuple(sorted(found, key=modules.age, reverse=True))


class Telling:
    """The host's tools, with a status before each rebuild; see `passthrough.effects.tools.Tools`.

    Args:
        unit: the unit whose status is set.
        host_tools: do the work.
        root: ``/`` on a real host.
    """

    def __init__(self, unit: ops.Unit, host_tools: tools.Tools, root: Path):
        self._unit, self._tools, self._root = unit, host_tools, root
        self._said = ""
        self.load_vfio, self.load_native = host_tools.load_vfio, host_tools.load_native
        self.running, self.restart = host_tools.running, host_tools.restart
        self.start, self.stop = host_tools.start, host_tools.stop
        self.settle_devices, self.reload_udev = host_tools.settle_devices, host_tools.reload_udev
        self.start_timer, self.stop_timer = host_tools.start_timer, host_tools.stop_timer
        self.start_socket, self.stop_socket = host_tools.start_socket, host_tools.stop_socket

    def rebuild(
        self,
        what: enums.Rebuild,
        progress: Callable[[str], object],
        generator: generators.Generator | None = None,
        reached: Callable[[str], object] = tools.nobody,
    ) -> None:
        """Say what is rebuilt, and since when, then rebuild it, and say each kernel it comes to."""
        kernels = find_kernels(self._root) if what is enums.Rebuild.INITRAMFS else ()
        began = time.strftime("%H:%M")
        seen: list[str] = []

        def say() -> None:
            self._say(status.describe_rebuild(what, kernels, seen, began))

        def reach(kernel: str) -> None:
            reached(kernel)
            # Where update-initramfs runs dracut, both say so.
            if kernel not in seen:
                seen.append(kernel)
                say()

        say()
        self._tools.rebuild(what, progress, generator, reach)

    def _say(self, sentence: str) -> None:
        """Set the status, unless it says so already: each one is a write on Juju's controller."""
        if sentence == self._said:
            return
        self._said = sentence
        try:
            self._unit.status = ops.MaintenanceStatus(sentence)
        except (ops.ModelError, OSError) as error:
            logger.warning("Juju was not told that the unit is %s: %s", sentence, error)
