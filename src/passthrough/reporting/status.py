"""One status out of all that a decision says. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from passthrough import enums, reboot
from passthrough.config import options, spelling
from passthrough.errors import BindError, BusyError, InUseError, PostponedError
from passthrough.host import pci
from passthrough.nova import offer as nova_offer
from passthrough.planning import guards, health
from passthrough.reporting import health_text, words
from passthrough.state import digest
from passthrough.survey import Decision

if TYPE_CHECKING:
    from passthrough.nova import publication
    from passthrough.planning import plan
    from passthrough.state import record


class Kind(enums.StrEnum):
    """The statuses that a unit sets, by Juju's names."""

    ACTIVE = "active"
    BLOCKED = "blocked"
    MAINTENANCE = "maintenance"
    WAITING = "waiting"


_REBOOT_KINDS = {
    reboot.Action.NOW: Kind.MAINTENANCE,
    reboot.Action.WAIT: Kind.WAITING,
    reboot.Action.BY_HAND: Kind.BLOCKED,
    reboot.Action.SPENT: Kind.BLOCKED,
}

_SICK = health.Verdict.SICK
NO_DEVICES = "devices is not set: run list-devices, then juju config devices=…"


class Status(NamedTuple):
    """A Juju status, and a sentence an operator can act on."""

    kind: Kind
    message: str


def summarize(
    decision: Decision,
    failed: Mapping[str, BindError] | None = None,
    verdict: reboot.Verdict | None = None,
    *,
    acted: bool = True,
) -> Status:
    """Say how a compute unit is: the most urgent thing, and how many more there are.

    Args:
        decision: the host after the last run.
        failed: the functions whose driver the last run could not change, and why.
        verdict: what becomes of a reboot; None leaves it to the operator.
        acted: whether that run was to change the host. Where it only looked, nobody is asked for
            what the next hook does by itself.
    """
    failed = failed or {}
    planned = decision.plan
    undone = planned.release or planned.pending or planned.vfs.record
    if not (decision.options.devices.items or undone):
        return Status(Kind.BLOCKED, NO_DEVICES)
    obstacle = _find_obstacle(decision, failed)
    if obstacle:
        return obstacle
    if planned.changes_host and not acted:
        return Status(Kind.WAITING, f"the next hook {_describe_work(planned)}")
    if verdict and verdict.action is not reboot.Action.NONE:
        return Status(_REBOOT_KINDS[verdict.action], words.verdict(verdict))
    reasons = reboot.reasons(planned, failed)
    if reasons:
        return Status(
            Kind.BLOCKED,
            _with_more(f"reboot required: {words.sentence(reasons[0])}", len(reasons) - 1),
        )
    ready = _count_ready(decision) if decision.claims else _describe_no_match(decision)
    said = [
        words.quarantined(decision),
        words.erasing(decision),
        words.lent(decision),
        *_describe_overrides(decision),
        *_describe_exceptions(decision),
        *words.kept_options(planned),
        *_describe_variants(decision),
        *_describe_nova(decision.nova),
    ]
    judged = decision.health.values()
    sick, alerts = _first_of(health_text.sick(judged)), _first_of(health_text.alerts(judged))
    # A count of none is left out beside what is sick, and beside what is lent.
    return Status(Kind.ACTIVE, "; ".join(filter(None, [*sick, ready, *alerts, *said])))


def _find_obstacle(decision: Decision, failed: Mapping[str, BindError]) -> Status | None:
    """What keeps the unit from going on, whatever becomes of a reboot."""
    planned = decision.plan
    switched_off = words.switched_off(decision)
    if switched_off:
        return Status(Kind.BLOCKED, switched_off)
    blocking = decision.outcome.blocking
    if blocking:
        return Status(Kind.BLOCKED, _with_more(words.refusal(blocking[0]), len(blocking) - 1))
    held = [*_describe_pending(decision), *_describe_held(failed)]
    if held:
        return Status(Kind.BLOCKED, _with_more(held[0], len(held) - 1))
    problems = decision.nova.problems
    if problems:
        return Status(Kind.BLOCKED, _with_more(words.sentence(problems[0]), len(problems) - 1))
    if planned.grub_problem:
        return Status(Kind.BLOCKED, words.sentence(planned.grub_problem))
    postponed = [str(each) for each in failed.values() if isinstance(each, PostponedError)]
    if postponed:
        said = f"the next hook goes on with {postponed[0]}"
        return Status(Kind.WAITING, _with_more(said, len(postponed) - 1))
    return None


