"""Write the reference pages: options, actions, and the tables of kernel options and metrics.

usage: reference.py [--check]      --check writes nothing and fails when a page is out of date
"""

from __future__ import annotations

import pathlib
import re
import sys
from collections.abc import Mapping
from typing import Any

import generated
import yaml

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))

from passthrough.config import kernel_options  # noqa: E402 - the line before says where it is
from passthrough.reporting import metrics  # noqa: E402 - the same

PAGES = ROOT / "docs" / "reference"

_VALUE = re.compile(r"([a-z-]+): (.*)")
_SPECIAL = re.compile(r"[*_<>|\[\]`]")

OPTIONS_HEAD = """\
# Options

<!-- Written by `make reference` from config.yaml: edit that file. -->

Set an option with `juju config pci-passthrough NAME=VALUE`. A value that is not accepted is named
in the unit's status, item by item, and nothing changes on any host until it is corrected.
"""
ACTIONS_HEAD = """\
# Actions

<!-- Written by `make reference` from actions.yaml: edit that file. -->

Run an action with `juju run pci-passthrough/0 NAME [PARAMETER=VALUE]`. Every action gives a table
for people, or JSON for programs with `format=json`; [Results of the actions](action-results.md)
lists the fields. All hooks and actions of a machine take turns: `--wait=15m` waits for a rebuild
that runs, where `juju run` gives up after a minute.
"""

KERNEL_OPTIONS_HEAD = """\
# Kernel options

<!-- Written by `make reference` from src/passthrough/config/kernel_options.py: edit that file. -->

The option `kernel-options` takes these and nothing else. A name that ends in `.` stands for every
parameter of that module, except for `ids` and `blacklist`; `-` and `_` are the same. Where no
values are named, any value is taken. Put anything else into a file of your own in
`/etc/default/grub.d`, or set it through charm-sysconfig.

An earlier revision of the charm took nearly anything. A host that runs with such an option keeps
it, and the status, `plan` and `verify` say so.

| what for | names | each part of a value, as a pattern |
| --- | --- | --- |
"""

METRICS_HEAD = """\
# Metrics

<!-- Written by `make reference` from src/passthrough/reporting/metrics.py: edit that file. -->

What the exporter on each compute host tells Prometheus at `/metrics`; [how to have
it](../how-to/monitor.md). What cannot be told has no sample, which is not 0: a function that
sleeps is neither sick nor well. Values of "the last hook" are as old as the last look, which is a
metric itself; those of the kernel are read at each scrape, and wake no device.

`alias` is that of the item in the option `devices`, with both names and a `|` between them while
it is renamed.

<!-- checked: metrics -->
| metric | type | labels | meaning | from | no sample where |
| --- | --- | --- | --- | --- | --- |
"""


def write_metrics() -> str:
    """Return the page for the exporter's metrics, in their order."""
    rows = []
    for row in metrics.TABLE:
        labels = " ".join(f"`{label}`" for label in row.labels)
        cells = (f"`{row.name}`", row.kind, labels, _escape(row.help), row.source, row.absent)
        rows.append(f"| {' | '.join(map(str, cells))} |\n".replace("|  |", "| |"))
    return METRICS_HEAD + "".join(rows)


def write_kernel_options() -> str:
    """Return the page for the allow list, in its order."""
    rows = []
    for row in kernel_options.TABLE:
        names = " ".join(f"`{name}`" for name in row.names)
        parts = f"`{row.parts}`".replace("|", "\\|") if row.parts else ""
        rows.append(f"| {row.reason} | {names} | {parts} |\n")
    return KERNEL_OPTIONS_HEAD + "".join(rows)


def write_options(config: Mapping[str, Any]) -> str:
    """Return the page for the content of config.yaml, in its order."""
    sections = [OPTIONS_HEAD]
    for name, option in config["options"].items():
        default = option.get("default")
        shown = "empty" if default == "" else f"`{_plain(default)}`"
        sections.append(
            f"## {name}\n\nType: {option['type']}. Default: {shown}.\n\n"
            f"{_markdown(option['description'])}\n"
        )
    return "\n".join(sections)


def write_actions(actions: Mapping[str, Any]) -> str:
    """Return the page for the content of actions.yaml, in its order."""
    sections = [ACTIONS_HEAD]
    for name, action in actions.items():
        section = f"## {name}\n\n{_markdown(action['description'])}\n"
        rows = [
            f"| `{parameter}` | {schema['type']} | `{_plain(schema.get('default', ''))}` |"
            f" {_escape(' '.join(schema['description'].split()))} |"
            for parameter, schema in action.get("params", {}).items()
        ]
        if rows:
            head = ["| parameter | type | default | meaning |", "| --- | --- | --- | --- |"]
            section += "\n" + "\n".join(head + rows) + "\n"
        sections.append(section.replace("| `` |", "| empty |"))
    return "\n".join(sections)


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _markdown(text: str) -> str:
    """Turn a plain description into Markdown, paragraph by paragraph."""
    return "\n\n".join(_paragraph(part.split("\n")) for part in text.strip("\n").split("\n\n"))


def _paragraph(lines: list[str]) -> str:
    if all(line.startswith("  ") for line in lines):
        return "\n".join(["```text", *(line[2:] for line in lines), "```"])
    if not _VALUE.match(lines[0]):
        return "\n".join(map(_escape, lines))
    # One item a value: "auto: turn it on …", and lines that go on with it.
    return "\n".join(
        f"- `{value[1]}`: {_escape(value[2])}"
        if (value := _VALUE.match(line))
        else f"  {_escape(line)}"
        for line in lines
    )


def _escape(text: str) -> str:
    return _SPECIAL.sub(r"\\\g<0>", text)


def render() -> dict[pathlib.Path, str]:
    """Return every generated page: its path and its text."""

    def read(name: str) -> Any:
        return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))

    return {
        PAGES / "options.md": write_options(read("config.yaml")),
        PAGES / "actions.md": write_actions(read("actions.yaml")),
        PAGES / "kernel-options.md": write_kernel_options(),
        PAGES / "metrics.md": write_metrics(),
    }


def find_outdated() -> list[pathlib.Path]:
    """Return the pages that are not as they would be written, or not there."""
    return generated.find_outdated(render())


if __name__ == "__main__":
    sys.exit(generated.main(__doc__, render))
