"""Run in a guest: may anybody open a VFIO group while the charm rebinds a function of it?

usage: watch_unbind.py GROUP ADDRESS. Rebinds the function with the charm's own code, which is
imported from PYTHONPATH, and lets another process try to open the group at four moments. Prints
what came of each, as JSON: "opened" or the error's name.
"""

import json
import pathlib
import subprocess
import sys

from passthrough.effects import drivers

OPEN = """
import errno, os, sys
try:
    os.open(sys.argv[1], os.O_RDWR)
    print("opened")
except OSError as error:
    print(errno.errorcode[error.errno])
"""


def main(group_node: str, address: str) -> None:
    """Rebind the function and print what the other processes met."""
    seen = {}

    def try_to_open(moment: str) -> None:
        command = [sys.executable, "-c", OPEN, group_node]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        seen[moment] = done.stdout.strip()

    unbind = drivers._unbind

    def watched(root: pathlib.Path, which: str) -> None:
        try_to_open("before the unbind")
        unbind(root, which)
        try_to_open("after the unbind")

    drivers._unbind = watched
    try_to_open("at first")
    drivers.rebind(pathlib.Path("/"), address)
    try_to_open("at last")
    print(json.dumps(seen))


if __name__ == "__main__":
    main(*sys.argv[1:])
