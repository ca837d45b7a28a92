"""What the actions lend and take-back have done: a table for people, the same for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from passthrough.reporting import tables
from passthrough.survey import Decision


def describe(
    decision: Decision, addresses: Sequence[str], notes: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Describe what has become of functions, in plain values.

    Args:
        decision: the host behind the action.
        addresses: the functions that the action was about.
        notes: what else is to be said of one, by its address.
    """
    functions, lent = decision.host.functions, decision.facts.record.lent
    return [
        {
            "address": each,
            "lent": each in lent,
            "driver": functions[each].driver if each in functions else None,
            "at-boot": each in decision.plan.at_boot,
            "note": _note(decision, each, notes.get(each, "")) or None,
        }
        for each in addresses
    ]


def _note(decision: Decision, address: str, said: str) -> str:
    """What else is to be said of a function, and why a lent one has no driver."""
    function, kept_off = decision.host.functions.get(address), decision.options.blacklist_drivers
    parts = [said]
    if function and function.driver is None and address in decision.facts.record.lent:
        parts.append("no driver has it")
        if kept_off:
            parts.append(f"blacklist-drivers keeps {', '.join(kept_off)} off")
    return "; ".join(filter(None, parts))


def table(described: Sequence[Mapping[str, Any]]) -> str:
    """Lay that out for a person; below the table stand the notes, whole."""
    cells = ((each["address"], _result(each), each["driver"] or "-") for each in described)
    notes = [
        tables.wrap(f"{each['address']}: {each['note']}") for each in described if each["note"]
    ]
    laid_out = tables.format_table(("ADDRESS", "RESULT", "DRIVER"), cells)
    return "\n".join([laid_out, *([""] if notes else []), *notes])


def _result(each: Mapping[str, Any]) -> str:
    if each["lent"]:
        return "lent to the host"
    return "taken back at the next boot" if each["at-boot"] else "taken back"
