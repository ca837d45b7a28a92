"""Bind claimed functions anew, at an operator's request."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from passthrough import confirm, errors, pci_address
from passthrough.effects import drivers
from passthrough.effects.tools import Tools
from passthrough.errors import PassthroughError
from passthrough.host import modules, pci
from passthrough.planning import claims, vfio_driver
from passthrough.survey import Decision
from passthrough.system import quoting


class RebindError(PassthroughError):
    """The request cannot be carried out; nothing was touched."""


class Chosen(NamedTuple):
    """Which of the claimed functions are meant: those that all of it fits.

    Attributes:
        address: one of them; empty for any.
        match: a glob of addresses or ids; empty for any.
    """

    address: str = ""
    match: str = ""


def matches(pattern: str, address: str, identity: str) -> bool:
    """Tell whether a glob fits a function by its address or its id; an empty one fits all."""
    fits = fnmatch.fnmatch(address, pattern) or fnmatch.fnmatch(identity, pattern)
    return fits if pattern else True


def rebind(
    decision: Decision,
    chosen: Chosen,
    tools: Tools,
    progress: Callable[[str], object] = lambda sentence: None,
) -> dict[str, errors.BindError | None]:
    """Unbind claimed functions and bind them to their VFIO drivers again.

    A function goes to the driver that it would get if it were free: the variant of vfio-pci that
    the kernel names, or what its item pins.

    Args:
        decision: what is claimed on this host.
        chosen: which of the claimed functions.
        tools: how to load the vfio modules.
        progress: told, in words, what became of each function.

    Returns:
        For each function that was asked for, None or the error. One that a guest holds has an
        InUseError and was left alone; so is one that the host uses by now, one whose erase has not
        come to its end, and everything behind a driver that does not let go.

    Raises:
        RebindError: when the address is not claimed, the glob fits none that is, the host was
            started with ``pci-passthrough=off``, or the IOMMU is off.
    """
    root, claimed = decision.site.root, decision.outcome.addresses
    address = chosen.address
    if address and address not in claimed:
        raise RebindError(
            f"{quoting.show(address)} is not claimed on this host"
            f"{pci_address.about_domain(address)}; claimed are"
            f" {', '.join(claimed) or 'none'}"
        )
    functions = decision.host.functions
    asked = [
        each
        for each in ([address] if address else claimed)
        if matches(chosen.match, each, functions[each].id)
    ]
    if chosen.match and not asked:
        raise RebindError(
            f"no claimed function matches {quoting.show(chosen.match)}; claimed are"
            f" {', '.join(claimed) or 'none'}"
        )
    switch = decision.facts.machine.switch
    if switch:
        raise RebindError(
            f"this host was started with {switch}, so nothing is bound in this boot",
            f"reboot without {switch} first",
        )
    if not decision.host.has_groups:
        raise RebindError("the IOMMU is off, so vfio-pci can take no device", "reboot first")
    wanted = {claim.address: _choose(decision, claim) for claim in decision.claims}
    tools.load_vfio(modules.variants_among(wanted[each].module for each in asked))
    done: dict[str, errors.BindError | None] = _leave_variants(decision, asked, progress)
    stuck: errors.StuckError | None = None
    for each in [each for each in asked if each not in done]:
        module, is_pinned = wanted[each].module, wanted[each].is_pinned
        try:
            _check(decision, each, stuck)
            if _is_on_vfio(root, each):
                # The host has given it up already.
                drivers.rebind(root, each, module, is_pinned=is_pinned)
            else:
                with confirm.keep_free(decision, each) as objection:
                    if objection is not None:
                        raise errors.PostponedError.because(each, objection)
                    drivers.rebind(root, each, module, is_pinned=is_pinned)
            done[each] = None
            progress(f"{each}: {drivers.describe(root, each, module)}")
        except errors.BindError as error:
            stuck = error if isinstance(error, errors.StuckError) else stuck
            done[each] = error
            progress(str(error))
    return done


def _check(decision: Decision, address: str, stuck: errors.StuckError | None) -> None:
    """Leave alone what comes behind a driver that does not let go, and what is being erased.

    Raises:
        PostponedError: with the reason.
    """
    if stuck:
        raise errors.PostponedError.after(stuck, address)
    if address in decision.facts.record.erasing:
        raise errors.PostponedError(address, "its erase has not come to its end", "run erase again")


def _choose(decision: Decision, claim: claims.Claim) -> vfio_driver.Choice:
    return vfio_driver.choose_anew(claim.vfio, claim.function, decision.facts.aliases)


def _is_on_vfio(root: Path, address: str) -> bool:
    function = pci.read_some(root, [address]).functions.get(address)
    return bool(function and function.is_on_vfio)


def _leave_variants(
    decision: Decision, asked: list[str], progress: Callable[[str], object]
) -> dict[str, errors.BindError | None]:
    """Leave alone what somebody else has put on a variant of vfio-pci, or means for one."""
    left = [claim for claim in decision.claims if claim.vfio.is_left and claim.address in asked]
    for claim in left:
        driver = claim.function.driver or "no driver"
        progress(f"{claim.address}: left on {driver}, not moved to vfio-pci")
    return dict.fromkeys(claim.address for claim in left)
