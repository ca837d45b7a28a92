"""Every check of a host, and those that need no more than a decision.

To add a check, write a function that takes a decision and yields `Check`, and add it to ``CHECKS``.
A check that has to look at more than a decision goes into host.py.
"""

from __future__ import annotations

from collections.abc import Iterator

from passthrough import enums, pci_address
from passthrough.host import kernel_line
from passthrough.planning import groups, prerequisites
from passthrough.problem import Kind
from passthrough.reporting import words
from passthrough.reporting.verify import evidence
from passthrough.reporting.verify import health as health_checks
from passthrough.reporting.verify import host as host_checks
from passthrough.reporting.verify import nova as nova_checks
from passthrough.reporting.verify.result import FAIL, OK, Check
from passthrough.survey import Decision


def verify(decision: Decision, keep: bool = True) -> tuple[Check, ...]:
    """Run every check on a decision, in a stable order.

    Args:
        decision: what was asked for, and the host.
        keep: whether what the images hold is kept below /run for the next time.

    Raises:
        OSError: when something cannot be read.
    """
    seen = evidence.read(decision, keep)
    return (
        *(check for each in CHECKS for check in each(decision)),
        *(check for each in host_checks.CHECKS for check in each(decision, seen)),
        *(check for each in health_checks.CHECKS for check in each(decision, seen)),
        *nova_checks.check_compute(decision),
    )


def refused(error: prerequisites.UnsupportedHostError) -> tuple[Check, ...]:
    """Give the one check that a host fails on which nothing can be decided.

    Args:
        error: why not.
    """
    seen = f"{error.fact}: {error.cause}" if error.cause else error.fact
    return (Check(error.check, FAIL, seen, error.way_out),)


def _decided(decision: Decision) -> Iterator[Check]:
    blocking = decision.outcome.blocking
    for refusal in blocking:
        yield Check("devices", FAIL, words.refusal(refusal), "correct the option devices")
    if not blocking:
        names = [claim.address for claim in decision.claims]
        hints = [each.objection.way_out for each in decision.refusals if each.objection.way_out]
        seen = f"{len(names)} functions claimed" if names else "none to claim"
        yield Check("devices", OK, "; ".join([seen, *hints]))


def _iommu(decision: Decision) -> Iterator[Check]:
    count = len(decision.host.groups)
    if count:
        yield Check("iommu", OK, f"{count} IOMMU groups")
    elif decision.claims:
        line = decision.facts.machine.command_line
        by = "" if kernel_line.starts_iommu(line) else kernel_line.setter(line, "intel_iommu")
        told = f", as this kernel was started with {by}" if by else ""
        fix = f"reboot{_once_rebuilt(decision)}{told}; then check the firmware's settings"
        yield Check("iommu", FAIL, "no IOMMU groups", fix)


def _boot_files(decision: Decision) -> Iterator[Check]:
    changed = [f"/{change.file.path}" for change in decision.plan.files]
    if changed:
        yield Check(
            "boot-files", FAIL, f"not as written: {' '.join(changed)}", "run the action reconcile"
        )
    else:
        there = any(decision.facts.present.values())
        yield Check("boot-files", OK, "as written" if there else "none")


def _rebuilt(decision: Decision) -> Iterator[Check]:
    for what in enums.Rebuild:
        if what in decision.plan.rebuild:
            fed = any(change.file.feeds == what for change in decision.plan.files)
            fix = "follows from boot-files" if fed else "run the action reconcile"
            yield Check(what, FAIL, "not rebuilt since its files changed", fix)
        elif what in decision.facts.record.activated:
            yield Check(what, OK, "rebuilt with these files")


def _command_line(decision: Decision) -> Iterator[Check]:
    if not decision.claims:
        return
    reasons = [each for each in decision.plan.reboot if each.kind is not Kind.VFS_WAIT]
    if reasons:
        follows = all(each.kind is Kind.IOMMU_IS_OFF for each in reasons)
        mend = f"reboot the host{_once_rebuilt(decision)}"
        yield Check(
            "command-line",
            FAIL,
            "; ".join(map(words.sentence, reasons)),
            "follows from iommu" if follows else mend,
        )
    else:
        yield Check("command-line", OK, " ".join(decision.facts.machine.command_line))


def _drivers(decision: Decision) -> Iterator[Check]:
    for claim in decision.claims:
        function = claim.function
        good = function.is_on_vfio
        yield Check(
            f"driver {function.address}",
            OK if good else FAIL,
            function.driver or "no driver",
            "" if good else _mend_driver(decision, function.address),
        )


def _lent(decision: Decision) -> Iterator[Check]:
    """What is lent to the host, and whether it has gone there."""
    planned = decision.plan
    comes = {binding.address for binding in (*planned.release, *planned.pending)}
    for address in sorted(decision.facts.record.lent, key=pci_address.sort_key):
        function = decision.host.functions.get(address)
        name = f"lent {address}"
        if address in comes:
            yield Check(name, FAIL, "is not given back yet", "run the action reconcile")
        elif function is None:
            yield Check(name, OK, "is not in this host now; the action take-back ends the loan")
        else:
            driver = function.driver or "no driver"
            yield Check(name, OK, f"to the host, on {driver}; the action take-back ends that")


def _erasing(decision: Decision) -> Iterator[Check]:
    """What holds a guest's data still, since its erase was killed, has failed, or goes on."""
    for address in sorted(decision.plan.record.erasing, key=pci_address.sort_key):
        run = f"run the action erase again: address={address} confirm={address}"
        yield Check(f"erase {address}", FAIL, "has not come to its end", run)


def _mend_driver(decision: Decision, address: str) -> str:
    """How a function comes to vfio-pci; where rebind would refuse, the check that says why."""
    if words.switched_off(decision):
        return "follows from switch"
    if not decision.host.has_groups:
        return "follows from iommu"
    if address in decision.plan.at_boot:
        return "follows from command-line"
    return "run the rebind action, or reboot the host"


def _once_rebuilt(decision: Decision) -> str:
    """What comes before a reboot that would bring nothing yet."""
    return " once the action reconcile has run" if decision.plan.rebuild else ""


def _vfs(decision: Decision) -> Iterator[Check]:
    planned = decision.plan.vfs
    waits = {each.subject: words.sentence(each) for each in planned.waits}
    for function, number in planned.wanted:
        good = function.num_vfs == number
        waits_for = waits.get(function.address)
        yield Check(
            f"vfs {function.address}",
            OK if good else FAIL,
            waits_for or f"{function.num_vfs} of {number}",
            ""
            if good
            else "reboot the host"
            if waits_for
            else "run the action reconcile, and see dmesg",
        )


def _groups(decision: Decision) -> Iterator[Check]:
    claimed = set(decision.outcome.addresses)
    known = groups.Groups(decision.host)
    numbers = {each.function.group for each in decision.claims}
    for group in sorted(number for number in numbers if number is not None):
        members = decision.host.groups[group]
        strangers = groups.without(known.strangers(members[0]), claimed)
        others = [each.address for each in strangers]
        seen = " ".join(each.address for each in members)
        if others:
            yield Check(f"group {group}", FAIL, seen, f"also claim {' '.join(others)}")
        else:
            yield Check(f"group {group}", OK, seen)


CHECKS = (
    _decided,
    _iommu,
    _boot_files,
    _rebuilt,
    _command_line,
    _drivers,
    _lent,
    _erasing,
    _vfs,
    _groups,
)
