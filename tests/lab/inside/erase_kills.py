"""Run in a guest: kill an erase before each of its steps, and tell what that leaves.

usage: erase_kills.py CHARM ADDRESS DEVICES

DEVICES is the option devices, by which ADDRESS is claimed and in quarantine. Prints a line of JSON
for each kill: the step; and, behind it and again behind a hook, the driver, whether udev's rules
are there, the mark in the record, and what is offered to Nova. The last erase comes to its end.
"""

import itertools
import json
import os
import pathlib
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

LAB = pathlib.Path(__file__).parent
sys.path.insert(0, os.fspath(LAB))

import crashing  # noqa: E402 - it stands beside this file, in a folder of the guest's

RULES = "/run/udev/rules.d/"
# Seconds in which the process that keeps the disk for an erase has ended behind it.
AFTERMATH = 1.0
# Admin commands that erase: Format NVM and Sanitize.
ERASING = (0x80, 0x84)


class Killer(crashing.Killer):
    """Also sees udev's rules, and the commands that the controller gets."""

    def _hear(self, event: str, values: tuple[Any, ...]) -> None:
        name = self._describe(event, values)
        if name:
            self.step(name)

    @staticmethod
    def _describe(event: str, values: tuple[Any, ...]) -> str:
        if event == "fcntl.ioctl" and isinstance(values[2], bytearray):
            return f"send {values[2][0]:#04x}" if values[2][0] in ERASING else ""
        if event == "os.rename" and str(values[1]).startswith(RULES):
            return f"replace {values[1]}"
        if event == "os.remove" and str(values[0]).startswith(RULES):
            return f"remove {values[0]}" if os.path.lexists(values[0]) else ""
        if event == "subprocess.Popen" and os.path.basename(values[1][0]) == "udevadm":
            return f"run {' '.join(map(str, values[1][:3]))}"
        return crashing.describe(event, values)


class Erases:
    """Erases of one function, and what is to be seen of them."""

    def __init__(self, charm: str, address: str, devices: str) -> None:
        crashing.Host(pathlib.Path(charm))  # finds the charm's modules
        from passthrough import erasing, reconcile, survey
        from passthrough.config import options
        from passthrough.effects import eraser, handing, tools
        from passthrough.host import pci
        from passthrough.site import Site
        from passthrough.state import record
        from passthrough.system import lock

        self._erasing, self._reconcile, self._survey = erasing, reconcile, survey
        self._eraser, self._tools, self._record = eraser, tools, record
        self._lock, self._pci = lock, pci
        self._site = Site(crashing.ROOT, crashing.APPLICATION)
        self._address = address
        self._rules = crashing.ROOT / handing.rules_path(address)
        self._options = options.parse({"devices": devices})

    def erase(self) -> None:
        """Erase, as the action does."""
        means = self._erasing.Means(self._tools.HostTools(), self._eraser.HOST)
        with self._lock.hold(crashing.ROOT, "the lab"), self._record.open(self._site) as ledger:
            decision = self._survey.decide(self._options, self._survey.look(self._site))
            self._erasing.check(decision, self._address, self._address)
            self._erasing.erase(ledger, decision, self._address, means, lambda said: None)

    def hook(self) -> None:
        """Do what a hook does."""
        tools = self._tools.HostTools()
        self._reconcile.reconcile(self._site, self._options, tools, lambda said: None)

    def look(self) -> dict[str, Any]:
        """Tell how it stands."""
        decision = self._survey.decide(self._options, self._survey.look(self._site))
        offers = (decision.nova, decision.nova_planned)
        return {
            "driver": self._pci.driver_of(crashing.ROOT, self._address),
            "rules": self._rules.exists(),
            "mark": decision.facts.record.erasing.get(self._address),
            "offered": [each["address"] for offer in offers for each in offer.device_specs],
        }


def run_killed(job: Callable[[], object], number: int) -> bool:
    """Do something in a child process that is killed before a step; tell whether it was killed.

    Raises:
        SystemExit: it failed by itself.
    """
    child = os.fork()
    if child == 0:
        code = 1
        try:
            Killer(lambda at, name: at == number)
            job()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status not in (0, -signal.SIGKILL):
        sys.exit(f"the erase ended with {status}")
    return status != 0


def main(charm: str, address: str, devices: str) -> None:
    """Kill before every step in turn.

    Raises:
        SystemExit: this is no machine of the lab, whose disks may be erased.
    """
    if pathlib.Path(__file__).parent != crashing.LAB:
        sys.exit(f"{__file__} is for machines of the lab, and runs in {crashing.LAB} alone")
    erases = Erases(charm, address, devices)
    for number in itertools.count(1):
        if not run_killed(erases.erase, number):
            return
        time.sleep(AFTERMATH)
        killed = erases.look()
        erases.hook()
        row = {"step": crashing.STEPS.read_text().splitlines()[-1], "killed": killed}
        print(json.dumps({**row, "hook": erases.look()}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
