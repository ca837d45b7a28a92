"""``pci-passthrough``: the charm's view of a host, for a person on it. Reads only.

Each command imports what it needs: scripts call `list` often, and it needs little.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from passthrough import TYPE_CHECKING
from passthrough.errors import PassthroughError

if TYPE_CHECKING:
    from typing import Any

    from passthrough import survey
    from passthrough.reporting import tables
    from passthrough.system import procfs

    _Answer = tuple[Callable[[], str], Any, int, procfs.Processes]

EXIT_FAILED_CHECK = 1
EXIT_REFUSED = 2
_NOT_ROOT = (
    "not run as root: what other users' processes have open is not seen, so a function that is"
    " free here may be in use; the charm itself sees it"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code (1: a check failed, 2: refused)."""
    given = _parser().parse_args(arguments)
    try:
        text, data, code, processes = given.command(given)
        shown = _to_json(data) if given.json else text()
    except (PassthroughError, OSError) as error:
        print(f"pci-passthrough: {error}", file=sys.stderr)
        return EXIT_REFUSED
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure:
        reconfigure(errors="replace")  # a terminal that cannot show the tree's lines
    print(shown)
    if os.geteuid() and processes.opened.hidden:
        print(f"pci-passthrough: {_NOT_ROOT}", file=sys.stderr)
    return code


def _to_json(data: Any) -> str:
    import json

    if isinstance(data, dict):
        return json.dumps(data, indent=2, sort_keys=True)
    # A line for each row: Python lays out nested JSON many times slower than it writes it plainly.
    rows = ",\n".join(map(json.JSONEncoder(sort_keys=True).encode, data))
    return f"[\n{rows}\n]" if rows else "[]"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="pci-passthrough", description=__doc__)
    parser.add_argument(
        "--root", type=Path, default=Path("/"), help="look at this tree's /sys, /proc and /etc"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    listing = commands.add_parser("list", help="every PCI function and whether it can be claimed")
    listing.set_defaults(command=_list)
    for name, command, text in (
        ("plan", _plan, "what the charm would change, as a diff"),
        ("verify", _verify, "check the host against what was asked"),
    ):
        sub = commands.add_parser(name, help=text)
        sub.add_argument("--devices", required=True, metavar="SPEC", help="the option devices")
        sub.add_argument(
            "--application",
            type=_application,
            default="pci-passthrough",
            help="the Juju application",
        )
        sub.set_defaults(command=command)
    return parser


def _application(name: str) -> str:
    from passthrough import naming

    try:
        return naming.check_application(name)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _style() -> tables.Style:
    """As wide as the terminal and in colour (https://no-color.org says when not); else plain."""
    import shutil

    from passthrough.reporting import tables

    if not sys.stdout.isatty():
        return tables.PLAIN
    return tables.Style(
        width=max(shutil.get_terminal_size().columns, tables.PLAIN.width),
        colour=not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb",
    )


def _list(given: argparse.Namespace) -> _Answer:
    from passthrough.host import pci
    from passthrough.reporting import inventory
    from passthrough.system import procfs

    processes = procfs.Processes(given.root)
    described = inventory.describe(given.root, pci.read(given.root, overrides=False), processes)

    def text() -> str:
        from passthrough.reporting import inventory_tree

        return inventory_tree.format_tree(described, _style())

    return text, described, 0, processes


def _decide(given: argparse.Namespace) -> survey.Decision:
    from passthrough import survey
    from passthrough.config import options
    from passthrough.site import Site

    wanted = options.parse({"devices": given.devices})
    return survey.decide(wanted, survey.look(Site(given.root, given.application)))


def _plan(given: argparse.Namespace) -> _Answer:
    from passthrough.reporting import leftovers, plan_text

    decision = _decide(given)
    by_hand = leftovers.find(given.root)
    return (
        lambda: plan_text.plan_text(decision, by_hand, _style()),
        plan_text.describe_plan(decision, by_hand),
        0,
        decision.facts.processes,
    )


def _verify(given: argparse.Namespace) -> _Answer:
    import dataclasses

    from passthrough.planning import prerequisites
    from passthrough.reporting import plan_text
    from passthrough.reporting.verify import checklist, result
    from passthrough.system import procfs

    processes = procfs.Processes.none()
    try:
        decision = _decide(given)
        processes = decision.facts.processes
        checks = checklist.verify(decision)
    except prerequisites.UnsupportedHostError as error:
        checks = checklist.refused(error)
    code = EXIT_FAILED_CHECK if result.has_failed(checks) else 0
    return (
        lambda: plan_text.checks_table(checks, _style()),
        [dataclasses.asdict(each) for each in checks],
        code,
        processes,
    )


if __name__ == "__main__":
    sys.exit(main())
