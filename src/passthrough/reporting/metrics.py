"""The metrics of a host: one table of what there is, and the text that Prometheus reads. Pure.

The text is Prometheus' own format, version 0.0.4
(https://prometheus.io/docs/instrumenting/exposition_formats/). To tell one more thing, add a row
to ``TABLE`` and give its samples in `passthrough.exporter`; the reference page is written from here
(`make reference`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from passthrough import enums

PREFIX = "pci_passthrough_"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Kind(enums.StrEnum):
    """The types of metrics, by Prometheus' names."""

    GAUGE = "gauge"
    COUNTER = "counter"


class Source(enums.StrEnum):
    """Where a value comes from: what a hook has left, or what the kernel says at each scrape."""

    LOOK = "the last hook"
    KERNEL = "the kernel, at each scrape"


class Metric(NamedTuple):
    """One metric.

    Attributes:
        name: its whole name.
        kind: its type.
        labels: the names of its labels, in their order.
        help: what its value says; a sentence without a full stop.
        source: where the value comes from.
        absent: when there is no sample.
    """

    name: str
    kind: Kind
    labels: tuple[str, ...]
    help: str
    source: Source
    absent: str = "no hook has looked at the host since it started"


_FUNCTION, _ALIAS = ("address",), ("alias",)
INFO = Metric(
    f"{PREFIX}function_info",
    Kind.GAUGE,
    ("address", "id", "alias", "driver", "state"),
    "1 for each claimed or missing function; state is held (a guest has it), ready (none has it),"
    " bound (on a variant of vfio-pci, which does not tell), unbound or missing",
    Source.KERNEL,
)
SICK = Metric(
    f"{PREFIX}function_sick",
    Kind.GAUGE,
    _FUNCTION,
    "1 for a function that is missing, fell off the bus or had a fatal error, 0 for one that"
    " is well or has an alert",
    Source.KERNEL,
    "the function sleeps, or the kernel does not tell",
)
FINDING = Metric(
    f"{PREFIX}function_finding",
    Kind.GAUGE,
    ("address", "kind", "verdict"),
    "1 for each thing that was found of a function; verdict is sick, alert or note",
    Source.KERNEL,
    "it was not found",
)
ASLEEP = Metric(
    f"{PREFIX}function_asleep",
    Kind.GAUGE,
    _FUNCTION,
    "1 for a function that sleeps, which is not woken to be asked",
    Source.KERNEL,
    "the kernel does not tell",
)
ERRORS = Metric(
    f"{PREFIX}function_aer_errors_total",
    Kind.COUNTER,
    ("address", "severity"),
    "PCI Express errors since the kernel found the function, by severity: correctable, nonfatal or"
    " fatal",
    Source.KERNEL,
    "the kernel has no counter for the function",
)
WIDTH = Metric(
    f"{PREFIX}function_link_width_ratio",
    Kind.GAUGE,
    _FUNCTION,
    "Lanes of a function's link, of those that it and the port above it both have",
    Source.KERNEL,
    "the function sleeps or is a VF, or either width is not told",
)
CLAIMED = Metric(
    f"{PREFIX}claimed",
    Kind.GAUGE,
    _ALIAS,
    "Claimed functions, without companions",
    Source.LOOK,
)
OFFERED = Metric(
    f"{PREFIX}offered",
    Kind.GAUGE,
    _ALIAS,
    "Functions that Nova may give to guests, those that guests have among them",
    Source.LOOK,
)
HELD = Metric(
    f"{PREFIX}held",
    Kind.GAUGE,
    _ALIAS,
    "Claimed functions that a guest has open, without companions; of those on a variant of"
    " vfio-pci, as the last hook has found them",
    Source.KERNEL,
    "it cannot be told of one of them",
)
QUARANTINED = Metric(
    f"{PREFIX}quarantined",
    Kind.GAUGE,
    _ALIAS,
    "Functions that Nova is not offered because they were sick",
    Source.LOOK,
)
REBOOT = Metric(
    f"{PREFIX}reboot_required",
    Kind.GAUGE,
    (),
    "1 while only a reboot completes what the options ask for",
    Source.LOOK,
)
BLOCKED = Metric(
    f"{PREFIX}blocked",
    Kind.GAUGE,
    (),
    "1 while the unit waits for an operator, as its status says",
    Source.LOOK,
)
RESTARTS = Metric(
    f"{PREFIX}nova_compute_restarts_total",
    Kind.COUNTER,
    (),
    "Restarts of nova-compute by the charm to take a sick function off the offer, or to bring it"
    " back",
    Source.LOOK,
)
LOOKED = Metric(
    f"{PREFIX}last_look_timestamp_seconds",
    Kind.GAUGE,
    (),
    "When a hook last looked at the host, in seconds since 1970",
    Source.LOOK,
)

# In the order of the page, and of the text.
TABLE = (
    INFO,
    SICK,
    FINDING,
    ASLEEP,
    ERRORS,
    WIDTH,
    CLAIMED,
    OFFERED,
    HELD,
    QUARANTINED,
    REBOOT,
    BLOCKED,
    RESTARTS,
    LOOKED,
)

# The values of the labels, in their order → the value of the sample.
Samples = Mapping[tuple[str, ...], "float"]

_IN_VALUES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})
_IN_HELP = str.maketrans({"\\": "\\\\", "\n": "\\n"})


def render(found: Mapping[Metric, Samples]) -> str:
    """Write the text that Prometheus reads; a metric without a sample is left out."""
    return "".join(_render(metric, found[metric]) for metric in TABLE if found.get(metric))


def _render(metric: Metric, samples: Samples) -> str:
    help_text = metric.help.translate(_IN_HELP)
    head = f"# HELP {metric.name} {help_text}\n# TYPE {metric.name} {metric.kind}\n"
    return head + "".join(
        f"{metric.name}{_labels(metric.labels, values)} {_number(samples[values])}\n"
        for values in samples
    )


def _labels(names: Iterable[str], values: Iterable[str]) -> str:
    pairs = zip(names, values, strict=True)
    said = ",".join(f'{name}="{value.translate(_IN_VALUES)}"' for name, value in pairs)
    return f"{{{said}}}" if said else ""


def _number(value: float) -> str:
    """Spell a number as Go's ParseFloat reads it; a whole one without a point."""
    return str(int(value)) if float(value).is_integer() else repr(float(value))
