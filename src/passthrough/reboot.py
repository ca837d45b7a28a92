"""Whether the host has to start anew, and with ``reboot=when-idle`` whether it does so by itself.

One reboot for one plan: what it was for is recorded before it is asked for. When the host has
started anew and still is not as it was to be, another reboot would bring the same, so an operator
has to look.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from passthrough import errors
from passthrough.config import spelling
from passthrough.host import pci
from passthrough.planning import plan
from passthrough.state import digest
from passthrough.survey import Decision

if TYPE_CHECKING:
    from passthrough.state import record

NONE: Mapping[str, errors.BindError] = {}


class Action(enum.Enum):
    """What to do about a reboot."""

    NONE = "none"  # it is not needed, or not ours to do
    NOW = "now"
    WAIT = "wait"  # guests run
    SPENT = "spent"  # it was done, and did not bring what was expected


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What to do about a reboot, and a sentence about it for the status."""

    action: Action = Action.NONE
    message: str = ""


def reasons(planned: plan.Plan, failed: Mapping[str, errors.BindError] = NONE) -> tuple[str, ...]:
    """Why the host has to start anew; empty when it need not.

    Args:
        planned: what is left to do after a run.
        failed: what the run could not do, by address.
    """
    found = list(planned.reboot)
    for binding in (*planned.bind, *planned.release):
        wanted = binding.target or "its native driver"
        found.append(
            f"{binding.address} is on {binding.current or 'no driver'}, not"
            f" {wanted}{_because(failed, binding.address)}"
        )
    return tuple(found)


def _because(failed: Mapping[str, errors.BindError], address: str) -> str:
    """What kept a function from changing its driver, without where that left it."""
    return f" ({failed[address].fact})" if address in failed else ""


def key(decision: Decision) -> str:
    """A digest of the plan that a reboot is to complete.

    Of what was asked for, and of nothing that the host adds to it: a function that comes and goes
    between boots, and with it a driver on the blacklist, would make every boot's plan a new one.
    """
    return digest.of(spelling.VERSION, spelling.spell(decision.options))


def _was_for(last: record.Reboot, decision: Decision) -> bool:
    """Tell whether a reboot was asked for this decision's plan, by this revision or an older."""
    if last.plan == key(decision):
        return True
    former = spelling.spell_as_first_release(decision.options)
    return last.plan == hashlib.sha256(former.encode()).hexdigest()


def judge(
    decision: Decision,
    failed: Mapping[str, errors.BindError] = NONE,
) -> Verdict:
    """Decide about a reboot; the guests are asked for only where they matter.

    Args:
        decision: the host after a run.
        failed: what the run could not do, by address.
    """
    planned, boot_id = decision.plan, decision.facts.machine.boot_id
    why = reasons(planned, failed)
    if not why or not decision.options.reboot_when_idle:
        return Verdict()
    if any(isinstance(each, errors.PostponedError) for each in failed.values()):
        return Verdict()  # the next hook may do without a reboot what this one has not tried
    if is_spent(decision):
        return Verdict(Action.SPENT, _describe_failure(decision, failed))
    # What an operator has to mend first would ask for a reboot of its own afterwards, and without
    # a boot's id there is no telling whether one has happened.
    if decision.outcome.blocking or planned.grub_problem or planned.rebuild or not boot_id:
        return Verdict()
    found = decision.facts.guests()
    if found:
        names = ", ".join(f"{each.name} (process {each.process})" for each in found[:3])
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        return Verdict(
            Action.WAIT, f"reboot when no guest runs, and now {names}{more} does: {why[0]}"
        )
    return Verdict(Action.NOW, f"rebooting: {why[0]}")


def foresee(decision: Decision) -> Verdict:
    """Decide about a reboot as `judge` does, for whoever cannot ask for one, as an action."""
    verdict = judge(decision)
    if verdict.action is Action.NOW:
        why = reasons(decision.plan)[0]
        return Verdict(Action.WAIT, f"the next hook reboots the host: {why}")
    return verdict


def is_spent(decision: Decision) -> bool:
    """Tell whether the host started anew for this configuration already."""
    last = decision.facts.record.reboot
    started = decision.facts.machine.boot_id
    return bool(last and _was_for(last, decision) and last.boot_id != started)


def _describe_failure(decision: Decision, failed: Mapping[str, errors.BindError]) -> str:
    """What the reboot was to bring and what there is instead."""
    found = []
    wanted = decision.plan.kernel_options
    running = decision.facts.machine.command_line
    if any(token not in running for token in wanted):
        keys = {token.partition("=")[0] for token in wanted}
        shown = [token for token in running if token.partition("=")[0] in keys]
        found.append(
            f"expected {' '.join(wanted)} on the kernel's command line, found"
            f" {' '.join(shown) or 'none of these'}"
        )
    if decision.claims and not decision.host.has_groups:
        found.append("expected an active IOMMU, found no IOMMU group")
    for claim in decision.claims:
        driver = claim.function.driver
        if decision.host.has_groups and driver != pci.VFIO_PCI:
            found.append(
                f"expected {claim.address} on vfio-pci, found"
                f" {driver or 'no driver'}{_because(failed, claim.address)}"
            )
    found += [
        f"expected {each.address} on {each.target or 'its native driver'}, found"
        f" {each.current}{_because(failed, each.address)}"
        for each in decision.plan.release
    ]
    return f"the reboot did not help: {'; '.join(found)}; run verify, then reboot by hand"
