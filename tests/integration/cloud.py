"""A model with machines: the questions that the integration tests ask, and what they wait for."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jubilant
from jubilant.statustypes import UnitStatus

APP = "pci-passthrough"
COMPUTE, CONTROLLER, KEEPER = "nova-compute", "nova-cloud-controller", "keeper"
OTHER, MONITOR = "other-controller", "nrpe"
COLLECTOR, PROMETHEUS = "opentelemetry-collector", "prometheus-k8s"
# Each endpoint of the charm and the one that it is integrated with.
ENDPOINTS = {
    "juju-info": f"{COMPUTE}:juju-info",
    "nova-cloud-controller": f"{CONTROLLER}:nova-vmware",
    "nova-pci": f"{OTHER}:nova-pci",
    "nrpe-external-master": f"{MONITOR}:nrpe-external-master",
    "cos-agent": f"{COLLECTOR}:cos-agent",
    "metrics-endpoint": f"{PROMETHEUS}:metrics-endpoint",
}
# Of these applications those that are subordinates, too, and how they come to nova-compute's hosts.
BELOW = {MONITOR: "nrpe-external-master", COLLECTOR: "juju-info"}
MINUTES = 60
# A unit that went without a hook is missed after 25 minutes; the rebuild comes on top.
CARETAKER = 40 * MINUTES
BOOT = 25 * MINUTES

# All that the charm changes on a host, as lines that two moments of one host have alike.
_STATE = r"""
for place in /etc /usr/lib /usr/local/lib /var/lib/pci-passthrough; do
  find "$place" -name '*pci-passthrough*' 2>/dev/null | sort
