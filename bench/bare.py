"""One bare pass over what processes have open: list each one's descriptors, read each link.

``bare.py ROOT``. Nothing is compared, looked up or kept: what no answer to "who has this device
open?" can be faster than in Python, where every process has to be asked.
"""

import os
import sys


def count(root):
    """Count the descriptors of a host."""
    processes = f"{root}/proc"
    seen = 0
    for process in os.listdir(processes):
        if process.isdecimal():
            directory = f"{processes}/{process}/fd"
            for descriptor in os.listdir(directory):
                os.readlink(f"{directory}/{descriptor}")
                seen += 1
    return seen


if __name__ == "__main__":
    print(count(sys.argv[1]))
