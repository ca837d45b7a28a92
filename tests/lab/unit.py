"""The packed charm inside a guest, run by the stand-in unit agent as Juju would run it."""

import json
import pathlib
import subprocess
from collections.abc import Mapping
from typing import Any

from lab import errors, guest, ssh

LIBRARY = "/opt/lab"
CHARM = f"{LIBRARY}/pci-passthrough.charm"
MODEL = "/var/lib/standin"
PRINCIPAL = "nova-compute/0"
CHARM_FOLDER = f"{MODEL}/unit-pci-passthrough-0/charm"
ROOT = pathlib.Path(__file__).parents[2]
STANDIN = ROOT / "tests" / "harness" / "standin"
LOG_LINES = 40


def pack(host: guest.Guest) -> pathlib.Path:
    """Pack the charm from the sources as they are, for the guest's own Python.

    Raises:
        LabError: packing failed; what it printed is on standard error.
    """
    version = host.run(["python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"])
    with host.progress.step("pack the charm"):
        packed = subprocess.run(
            [ROOT / "scripts" / "pack", "--python-version", version.stdout.strip()],
            stdout=subprocess.PIPE,
            text=True,
            check=False,  # its own output says why
        )
    if packed.returncode:
        raise errors.LabError(f"scripts/pack ended with status {packed.returncode}")
    return pathlib.Path(packed.stdout.strip())


class Unit:
    """A unit of the charm beside a principal, on one guest.

    Every failed step raises `LabError` with what it printed, the console's last lines and the end
    of the charm's log.
    """

    def __init__(self, host: guest.Guest) -> None:
        self.guest = host
        packed = pack(host)
        with host.progress.step(f"copy the packed charm ({packed.stat().st_size >> 10} KiB)"):
            host.put(packed, CHARM)
            host.put(STANDIN, f"{LIBRARY}/harness/standin")

    def deploy(self, **config: str) -> ssh.Result:
        """Deploy the charm with these options, which runs install, config-changed, start."""
        options = _pairs(config, "--config")
        return self.juju("deploy", CHARM, "--principal", PRINCIPAL, *options, show=True)

    def configure(
        self, options: Mapping[str, str] | None = None, *, check: bool = True, **config: str
    ) -> ssh.Result:
        """Set options, given as a mapping or by keyword, and run config-changed."""
        pairs = _pairs({**(options or {}), **config})
        return self.juju("config", *pairs, check=check, show=True)

    def run_hook(self, name: str) -> ssh.Result:
        """Run one hook."""
        return self.juju("hook", name, show=True)

    def run_action(self, name: str, *, check: bool = True, **params: str) -> dict[str, Any]:
        """Run an action; return its `results`, `log`, `failed` and `message`."""
        result = self.juju("action", name, *_pairs(params), check=check)
        try:
            return json.loads(result.stdout)
        except ValueError as error:
            raise errors.LabError(f"no JSON from `{result.command}`:\n{result.output}") from error

    def read_status(self) -> str:
        """Return the unit's status, such as `active: gpu: 2 ready`."""
        return self.juju("status").stdout.strip()

    def read_log(self) -> str:
        """Return what the charm has logged so far."""
        return self.juju("log").stdout

    def run_cli(self, *arguments: str, check: bool = True) -> ssh.Result:
        """Run the charm's own command, pci-passthrough, as a person on the host would."""
        return self.guest.run([f"{CHARM_FOLDER}/bin/pci-passthrough", *arguments], check=check)

    def reboot(self, title: str = "reboot") -> None:
        """Reboot the machine and let the agent notice it, which runs start."""
        self.guest.reboot(title)
        self.juju("rebooted", show=True)

    def remove(self) -> ssh.Result:
        """Remove the application: the relations' ends, stop and remove."""
        return self.juju("remove", show=True)

    def juju(self, *arguments: str, check: bool = True, show: bool = False) -> ssh.Result:
        """Run one of the stand-in's commands; `show` prints the hooks and the charm's log live."""
        command = [
            "env",
            f"PYTHONPATH={LIBRARY}",
            "python3",
            "-m",
            "harness.standin",
            "--dir",
            MODEL,
        ]
        command += ["--verbose"] if show else []
        on_line = self._show if show else None
        try:
            return self.guest.run([*command, *arguments], check=check, on_line=on_line)
        except ssh.CommandError as error:
            log = self.guest.run([*command, "log"], check=False).output
            report = f"the charm's log ends:\n{errors.tail(log, LOG_LINES)}\n{self.guest.report()}"
            raise ssh.CommandError(error.result, report) from None

    def _show(self, line: str) -> None:
        if " DEBUG " not in line:
            self.guest.progress.say(f"    {line}")


def _pairs(values: Mapping[str, str], option: str = "") -> list[str]:
    """Return KEY=VALUE for each, in Juju's spelling, each behind `option` if there is one."""
    pairs = [f"{name.replace('_', '-')}={value}" for name, value in values.items()]
    return [word for pair in pairs for word in ((option, pair) if option else (pair,))]
