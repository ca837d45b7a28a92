"""Guests inside a machine of the lab, under its own libvirt.

The emulated processor has AMD's virtualization, so a guest runs with /dev/kvm of the machine. Now
and then the emulator loses such a processor while a guest runs: it never leaves the guest again,
and the machine's kernel reports that it stalls. Then the machine is switched off and on, and its
guests are started once more, a few times at the most. A guest that stopped, or that is not ready
on a machine that answers, is a failure at once.
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
# Three guests at once are ready within 100 s; one that takes longer than this runs on a processor
# that the emulator has lost without the machine's kernel noticing.
BOOT_SECONDS = 300.0
POLL_SECONDS = 1.0
# A machine that does not answer within this time has lost a processor.
ANSWER_SECONDS = 90.0
ATTEMPTS = 3
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

    The machine's disk has to survive a power cut (`guest.boot`'s disk_cache). Every failed step
    raises `LabError` with what libvirt logged and the guest's own console.
    """

    def __init__(self, host: guest.Guest) -> None:
        self.host = host
        self._wanted: list[str] = []
        self._stalls = 0
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
        self._wanted += names
        with self.host.progress.step(f"start {', '.join(names)}"):
            self._start(names)
            for _ in range(ATTEMPTS - 1):
                if self._wait_ready(names):
                    return
                self.recover()
                names = tuple(self._wanted)
            if not self._wait_ready(names):
                raise errors.LabError(
                    f"the emulator lost a processor {ATTEMPTS} times, or the guests are not ready\n"
                    f"{self.report(names[0])}\n{self.host.report()}"
                )

    def start_paused(self, *names: str) -> None:
        """Start guests whose processors stand still: QEMU has their devices, and no kernel runs."""
        with self.host.progress.step(f"start {', '.join(names)}, paused"):
            for name in names:
                self._virsh(name, "start", "--paused", name)

    def recover(self) -> None:
        """Switch a machine that lost a processor off and on, and start what ran on it again."""
        self.host.progress.say("the emulated machine lost a processor: switched off and on again")
        self.host.cut_power()
        self.host.power_on("boot after the emulator's failure")
        self._start(self._wanted)

    def stop(self, name: str) -> None:
        """Take a guest's power away, as Nova does when a guest does not shut down by itself."""
        self._wanted = [each for each in self._wanted if each != name]
        self._virsh(name, "destroy", name)

    def delete(self, name: str) -> None:
        """Have libvirt forget a guest that is off, as Nova does when its server is deleted."""
        self._virsh(name, "undefine", name)

    def is_running(self, name: str) -> bool:
        """Say whether libvirt has the guest running."""
        return self._virsh(name, "domstate", name) == "running"

    def read_devices(self, name: str) -> list[str]:
        """Return the lines of lspci -nn as the guest itself printed them."""
        return find_devices(self.host.read(_console(name)))

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

    def _start(self, names: Sequence[str]) -> None:
        self.host.run("sync")  # what libvirt and the charm wrote shall survive a power cut
        self._stalls = self.host.read_console().count(guest.STALL)
        for name in names:
            self.host.run(["rm", "-f", _console(name)])
            self._virsh(name, "start", name)

    def _wait_ready(self, names: Sequence[str]) -> bool:
        """Wait for guests; False when the machine has lost a processor meanwhile."""
        deadline = time.monotonic() + BOOT_SECONDS
        waiting = list(names)
        while waiting:
            name = waiting[0]
            self.host.progress.waiting(f"the guest '{name}'")
            if self.host.read_console().count(guest.STALL) > self._stalls:
                return False
            try:
                command = ["cat", _console(name)]
                said = self.host.run(command, check=False, timeout=ANSWER_SECONDS).stdout
            except errors.LabError:
                return False  # it did not even answer
            if READY in said:
                waiting.remove(name)
                continue
            if not self.is_running(name):
                raise errors.LabError(f"the guest '{name}' is gone\n{self.report(name)}")
            if time.monotonic() > deadline:
                self.host.progress.say(
                    f"the guest '{name}' was not ready after {BOOT_SECONDS:.0f} s"
                )
                return False
            time.sleep(POLL_SECONDS)
        return True


def find_devices(console: str) -> list[str]:
    """Return the lines of lspci -nn that a guest printed on its console."""
    lines = [line.strip() for line in console.splitlines()]
    said = [line.removeprefix(f"{SIGN} ") for line in lines if line.startswith(f"{SIGN} ")]
    return said[: said.index("ready")]


def _console(name: str) -> str:
    return f"{LOGS}/{name}-console.log"
