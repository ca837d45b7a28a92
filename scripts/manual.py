"""Write what shells and man have of the command line: completions, and the man page.

usage: manual.py [--check]      --check writes nothing and fails when a file is out of date

Both are made of the command line's own parser, and lie below share/, which the charm carries.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Mapping, Sequence

import generated
import shtab

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))

from passthrough import cli  # noqa: E402 - the line before says where it is
from passthrough.reporting import schema  # noqa: E402 - likewise

SHARE = ROOT / "share"
MADE = "Written by `make reference` from src/passthrough/cli.py: edit that file."
PAGES = "the charm's documentation (Reference, Results of the actions)"

_STATUS = (
    (0, "all is well"),
    (cli.EXIT_FAILED_CHECK, "a check of verify failed"),
    (cli.EXIT_REFUSED, "the request was refused, with the reason on standard error"),
    (cli.EXIT_ITEM_REFUSED, "plan refuses an item of the option devices, and says which and why"),
    (cli.EXIT_UNEXPECTED, "an error that nobody thought of; --debug shows where it comes from"),
)
_FILES = (
    (
        "/run/pci-passthrough.settled-UNIT",
        "the options that the unit was last told, which plan and verify go by without --devices",
    ),
    ("/var/lib/pci-passthrough/APPLICATION.json", "what the charm has taken on this host"),
)
_ENVIRONMENT = (
    ("NO_COLOR", "if it is set and not empty, tables have no colour"),
    ("COLUMNS", "how wide tables may be, where the terminal does not say"),
)


def write_completion(shell: str) -> str:
    """Return the completion for a shell, ``bash`` or ``zsh``."""
    parser = cli.parser()
    for each in (parser, *_commands(parser).values()):
        for action in each._actions:
            if action.metavar == "DIR":
                action.complete = shtab.DIRECTORY  # pyright: ignore[reportAttributeAccessIssue]
    lines = shtab.complete(parser, shell=shell).splitlines()
    at = next(at for at, line in enumerate(lines) if line.startswith("# AUTOMATICALLY"))
    # What follows that line tells whoever ran shtab where to put its output.
    rest = next(number for number, line in enumerate(lines) if number > at and line[:1] != "#")
    return "\n".join([*lines[: at + 1], f"# {MADE}", *lines[rest:], ""])


def write_man_page() -> str:
    """Return the man page, as groff reads it."""
    parser = cli.parser()
    commands = _commands(parser)
    name = _roff(parser.prog)
    anywhere, alone = _split(parser._actions, next(iter(commands.values()))._actions)
    lines = [
        f'.\\" {MADE}',
        f'.TH {name.upper()} 8 "" "{name}" "Juju charm {name}"',
        ".SH NAME",
        rf"{name} \- the charm's view of this host's PCI functions",
        ".SH SYNOPSIS",
    ]
    for command, sub in commands.items():
        _, own = _split(sub._actions, anywhere)
        before = [f"[{_usage(each)}]" for each in anywhere if each.metavar or each.dest != "help"]
        after = [f"[{_usage(each)}]" for each in own]
        lines += [f".B {name}", " ".join([*before, rf"\fB{command}\fR", *after]), ".br"]
    for each in alone:
        lines += [f".B {name}", _usage(each)]
    lines += [".SH DESCRIPTION", _roff(parser.description or ""), ".SH COMMANDS"]
    for command, sub in commands.items():
        lines += [".TP", f".B {command}", _roff(sub.description or "")]
    lines += [".SH OPTIONS", "These stand before the command or after it."]
    lines += _explain(anywhere)
    lines += [".SS Without a command", *_explain(alone)]
    for title, options in _group(commands, anywhere).items():
        lines += [f".SS Options of {title}", *options]
    for title, rows in (
        ("EXIT STATUS", _STATUS),
        ("FILES", _FILES),
        ("ENVIRONMENT", _ENVIRONMENT),
    ):
        lines.append(f".SH {title}")
        for term, text in rows:
            lines += [".TP", f".B {_roff(str(term))}", _roff(_sentence(text))]
    lines += [
        ".SH NOTES",
        f"Each object of the JSON has the number {schema.NUMBER} in its field schema.",
        f"The fields and their JSON Schema stand in {_roff(PAGES)}.",
        ".SH SEE ALSO",
        ".BR lspci (8),",
        ".BR virsh (1)",
        "",
    ]
    return "\n".join(lines)


_Actions = Sequence[argparse.Action]


def _commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    (found,) = [each for each in parser._actions if isinstance(each.choices, dict)]
    return dict(found.choices or {})


def _split(actions: _Actions, others: _Actions) -> tuple[_Actions, _Actions]:
    """Split options into those that others have, too, and those that they lack."""
    known = {string for each in others for string in each.option_strings}
    options = [each for each in actions if each.option_strings]
    return (
        [each for each in options if not known.isdisjoint(each.option_strings)],
        [each for each in options if known.isdisjoint(each.option_strings)],
    )


def _group(
    commands: Mapping[str, argparse.ArgumentParser], anywhere: _Actions
) -> dict[str, list[str]]:
    """Explain what commands take beside what all take, once for those that take the same."""
    found: dict[tuple[str, ...], list[str]] = {}
    for command, sub in commands.items():
        found.setdefault(tuple(_explain(_split(sub._actions, anywhere)[1])), []).append(command)
    return {" and ".join(names): list(lines) for lines, names in found.items() if lines}


def _explain(options: _Actions) -> list[str]:
    return [
        line
        for each in options
        for line in (".TP", _usage(each, every=True), _roff(_sentence(each.help)))
    ]


def _usage(action: argparse.Action, *, every: bool = False) -> str:
    strings = action.option_strings if every else action.option_strings[-1:]
    shown = ", ".join(f"\\fB{_roff(each)}\\fR" for each in strings)
    return f"{shown} \\fI{action.metavar}\\fR" if action.metavar else shown


def _sentence(text: str | None) -> str:
    return f"{text[0].upper()}{text[1:]}." if text else ""


def _roff(text: str) -> str:
    r"""Escape a text for groff: a bare hyphen becomes a typographic one, so say minus."""
    found = text.replace("\\", r"\e").replace("-", r"\-").replace("'", r"\(aq")
    return rf"\&{found}" if found.startswith(".") else found


def render() -> dict[pathlib.Path, str]:
    """Return every generated file: its path and its text."""
    return {
        SHARE / "bash-completion/completions/pci-passthrough": write_completion("bash"),
        SHARE / "zsh/site-functions/_pci-passthrough": write_completion("zsh"),
        SHARE / "man/man8/pci-passthrough.8": write_man_page(),
    }


def find_outdated() -> list[pathlib.Path]:
    """Return the files that are not as they would be written, or not there."""
    return generated.find_outdated(render())


if __name__ == "__main__":
    sys.exit(generated.main(__doc__, render))
