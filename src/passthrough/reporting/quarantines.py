"""What is kept off Nova's offer, in words for people and in values for programs. Pure."""

from __future__ import annotations

import datetime

from passthrough import TYPE_CHECKING, pci_address
from passthrough.planning import health, quarantine
from passthrough.reporting import tables

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from passthrough.state.record import Quarantine
    from passthrough.survey import Decision


_PENDING = "quarantined once nova-compute restarts"


def state(entry: Quarantine) -> str:
    """What became of a function, and how it returns: "quarantined: fell off the bus"."""
    return f"quarantined: {why(entry)}; {_return(entry)}"


def why(entry: Quarantine) -> str:
    """Why a function is in quarantine, said of it."""
    if not entry.why:
        return "by an operator"
    try:
        fact = health.Finding(health.Kind(entry.why)).fact
    except ValueError:
        return entry.why  # another revision of the charm found it
    return f"its companion {entry.companion} {fact}" if entry.companion else fact


def _return(entry: Quarantine) -> str:
    if not entry.why:
        return "rebind ends that"
    if not entry.well_since:
        return "rebind ends that once it is mended"
    return f"well since {_clock(entry.well_since)}, returns at {_clock(_returns(entry))}"


def describe(entry: Quarantine) -> dict[str, Any]:
    """Describe a quarantine in plain values; times are of UTC, and null where there is none."""
    well = entry.well_since
    return {
        "why": entry.why or None,
        "since": _iso(entry.since),
        "well-since": _iso(well) if well else None,
        "returns": _iso(_returns(entry)) if entry.why and well else None,
    }


def describe_all(found: Mapping[str, Quarantine]) -> list[dict[str, Any]]:
    """Describe several, by address."""
    return [
        {"address": address, **describe(found[address])}
        for address in sorted(found, key=pci_address.sort_key)
    ]


def sentences(decision: Decision) -> list[str]:
    """What is in quarantine, and what is to be, a sentence for each."""
    aim = decision.plan.record
    return [
        *(f"{address} is {state(aim.quarantine[address])}" for address in _order(aim.quarantine)),
        *(
            f"{address} goes into quarantine {_when(aim.due[address])}"
            for address in _order(aim.due)
        ),
    ]


def describe_result(decision: Decision, address: str) -> list[dict[str, Any]]:
    """Describe what the action quarantine has done to a function, in plain values."""
    entry = decision.plan.record.quarantine[address]
    return [{"address": address, "offered": not decision.nova.read, **describe(entry)}]


def _when(entry: Quarantine) -> str:
    """When a function goes into quarantine that was seen to be sick."""
    if entry.why == health.Kind.MISSING:
        return "if it stays missing, or comes and goes"
    return f"once no guest has it and nova-compute may be restarted: it {why(entry)}"


def table(described: Sequence[Mapping[str, Any]]) -> str:
    """Lay out for a person what the action quarantine has done."""
    return tables.format_table(
        ("ADDRESS", "RESULT"),
        (
            (each["address"], "quarantined" if not each["offered"] else _PENDING)
            for each in described
        ),
    )


def _order(found: Mapping[str, Quarantine]) -> list[str]:
    return sorted(found, key=pci_address.sort_key)


def _returns(entry: Quarantine) -> int:
    return entry.well_since + quarantine.WELL_FOR


def _time(seconds: int) -> datetime.datetime:
    # Whatever a record says, no later than a calendar has room for.
    return datetime.datetime.fromtimestamp(min(seconds, 253_402_300_799), datetime.timezone.utc)


def _clock(seconds: int) -> str:
    return f"{_time(seconds):%Y-%m-%d %H:%M} UTC"


def _iso(seconds: int) -> str:
    return f"{_time(seconds):%Y-%m-%dT%H:%M:%SZ}"
