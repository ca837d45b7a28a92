"""Take a claimed function off Nova's offer, and bring it back, at an operator's request.

Nothing is changed here: what is kept off the offer stands in the record, and whatever writes the
offer obeys it.
"""

from __future__ import annotations

from passthrough import survey
from passthrough.errors import PassthroughError
from passthrough.planning import quarantine
from passthrough.reporting import words
from passthrough.state.record import Record
from passthrough.survey import Decision


class QuarantineError(PassthroughError):
    """The request cannot be carried out; nothing was touched."""


def set_aside(decision: Decision, address: str) -> Record:
    """Work out the record of a host that no longer offers a claimed function.

    One that is in quarantine already stays there until it is brought back by hand.

    Args:
        decision: what is claimed on this host.
        address: the function.

    Raises:
        QuarantineError: when the function is not claimed, Nova is not offered it by itself, or a
            process has it open.
        PassthroughError, OSError: as `survey.ask_again`.
    """
    if address not in decision.outcome.addresses:
        raise QuarantineError(words.not_claimed(decision, address))
    main = next(each.companion_of for each in decision.claims if each.address == address)
    if main:
        raise QuarantineError(
            f"{address} is a companion of {main}, and Nova is not offered it",
            f"name {main} instead",
        )
    holders = find_holders(decision, address)
    if holders:
        raise QuarantineError(
            f"{address}: a guest holds it (process {', '.join(map(str, holders))})",
            "stop or migrate the guest first",
        )
    known, now = decision.facts.record, decision.facts.now
    aim = quarantine.set_aside(known, address, decision.outcome, now)
    return aim if address in known.quarantine else quarantine.told(aim, now)


def find_holders(decision: Decision, address: str) -> tuple[int, ...]:
    """Ask the processes which of them have a function open.

    Raises:
        PassthroughError, OSError: as `survey.ask_again`.
    """
    now = survey.ask_again(decision.facts, [address])
    return now.users.of([address]).get(address, ())


def bring_back(decision: Decision, address: str) -> Record:
    """Work out the record of a host that offers a function again which was bound anew.

    The fatal errors that the kernel counts by now are accepted: it counts on until the next boot.

    Args:
        decision: the host behind that.
        address: the function.

    Raises:
        QuarantineError: when the function, or a companion of it, is sick of something else.
    """
    known, now, outcome = decision.facts.record, decision.facts.now, decision.outcome
    parts = (address, *quarantine.companions(outcome, address))
    for each in parts if quarantine.is_kept(known, address) else ():
        one = quarantine.find_other_sickness(decision.health[each])
        if one:
            raise QuarantineError(f"{address} stays in quarantine: {each} {one.fact}", one.way_out)
    boot = decision.facts.machine.boot_id
    aim = quarantine.bring_back(known, parts, outcome, decision.health, boot)
    return quarantine.told(aim, now) if address in known.quarantine else aim
