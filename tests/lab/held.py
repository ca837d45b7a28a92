"""A process that has a device of a guest as a guest's QEMU has it: started, looked at, ended."""

import pathlib

from lab import guest, kernel, unit

NAME = "lab-guest"
READY = f"/run/{NAME}-ready"
PROGRAM = pathlib.Path(__file__).with_name("inside") / "holder.py"
WAIT = f"until [ -e {READY} ]; do systemctl --quiet is-active {NAME} || exit 1; sleep 0.2; done"

WAIT_SLEEPER = """
until process=$(sort -n {group} | tail -n 1)
    [ "$(tr '\\0' '\\n' <"/proc/$process/cmdline" | tail -n 1)" = infinity ]
do
    systemctl --quiet is-active {name} || exit 1
    sleep 0.2
done
echo "$process"
"""


def start(host: guest.Guest, address: str) -> int:
    """Let a process have a function that is on vfio-pci; return the process's id."""
    program = f"{unit.LIBRARY}/{PROGRAM.name}"
    host.put(PROGRAM, program)
    host.run(["rm", "-f", READY])
    command = ["python3", program, kernel.read_group_node(host, address), address, READY]
    host.run(["systemd-run", "--quiet", f"--unit={NAME}", "--property=Type=exec", *command])
    host.run(WAIT)
    return read_process(host)


def read_process(host: guest.Guest, name: str = NAME) -> int:
    """Return the id of the process that systemd runs by that name; 0 when it has ended."""
    return int(host.run(["systemctl", "show", "-P", "MainPID", name]).stdout)


def read_last_process(host: guest.Guest, name: str) -> int:
    """Return the id of the youngest process of a unit, which the first one has started."""
    processes = host.read(f"/sys/fs/cgroup/system.slice/{name}.service/cgroup.procs")
    return max(map(int, processes.split()))


def read_sleeper(host: guest.Guest, name: str) -> int:
    """Return the id of the youngest process of a unit, once that is its `sleep infinity`.

    Until then it may be a command of the script that ends so.
    """
    group = f"/sys/fs/cgroup/system.slice/{name}.service/cgroup.procs"
    return int(host.run(WAIT_SLEEPER.format(group=group, name=name)).stdout)


def stop(host: guest.Guest) -> None:
    """End the process and wait until it is gone."""
    host.run(["systemctl", "stop", NAME])
