"""Checks of the host as it is now: each says what was seen and how to mend it.

To add a check, write a function that takes a survey and yields `Check`, and add it to ``CHECKS``;
one that has to look further than a survey goes into host_checks.py.
"""

from __future__ import annotations

from collections.abc import Iterator

from passthrough import enums
from passthrough.host import pci
from passthrough.planning import viability
from passthrough.reporting import words
from passthrough.reporting.verify import evidence
from passthrough.reporting.verify import host as host_checks
from passthrough.reporting.verify import nova as nova_checks
from passthrough.reporting.verify.result import FAIL, OK, Check
from passthrough.survey import Survey


def verify(survey: Survey) -> tuple[Check, ...]:
    """Run every check on a survey, in a stable order.

    Raises:
        OSError: when something cannot be read.
    """
    seen = evidence.read(survey)
    return (
        *(check for each in CHECKS for check in each(survey)),
        *(check for each in host_checks.CHECKS for check in each(survey, seen)),
        *nova_checks.check_compute(survey),
    )


def _decided(survey: Survey) -> Iterator[Check]:
    blocking = survey.decision.blocking
    for refusal in blocking:
        yield Check("devices", FAIL, words.refusal(refusal), "correct the option devices")
    if not blocking:
        names = [claim.address for claim in survey.decision.claims]
        yield Check("devices", OK, f"{len(names)} functions claimed" if names else "none to claim")


def _iommu(survey: Survey) -> Iterator[Check]:
    count = len(survey.host.groups)
    if count:
        yield Check("iommu", OK, f"{count} IOMMU groups")
    elif survey.decision.claims:
        yield Check("iommu", FAIL, "no IOMMU groups", "reboot; then check the firmware's settings")


def _boot_files(survey: Survey) -> Iterator[Check]:
    changed = [f"/{change.file.path}" for change in survey.plan.files]
    if changed:
        yield Check(
            "boot-files", FAIL, f"not as written: {' '.join(changed)}", "run any hook, or rebind"
        )
    else:
        yield Check("boot-files", OK, "as written" if survey.decision.claims else "none")


def _rebuilt(survey: Survey) -> Iterator[Check]:
    for what in enums.Rebuild:
        if what in survey.plan.rebuild:
            yield Check(what, FAIL, "not rebuilt since its files changed", "run any hook")
        elif what in survey.record.activated:
            yield Check(what, OK, "rebuilt with these files")


def _command_line(survey: Survey) -> Iterator[Check]:
    if not survey.decision.claims:
        return
    if survey.plan.reboot:
        yield Check("command-line", FAIL, "; ".join(survey.plan.reboot), "reboot the host")
    else:
        yield Check("command-line", OK, " ".join(survey.facts.command_line))


def _drivers(survey: Survey) -> Iterator[Check]:
    for claim in survey.decision.claims:
        function = claim.function
        good = function.driver == pci.VFIO_PCI
        yield Check(
            f"driver {function.address}",
            OK if good else FAIL,
            function.driver or "no driver",
            "" if good else "run the rebind action, or reboot the host",
        )


def _groups(survey: Survey) -> Iterator[Check]:
    claimed = set(survey.decision.addresses)
    numbers = {each.function.group for each in survey.decision.claims}
    for group in sorted(number for number in numbers if number is not None):
        members = survey.host.groups[group]
        others = [each.address for each in viability.strangers(members[0], survey.host, claimed)]
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
    _groups,
)
