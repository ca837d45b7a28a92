"""The arguments of the command line, by argparse: its usage, its help, and what it refuses.

`list` as scripts ask for it does without: argparse costs a quarter of what that takes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

APPLICATION = "pci-passthrough"


def make(commands: Mapping[str, Callable[..., object]]) -> argparse.ArgumentParser:
    """Make the parser of the command line; its completions and its man page are made of it too.

    Args:
        commands: what does ``list``, ``plan`` and ``verify``.
    """
    parser = argparse.ArgumentParser(
        prog="pci-passthrough",
        description="Show this host's PCI functions as the charm sees them. Changes nothing.",
        parents=[_common(before=True)],
    )
    text = "print the revision of the charm and of the JSON, and end"
    parser.add_argument("--version", action=_Version, nargs=0, help=text)
    added = parser.add_subparsers(required=True, metavar="COMMAND")
    common = [_common(before=False)]
    text = "every PCI function and whether it can be claimed"
    listing = added.add_parser("list", help=text, description=_sentence(text), parents=common)
    listing.set_defaults(command=commands["list"])
    for name, text in (
        ("plan", "what the charm would change, as a diff"),
        ("verify", "check the host against what was asked"),
    ):
        sub = added.add_parser(name, help=text, description=_sentence(text), parents=common)
        text = "the option devices; left out, all options are as the unit was last told"
        sub.add_argument("--devices", metavar="SPEC", help=text)
        text = "the option host-exceptions, in place of what the unit was last told"
        sub.add_argument("--host-exceptions", metavar="SPEC", help=text)
        text = f"the Juju application; left out, the one that keeps options here, or {APPLICATION}"
        sub.add_argument("--application", type=_application, metavar="NAME", help=text)
        sub.set_defaults(command=commands[name], misused=sub.error)
    return parser


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


class _Version(argparse.Action):
    """Print what runs here. Most runs do not ask, and read no file for it."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from passthrough.reporting import schema

        charm = Path(__file__).resolve().parents[2]
        try:
            # Juju's agent writes it beside the charm that it unpacks, as a scalar of YAML.
            revision = (charm / ".juju-charm").read_text(encoding="utf-8").strip().strip("\"'")
        except OSError:
            revision = "not deployed by Juju"
        print(f"{parser.prog} ({revision}), JSON schema {schema.NUMBER}")
        parser.exit()


def _common(*, before: bool) -> argparse.ArgumentParser:
    """Make the parser of what stands before the command or after it.

    After it, what is not given must not undo what was given before it.
    """
    parser = argparse.ArgumentParser(add_help=False)

    def default(value: object) -> object:
        return value if before else argparse.SUPPRESS

    text = "look at this tree's /sys, /proc and /etc"
    parser.add_argument("--root", type=_root, metavar="DIR", default=default(Path("/")), help=text)
    text = "print JSON instead of tables"
    parser.add_argument("--json", action="store_true", default=default(False), help=text)
    text = "show where an unexpected error comes from"
    parser.add_argument("--debug", action="store_true", default=default(False), help=text)
    return parser


def _root(text: str) -> Path:
    """Give the folder whole, since what is read in it can be links that climb."""
    root = Path(text).absolute()
    if not (root / "sys").is_dir():
        raise argparse.ArgumentTypeError(f"{text} has no folder sys, so it is no host's root")
    return root


def _application(name: str) -> str:
    from passthrough import naming

    try:
        return naming.check_application(name)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
