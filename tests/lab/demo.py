"""The main job, shown on a machine of its own: `make demo`.

Two of three identical graphics cards go to vfio-pci across a reboot; the third stays the host's.
What the kernel shows at the end is checked here; the exit code says whether it was right.
"""

import sys

from lab import booting, errors, guest, kernel, machine, progress, unit

GIVEN = ("gpu0", "gpu1")
KEPT = "gpu2"
SHOWN = "*:8[345]:*"  # list-devices' option match: the three cards


def main() -> int:
    """Run the demonstration; return the process's exit code."""
    steps = progress.Progress()
    try:
        with booting.boot(machine.INTEL, steps) as host:
            show(host, steps)
    except errors.LabError as error:
        print(f"\nerror: {error}", file=sys.stderr)
        return 1
    finally:
        _print("Where the time went", steps.table() if steps.steps else "nowhere")
    print("\nDone: everything is as it should be.")
    return 0


def show(host: guest.Guest, steps: progress.Progress) -> None:
    """Do the main job on the guest and check its outcome.

    Raises:
        LabError: a step failed, or the kernel shows something else than was promised.
    """
    devices = ", ".join(
        f"gpu={function.id}@{address}"
        for name in GIVEN
        for address, function in list(host.machine[name].functions.items())[:1]
    )
    charm = unit.Unit(host)
    with steps.step("deploy the charm beside nova-compute"):
        charm.deploy()
    with steps.step("list the devices"):
        before = charm.run_action("list-devices", match=SHOWN)
    _print("Before: three identical cards, all the host's", before["results"]["table"])

    with steps.step("plan"):
        plan = charm.run_cli("plan", "--devices", devices)
    _print(f"pci-passthrough plan --devices '{devices}'", plan.stdout)

    with steps.step("set the option devices"):
        charm.configure(devices=devices)
    status = charm.read_status()
    _print(f"juju config pci-passthrough devices='{devices}'", status)
    _expect(status.startswith("blocked: reboot required"), f"the status is '{status}'")

    charm.reboot()
    with steps.step("list the devices again"):
        after = charm.run_action("list-devices", match=SHOWN)
    _print("After the reboot", after["results"]["table"])
    kernel.check_functions(kernel.read_functions(host), expected_drivers(host.machine))

    with steps.step("verify"):
        checks = charm.run_action("verify", check=False)
    _print("verify", checks["results"]["table"])
    _expect(not checks["failed"], f"verify: {checks['message']}")
    status = charm.read_status()
    _print("Status", status)
    _expect(status == "active: gpu: 2 ready", f"the status is '{status}'")


def expected_drivers(hardware: machine.Machine) -> dict[str, str | None]:
    """Return the driver each function should have at the end, by address."""
    claimed = {address for name in GIVEN for address in hardware[name].functions}
    return {
        address: kernel.VFIO if address in claimed else function.driver
        for address, function in hardware.functions.items()
    }


def _expect(condition: bool, otherwise: str) -> None:
    if not condition:
        raise errors.LabError(f"not as promised: {otherwise}")


def _print(title: str, text: str) -> None:
    print(f"\n── {title}\n{text.rstrip()}\n", flush=True)


if __name__ == "__main__":
    sys.exit(main())
