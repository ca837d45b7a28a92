"""Ask once more before anything is taken from the host: its own lists, and then the kernel.

A look at the host sees the uses that it knows of, and not those that began behind it. These
questions come last, of one function alone, and their answer holds while its driver changes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping

from passthrough import survey
from passthrough.config import options
from passthrough.host import held_disks
from passthrough.host.uses import kinds
from passthrough.reporting import words
from passthrough.survey import Decision


def decide(
    wanted: options.Options, facts: survey.Facts
) -> tuple[Decision, Mapping[str, tuple[kinds.Use, ...]]]:
    """Decide as `survey.decide` does, and ask the kernel for what is new.

    New is what is to be taken from the host for the first time. It is asked for before it is
    recorded: where only a reboot can bind it, the claim at boot asks nobody.

    Returns:
        The decision, and what the kernel said, by the address of each function that was asked for.
    """
    found: dict[str, tuple[kinds.Use, ...]] = {}
    while True:
        decision = survey.decide(wanted, survey.add_uses(facts, found))
        new = set(_taken_from_host(decision)).difference(facts.record.taken, found)
        if not new:
            return decision, found
        for address in sorted(new):
            with held_disks.hold(facts.site.root, facts.usage.blocks, address) as uses:
                found[address] = uses


@contextlib.contextmanager
def keep_free(decision: Decision, address: str) -> Generator[str | None]:
    """Ask all guards of a claimed function again, and keep its disks free while the block runs.

    Args:
        decision: what was decided, on an earlier look at the host.
        address: the function.

    Yields:
        What is against claiming it by now; None where its driver can change.

    Raises:
        PassthroughError, OSError: as `survey.ask_again` and `survey.decide` do.
    """
    now = survey.decide(decision.options, survey.ask_again(decision.facts, [address]))
    if address not in now.outcome.addresses:
        refused = next((each for each in now.refusals if each.address == address), None)
        yield words.objection_fact(refused.objection) if refused else "no item asks for it"
    elif address not in _taken_from_host(now):
        yield None
    else:
        with held_disks.hold(now.site.root, now.facts.usage.blocks, address) as uses:
            yield "; ".join(each.what for each in uses) or None


def object_to_vfs(decision: Decision, address: str) -> str | None:
    """Ask again about a function whose VFs are about to change, and about those VFs.

    Args:
        decision: what was decided, on an earlier look at the host.
        address: the function that stays with the host.

    Returns:
        What is against it by now; None where its VFs can change.

    Raises:
        PassthroughError, OSError: as `survey.ask_again` and `survey.decide` do.
    """
    asked = [address, *decision.host.vfs_of(address)]
    now = survey.decide(decision.options, survey.ask_again(decision.facts, asked))
    planned = now.plan.vfs
    if any(change.address == address for change in planned.changes):
        return None
    for refused in planned.refusals:
        if refused.address == address:
            return words.objection_fact(refused.objection)
    return next((each.cause for each in planned.waits if each.subject == address), "it is held")


def _taken_from_host(decision: Decision) -> tuple[str, ...]:
    """The claims that the host has a driver for, but for those that may be in use."""
    return tuple(
        claim.address
        for claim in decision.claims
        if claim.function.driver and not (claim.function.is_on_vfio or claim.item.allow_in_use)
    )
