"""Guests inside a machine of the lab, under its own libvirt.

The emulated processor has AMD's virtualization, so a guest runs with /dev/kvm of the machine.
"""

import pathlib
import time
from collections.abc import Sequence

from lab import errors, guest

SCRIPT = pathlib.Path(__file__).with_name("inside") / "make_guest.py"
FOLDER = "/var/lib/libvirt/images"
LOGS = "/var/log/libvirt/qemu"
SIGN = "guest:"
READY = f"{SIGN} ready"
BOOT_SECONDS = 600.0
POLL_SECONDS = 1.0
LOG_LINES = 25
DOMAIN = """\
<domain type='kvm'>
  <name>{name}</name>
  <memory unit='MiB'>192</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='pc'>hvm</type>
    <kernel>{folder}/vmlinux</kernel>
    <initrd>{folder}/initrd.img</initrd>
    <cmdline>console=ttyS0 quiet mitigations=off tsc=reliable clocksource=tsc</cmdline>
  </os>
  <features><acpi/></features>
  <cpu mode='host-passthrough'/>
  <devices>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
    <serial type='file'><source path='{console}'/></serial>
{devices}
  </devices>
</domain>
"""


class Nested:
    """Guests of one machine; the kernel that they run is its own.

    Every failed step raises `LabError` with what libvirt logged and the guest's own console.
    """

    def __init__(self, host: guest.Guest) -> None:
        self.host = host
        with host.progress.step("make a kernel and an initramfs for guests"):
            host.put(SCRIPT, f"{FOLDER}/make_guest.py")
            host.run(["python3", f"{FOLDER}/make_guest.py", FOLDER])

    def define(self, name: str, devices: Sequence[str] = ()) -> None:
        """Tell libvirt of a guest; `devices` are elements of a domain's XML, such as a hostdev."""
        text = DOMAIN.format(
            name=name, folder=FOLDER, console=_console(name), devices="\n".join(devices)
        )
        self.host.write(f"{FOLDER}/{name}.xml", text)
        self._virsh(name, "define", f"{FOLDER}/{name}.xml")

    def start(self, *names: str) -> None:
        """Start guests at once, and wait until the last of them says that it is ready."""
        with self.host.progress.step(f"start {', '.join(names)}"):
            for name in names:
                self._virsh(name, "start", name)
            deadline = time.monotonic() + BOOT_SECONDS
            for name in names:
                self._wait_ready(name, deadline)

    def stop(self, name: str) -> None:
        """Take a guest's power away, as Nova does when a guest does not shut down by itself."""
        self._virsh(name, "destroy", name)

    def is_running(self, name: str) -> bool:
        """Say whether libvirt has the guest running."""
        return self._virsh(name, "domstate", name) == "running"

    def read_devices(self, name: str) -> list[str]:
        """Return the lines of lspci -nn as the guest itself printed them."""
        lines = [line.strip() for line in self.host.read(_console(name)).splitlines()]
        said = [line.removeprefix(f"{SIGN} ") for line in lines if line.startswith(f"{SIGN} ")]
        return said[: said.index("ready")]

    def report(self, name: str) -> str:
        """Return the ends of libvirt's log of a guest and of its console."""
        texts = []
        for what, path in (("libvirt's log", f"{LOGS}/{name}.log"), ("console", _console(name))):
            ended = self.host.run(["tail", "-n", str(LOG_LINES), path], check=False).output
            texts.append(f"{what} of the guest '{name}' ends:\n{ended}")
        return "\n".join(texts)

    def _virsh(self, guest_name: str, *words: str) -> str:
        result = self.host.run(["virsh", "--connect", "qemu:///system", *words], check=False)
        if result.status:
            raise errors.LabError(f"{result.output.strip()}\n{self.report(guest_name)}")
        return result.stdout.strip()

    def _wait_ready(self, name: str, deadline: float) -> None:
        while READY not in self.host.run(["cat", _console(name)], check=False).stdout:
            self.host.progress.waiting(f"the guest '{name}'")
            if not self.is_running(name):
                raise errors.LabError(f"the guest '{name}' is gone\n{self.report(name)}")
            if time.monotonic() > deadline:
                raise errors.LabError(
                    f"the guest '{name}' was not ready after {BOOT_SECONDS:.0f} s\n"
                    f"{self.report(name)}"
                )
            time.sleep(POLL_SECONDS)


def _console(name: str) -> str:
    return f"{LOGS}/{name}-console.log"
