"""Results as a table for people, as JSON for programs, and as a page of the documentation."""

from __future__ import annotations

import json
import os
import pathlib
import platform
from collections.abc import Iterable
from typing import Any

from bench import markdown

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/reference/benchmarks.md"
# What the page was written from: the last run that was kept, on one machine, and in the lab.
KEPT = pathlib.Path(__file__).parent / "results.json"
KEPT_LAB = pathlib.Path(__file__).parent / "results-lab.json"
KEPT_BUSY = pathlib.Path(__file__).parent / "results-busy.json"
_WHOLE = ("comparisons", "plans", "parts")  # what a run of everything else has
_NOT_YET = "Not measured yet."


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    system = platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    return {
        "system": system,
        "kernel": platform.release().partition("-")[0],  # what follows is the distributor's
        "python": platform.python_version(),
        "cores": os.cpu_count() or 1,
        "load": round(os.getloadavg()[0], 1),
    }


def comparison_rows(rows: Iterable[dict[str, Any]]) -> list[list[str]]:
    """The cells of a table of comparisons."""
    return [
        [
            row["name"],
            str(row["pairs"]),
            _spread(row["ratio"]),
            f"{row['cpu-ratio']['median']:.2f}",
            f"{row['memory-ratio']['median']:.2f}",
            _goal(row),
        ]
        for row in rows
    ]


def _goal(row: dict[str, Any]) -> str:
    return "" if row["goal"] is None else f"≤ {row['goal']:g} {row['verdict']}"


COMPARISON_HEAD = ("ours / theirs", ">pairs", ">time", ">processor", ">memory", "goal")
PLAN_HEAD = (">claims", ">plan", ">first hook", ">next hook", ">first hook, each claim")
PART_HEAD = ("part", ">files", ">KiB packed", ">KiB unpacked")
PASS_HEAD = ("what", ">passes", "goal")
BUSY_HEAD = ("what grows", ">from", ">to", ">one look takes, times", "goal")
LAB_HEAD = (">functions", ">pairs", ">bind, ours / driverctl", ">release, ours / driverctl", "goal")


def plan_rows(rows: Iterable[dict[str, Any]]) -> list[list[str]]:
    """The cells of a table of plans: times relative to the first row's plan."""
    rows = list(rows)
    unit = rows[0]["plan-seconds"]
    return [
        [
            str(row["claims"]),
            *(f"{row[key] / unit:.1f}" for key in ("plan-seconds", "apply-seconds")),
            f"{row['again-seconds'] / unit:.1f}",
            f"{row['apply-seconds-each'] / unit:.2f}",
        ]
        for row in rows
    ]


def part_rows(rows: Iterable[dict[str, Any]]) -> list[list[str]]:
    """The cells of a table of the charm's parts, and their sum."""
    rows = list(rows)
    total = {key: sum(row[key] for row in rows) for key in ("files", "packed-bytes", "bytes")}
    return [
        [
            str(row["part"]),
            str(row["files"]),
            *(f"{row[key] / 1024:,.0f}" for key in ("packed-bytes", "bytes")),
        ]
        for row in (*rows, {"part": "all", **total})
    ]


def busy_tables(busy: dict[str, Any]) -> list[tuple[tuple[str, ...], list[list[str]]]]:
    """The tables about a busy host, each with its head; what was not measured is left out."""
    passes = [[row["name"], f"{row['passes']:g}", _goal(row)] for row in busy["passes"]]
    grown = [
        [row["name"], f"{row['from']:,}", f"{row['to']:,}", f"{row['ratio']:.1f}", _goal(row)]
        for row in busy["growth"]
    ]
    tables = [
        (COMPARISON_HEAD, comparison_rows(busy["comparisons"])),
        (PASS_HEAD, passes),
        (BUSY_HEAD, grown),
    ]
    return [(head, rows) for head, rows in tables if rows]


def growth(rows: Iterable[dict[str, Any]]) -> list[list[str]]:
    """How the listing's processor time for each function changes with the size of the tree.

    One row a size: the size, and our time for a function relative to that on the smallest tree
    but one, whose time is not start-up alone.
    """
    sizes = {}
    for row in rows:
        if row["name"].startswith("list, ") and row["name"].endswith("-Dnnk"):
            sizes[int(row["name"].split()[1].replace(",", ""))] = row["ours-cpu-seconds"]
    if len(sizes) < 3:
        return []
    start, *others = sorted(sizes)
    each = {size: (sizes[size] - sizes[start]) / (size - start) for size in others}
    return [[f"{size:,}", f"{each[size] / each[others[0]]:.2f}"] for size in others]


