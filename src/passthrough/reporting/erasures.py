"""What the action erase has done: a table for people, the same for programs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from passthrough.reporting import tables

if TYPE_CHECKING:
    from passthrough.erasing import Result


_NOTHING = "It has no active namespace, so there was nothing to read back."


def describe(result: Result) -> dict[str, Any]:
    """Describe what was erased, in plain values."""
    return {
        "address": result.address,
        "controller": result.told,
        "method": result.method,
        "namespaces": [
            {
                "id": each.id,
                "bytes": each.bytes,
                "samples": each.seen.samples,
                "read-back": dict(each.seen.counts),
            }
            for each in result.namespaces
        ],
        "placement": result.placement or None,
    }


def table(described: Mapping[str, Any], way_back: str) -> str:
    """Lay that out for a person; ``way_back`` is the command that has Nova offered it again."""
    header = ("NAMESPACE", "BYTES", "READ BACK")
    rows = [
        (str(each["id"]), str(each["bytes"]), _read_back(each)) for each in described["namespaces"]
    ]
    lines = [
        f"{described['address']}: {described['controller']}: erased, by {described['method']}",
        tables.format_table(header, rows) if rows else _NOTHING,
        "",
        f"It is in quarantine still. To have Nova offered it again: {way_back}",
    ]
    if described["placement"]:
        lines.append(f"Placement keeps it reserved (one-time-use) until: {described['placement']}")
    return "\n".join(lines)


def _read_back(namespace: Mapping[str, Any]) -> str:
    counts = namespace["read-back"]
    said = ", ".join(f"{counts[each]} {each}" for each in counts if counts[each])
    return f"{namespace['samples']} samples: {said}"
