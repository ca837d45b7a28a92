"""``pci-passthrough``: the charm's view of a host, for a person on it. Reads only.

Each command imports what it needs: scripts call `list` often, and it needs little.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from passthrough import TYPE_CHECKING
from passthrough.errors import PassthroughError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping
    from typing import Any

    from passthrough import survey
    from passthrough.host import pci
    from passthrough.reporting import holdings, tables
    from passthrough.system import procfs

    _Answer = tuple[Callable[[], str], Any, int, procfs.Processes]

EXIT_FAILED_CHECK = 1
EXIT_REFUSED = 2
EXIT_ITEM_REFUSED = 3
EXIT_UNEXPECTED = 70  # EX_SOFTWARE of sysexits(3)
# What the tables are drawn with, and what stands for it on a terminal that cannot show it.
_LINES = "─┬├└…"
_ASCII_LINES = "-+|`~"
_NOT_ROOT = (
    "not run as root: what other users' processes have open is not seen, so a function that is"
    " free here may be in use; the charm itself sees it"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit code. 1: a check failed; 2: the request was refused; 3: the plan refuses an item;
        70: an error that nobody thought of.
    """
    words = sys.argv[1:] if arguments is None else arguments
    given: Any = _read_listing(words) or parser().parse_args(words)
    try:
        text, data, code, processes = given.command(given)
        shown = _to_json(data) if given.json else text()
    except _MisusedError as error:
        return given.misused(str(error))  # ends as argparse ends, with the usage
    except (PassthroughError, OSError) as error:
        return _fail(str(error), EXIT_REFUSED)
    except Exception as error:
        if given.debug:
            raise
        said = f"unexpected {type(error).__name__}: {' '.join(str(error).split())}"
        return _fail(f"{said}; --debug shows where", EXIT_UNEXPECTED)
    _print(shown)
    if os.geteuid() and processes.opened.hidden:
        print(f"pci-passthrough: {_NOT_ROOT}", file=sys.stderr)
    return code


class _MisusedError(PassthroughError):
    """An argument is missing that this host could do without, had a hook left what it says."""


def _fail(message: str, code: int) -> int:
    print(f"pci-passthrough: {message}", file=sys.stderr)
    return code


def _print(text: str) -> None:
    """Print what a reader such as head may stop to read, on terminals that lack characters."""
    try:
        _LINES.encode(sys.stdout.encoding)
    except UnicodeEncodeError:
        text = text.translate(str.maketrans(_LINES, _ASCII_LINES))
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure:
        reconfigure(errors="replace")
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # The reader has seen enough. Python would say at its exit that it could not flush.
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (until the exit)


def _to_json(data: Any) -> str:
    import json

    if isinstance(data, dict):
        return json.dumps(data, indent=2, sort_keys=True)
    # A line for each row: Python lays out nested JSON many times slower than it writes it plainly.
    rows = ",\n".join(map(json.JSONEncoder(sort_keys=True).encode, data))
    return f"[\n{rows}\n]" if rows else "[]"


def parser() -> argparse.ArgumentParser:
    """Make the parser of the command line; its completions and its man page are made of it too."""
    from passthrough import arguments

    return arguments.make({"list": _list, "plan": _plan, "verify": _verify})


class _Listing:
    """What `list` was asked with: as argparse gives it, with its defaults."""

    def __init__(self) -> None:
        self.command = _list
        self.root = Path("/")
        self.json = self.debug = False


def _read_listing(words: Sequence[str]) -> _Listing | None:
    """Read the words of `list` as scripts write them; None leaves them to argparse, and its say.

    argparse, with what it imports, costs a quarter of what `list` takes.
    """
    given, commands, rest = _Listing(), 0, iter(words)
    for word in rest:
        if word == "list":
            commands += 1
        elif word == "--json":
            given.json = True
        elif word == "--debug":
            given.debug = True
        elif word == "--root":
            folder = next(rest, "-")
            given.root = Path(folder).absolute()
            if folder.startswith("-") or not (given.root / "sys").is_dir():
                return None
        else:
            return None
    return given if commands == 1 else None


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

    processes, host = procfs.Processes(given.root), pci.read(given.root, overrides=False)
    taken = _read_taken(given.root, host, processes)
    described = inventory.describe(given.root, host, processes, taken=taken)

    def text() -> str:
        from passthrough.reporting import inventory_tree

        return inventory_tree.format_tree(described, _style(), taken.missing)

    return text, described, 0, processes


def _read_taken(root: Path, host: pci.Host, processes: procfs.Processes) -> holdings.Holdings:
    """What the charm has taken; most hosts that are listed have no unit yet, and import nothing."""
    from passthrough import naming
    from passthrough.reporting import holdings

    if not (root / naming.RECORDS).is_dir():
        return holdings.NONE
    from passthrough.reporting import taken

    return taken.read(root, host, processes)


def _decide(given: argparse.Namespace) -> survey.Decision:
    from passthrough import arguments, survey
    from passthrough.config import host_exceptions, options
    from passthrough.site import Site

    application = given.application or arguments.APPLICATION
    config = {"devices": given.devices}
    if given.devices is None:
        application, config = _last_told(given)
    if given.host_exceptions is not None:
        config = {**config, host_exceptions.OPTION: given.host_exceptions}
    return survey.decide(options.parse(config), survey.look(Site(given.root, application)))


def _last_told(given: argparse.Namespace) -> tuple[str, Mapping[str, Any]]:
    """Give what the unit on this host was last told, with its application; else, end."""
    from passthrough.state import settled

    kept = settled.kept_options(given.root, given.application or "")
    if len(kept) == 1:
        return next(iter(kept.items()))
    if kept:
        named = ", ".join(kept)
        raise _MisusedError(f"the options of {named} are kept here", "name one by --application")
    others = ", ".join(settled.kept_options(given.root)) if given.application else ""
    unit = f"unit of {given.application}" if given.application else "unit"
    raise _MisusedError(
        f"no {unit} has left its options on this host since it booted",
        f"give --devices, or another --application: {others}" if others else "give --devices",
    )


def _plan(given: argparse.Namespace) -> _Answer:
    from passthrough.host import watch
    from passthrough.reporting import leftovers, plan_text

    decision = _decide(given)
    by_hand = leftovers.find(given.root)
    watched = watch.read(given.root, decision.site.application)
    return (
        lambda: plan_text.plan_text(decision, by_hand, _style(), watched),
        plan_text.describe_plan(decision, by_hand, watched),
        EXIT_ITEM_REFUSED if decision.outcome.blocking else 0,
        decision.facts.processes,
    )


def _verify(given: argparse.Namespace) -> _Answer:
    from passthrough.planning import prerequisites
    from passthrough.reporting import plan_text
    from passthrough.reporting.verify import checklist, result
    from passthrough.system import procfs

    processes = procfs.Processes.none()
    try:
        decision = _decide(given)
        processes = decision.facts.processes
        checks = checklist.verify(decision, keep=False)
    except prerequisites.UnsupportedHostError as error:
        checks = checklist.refused(error)
    code = EXIT_FAILED_CHECK if result.has_failed(checks) else 0
    return (
        lambda: plan_text.checks_table(checks, _style()),
        plan_text.describe_checks(checks),
        code,
        processes,
    )


if __name__ == "__main__":
    sys.exit(main())
