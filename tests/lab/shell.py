"""Boot a machine of the lab and open a shell on it: `python -m lab.shell [MACHINE]`.

For whoever wants to look around; what is done there is gone when the shell ends. With --charm the
packed charm is deployed first, its unit at /var/lib/standin.
"""

import argparse
import sys

from lab import booting, errors, machine, progress, unit


def main() -> int:
    """Run the command line; return the process's exit code."""
    parser = argparse.ArgumentParser(prog="lab.shell", description=__doc__)
    parser.add_argument("machine", nargs="?", default="intel", choices=sorted(machine.MACHINES))
    parser.add_argument("--charm", metavar="DEVICES", help="deploy the charm with these devices")
    given = parser.parse_args()
    hardware = machine.MACHINES[given.machine]
    steps = progress.Progress()
    try:
        with booting.boot(hardware, steps) as host:
            if given.charm is not None:
                unit.Unit(host).deploy(devices=given.charm)
            return host.open_shell()
    except errors.LabError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
