"""Binding against driverctl, and a first hook, on a real kernel: `make bench-lab`.

A virtual machine with equal NICs starts with its IOMMU off. The first hook is timed: it ends in
"reboot required". After the reboot one NIC is the charm's, and the others are bound and given back
alternately by the charm's own code and by driverctl, all in the same boot.
"""

from __future__ import annotations

import argparse
import itertools
import json
import pathlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from lab import booting, errors, guest, hardware, kernel, machine, progress, unit

from bench import pairs, report

GOAL = 1.0
COUNTS = (2, 4, 8)
DRIVERCTL = "driverctl"
# One for the charm, the others to bind: buses 01 to 09.
MACHINE = machine.Machine(
    "bench",
    purpose="binding by the dozen: nine equal network cards",
    iommu="intel",
    devices=(
        *machine.CHASSIS,
        *(machine.Device(f"nic{number}", hardware.NIC, bus=number + 1) for number in range(9)),
    ),
)
CARDS = tuple(MACHINE[f"nic{number}"].address for number in range(9))
CLAIMED, FREE = CARDS[0], CARDS[1:]

_PLACE = "/opt/bench"
_REPORT = f"{_PLACE}/run.json"
# What a hook does with each function, in one process as a hook is.
_OURS = """\
import pathlib, sys
from passthrough.effects import drivers
root = pathlib.Path("/")
for address in sys.argv[2:]:
    if sys.argv[1] == "bind":
        drivers.bind(root, address)
    else:
        drivers.release(root, address, lambda name: None)
"""
_THEIRS = {
    "bind": 'for each in "$@"; do driverctl --nosave set-override "$each" vfio-pci; done',
    "release": 'for each in "$@"; do driverctl --nosave unset-override "$each"; done',
}
_VERBS = tuple(_THEIRS)
_STEP = re.compile(r"(update-initramfs|update-grub)[^:]*: done in ([0-9]+) s")


def main() -> int:
    """Boot, measure, print; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.lab", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="pairs for each number of functions")
    parser.add_argument(
        "--keep", action="store_true", help=f"write {report.PAGE.name} of the documentation anew"
    )
    given = parser.parse_args()
    steps = progress.Progress()
    try:
        with booting.boot(MACHINE, steps) as host:
            results = measure(host, given.rounds)
    except (errors.LabError, pairs.BenchError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(report.lab_part(results))
    if given.keep:
        report.KEPT_LAB.write_text(report.to_json(results), encoding="utf-8")
        report.PAGE.write_text(report.page(*report.kept()), encoding="utf-8")
    return 0


def measure(host: guest.Guest, rounds: int) -> dict[str, Any]:
    """Measure on a machine that has just booted.

    Raises:
        LabError: a step failed in the guest.
        BenchError: driverctl cannot be had, or the machine is not as it was to be.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as place:
        package = fetch_driverctl(pathlib.Path(place))
        host.put(package, f"{_PLACE}/{package.name}")
    charm = unit.Unit(host)
    charm.deploy(devices="nic=10de:1bb0")
    first = _first_hook(host, charm)
    charm.reboot("reboot with one card claimed")
    _install(host, f"{_PLACE}/{package.name}")
    rows = [_compare(host, count, rounds) for count in COUNTS]
    return {
        "bindings": rows,
        "each-further": {verb: each_further(rows, verb) for verb in _VERBS},
        "first-hook": first,
        "kernel": host.run(["uname", "-r"]).stdout.strip(),
    }


def each_further(rows: Sequence[Mapping[str, Any]], verb: str) -> float:
    """What each function more costs us over what it costs driverctl, by the first and last row.

    The start of Python, which a hook has behind it by then, is not in it.
    """
    (ours, theirs), (ours_last, theirs_last) = (rows[at]["seconds"][verb] for at in (0, -1))
    return round((ours_last - ours) / (theirs_last - theirs), 2)


