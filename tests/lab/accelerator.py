"""Software emulation, or KVM where it has shown that it works.

/dev/kvm that opens proves nothing: inside many a virtual machine it is there and a guest hangs in
its boot loader or dies in its first instructions. So one short boot decides, once per boot of
this host.
"""

import dataclasses
import json
import os
import pathlib
import time

from lab import cache, emulator, errors, machine, progress, qemu

VARIABLE = "PCI_PASSTHROUGH_LAB_ACCELERATOR"
DEVICE = pathlib.Path("/dev/kvm")
BOOT_ID = pathlib.Path("/proc/sys/kernel/random/boot_id")
# With KVM the kernel speaks after two or three seconds and login: comes ten later.
KERNEL_SECONDS = 20.0
LOGIN_SECONDS = 90.0
KERNEL_SIGN = "Linux version"
LOGIN_SIGN = "login:"
POLL_SECONDS = 0.25


@dataclasses.dataclass(frozen=True)
class Accelerator:
    """How QEMU executes the guest: the arguments for it and the processor, "" for the machine's."""

    name: str
    arguments: tuple[str, ...]
    cpu: str = ""


TCG = Accelerator("tcg", ("-machine", "q35", "-accel", "tcg,thread=multi"))
# intel-iommu remaps interrupts under KVM only with the I/O APIC in QEMU itself.
KVM = Accelerator("kvm", ("-machine", "q35,kernel-irqchip=split", "-accel", "kvm"), cpu="host")
ACCELERATORS = {each.name: each for each in (TCG, KVM)}


def choose(chosen: emulator.Emulator, disk: pathlib.Path, steps: progress.Progress) -> Accelerator:
    """Return KVM where a boot of the disk proves it, else software emulation.

    Raises:
        LabError: the variable that decides it without a probe names neither.
    """
    named = os.environ.get(VARIABLE)
    if named:
        if named not in ACCELERATORS:
            raise errors.LabError(f"{VARIABLE}={named}: expected {' or '.join(ACCELERATORS)}")
        return ACCELERATORS[named]
    if not os.access(DEVICE, os.R_OK | os.W_OK):
        return TCG
    known = cache.root() / "accelerator.json"
    fingerprint = f"{BOOT_ID.read_text().strip()} {chosen.version}"
    with cache.lock(cache.root() / "accelerator.lock"):
        if known.exists():
            verdict = json.loads(known.read_text())
            if verdict["for"] == fingerprint:
                return ACCELERATORS[verdict["use"]]
        with steps.step("probe KVM with a short boot"):
            works = _probe(chosen, disk)
        steps.say("KVM works" if works else "KVM does not carry a boot here: software emulation")
        use = KVM if works else TCG
        known.write_text(json.dumps({"for": fingerprint, "use": use.name}))
        return use


def _probe(chosen: emulator.Emulator, disk: pathlib.Path) -> bool:
    """Say whether the disk boots to its login prompt under KVM, nothing on it being changed."""
    with cache.scratch(cache.root() / "runs", "probe") as folder:
        root = str(disk).replace(",", ",,")
        arguments = [
            *(*KVM.arguments, "-cpu", KVM.cpu, *machine.qemu_arguments(machine.BARE, folder)),
            *("-drive", f"file={root},if=none,id=root,format=qcow2,snapshot=on"),
            *("-netdev", "user,id=management,restrict=on"),
        ]
        probed = qemu.Process(chosen, arguments, folder / "console.log")
        try:
            return _says(probed, KERNEL_SIGN, KERNEL_SECONDS) and _says(
                probed, LOGIN_SIGN, LOGIN_SECONDS
            )
        finally:
            if probed.is_running:
                probed.cut_power()


def _says(probed: qemu.Process, sign: str, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while probed.is_running and time.monotonic() < deadline:
        if sign in probed.read_console():
            return True
        time.sleep(POLL_SECONDS)
    return False
