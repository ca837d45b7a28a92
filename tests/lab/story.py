"""A charm on a machine, and what has changed since it came: what the tests of a row ask.

A row's stages follow one another on one machine; each stage hands on the story that it got.
"""

import dataclasses
import json
from typing import Any

from lab import files, guest, kernel, unit

# Where the charm may write, and where the distribution's tools write for it.
WATCHED = ("/etc", "/boot", "/usr/lib/dracut", "/lib/modprobe.d", "/lib/udev/rules.d")
# How the charm's script in the initramfs begins its lines in the kernel's log.
AT_BOOT = "pci-passthrough:"


@dataclasses.dataclass(frozen=True)
class Story:
    """The machine, the charm that is copied to it, and what the stages saw, by their names."""

    host: guest.Guest
    charm: unit.Unit
    seen: dict[str, Any] = dataclasses.field(default_factory=dict, kw_only=True)

    def read_drivers(self) -> dict[str, str | None]:
        """Return the driver of every declared function by address, as the kernel shows it."""
        found = kernel.read_functions(self.host)
        return {address: found[address].driver for address in self.host.machine.functions}

    def with_claimed(self, *names: str) -> dict[str, str | None]:
        """Return the driver of every declared function with these devices on vfio-pci.

        A bridge has no driver of its own to give up, and stays as it is.
        """
        hardware = self.host.machine
        claimed = {
            address
            for name in names
            for address, function in hardware[name].functions.items()
            if function.driver
        }
        native = {address: function.driver for address, function in hardware.functions.items()}
        return {**native, **dict.fromkeys(claimed, kernel.VFIO)}

    def find_touches(self, name: str) -> list[str]:
        """Return the lines of the kernel's log by which a driver but vfio-pci had the device.

        A bridge is left out: it is not claimed, and its hotplug driver may say something.
        """
        log = self.host.read_kernel_log()
        return [
            line
            for address, function in self.host.machine[name].functions.items()
            if function.driver
            for line in kernel.find_mentions(log, address)
            if not line.startswith((AT_BOOT, kernel.VFIO))
        ]

    def plan(self, devices: str) -> dict[str, Any]:
        """Return the plan for this option, as the command on the host prints it."""
        # Its status tells that an item is refused.
        said = self.charm.run_cli("--json", "plan", "--devices", devices, check=False)
        return json.loads(said.stdout)

    def list_failed_checks(self) -> str:
        """Return the table of `verify` where it failed, "" where it passed."""
        verified = self.charm.run_action("verify", check=False)
        return verified["results"]["table"] if verified["failed"] else ""


@dataclasses.dataclass(frozen=True)
class Watched(Story):
    """A story that knows the machine's files as they were before the charm came."""

    first: files.Tree

    def read_tree(self) -> files.Tree:
        """Return the watched files as they are."""
        return files.read_tree(self.host, *WATCHED)

    def list_changed(self) -> set[str]:
        """Return the watched paths that came, went or hold something else since the beginning."""
        return files.list_changed(self.first, self.read_tree())

    def list_rewritten(self) -> set[str]:
        """Return the watched paths that were touched at all since the beginning."""
        return files.list_rewritten(self.first, self.read_tree())


def begin(host: guest.Guest) -> Watched:
    """Copy the packed charm to the machine and remember the machine's files."""
    return Watched(host, unit.Unit(host), files.read_tree(host, *WATCHED))
