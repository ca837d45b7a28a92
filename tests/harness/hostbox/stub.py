# Stands in for update-grub, modprobe and their like in a host box; box.py puts an interpreter line
# and CONTROL, ROOT and TESTS above, and links with the programs' names to it.
# pyright: reportUndefinedVariable=false
# ruff: noqa: F821
"""Record one run of a program, imitate its effect on the made-up host, or fail as told."""

import json
import os
import sys
import time

NAME = os.path.basename(sys.argv[0])
ARGS = sys.argv[1:]


def imitate():
    """Do what the program would do to the host; its exit code."""
    sys.path.insert(0, TESTS)
    import pathlib

    from harness.hosttree import programs

    return programs.run(pathlib.Path(ROOT), NAME, ARGS)


def main():
    try:
        with open(os.path.join(CONTROL, "rules", NAME)) as file:
            rule = json.load(file)
    except FileNotFoundError:
        rule = {"exit_code": 0, "stdout": "", "stderr": "", "seconds": 0}
    time.sleep(rule["seconds"])
    sys.stdout.write(rule["stdout"])
    sys.stderr.write(rule["stderr"])
    code = rule["exit_code"] or imitate()
    record = {"name": NAME, "args": ARGS, "exit_code": code, "at": time.time()}
    with open(os.path.join(CONTROL, "calls.jsonl"), "a") as file:
        file.write(json.dumps(record) + "\n")
    return code


sys.exit(main())
