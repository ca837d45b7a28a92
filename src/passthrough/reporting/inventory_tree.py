"""The inventory as a tree that fits a terminal: what ``list`` and ``list-devices`` show people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from passthrough import pci_address
from passthrough.host import pci
from passthrough.reporting import tables

# As long as the longest driver names that are common, such as snd_hda_intel.
_DRIVER_WIDTH = 13
_MAX_ADDRESSES = 4
_COLOURS = {"yes": "green", "no": "faint", "lent": "yellow"}


def format_tree(described: Iterable[dict[str, Any]], style: tables.Style = tables.PLAIN) -> str:
    """Lay the result of `inventory.describe` out for a person: group by group, members joined.

    Only a host with several NUMA nodes has the NUMA column. Below the table stand the reasons
    against claiming, and an example of an item of the option ``devices``.
    """
    rows = sorted(described, key=_group_order)
    if not rows:
        return "no such PCI function on this host"
    with_numa = len({row["numa-node"] for row in rows}) > 1
    header = ["GROUP   ADDRESS", "ID", "DRIVER", *(["NUMA"] if with_numa else []), "CLAIM", "MODEL"]
    table = tables.format_table(
        header,
        (
            (
                branch,
                row["id"],
                tables.cut(row["driver"] or "-", _DRIVER_WIDTH),
                *([_or_dash(row["numa-node"])] if with_numa else []),
                "lent" if row["lent"] else "yes" if row["claimable"] else "no",
                row["model"],
            )
            for branch, row in zip(_branches(rows), rows, strict=True)
        ),
        style,
        {header.index("CLAIM"): _COLOURS, header.index("DRIVER"): {pci.VFIO_PCI: "cyan"}},
    )
    notes = _reasons(rows, style) + _example(rows, style)
    return "\n".join([table, *([""] if notes else []), *notes])


def _group_order(row: Mapping[str, Any]) -> tuple[Any, ...]:
    group = row["iommu-group"]
    return (group is None, group or 0, pci_address.sort_key(row["address"]))


def _branches(rows: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    """The first column: a group's number beside its first member, and lines down to its last."""
    groups = [row["iommu-group"] for row in rows]
    for index, (group, row) in enumerate(zip(groups, rows, strict=True)):
        is_first = index == 0 or groups[index - 1] != group
        is_last = index + 1 == len(groups) or groups[index + 1] != group
        if group is None:
            label, joint = "-", " "
        else:
            label = str(group) if is_first else ""
            joint = {(True, True): "─", (True, False): "┬", (False, False): "├"}.get(
                (is_first, is_last), "└"
            )
        yield f"{label:>5} {joint} {row['address']}"


def _reasons(rows: Iterable[Mapping[str, Any]], style: tables.Style) -> list[str]:
    found: dict[str, list[str]] = {}
    for row in rows:
        if row["reason"]:
            found.setdefault(row["reason"], []).append(row["address"])
    notes: list[str] = []
    for reason, addresses in found.items():
        more = len(addresses) - _MAX_ADDRESSES
        shown = " ".join(addresses[:_MAX_ADDRESSES]) + (f" and {more} more" if more > 0 else "")
        notes.append(tables.wrap(f"not claimable: {shown}: {reason}", style))
    return notes


def _example(rows: Iterable[Mapping[str, Any]], style: tables.Style) -> list[str]:
    """Show how an item of ``devices`` is written: with a display where there is one to claim."""
    claimable = [row for row in rows if row["claimable"]]
    if not claimable:
        return []
    row = next((row for row in claimable if row["class-code"].startswith("03")), claimable[0])
    return [
        tables.wrap(
            f"To claim a function, write ID@ADDRESS into the option devices, such as"
            f" {row['devices']}; ID alone claims all of its kind.",
            style,
        )
    ]


def _or_dash(value: object) -> str:
    return "-" if value is None else str(value)