done
for device in /sys/bus/pci/devices/*; do
  echo "$device $(readlink "$device/driver") $(cat "$device/driver_override" 2>/dev/null)"
done
grep --no-messages --no-filename '^[[:space:]]*linux' /boot/grub/grub.cfg || true
"""
# Tells one boot from the next: a container may have the boot id of its host.
_BOOT = "cat /proc/sys/kernel/random/boot_id; cut --delimiter=' ' --fields=22 /proc/1/stat"


# What `juju exec` of jubilant raises while a machine is away.
_UNREACHABLE = (jubilant.CLIError, jubilant.TaskError, TimeoutError, ValueError)


class Settings(NamedTuple):
    """What the operator asks for.

    Attributes:
        base: of the machines.
        machines: to add, as `juju add-machine` takes them; empty for what the cloud gives.
        card: the vendor and product id of the card to bind; empty for none.
        delay: seconds between two looks at the status.
    """

    base: str
    machines: tuple[str, ...]
    card: str
    delay: float


@dataclasses.dataclass
class Cloud:
    """A model, its machines, and the charms to deploy.

    Attributes:
        compute: the machines of nova-compute; all but the last one, where there are several.
        controller: the machine of the controllers.
        before: what each compute machine was like before the charm came.
    """

    juju: jubilant.Juju
    settings: Settings
    stand_ins: Mapping[str, pathlib.Path]
    charm: pathlib.Path
    compute: list[str] = dataclasses.field(default_factory=list)
    controller: str = ""
    before: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def makes_chains(self) -> bool:
        """Whether Juju makes units without end of a relation between two subordinates."""
        return self.juju.status().model.version.startswith("4.")

    def add_machines(self) -> None:
        """Add the operator's machines, or take two of the cloud's."""
        for machine in self.settings.machines:
            self.juju.add_machine(machine)
        if self.settings.machines:
            self.wait(lambda status: len(status.machines) == len(self.settings.machines))
        present = sorted(self.juju.status().machines, key=int)
        count = len(present) or 2
        self.deploy(KEEPER, num_units=count, to=present or None)
        status = self.wait(lambda status: len(active(status, KEEPER)) == count)
        machines = sorted(status.machines, key=int)
        self.compute, self.controller = machines[:-1] or machines, machines[-1]
        self.before = {machine: self.state(machine) for machine in self.compute}

    def deploy(self, name: str, *, num_units: int = 1, to: list[str] | None = None) -> None:
        """Deploy a charm that stands in for another."""
        charm = self.stand_ins[name]
        self.juju.deploy(charm, name, base=self.settings.base, num_units=num_units, to=to)

    def deploy_charm(self, **config: str) -> None:
        """Deploy the charm under test."""
        self.juju.deploy(self.charm, APP, base=self.settings.base, config=config)

    def integrate(self, endpoint: str) -> None:
        """Integrate the charm on one of its endpoints."""
        self.juju.integrate(f"{APP}:{endpoint}", ENDPOINTS[endpoint])

    def wait(
        self, ready: Callable[[jubilant.Status], bool], timeout: float = 15 * MINUTES
    ) -> jubilant.Status:
        """Wait for a status; a unit in error ends it at once."""
        return self.juju.wait(
            ready, error=any_unit_in_error, delay=self.settings.delay, timeout=timeout
        )

    def wait_for(self, principal: str, kind: str, text: str) -> None:
        """Wait until each of the charm's units beside a principal is idle and says so."""
        self.wait(lambda status: says(status, principal, kind, text))

    def unit_beside(self, principal: str) -> str:
        """The first of the charm's units beside a principal."""
        return min(beside(self.juju.status(), principal))

    def run_on(self, machine: str, command: str) -> str:
        """Run a command on a machine, as root; gives what it prints."""
        return self.juju.exec(command, machine=machine).stdout

    def state(self, machine: str) -> str:
        """All of a machine that the charm would change."""
        return self.run_on(machine, _STATE)

    def wait_for_state(self, machine: str, wanted: str, timeout: float) -> None:
        """Wait until a machine is as it was; fails with the difference."""
        deadline = time.monotonic() + timeout
        while (found := self.state(machine)) != wanted and time.monotonic() < deadline:
            time.sleep(self.settings.delay)
        assert found.splitlines() == wanted.splitlines()

    def drivers(self, machine: str, model: str) -> list[str]:
        """The drivers of the functions of a vendor and product id on a machine."""
        vendor, product = model.split(":")
        script = f"""
        for device in /sys/bus/pci/devices/*; do
          [ "$(cat $device/vendor) $(cat $device/device)" = "0x{vendor} 0x{product}" ] || continue
          basename "$(readlink $device/driver || echo none)"
        done
        """
        return self.run_on(machine, script).split()

    def reboot(self, machine: str) -> None:
        """Reboot a machine, and wait until its agent answers again."""
        boot = self.run_on(machine, _BOOT)
        with contextlib.suppress(jubilant.CLIError):  # the connection goes with the machine
            self.juju.ssh(machine, "sudo reboot")
        deadline = time.monotonic() + BOOT
        while time.monotonic() < deadline:
            with contextlib.suppress(*_UNREACHABLE):
                if self.juju.exec(_BOOT, machine=machine, wait=60).stdout != boot:
                    return
            time.sleep(self.settings.delay)
        raise AssertionError(f"machine {machine} has not come back")


def beside(status: jubilant.Status, principal: str) -> dict[str, UnitStatus]:
    """The charm's units beside a principal application, by name."""
    units = status.apps[principal].units.values() if principal in status.apps else ()
    return {
        name: unit
        for each in units
        for name, unit in each.subordinates.items()
        if name.startswith(f"{APP}/")
    }


def active(status: jubilant.Status, principal: str) -> list[str]:
    """The units of an application that are active."""
    return [name for name, unit in status.apps[principal].units.items() if unit.is_active]


def says(status: jubilant.Status, principal: str, kind: str, text: str) -> bool:
    """Whether each of the charm's units beside a principal is idle, of a kind, with such words."""
    wanted = len(status.apps[principal].units)
    units = beside(status, principal).values()
    return len(units) == wanted > 0 and all(
        unit.workload_status.current == kind
        and text in unit.workload_status.message
        and unit.juju_status.current == "idle"
        for unit in units
    )


def any_unit_in_error(status: jubilant.Status) -> bool:
    """Whether a hook of any unit has failed."""
    units = [unit for app in status.apps.values() for unit in app.units.values()]
    below = [unit for each in units for unit in each.subordinates.values()]
    return any(unit.is_error for unit in (*units, *below))


def is_gone(status: jubilant.Status) -> bool:
    """Whether none of the charm's units is left beside nova-compute."""
    return not beside(status, COMPUTE)
