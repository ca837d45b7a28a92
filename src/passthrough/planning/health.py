"""Whether a function is sick, by what the kernel tells of it. Pure.

The kernel counts a function's errors since it found the function: at boot, or when the card was
plugged in. Until then the counts only grow, so absolute thresholds need no memory of an earlier
look, and a verdict about errors stands until the next boot: nothing flaps, and nothing is written
for it. A link can lose and regain lanes, as some cards do to save power; so that is an alert that
no status tells.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from passthrough import enums, frozen, pci_address
from passthrough.host.health import Answer, Severity, Signs

# A fatal error means that the link itself is not to be trusted any more (PCI Express Base, Fatal
# Errors), and the kernel has reset it: a guest has lost what it did. One is enough.
MOST_FATAL = 0
# A nonfatal one has lost one transaction. Enumeration and resets leave a few behind on cards that
# are well (UnsupReq, CmpltTO).
MOST_NONFATAL = 10
# A correctable one was repaired by the link itself. A healthy link has a few in its life, a bad
# riser or cable thousands an hour.
MOST_CORRECTABLE = 1000


class Verdict(enums.StrEnum):
    """How a function is; from the worst on."""

    SICK = "sick"
    ALERT = "alert"
    WELL = "well"
    UNKNOWN = "not known"


class Kind(enums.StrEnum):
    """What can be found of a function."""

    MISSING = "missing"
    OFF_THE_BUS = "off-the-bus"
    FATAL_ERRORS = "fatal-errors"
    CANNOT_WAKE = "cannot-wake"
    POWER_ERROR = "power-error"
    NONFATAL_ERRORS = "nonfatal-errors"
    CORRECTABLE_ERRORS = "correctable-errors"
    NARROW_LINK = "narrow-link"
    NO_RESET = "no-reset"


class _Row(NamedTuple):
    """One kind: how bad it is (None for a note), what it is, and the way out.

    ``fact`` is said of the function, and holds no number: a status tells it, and a count that grows
    would be another status each time.
    """

    verdict: Verdict | None
    fact: str
    way_out: str
    lasts: bool = True


_ROWS: Mapping[Kind, _Row] = {
    Kind.MISSING: _Row(
        Verdict.SICK,
        "is missing",
        "look for it with lspci and in dmesg, power the host off and on, or replace the card; take"
        " its address out of the option devices where it is gone for good",
    ),
    Kind.OFF_THE_BUS: _Row(
        Verdict.SICK,
        "fell off the bus",
        "move its guest away, then power the host off and on; replace the card if it does so again",
    ),
    Kind.FATAL_ERRORS: _Row(
        Verdict.SICK,
        "had a fatal PCIe error",
        "see dmesg, reseat or replace the card; the kernel counts anew from the next boot on",
    ),
    # vfio-pci wakes a function for whoever opens it, and the kernel wakes none whose power
    # management ended in an error (pm_runtime_resume_and_get, drivers/vfio/pci/vfio_pci_core.c).
    Kind.CANNOT_WAKE: _Row(
        Verdict.SICK,
        "cannot be woken for a guest",
        "see dmesg; run the action rebind with its address, and power the host off and on if that"
        " does not help",
    ),
    Kind.POWER_ERROR: _Row(
        Verdict.ALERT,
        "could not be woken or put to sleep",
        "see dmesg; power the host off and on if it does so again",
    ),
    Kind.NONFATAL_ERRORS: _Row(
        Verdict.ALERT, "has many nonfatal PCIe errors", "see dmesg; reseat the card when it is free"
    ),
    Kind.CORRECTABLE_ERRORS: _Row(
        Verdict.ALERT,
        "has many correctable PCIe errors",
        "reseat the card, its riser or its cable when it is free",
    ),
    Kind.NARROW_LINK: _Row(
        Verdict.ALERT,
        "has a narrow link",
        "look again while a guest works with it; reseat the card or its riser if it stays so",
        lasts=False,
    ),
    Kind.NO_RESET: _Row(
        None,
        "has no reset method",
        "the next guest meets what the last one left: give it to guests that trust one another, or"
        " reboot the host between them",
    ),
}
_ORDER = {kind: place for place, kind in enumerate(_ROWS)}
_COUNTED = (
    (Severity.FATAL, Kind.FATAL_ERRORS, MOST_FATAL),
    (Severity.NONFATAL, Kind.NONFATAL_ERRORS, MOST_NONFATAL),
    (Severity.CORRECTABLE, Kind.CORRECTABLE_ERRORS, MOST_CORRECTABLE),
)


class Finding(NamedTuple):
    """One thing that was found of a function; ``detail`` has its numbers."""

    kind: Kind
    detail: str = ""

    @property
    def verdict(self) -> Verdict | None:
        """How bad it is; None for a note."""
        return _ROWS[self.kind].verdict

    @property
    def fact(self) -> str:
        """What it is, said of the function: "fell off the bus"."""
        return _ROWS[self.kind].fact

    @property
    def way_out(self) -> str:
        """What an operator does about it."""
        return _ROWS[self.kind].way_out

    @property
    def lasts(self) -> bool:
        """Whether it stays until somebody does something, so that a status can tell it."""
        return _ROWS[self.kind].lasts


class Health(frozen.Value):
    """The verdict on one function, and what it stands on, the worst first."""

    address: str
    verdict: Verdict
    findings: tuple[Finding, ...] = ()
    signs: Signs = frozen.field(default_factory=Signs)

    @property
    def worst(self) -> Finding | None:
        """What makes a function sick, or is an alert; None where nothing does."""
        return next((each for each in self.findings if each.verdict), None)


def judge(address: str, signs: Signs, accepted: int = 0) -> Health:
    """Judge one function that is there.

    Args:
        address: the function.
        signs: what the kernel tells of it.
        accepted: how many fatal errors an operator has accepted; a count below that began anew.
    """
    found = tuple(sorted(_find(signs, accepted), key=lambda each: _ORDER[each.kind]))
    worst = next((each.verdict for each in found if each.verdict), None)
    # Well takes an answer: a function without power is neither sick nor well.
    other = Verdict.WELL if signs.answer is Answer.GOOD else Verdict.UNKNOWN
    return Health(address, worst or other, found, signs)


def judge_missing(address: str, identity: str, serial: str = "") -> Health:
    """Judge one function that was there, and is not any more.

    Args:
        address: where it was.
        identity: its ``vendor:product``.
        serial: its serial number; empty where it told none.
    """
    detail = f"{identity} was there, serial number {serial}" if serial else f"{identity} was there"
    return Health(address, Verdict.SICK, (Finding(Kind.MISSING, detail),))


def judge_all(
    there: Mapping[str, Signs],
    missing: Mapping[str, Mapping[str, str]],
    accepted: Mapping[str, int] | None = None,
) -> Mapping[str, Health]:
    """Judge the functions that are claimed and those that are missing, in address order.

    Args:
        there: the signs of every claimed function, by its address.
        missing: what `missing.find` gave.
        accepted: how many fatal errors an operator has accepted, by the function's address.
    """
    known = accepted or {}
    found = {
        **{each: judge(each, signs, known.get(each, 0)) for each, signs in there.items()},
        **{
            address: judge_missing(address, card["id"], card["serial"])
            for address, card in missing.items()
        },
    }
    return {address: found[address] for address in sorted(found, key=pci_address.sort_key)}


def _find(signs: Signs, accepted: int) -> Iterable[Finding]:
    if signs.answer is Answer.ONES:
        yield Finding(Kind.OFF_THE_BUS, "its configuration space reads as ones")
    for severity, kind, most in _COUNTED:
        seen = signs.errors.get(severity)
        if seen and severity is Severity.FATAL and seen.total >= accepted:
            most = max(most, accepted)
        if seen and seen.total > most:
            names = f": {', '.join(seen.names)}" if seen.names else ""
            yield Finding(kind, f"{seen.total} since the kernel found it{names}")
    if signs.has_power_error:
        kind = Kind.CANNOT_WAKE if signs.is_closed else Kind.POWER_ERROR
        yield Finding(kind, "power/runtime_status is error")
    if signs.width and signs.widest and signs.width < signs.widest:
        yield Finding(Kind.NARROW_LINK, f"x{signs.width}, and x{signs.widest} is possible")
    if signs.reset_methods == ():
        yield Finding(Kind.NO_RESET)
