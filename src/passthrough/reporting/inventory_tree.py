"""The inventory as a tree that fits a terminal: what ``list`` and ``list-devices`` show people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from passthrough import pci_address
from passthrough.host import pci
from passthrough.reporting import tables

if TYPE_CHECKING:
    from passthrough.planning import health

# As long as the longest driver names that are common, such as snd_hda_intel.
_DRIVER_WIDTH = 13
_MAX_ADDRESSES = 4
# What the longest cells leave of 80 columns for the states; a wider terminal has more.
_STATE_WIDTH, _LEAST_STATE = 18, 12
_NUMA_WIDTH = 6


def format_tree(
    described: Iterable[dict[str, Any]],
    style: tables.Style = tables.PLAIN,
    missing: Iterable[health.Health] = (),
) -> str:
    """Lay the result of `inventory.describe` out for a person: group by group, members joined.

    Only a host with several NUMA nodes has the NUMA column. Below the table stand the states that
    the table has no room for, what is wrong with devices, the reasons against claiming, and an
    example of an item of the option ``devices``.

    Args:
        described: the functions.
        style: how wide, and whether in colour.
        missing: functions that are not there any more.
    """
    rows = sorted(described, key=_group_order)
    if not rows:
        return "no such PCI function on this host"
    with_numa = len({row["numa-node"] for row in rows}) > 1
    header = ["GROUP   ADDRESS", "ID", "DRIVER", *(["NUMA"] if with_numa else []), "STATE", "MODEL"]
    more = style.width - tables.PLAIN.width - (_NUMA_WIDTH if with_numa else 0)
    room = max(_STATE_WIDTH + more, _LEAST_STATE)
    states = [tables.cut(row["state"], room) for row in rows]
    table = tables.format_table(
        header,
        (
            (
                branch,
                row["id"],
                tables.cut(row["driver"] or "-", _DRIVER_WIDTH),
                *([_or_dash(row["numa-node"])] if with_numa else []),
                state,
                row["model"],
            )
            for branch, state, row in zip(_branches(rows), states, rows, strict=True)
        ),
        style,
        {
            header.index("STATE"): {
                state: _colour(row) for state, row in zip(states, rows, strict=True)
            },
            header.index("DRIVER"): {pci.VFIO_PCI: "cyan"},
        },
    )
    notes = [
        *_whole_states(rows, room, style),
        *_findings(rows, style),
        *_missing(missing, style),
        *_reasons(rows, style),
        *_example(rows, style),
    ]
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


def _colour(row: Mapping[str, Any]) -> str:
    """Green for what a guest can have or has, red for what is sick; the host's is faint.

    What is lent is yellow, and so is what is in quarantine and not sick any more, or not erased.
    """
    if row["lent"] or row["erasing"]:
        return "yellow"
    if row["quarantine"] and row["health"]["verdict"] != "sick":
        return "yellow"
    if row["health"] is None:
        return "green" if row["claimable"] else "faint"
    return "red" if row["health"]["verdict"] == "sick" else "green"


def _whole_states(rows: Iterable[Mapping[str, Any]], room: int, style: tables.Style) -> list[str]:
    """The states of devices that were cut; of what the host has, the reasons tell all."""
    cut = [row for row in rows if (row["health"] or row["erasing"]) and len(row["state"]) > room]
    return [tables.wrap(f"{row['address']}: {row['state']}", style) for row in cut]


def _findings(rows: Iterable[Mapping[str, Any]], style: tables.Style) -> list[str]:
    """What was found of devices, each once with the addresses that it is about."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        for each in row["health"]["findings"] if row["health"] else ():
            detail = f" ({each['detail']})" if each["detail"] else ""
            said = f"{each['fact']}{detail}; {each['fix']}"
            found.setdefault((each["verdict"] or "note", said), []).append(row["address"])
    return [
        tables.wrap(f"{verdict}: {_list(addresses)} {said}", style)
        for (verdict, said), addresses in found.items()
    ]


def _missing(judged: Iterable[health.Health], style: tables.Style) -> list[str]:
    from passthrough.reporting import health_text  # few hosts have any

    return [tables.wrap(said, style) for each in judged for said in health_text.sentences(each)]


def _list(addresses: Sequence[str]) -> str:
    more = len(addresses) - _MAX_ADDRESSES
    return " ".join(addresses[:_MAX_ADDRESSES]) + (f" and {more} more" if more > 0 else "")


def _reasons(rows: Iterable[Mapping[str, Any]], style: tables.Style) -> list[str]:
    found: dict[str, list[str]] = {}
    for row in rows:
        if row["reason"]:
            found.setdefault(row["reason"], []).append(row["address"])
    notes: list[str] = []
    for reason, addresses in found.items():
        notes.append(tables.wrap(f"not claimable: {_list(addresses)}: {reason}", style))
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
