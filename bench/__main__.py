"""Run the benchmarks: `make bench`, or `python -m bench`.

Prints tables of ratios, ours over theirs, each from pairs that ran one right after the other. No
time is compared with a fixed one, and a ratio above its goal is shown and fails nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import pathlib
import sys
import tempfile
from typing import Any

from bench import busy, crowds, former, hook, inventory, package, pairs, plans, releases, report

PARTS = ("inventory", "hook", "busy", "plans", "package")


def main() -> int:
    """Run what is asked for; returns the exit code."""
    given = _parser().parse_args()
    try:
        results = _measure(given)
    except pairs.BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(report.to_json(results) if given.json else report.to_text(results))
    if given.keep:
        report.keep(results)
        report.PAGE.write_text(report.page(*report.kept()), encoding="utf-8")
        _say(f"written: {report.PAGE.relative_to(report.ROOT)}")
    return 0


def _measure(given: argparse.Namespace) -> dict[str, Any]:
    root = report.ROOT
    results: dict[str, Any] = {"machine": report.machine(), "comparisons": []}
    if "inventory" in given.parts:
        sizes = inventory.SIZES[:3] if given.quick else inventory.SIZES
        rounds = 3 if given.quick else 5
        with contextlib.ExitStack() as stack:
            other = None
            if given.against:
                program = stack.enter_context(former.checked_out(root, given.against))
                other = given.against, program
            found = inventory.measure(root / former.PROGRAM, sizes, rounds, _say, other)
        results["comparisons"] += [each.as_row() for each in found]
    if "hook" in given.parts:
        with tempfile.TemporaryDirectory(prefix="bench-") as place:
            other = None
            if given.against:
                other = given.against, pathlib.Path(place, "former.charm")
                former.pack(root, given.against, given.charm, other[1])
            found = hook.measure(given.charm, 5 if given.quick else 21, _say, other)
        results["comparisons"] += [each.as_row() for each in found]
    if "busy" in given.parts:
        results["busy"] = _measure_busy(given)
    if "plans" in given.parts:
        claims = plans.CLAIMS[:3] if given.quick else plans.CLAIMS
        results["plans"] = plans.measure(claims, 1 if given.quick else 3, _say)
    if "package" in given.parts:
        results["parts"] = package.weigh(given.charm)
    return results


def _measure_busy(given: argparse.Namespace) -> dict[str, Any]:
    rounds = 3 if given.quick else 7
    program = report.ROOT / former.PROGRAM
    found = busy.compare(program, rounds, _say, quick=given.quick)
    size = crowds.Size(processes=100, files=50) if given.quick else busy.BUSY
    found += releases.compare(rounds, _say, size)
    if not given.quick:
        found.append(hook.measure_busy(given.charm, rounds, _say))
    return {
        "machine": report.machine(),
        "comparisons": [each.as_row() for each in found],
        "passes": busy.count(_say, quick=given.quick),
        "growth": [] if given.quick else busy.grow(rounds, _say),
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "parts", nargs="*", default=PARTS, metavar="PART", help=f"{', '.join(PARTS)}; all of them"
    )
    parser.add_argument(
        "--charm",
        type=pathlib.Path,
        default=report.ROOT / "build/pci-passthrough.charm",
        help="the packed charm",
    )
    parser.add_argument("--quick", action="store_true", help="fewer sizes and pairs")
    parser.add_argument(
        "--against",
        metavar="REVISION",
        help="compare the listing and the hook with those of a git revision, too",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument(
        "--keep",
        action="store_true",
        help=f"write {report.PAGE.name} of the documentation anew, as far as it was measured",
    )
    return parser


def _say(text: str) -> None:
    """Tell the person waiting; stdout is for the result."""
    print(f"── {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
