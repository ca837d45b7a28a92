"""What the kernel tells of a function's health. Reads only, and wakes no function that sleeps.

Sources, in the kernel's Documentation/ABI/testing: sysfs-bus-pci has ``config``, ``power_state``
(from Linux 5.11 on), ``current_link_width``, ``max_link_width``, and ``reset_method`` (from 5.15
on); sysfs-bus-pci-devices-aer_stats has the ``aer_dev_…`` and ``aer_rootport_…`` counters, and
sysfs-devices-power has ``power/runtime_status``. What does not look as these pages say is not
known.
"""

from __future__ import annotations

import functools
import os
import re
from pathlib import Path
from typing import NamedTuple

from passthrough import enums, frozen, pci_address
from passthrough.host import pci
from passthrough.system import procfs, sysfs

# pci_power_names[] of the kernel's drivers/pci/pci.c. In D3hot, where vfio-pci leaves what nobody
# has open, the configuration space still answers; for a read of it the kernel wakes the port above,
# and the function itself in D3cold alone (pci_config_pm_runtime_get() of the same file).
_AWAKE, _ASLEEP = ("D0", "D1", "D2"), ("D3hot", "D3cold")
_ANSWERS_ASLEEP = "D3hot"
_NOT_SAID = ("unknown", "error")
# rtpm_status_str() of the kernel's drivers/base/power/sysfs.c.
_RUNTIME_AWAKE, _RUNTIME_ASLEEP = ("active", "unsupported"), "suspended"
_RUNTIME_FAILED = "error"
_HEADER = 64
# The widths of a link (PCIE_LNK_X1 and further of the kernel's include/linux/pci.h). A link that is
# down reads as 0, a card that does not answer as 63, and "unknown" is 255.
_WIDTHS = ("1", "2", "4", "8", "12", "16", "32")
# The fatal errors that a root port was told of by what is below it.
_PORT_FATAL = "aer_rootport_total_err_fatal"
_NUMBER = re.compile(r"[0-9]{1,20}")
# A line of a counter: names of before Linux 5.8 have blanks, and a bit without a name brackets.
_COUNT = re.compile(r"([A-Za-z][A-Za-z0-9_ \[\]]{0,47}) ([0-9]{1,20})")
_METHODS = re.compile(r"[a-z_]{1,32}(?: [a-z_]{1,32}){0,15}")
_RELEASE = re.compile(r"([0-9]{1,3})\.([0-9]{1,3})(?:[.-].*)?")
_SHOWS_METHODS = (5, 15)


class Power(enums.StrEnum):
    """Whether a function is awake."""

    AWAKE = "awake"
    ASLEEP = "asleep"
    UNKNOWN = "not known"


class Answer(enums.StrEnum):
    """What the configuration space answers: as it should, with ones, or nothing that tells."""

    GOOD = "answers"
    ONES = "ones"
    UNKNOWN = "not known"


class Severity(enums.StrEnum):
    """The severities of PCI Express errors, by the names of the kernel's attributes."""

    CORRECTABLE = "correctable"
    NONFATAL = "nonfatal"
    FATAL = "fatal"


# The names of the totals in the three attributes.
_TOTALS = {
    Severity.CORRECTABLE: "TOTAL_ERR_COR",
    Severity.NONFATAL: "TOTAL_ERR_NONFATAL",
    Severity.FATAL: "TOTAL_ERR_FATAL",
}


class Errors(frozen.Value):
    """The errors of one severity since the kernel found the function.

    ``names`` are those that it counted, in the kernel's order.
    """

    total: int
    names: tuple[str, ...] = ()


class Signs(frozen.Value):
    """What was read of one function; None for what is not known.

    Attributes:
        power: whether it is awake.
        has_power_error: whether its power management ended in a fatal error.
        is_closed: whether it has such an error, and nobody has it open.
        answer: what its configuration space answered.
        errors: the errors by severity; a severity that is not told is not in it.
        width: how many lanes its link has.
        widest: how many it could have: the fewer of the function's and of those of the port above.
        reset_methods: how the kernel can reset it; empty where it cannot.
    """

    power: Power = Power.UNKNOWN
    has_power_error: bool = False
    is_closed: bool = False
    answer: Answer = Answer.UNKNOWN
    errors: dict[Severity, Errors] = frozen.field(default_factory=dict[Severity, Errors])
    width: int | None = None
    widest: int | None = None
    reset_methods: tuple[str, ...] | None = None


