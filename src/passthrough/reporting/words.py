"""One sentence of each problem and each refusal: the only place where their parts are joined.

A sentence goes to people. Whoever needs a part of it asks for that part: nothing takes a sentence
apart again, since what is put into it, such as a mount point, may hold any of our joints.
"""

from __future__ import annotations

from passthrough import TYPE_CHECKING, pci_address
from passthrough.problem import Kind
from passthrough.system import quoting

if TYPE_CHECKING:
    from passthrough import reboot, survey
    from passthrough.host import hindrances
    from passthrough.planning import claims, guards, plan
    from passthrough.problem import Problem


# Where a problem is about a driver, its cause is an aside in parentheses.
_ASIDES = (
    Kind.ON_ANOTHER_DRIVER,
    Kind.EXPECTATION_UNMET,
    Kind.VFS_WAIT,
    Kind.VFS_DIFFER_IN_NUMBER,
)
# How many things a sentence names, and in how many bytes: Juju's table shows 120 of a status.
_MOST_NAMES, _ROOM = 3, 64


def sentence(problem: Problem) -> str:
    """All of a problem: where, what, why, and the way out."""
    if problem.kind in _ASIDES:
        return f"{fact(problem)} ({problem.cause})" if problem.cause else fact(problem)
    # A menu's title and options are a sentence of their own: what undoes them is the next one.
    joint = "; " if problem.kind is Kind.GRUB_IS_OVERRULED else ": "
    return _join("; ", _join(joint, fact(problem), problem.cause), problem.way_out)


def fact(problem: Problem) -> str:
    """What is wrong and where, without the cause and the way out."""
    what = f"{problem.subject} {problem.fact}" if problem.subject else problem.fact
    return ": ".join((*problem.where, what))


def way_out(problem: Problem) -> str:
    """How to mend a problem, the cause before it; empty where nothing more is to be said."""
    return _join("; ", problem.cause, problem.way_out)


def objection_fact(objection: guards.Objection) -> str:
    """What is against claiming a function, said of it: "holds swap space: sda2"."""
    sibling = objection.sibling
    if sibling is None:
        return objection.fact
    return f"{objection.fact} with {sibling.address}, which {objection_fact(sibling)}"


def reason(objection: guards.Objection, address: str | None) -> str:
    """Why the function at ``address`` is not claimed, said of it, and the way out.

    Args:
        objection: what is against it, or against a companion, which goes where it goes.
        address: the function; None where the host has no such function.
    """
    said = _join("; ", objection_fact(objection), objection.way_out)
    if objection.address == address:
        return said
    with_companion = f"with its companion {objection.address}: it {said}"
    if not objection.can_part:
        return with_companion
    return f"{with_companion}; set companions: false to leave it out"


def refusal(refused: claims.Refusal) -> str:
    """Why an item, or a function that it asks for, is not claimed."""
    said = reason(refused.objection, refused.address)
    subject = f"{refused.address} " if refused.address else ""
    return f"devices: {refused.item.label}: {subject}{said}"


def verdict(judged: reboot.Verdict) -> str:
    """What becomes of a reboot, and what it is for; empty where there is nothing to say."""
    from passthrough.reboot import Action  # not for `list`, which judges no reboot

    if judged.unmet:
        unmet = "; ".join(sentence(problem) for problem in judged.unmet)
        return f"the reboot did not help: {unmet}; run verify, then reboot by hand"
    if not judged.reasons:
        return ""
    why = sentence(judged.reasons[0])
    if judged.action is Action.NOW:
        return f"rebooting: {why}"
    if judged.action is Action.BY_HAND:
        return f"reboot by hand: {_by_hand(judged)}; {why}"
    guests = [f"{guest.name} (process {guest.process})" for guest in judged.guests]
    if judged.hindrances:
        names = some([*guests, *map(_hindrance, judged.hindrances)])
        return f"reboot when nobody needs the host, and now {names} do; {why}"
    if not guests:
        return f"the next hook reboots the host: {why}"
    return f"reboot when no guest runs, and now {some(guests)} does; {why}"