def to_text(results: dict[str, Any]) -> str:
    """Lay a run's results out for a terminal."""
    parts = []
    if results["comparisons"]:
        parts.append(_align(COMPARISON_HEAD, comparison_rows(results["comparisons"])))
    grown = growth(results["comparisons"])
    if grown:
        parts.append(_align((">functions", ">time for each more, relative"), grown))
    if results.get("plans"):
        parts.append(_align(PLAN_HEAD, plan_rows(results["plans"])))
    if results.get("parts"):
        parts.append(_align(PART_HEAD, part_rows(results["parts"])))
    rows = [*results["comparisons"]]
    if results.get("busy"):
        busy = results["busy"]
        parts += [_align(head, cells) for head, cells in busy_tables(busy)]
        rows += [*busy["comparisons"], *busy["passes"], *busy["growth"]]
    missed = [row["name"] for row in rows if row["verdict"] == "MISSED"]
    parts += [f"above its goal: {name}" for name in missed]
    return "\n\n".join(parts)


def to_json(results: dict[str, Any]) -> str:
    """Results as they are kept."""
    return json.dumps(results, indent=1, sort_keys=True) + "\n"


def page(results: dict[str, Any], lab: dict[str, Any] | None, busy: dict[str, Any] | None) -> str:
    """Write the documentation's page anew from results that were kept."""
    text = PAGE.read_text(encoding="utf-8")
    text = markdown.fill(text, "machine", _measured_on(results["machine"]))
    text = markdown.fill(
        text,
        "comparisons",
        markdown.table(COMPARISON_HEAD, comparison_rows(results["comparisons"])),
    )
    head = (">functions", ">time for each more function, relative")
    text = markdown.fill(text, "growth", markdown.table(head, growth(results["comparisons"])))
    text = markdown.fill(text, "plans", markdown.table(PLAN_HEAD, plan_rows(results["plans"])))
    text = markdown.fill(text, "parts", markdown.table(PART_HEAD, part_rows(results["parts"])))
    text = markdown.fill(text, "lab", lab_part(lab) if lab else _NOT_YET)
    return markdown.fill(text, "busy", busy_part(busy) if busy else _NOT_YET)


def busy_part(busy: dict[str, Any]) -> str:
    """What was measured on busy hosts, as Markdown."""
    tables = [markdown.table(head, rows) for head, rows in busy_tables(busy)]
    return "\n\n".join([_measured_on(busy["machine"]), *tables])


def _measured_on(on: dict[str, Any]) -> str:
    return (
        f"Measured on {on['system']}, kernel {on['kernel']}, Python {on['python']}, {on['cores']}"
        f" processors, load {on['load']} at the start."
    )


def lab_part(lab: dict[str, Any]) -> str:
    """What the lab found, as Markdown."""
    rows = [
        [
            str(row["functions"]),
            str(row["pairs"]),
            _spread(row["bind"]),
            _spread(row["release"]),
            f"≤ {row['goal']:g} {row['verdict']}",
        ]
        for row in lab["bindings"]
    ]
    first, further = lab["first-hook"], lab["each-further"]
    return "\n\n".join(
        [
            markdown.table(LAB_HEAD, rows),
            "Each function more, without the start of Python, which a hook has behind it:"
            f" {' and '.join(f'{each:.2f} to {verb}' for verb, each in further.items())}.",
            f"From `config-changed` to `reboot required`: update-initramfs took"
            f" {first['initramfs-share']:.0%} of it, update-grub {first['grub-share']:.0%}, and"
            f" all the rest {first['rest-share']:.0%}.",
        ]
    )


def keep(results: dict[str, Any]) -> None:
    """Keep what the page is made of; what a run did not measure stays as it was."""
    others = {key: value for key, value in results.items() if key != "busy"}
    if all(results.get(part) for part in _WHOLE):
        KEPT.write_text(to_json(others), encoding="utf-8")
    if "busy" in results:
        KEPT_BUSY.write_text(to_json(results["busy"]), encoding="utf-8")


def kept() -> tuple[dict[str, Any], dict[str, Any] | None, dict[str, Any] | None]:
    """Read the results that the page is made of: of this machine, of the lab, of busy hosts."""
    whole = json.loads(KEPT.read_text(encoding="utf-8"))
    return whole, _read(KEPT_LAB), _read(KEPT_BUSY)


def _read(path: pathlib.Path) -> dict[str, Any] | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _spread(spread: dict[str, float]) -> str:
    return f"{spread['median']:.2f} ({spread['low']:.2f} to {spread['high']:.2f})"


def _align(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table for a terminal; ``>`` before a head aligns its column to the right."""
    head, lines = list(head), [list(row) for row in rows]
    names = [each.lstrip(">") for each in head]
    widths = [max(map(len, column)) for column in zip(names, *lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if each.startswith(">") else cell.ljust(width)
            for each, cell, width in zip(head, line, widths, strict=True)
        ).rstrip()
        for line in [names, *lines]
    )