class Reader:
    """The signs of functions, each read at the first question.

    Args:
        root: the host's root; None for a host that tells nothing.
    """

    def __init__(self, root: Path | None):
        self._root = root
        self._known: dict[str, Signs] = {}

    @classmethod
    def none(cls) -> Reader:
        """A host that tells nothing."""
        return cls(None)

    def of(self, function: pci.Function) -> Signs:
        """The signs of one function of the host."""
        if function.address not in self._known:
            self._known[function.address] = self._read(function)
        return self._known[function.address]

    def _read(self, function: pci.Function) -> Signs:
        root = self._root
        if root is None:
            return Signs()
        here = os.path.join(root, pci.DEVICES, function.address)
        is_vf = function.physfn is not None
        sleep = _sleep(here)
        answer = Answer.UNKNOWN
        width = widest = None
        if sleep.answers:
            answer = _answer(here, is_vf=is_vf)
            # It may have lost its power meanwhile, and ones are what such a card answers.
            if answer is Answer.ONES and not _sleep(here).answers:
                answer = Answer.UNKNOWN
            # The link is the PF's, and rests while that sleeps. What has fallen off the bus has
            # none to tell of.
            if answer is Answer.GOOD and sleep.power is Power.AWAKE and not is_vf:
                width, widest = _width(f"{here}/current_link_width"), _widest(root, here)
        return Signs(
            power=sleep.power,
            has_power_error=sleep.failed,
            # 0 until somebody opens a function that is on vfio-pci, see `vfio_users.Closed`.
            is_closed=sleep.failed and sysfs.regular_value_if_there(f"{here}/enable") == "0",
            answer=answer,
            errors={each: seen for each in Severity if (seen := _errors(root, here, each))},
            width=width,
            widest=widest,
            reset_methods=self._reset_methods(here),
        )

    def _reset_methods(self, here: str) -> tuple[str, ...] | None:
        path = f"{here}/reset_method"
        text = sysfs.regular_value_if_there(path)
        if text is not None:
            return tuple(text.split(" ")) if _METHODS.fullmatch(text) else None if text else ()
        # The kernel shows it for a function that it can reset, and for no other.
        return () if self._kernel_shows_methods and not os.path.lexists(path) else None

    @functools.cached_property
    def _kernel_shows_methods(self) -> bool:
        release = _RELEASE.fullmatch(procfs.release_if_there(self._root)) if self._root else None
        return release is not None and (int(release[1]), int(release[2])) >= _SHOWS_METHODS


class _Sleep(NamedTuple):
    """Whether a function is awake, answers without being woken, and whether waking it failed."""

    power: Power
    answers: bool
    failed: bool


def _sleep(here: str) -> _Sleep:
    runtime = sysfs.regular_value_if_there(f"{here}/power/runtime_status")
    state = sysfs.regular_value_if_there(f"{here}/power_state")
    power = _power(state, runtime)
    answers = power is Power.AWAKE or state == _ANSWERS_ASLEEP
    return _Sleep(power, answers, failed=runtime == _RUNTIME_FAILED)


def _power(state: str | None, runtime: str | None) -> Power:
    if state in _AWAKE:
        return Power.AWAKE
    if state in _ASLEEP:
        return Power.ASLEEP
    # A kernel before 5.11 shows no state, and one whose driver has set none does not know it.
    if state is None or state in _NOT_SAID:
        if runtime in _RUNTIME_AWAKE:
            return Power.AWAKE
        if runtime == _RUNTIME_ASLEEP:
            return Power.ASLEEP
    return Power.UNKNOWN


def _answer(here: str, *, is_vf: bool) -> Answer:
    """What the header of the configuration space reads as.

    pci_device_is_present() of the kernel's drivers/pci/pci.c goes by the vendor's number, which a
    VF has as ones always (PCI Express Base, VF Vendor ID): only ones throughout tell there.
    """
    header = sysfs.regular_bytes_if_there(f"{here}/config", _HEADER)
    if header is None or len(header) < _HEADER or not any(header):
        return Answer.UNKNOWN
    decisive = header if is_vf else header[:4]
    return Answer.ONES if decisive.count(0xFF) == len(decisive) else Answer.GOOD


def _errors(root: Path, here: str, severity: Severity) -> Errors | None:
    """The errors of one severity; None where no counter tells.

    Of a fatal error the kernel counts nothing for an endpoint: its link is not to be trusted, so
    its status is not read, and the kernel says "type=Inaccessible" (aer_get_device_error_info() and
    aer_print_error() of drivers/pci/pcie/aer.c). The root port counts the message. Right above a
    card that tells; behind a switch it may be any card's.
    """
    own = _own_errors(here, severity)
    told = _told_to_port(root, here) if severity is Severity.FATAL else None
    if told is None or (own is not None and own.total >= told):
        return own
    return Errors(told, own.names if own else ())


def _told_to_port(root: Path, here: str) -> int | None:
    """The fatal errors that the root port right above was told of; None where none is there."""
    port = _port(here)
    path = os.path.join(root, pci.DEVICES, port, _PORT_FATAL) if port else ""
    text = sysfs.regular_value_if_there(path) if path else None
    return int(text) if text and _NUMBER.fullmatch(text) else None


def _own_errors(here: str, severity: Severity) -> Errors | None:
    """Parse a counter's lines; None where one is not as documented, or the total is missing."""
    text = sysfs.regular_value_if_there(f"{here}/aer_dev_{severity}")
    if not text:
        return None
    counts: dict[str, int] = {}
    for line in text.split("\n"):
        found = _COUNT.fullmatch(line)
        if not found or found[1] in counts:
            return None
        counts[found[1]] = int(found[2])
    total = counts.pop(_TOTALS[severity], None)
    if total is None:
        return None
    return Errors(total, tuple(name for name, count in counts.items() if count))


def _width(path: str) -> int | None:
    text = sysfs.regular_value_if_there(path)
    return int(text) if text in _WIDTHS else None


def _widest(root: Path, here: str) -> int | None:
    """The most lanes that a function's link could have; None where it or the port is not known."""
    port = _port(here)
    if port is None:
        return None
    own = _width(f"{here}/max_link_width")
    above = _width(os.path.join(root, pci.DEVICES, port, "max_link_width"))
    return min(own, above) if own and above else None


def _port(here: str) -> str | None:
    """The address of the port right above a function; None for one on a root bus."""
    target = sysfs.link_target_if_there(here) or ""
    port = os.path.basename(os.path.dirname(target))
    return port if pci_address.is_exact(port) else None