def some(names: list[str]) -> str:
    """The first few names, whole, and how many more there are."""
    for count in range(min(len(names), _MOST_NAMES), 0, -1):
        more = len(names) - count
        shown = ", ".join(names[:count]) + (f" and {more} more" if more else "")
        if count == 1 or len(shown.encode()) <= _ROOM:
            return shown
    return ""


def _hindrance(each: hindrances.Hindrance) -> str:
    """What bars a reboot, with what it is."""
    from passthrough.host.hindrances import Kind as Bar

    match each.kind:
        case Bar.CONTROLLER:
            return f"Juju's controller {each.name}"
        case Bar.GATEWAY:
            return f"OVN's gateway ({each.name})"
        case Bar.CEPH:
            return each.name
        case _:
            return f"{each.kind.value} {each.name}"


def _by_hand(judged: reboot.Verdict) -> str:
    """Why a reboot is not the charm's to ask for, and what else it would take down."""
    from passthrough.host import hindrances

    bar = hindrances.Kind
    found = {kind: [each.name for each in judged.hindrances if each.kind is kind] for kind in bar}
    said: list[str] = []
    if found[bar.UNANSWERED]:
        times = found[bar.UNANSWERED][0]
        said.append(f"Juju was asked {times} times and has not rebooted the host")
    if found[bar.JUJU_CONTAINER]:
        names = some(found[bar.JUJU_CONTAINER])
        said.append(f"Juju waits for the LXD containers {names}, and gives up")
    if found[bar.FORGETFUL_ROOT]:
        place = found[bar.FORGETFUL_ROOT][0]
        said.append(f"the host forgets at each boot what is below {place}")
    others = [each for each in judged.hindrances if each.kind not in hindrances.BY_HAND]
    guests = [f"{guest.name} (process {guest.process})" for guest in judged.guests]
    if guests or others:
        said.append(f"it takes down {some([*guests, *map(_hindrance, others)])}")
    return "; ".join(said)


def switched_off(decision: survey.Decision) -> str:
    """Tell that the host was started so that nothing is claimed; empty where it was not."""
    switch = decision.facts.machine.switch
    if not (switch and (decision.claims or decision.plan.vfs.wanted)):
        return ""
    return (
        f"switched off for this boot: the kernel was started with {switch}; reboot without it to"
        " have the devices claimed"
    )


def lent(decision: survey.Decision) -> str:
    """Name what is lent to the host; empty where nothing is."""
    loans = decision.facts.record.lent
    names = sorted(loans, key=pci_address.sort_key)
    return f"lent to the host: {some(names)}" if names else ""


def quarantined(decision: survey.Decision) -> str:
    """Name what is kept off Nova's offer; empty where nothing is."""
    names = sorted(decision.plan.record.quarantine, key=pci_address.sort_key)
    return f"quarantined: {some(names)}" if names else ""


def not_claimed(decision: survey.Decision, address: str) -> str:
    """Why a function cannot be meant that is not claimed; names those that are."""
    claimed = ", ".join(decision.outcome.addresses) or "none"
    return (
        f"{quoting.show(address)} is not claimed on this host"
        f"{pci_address.about_domain(address)}; claimed are {claimed}"
    )


def erasing(decision: survey.Decision) -> str:
    """Name what has to be erased again before Nova is offered it; empty where nothing has."""
    names = sorted(decision.facts.record.erasing, key=pci_address.sort_key)
    return f"not erased to the end: {some(names)}, run erase again" if names else ""


def kept_options(planned: plan.Plan) -> tuple[str, ...]:
    """Tell of kernel options that stay although this revision of the charm takes them no more."""
    if not planned.kept_options:
        return ()
    return (
        f"kernel-options: {' '.join(planned.kept_options)} is taken no more, and stays while it is"
        " set: move it into a file of your own in /etc/default/grub.d",
    )


def unused_variant(claim: claims.Claim) -> str:
    """Tell that a function is on vfio-pci although a kernel names a variant; empty where not."""
    function, vfio = claim.function, claim.vfio
    if not vfio.variant or not function.is_on_vfio or function.is_for_variant:
        return ""
    why = "its item says so" if vfio.is_pinned else "rebind tries that"
    return f"{claim.address} is on vfio-pci, and not on {vfio.variant} ({why})"


def _join(joint: str, *parts: str) -> str:
    return joint.join(part for part in parts if part)