def fetch_driverctl(place: pathlib.Path) -> pathlib.Path:
    """Have the host's apt fetch the package driverctl into a directory; installs nothing there.

    Raises:
        BenchError: apt has none.
    """
    done = subprocess.run(
        ["apt-get", "download", DRIVERCTL], cwd=place, capture_output=True, text=True, check=False
    )
    found = sorted(place.glob(f"{DRIVERCTL}_*.deb"))
    if done.returncode or not found:
        raise pairs.BenchError(f"apt-get download {DRIVERCTL}: {done.stderr.strip()}")
    return found[0]


def _first_hook(host: guest.Guest, charm: unit.Unit) -> dict[str, Any]:
    """Claim a card, and see where the hook's time went."""
    before = len(charm.read_log())
    with host.progress.step("config-changed, up to 'reboot required'"):
        took = charm.configure(devices=f"nic={hardware.NIC.functions[0].id}@{CLAIMED}").seconds
    status = charm.read_status()
    if not status.startswith("blocked: reboot required"):
        raise pairs.BenchError(f"the status is '{status}', and not that a reboot is required")
    return split_hook(took, charm.read_log()[before:])


def split_hook(seconds: float, log: str) -> dict[str, Any]:
    """Split a hook's time by what its log says of the two rebuilds.

    Returns:
        The seconds, and the shares of update-initramfs, of update-grub and of all else.
    """
    spent = dict.fromkeys(("update-initramfs", "update-grub"), 0)
    for name, took in _STEP.findall(log):
        spent[name] += int(took)
    shares = {name: spent[name] / seconds for name in spent}
    return {
        "seconds": round(seconds, 1),
        "initramfs-share": round(shares["update-initramfs"], 3),
        "grub-share": round(shares["update-grub"], 3),
        "rest-share": round(1 - sum(shares.values()), 3),
    }


def _install(host: guest.Guest, package: str) -> None:
    with host.progress.step("install driverctl"):
        host.run(["dpkg", "--install", package])
    host.put(pathlib.Path(pairs.HERE, "measure.py"), f"{_PLACE}/measure.py")
    host.write(f"{_PLACE}/ours.py", _OURS)
    host.run(["modprobe", "vfio-pci"])


def _compare(host: guest.Guest, count: int, rounds: int) -> dict[str, Any]:
    functions = FREE[:count]
    found: dict[tuple[str, str], list[pairs.Run]] = {}
    with host.progress.step(f"bind and release {count} functions"):
        for number in range(rounds + 1):  # the first one fills the caches, and does not count
            sides = ("ours", "theirs") if number % 2 else ("theirs", "ours")
            for side, verb in itertools.product(sides, _VERBS):
                took = _run(host, side, verb, functions)
                if number:
                    found.setdefault((side, verb), []).append(took)
    compared = {
        verb: pairs.Comparison(
            verb, tuple(found["ours", verb]), tuple(found["theirs", verb]), GOAL
        ).as_row()
        for verb in _VERBS
    }
    missed = any(row["verdict"] == "MISSED" for row in compared.values())
    return {
        "functions": count,
        "pairs": rounds,
        **{verb: row["ratio"] for verb, row in compared.items()},
        "seconds": {
            verb: [row["ours-seconds"], row["theirs-seconds"]] for verb, row in compared.items()
        },
        "goal": GOAL,
        "verdict": "MISSED" if missed else "met",
    }


def _run(host: guest.Guest, side: str, verb: str, functions: tuple[str, ...]) -> pairs.Run:
    """Have one side bind or release the functions, and see in the kernel that it did."""
    if side == "ours":
        source = f"PYTHONPATH={unit.CHARM_FOLDER}/src"
        command = ["env", source, "python3", f"{_PLACE}/ours.py", verb, *functions]
    else:
        command = ["sh", "-ec", _THEIRS[verb], "sh", *functions]
    host.run(["python3", "-IS", f"{_PLACE}/measure.py", _REPORT, *command])
    native = hardware.NIC.functions[0].driver
    expected = kernel.VFIO if verb == "bind" else native
    kernel.check_functions(kernel.read_functions(host), dict.fromkeys(functions, expected))
    return pairs.Run(**json.loads(host.read(_REPORT)))


if __name__ == "__main__":
    sys.exit(main())