def summarize_failure(problem: Exception) -> Status:
    """Say what kept a unit from its work; where time alone mends that, it waits."""
    kind = Kind.WAITING if isinstance(problem, BusyError) else Kind.BLOCKED
    return Status(kind, str(problem))


# What a unit rebuilds, as an operator calls it.
_REBUILT = {
    enums.Rebuild.INITRAMFS: "the initramfs",
    enums.Rebuild.GRUB: "GRUB's configuration",
}


def describe_rebuild(
    what: enums.Rebuild, kernels: Sequence[str], reached: Sequence[str], began: str
) -> str:
    """Say what a unit does that rebuilds something.

    Args:
        what: what it rebuilds.
        kernels: the releases of the kernels on /boot; empty where it makes no images.
        reached: those whose images it has made, the one that it makes now last.
        began: the time of day when it began with the first.
    """
    of = ""
    total = max(len(kernels), len(reached))  # some tools make images of what is not on /boot
    if reached:
        of = f" for {reached[-1]}" + (f" ({len(reached)} of {total})" if total > 1 else "")
    elif kernels:
        of = f" for {kernels[0] if total == 1 else _count(kernels, 'kernel')}"
    return f"rebuilding {_REBUILT[what]}{of}, began {began}"


def _describe_work(planned: plan.Plan) -> str:
    """Say what a plan does to a host, after "the next hook"."""
    rebuilds = [_REBUILT[what] for what in planned.rebuild]
    said = [
        f"rebuilds {' and '.join(rebuilds)}" if rebuilds else "",
        f"writes {_count(planned.files, 'file')}" if planned.files and not rebuilds else "",
        f"changes the VFs of {_count(planned.vfs.changes, 'card')}" if planned.vfs.changes else "",
        f"binds {_count(planned.bind, 'function')}" if planned.bind else "",
        f"gives {_count(planned.release, 'function')} back" if planned.release else "",
    ]
    return ", ".join(each for each in said if each)


def _count(things: Sequence[object], name: str) -> str:
    return f"{len(things)} {name}" if len(things) == 1 else f"{len(things)} {name}s"


# While a unit leaves, before it has.
LEAVES = "the unit leaves the host"

# Why everything stays in place where a unit leaves.
KEPT = "on-removal is keep"


def handed_over(owner: record.Owner) -> str:
    """Say why everything stays in place where another unit looks after the host."""
    return f"{owner.unit} looks after this host"


def describe_removal(left: Sequence[str], stays: str = "", vfs: Sequence[str] = ()) -> str:
    """Say how a unit leaves its host.

    Args:
        left: the addresses that stay on vfio-pci for now.
        stays: why everything stays in place; empty where it does not.
        vfs: the addresses that keep their VFs for now.
    """
    if stays:
        return f"everything stays in place: {stays}"
    said = [
        f"left on vfio-pci until the next boot: {' '.join(left)}" if left else "",
        f"left until the next boot: the VFs of {' '.join(vfs)}" if vfs else "",
    ]
    return "; ".join(filter(None, said)) or "everything given back"


def settled(decision: Decision) -> str:
    """Name the state of a unit whose host is as it should be, with all that Juju knows of it.

    Two decisions with the same name call for the same status, logs and relation data. The name is
    empty while there is anything to do, to wait for, or to mend.
    """
    planned, offer = decision.plan, decision.nova
    found = summarize(decision)
    known = decision.facts.record
    unwatched = not known.is_empty and not (decision.facts.watched and known.caretaker.started)
    busy = planned.changes_host or planned.record != known or unwatched
    if busy or offer.change or not offer.read or found.kind != Kind.ACTIVE:
        return ""
    told = {
        "options": spelling.spell(decision.options),
        "device-specs": offer.device_specs,
        "held": offer.held,
        "notes": offer.notes,
        "status": found.message,
        "owner": _spell_owner(decision.facts.record.owner),
    }
    return digest.of(spelling.VERSION, told)


def _spell_owner(owner: record.Owner | None) -> list[str]:
    return [owner.model, owner.unit] if owner else []


