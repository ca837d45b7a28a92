"""Whether the host has to start anew, and with ``reboot=when-idle`` whether it does so by itself.

One reboot for one configuration: the record names what it is for before anybody asks for it. When
the host has started anew and still lacks something, another reboot would bring the same, so an
operator has to look.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from passthrough import errors, frozen
from passthrough.config import spelling
from passthrough.planning import plan, prerequisites
from passthrough.problem import Kind, Problem
from passthrough.state import digest
from passthrough.survey import Decision

if TYPE_CHECKING:
    from passthrough.host import guests, hindrances
    from passthrough.state import record

# A hook may be killed between the request and the reboot, and ask again. Juju 4.0 before 4.0.13
# carries out none.
MOST_ASKED = 3

NONE: Mapping[str, errors.BindError] = {}

# What a host can lack until it starts anew: the cause before what follows from it.
_CAUSES_FIRST = (
    Kind.IOMMU_IS_OFF,
    Kind.KERNEL_LACKS_OPTIONS,
    Kind.VFS_WAIT,
    Kind.VFS_DIFFER_IN_NUMBER,
    Kind.ON_ANOTHER_DRIVER,
)


class Action(enum.Enum):
    """What to do about a reboot."""

    NONE = "none"  # it is not needed, or not ours to do
    NOW = "now"
    WAIT = "wait"  # guests run, or others need the host
    BY_HAND = "by hand"  # Juju cannot carry it out, or nobody would remember it
    SPENT = "spent"  # it was done, and did not bring what was expected


class Verdict(NamedTuple):
    """What to do about a reboot, and why.

    Attributes:
        action: what to do.
        reasons: what the host lacks until it starts anew; what counts most comes first.
        guests: the guests that the reboot waits for.
        hindrances: what else it waits for, or what makes it an operator's. With WAIT and neither of
            them, the next hook reboots.
        unmet: what the reboot that is SPENT was to bring and has not brought.
    """

    action: Action = Action.NONE
    reasons: tuple[Problem, ...] = ()
    guests: tuple[guests.Guest, ...] = ()
    hindrances: tuple[hindrances.Hindrance, ...] = ()
    unmet: tuple[Problem, ...] = ()


def reasons(
    planned: plan.Plan, failed: Mapping[str, errors.BindError] = NONE
) -> tuple[Problem, ...]:
    """Work out why the host has to start anew, the cause first; empty when it need not.

    Args:
        planned: what is left to do after a run.
        failed: what the run could not do, by address.
    """
    left = [
        Problem(
            Kind.ON_ANOTHER_DRIVER,
            f"is on {binding.current or 'no driver'}, not {binding.target or 'its native driver'}",
            cause=_cause(failed, binding.address),
            subject=binding.address,
        )
        for binding in _stuck_first((*planned.bind, *planned.release), failed)
    ]
    vfs = [
        Problem(
            Kind.VFS_DIFFER_IN_NUMBER,
            f"has {change.present} VFs, not {change.number}",
            cause=_cause(failed, change.address),
            subject=change.address,
        )
        for change in planned.vfs.changes
    ]
    found = (*planned.reboot, *vfs, *left)
    return tuple(sorted(found, key=lambda problem: _CAUSES_FIRST.index(problem.kind)))


def _stuck_first(
    bindings: tuple[plan.Binding, ...], failed: Mapping[str, errors.BindError]
) -> list[plan.Binding]:
    """Order functions so that one whose driver does not let go precedes those that wait for it."""
    return sorted(
        bindings,
        key=lambda each: not isinstance(failed.get(each.address), errors.StuckError),
    )


def _cause(failed: Mapping[str, errors.BindError], address: str) -> str:
    """What kept a function from changing its driver; empty where nobody has tried."""
    return failed[address].fact if address in failed else ""


def key(decision: Decision) -> str:
    """A digest of the configuration that a reboot is to complete.

    It takes in the options and nothing that the host adds: a function that comes and goes between
    boots, and with it a driver on the blacklist, would make every boot's plan a new one.
    """
    wanted = frozen.replace(decision.options, keep=False)  # no reboot brings it about
    return digest.of(spelling.VERSION, spelling.spell(wanted))


def _was_for(last: record.Reboot, decision: Decision) -> bool:
    """Tell whether the last reboot was for these options, asked by this revision or an older."""
    if last.plan == key(decision):
        return True
    former = spelling.spell_as_first_release(decision.options)
    return last.plan == hashlib.sha256(former.encode()).hexdigest()


def judge(
    decision: Decision,
    failed: Mapping[str, errors.BindError] = NONE,
    principal: str = "",
) -> Verdict:
    """Decide about a reboot; looks for guests and others only where they matter.

    Args:
        decision: the host after a run.
        failed: what the run could not do, by address.
        principal: the unit beside which the charm's unit stands; empty where that is not told.
    """
    planned, boot_id = decision.plan, decision.facts.machine.boot_id
    why = reasons(planned, failed)
    if not why or not decision.options.reboot_when_idle:
        return Verdict()
    if decision.facts.machine.switch:
        return Verdict()  # whoever has switched the charm off for this boot is at work on the host
    if any(isinstance(each, errors.PostponedError) for each in failed.values()):
        return Verdict()  # the next hook may do without a reboot what this one has not tried
    if is_spent(decision):
        return Verdict(Action.SPENT, why, unmet=_find_unmet(decision, failed))
    # No reboot before an operator has mended what would need another one afterwards. Nor without
    # the boot's id: it alone tells whether a reboot has happened.
    if decision.outcome.blocking or planned.grub_problem or planned.rebuild or not boot_id:
        return Verdict()
    running, others = decision.facts.guests(), decision.facts.hindrances(principal)
    return weigh(why, running, (*others, *_unanswered(decision)))


def weigh(
    why: tuple[Problem, ...],
    running: tuple[guests.Guest, ...],
    others: tuple[hindrances.Hindrance, ...],
) -> Verdict:
    """Decide about a reboot that is due, by what it would take down.

    Args:
        why: what the host lacks until it starts anew.
        running: the guests.
        others: what else bars it.
    """
    from passthrough.host import hindrances  # only a pending reboot asks

    if any(each.kind in hindrances.BY_HAND for each in others):
        return Verdict(Action.BY_HAND, why, guests=running, hindrances=others)
    action = Action.WAIT if running or others else Action.NOW
    return Verdict(action, why, guests=running, hindrances=others)


def _unanswered(decision: Decision) -> tuple[hindrances.Hindrance, ...]:
    """Tell that Juju was asked often enough in this boot: it does not reboot this host."""
    from passthrough.host import hindrances

    last = decision.facts.record.reboot
    if last and last.asked >= MOST_ASKED and last.boot_id == decision.facts.machine.boot_id:
        return (hindrances.Hindrance(hindrances.Kind.UNANSWERED, str(last.asked)),)
    return ()


def foresee(decision: Decision, principal: str = "") -> Verdict:
    """Decide as `judge` does, for whoever cannot ask for a reboot, such as an action."""
    verdict = judge(decision, principal=principal)
    return Verdict(Action.WAIT, verdict.reasons) if verdict.action is Action.NOW else verdict


def is_spent(decision: Decision) -> bool:
    """Tell whether the host has started anew for this configuration already."""
    last = decision.facts.record.reboot
    started = decision.facts.machine.boot_id
    return bool(last and _was_for(last, decision) and last.boot_id != started)


def _find_unmet(decision: Decision, failed: Mapping[str, errors.BindError]) -> tuple[Problem, ...]:
    """Find what the reboot was to bring, and what there is instead."""
    unmet: list[Problem] = []

    def tell(fact: str, cause: str = "") -> None:
        unmet.append(Problem(Kind.EXPECTATION_UNMET, fact, cause=cause))

    wanted = decision.plan.kernel_options
    running = decision.facts.machine.command_line
    if prerequisites.missing(wanted, decision.facts.machine):
        keys = {token.partition("=")[0] for token in wanted}
        shown = [token for token in running if token.partition("=")[0] in keys]
        tell(
            f"expected {' '.join(wanted)} on the kernel's command line, found"
            f" {' '.join(shown) or 'none of these'}"
        )
    if decision.claims and not decision.host.has_groups:
        tell("expected an active IOMMU, found no IOMMU group")
    for claim in decision.claims:
        driver = claim.function.driver
        if decision.host.has_groups and not claim.function.is_on_vfio:
            found = driver or "no driver"
            cause = _cause(failed, claim.address)
            tell(f"expected {claim.address} on {claim.vfio.driver}, found {found}", cause)
    for function, number in decision.plan.vfs.wanted:
        if function.num_vfs != number:
            waits = [
                each.cause for each in decision.plan.vfs.waits if each.subject == function.address
            ]
            cause = _cause(failed, function.address) or "".join(waits)
            tell(f"expected {number} VFs of {function.address}, found {function.num_vfs}", cause)
    for binding in decision.plan.release:
        native = binding.target or "its native driver"
        cause = _cause(failed, binding.address)
        tell(f"expected {binding.address} on {native}, found {binding.current}", cause)
    return tuple(unmet)
