"""Run a command and leave in a file what it took: the process that pairs.py puts before it."""

import json
import os
import resource
import sys
import time


def main():
    """``measure.py REPORT COMMAND...``; ends with the command's exit code."""
    report, *command = sys.argv[1:]
    started = time.perf_counter()
    child = os.posix_spawnp(command[0], command, os.environ)
    _, status = os.waitpid(child, 0)
    seconds = time.perf_counter() - started
    # The only child there was; its own children count as far as it has waited for them.
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = {
        "seconds": seconds,
        "cpu": used.ru_utime + used.ru_stime,
        "peak_kib": used.ru_maxrss,
    }
    with open(report, "w", encoding="utf-8") as file:
        json.dump(found, file)
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(main())