def summarize_controller(wanted: options.Options, published: publication.Publication) -> Status:
    """Say how a controller unit is.

    Args:
        wanted: the charm's options.
        published: what the unit sends after the last run.
    """
    if not wanted.devices.items:
        return Status(Kind.BLOCKED, NO_DEVICES)
    problems = published.problems
    if problems:
        return Status(Kind.BLOCKED, _with_more(words.sentence(problems[0]), len(problems) - 1))
    names = sorted({alias["name"] for alias in published.aliases})
    said = [f"{', '.join(names)}: published to nova-cloud-controller"] if names else []
    return Status(Kind.ACTIVE, "; ".join([*said, *published.notes]) or "no alias to publish")


def _describe_pending(decision: Decision) -> list[str]:
    return [
        f"{binding.address}: a guest holds it (process"
        f" {', '.join(map(str, decision.held[binding.address]))}), and it is given back when that"
        " guest is gone; stop or migrate the guest"
        for binding in decision.plan.pending
        if decision.held[binding.address]  # else it waits with the other VFs of its card
    ]


def _describe_held(failed: Mapping[str, BindError]) -> list[str]:
    return [str(error) for error in failed.values() if isinstance(error, InUseError)]


def _describe_overrides(decision: Decision) -> list[str]:
    """Name the functions that allow-in-use covers: a guest may have what the host needs."""
    allowed = [claim.address for claim in decision.claims if claim.item.allow_in_use]
    return [f"allow-in-use: {', '.join(allowed)}"] if allowed else []


def _describe_exceptions(decision: Decision) -> list[str]:
    """Name the functions that would be claimed here, but for host-exceptions."""
    excepted = [each for each in decision.refusals if each.rule == guards.Rule.EXCEPTED]
    names = ", ".join(dict.fromkeys(each.address for each in excepted if each.address))
    return [f"left out by host-exceptions: {names}"] if names else []


def _describe_variants(decision: Decision) -> list[str]:
    """Name the first function that is not on the variant which the kernel names, and count them."""
    said = [words.unused_variant(claim) for claim in decision.claims if not claim.vfio.is_pinned]
    return _first_of([each for each in said if each])


def _first_of(found: Sequence[str]) -> list[str]:
    """The first of what `verify` tells all of, with the number of the rest; empty for none."""
    return [_with_more(found[0], len(found) - 1, "verify")] if found else []


def _describe_nova(offer: nova_offer.Offer) -> list[str]:
    said: list[str] = []
    if offer.deferred:
        said.append("nova-compute's restart is deferred: run its restart-services action")
    if offer.notes:
        said.append(_with_more(offer.notes[0], len(offer.notes) - 1, "verify"))
    return said


def _count_ready(decision: Decision) -> str:
    """Count the devices, and what guests can have at once: one of each IOMMU group."""
    ready: dict[str, list[pci.Function]] = {}
    away = {each.address for each in decision.health.values() if each.verdict is _SICK}
    away |= {*decision.plan.record.quarantine, *decision.plan.record.erasing}
    for claim in decision.claims:
        is_ready = claim.function.is_on_vfio and claim.address not in away
        if claim.companion_of is None and is_ready:
            ready.setdefault(claim.item.alias or claim.item.id, []).append(claim.function)
    said: list[str] = []
    for name, functions in sorted(ready.items()):
        count = len(
            {(each.group, "" if each.group is not None else each.address) for each in functions}
        )
        at_once = f" ({count} at once, one guest a group)" if count < len(functions) else ""
        said.append(f"{name}: {len(functions)} ready{at_once}")
    return ", ".join(said)


def _describe_no_match(decision: Decision) -> str:
    unclaimed = [
        f"{function.address} has {function.num_vfs} VFs, and no item claims any"
        for function, _ in decision.plan.vfs.wanted
    ]
    if unclaimed:
        return "; ".join(unclaimed)
    if decision.facts.record.lent:
        return ""  # the status names that, and it is what matches
    hints = [each.objection.way_out for each in decision.refusals if each.objection.way_out]
    return "; ".join(["no matching device", *hints[:1]])


def _with_more(message: str, more: int, action: str = "plan") -> str:
    return f"{message} ({more} more: run the {action} action)" if more else message
