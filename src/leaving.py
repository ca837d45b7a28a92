"""A unit leaves: which hook proves it, and how the host is given back whatever fails.

docs/explanation/leaving.md has the table of the hooks. Juju 4 can take a unit out of the model with
the end of its `-relation-broken`, and no hook follows; so the first hook that proves that the unit
leaves gives everything back. None of it needs a hook tool: where one fails, the record decides.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple, cast

import ops

import asking
import dispatched
import ownership
import roles
from passthrough import pci_address
from passthrough.config import options
from passthrough.errors import OptionError
from passthrough.host import watch
from passthrough.reporting import status
from passthrough.site import Site
from passthrough.state import record, retries, settled
from passthrough.system import journal, lock

logger = logging.getLogger(__name__)


class Hook(NamedTuple):
    """The hook that Juju runs, as its environment tells.

    Attributes:
        name: such as ``juju-info-relation-broken``.
        unit: the unit.
        principal: its principal; empty for none.
        departing: the unit that departs from a relation; empty in other hooks.
        relation: the id of the hook's relation, such as ``juju-info:3``.
        remote: the application at its other end.
    """

    name: str
    unit: str
    principal: str = ""
    departing: str = ""
    relation: str = ""
    remote: str = ""

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Hook:
        """Read the environment of a hook."""
        path = environ.get("JUJU_DISPATCH_PATH", "")
        is_hook = path.startswith("hooks/")
        unit = environ.get("JUJU_REMOTE_UNIT", "")
        return cls(
            name=path.rpartition("/")[2].replace("_", "-") if is_hook else "",
            unit=environ.get("JUJU_UNIT_NAME", ""),
            principal=environ.get("JUJU_PRINCIPAL_UNIT", ""),
            departing=environ.get("JUJU_DEPARTING_UNIT", ""),
            relation=environ.get("JUJU_RELATION_ID", ""),
            remote=environ.get("JUJU_REMOTE_APP", "") or roles.application_of(unit),
        )


def proves(hook: Hook, remaining: Callable[[], Iterable[str]]) -> bool:
    """Tell whether a hook proves that its unit leaves.

    Args:
        hook: the hook.
        remaining: gives the ids of the relations that still lead to the unit's own principal, with
            or without the one that breaks. It is asked only in the hook of one that breaks.
    """
    if hook.name in ("stop", "remove"):
        return True
    if hook.name.endswith("-relation-departed"):
        return bool(hook.unit) and hook.departing == hook.unit
    endpoint = hook.relation.partition(":")[0]
    is_tie = endpoint in roles.TIES
    if not (hook.name.endswith("-relation-broken") and is_tie and hook.principal):
        return False
    if hook.remote != roles.application_of(hook.principal):
        return False  # it leads to somebody else's principal
    return not set(remaining()) - {hook.relation}


def remaining_by_tools(principal: str) -> list[str]:
    """Ask Juju's hook tools for the relations that lead to a unit's own principal.

    Where Juju answers no more, none is left. Only a controller's unit can have two, and it leaves
    nothing on the host: the answer decides nothing there.
    """
    application = roles.application_of(principal)
    found: list[str] = []
    for endpoint in roles.TIES:
        answer = asking.ask("relation-ids", "--format=json", endpoint)
        ids = cast("list[object]", answer) if isinstance(answer, list) else []
        for number in map(str, ids):
            if asking.ask("relation-list", "--format=json", "--app", "-r", number) == application:
                found.append(number)
    return found


def asks_to_keep() -> bool | None:
    """Ask Juju for the option on-removal; None where it gives no answer, or none of the two."""
    value = asking.ask("config-get", "--format=json", options.ON_REMOVAL)
    try:
        return options.parse_keep(value) if value else None
    except OptionError:
        return None


def keeps(config: ops.ConfigData) -> bool | None:
    """Read the option on-removal; None where Juju gives it no more, or it is none of the two."""
    try:
        return options.parse_keep(config.get(options.ON_REMOVAL))
    except (OptionError, ops.ModelError):
        return None


def give_back_first(site: Site, environ: Mapping[str, str]) -> bool:
    """Give the host back before ops asks Juju for anything, where a hook proves that it is time.

    Args:
        site: the application on this host.
        environ: of the hook.

    Returns:
        True if nothing is left to do on the host. False where the hook proves nothing, or the
        record is of a revision that named no owner: the unit has to say itself what it was.

    Raises:
        PassthroughError: as `reconcile.reconcile`.
        OSError: the same.
    """
    hook = Hook.of(environ)
    if not proves(hook, lambda: remaining_by_tools(hook.principal)):
        return False
    present = record.read(site)
    # The caretaker's files go behind the record: a kill may have left some of them.
    watched = any((site.root / path).exists() for path in watch.owned_files(site.application))
    if present.owner is None and not (present.is_empty and watched):
        return present.is_empty or present.keep
    me = record.Owner(environ.get("JUJU_MODEL_UUID", ""), hook.unit, hook.principal)
    place = ownership.Place(me, Path(environ.get("JUJU_CHARM_DIR") or os.getcwd()))
    keep = asks_to_keep()
    asking.ask("status-set", status.Kind.MAINTENANCE, status.LEAVES)
    leave(site, place, keep)
    return True


def tell(site: Site, sentence: str) -> None:
    """Write into the host's journal: Juju's log may never get what a unit says that leaves."""
    journal.say(site.root, site.application, sentence)


def leave(
    site: Site, place: ownership.Place, keep: bool | None, *, patient: bool = False
) -> dispatched.Removed:
    """Leave a host: give it back, hand it over, or keep everything in place.

    Args:
        site: the application on this host.
        place: the unit that leaves.
        keep: the option on-removal; None where it cannot be had, and the record tells.
        patient: whether a rebuild that failed before is not tried again so soon.

    Returns:
        How the host was left.

    Raises:
        PassthroughError: as `reconcile.reconcile`.
        OSError: the same.
    """

    def say(sentence: str) -> None:
        logger.info("%s", sentence)
        tell(site, sentence)

    _leave_mark(site, place)
    try:
        with lock.hold(site.root, f"a hook of {site.application}"):
            stays = _find_stay(site, place, keep)
            if stays:
                say(status.describe_removal((), stays))
                return dispatched.Removed((), stays)
            left, made = _give_back(site, say, patient=patient)
    except retries.HeldBackError:
        raise  # the journal has the words of the failure
    except Exception as error:
        say(f"not everything is given back: {error}")
        raise
    say(status.describe_removal(left, vfs=made))
    return dispatched.Removed(left, vfs=made)


def _leave_mark(site: Site, place: ownership.Place) -> None:
    """Have later hooks know, and nobody hand the host over to a unit that leaves."""
    try:
        ownership.leave(place.charm)
        ownership.stop_waiting(place)
        settled.forget(site.root, place.me.unit)
    except OSError as error:
        logger.warning("a later hook cannot tell that the unit leaves: %s", error)


def _find_stay(site: Site, place: ownership.Place, keep: bool | None) -> str:
    """Why everything stays in place, with the record set accordingly; empty where it goes."""
    with record.open(site) as ledger:
        present = ledger.present
        if present.owner and not ownership.is_same(present.owner, place.me):
            return status.handed_over(present.owner)
        left_in_place = present.owner is None and present.keep
        if left_in_place or (present.keep if keep is None else keep):
            ledger.update(owner=None, keep=True)
            return status.KEPT
        heir = ownership.find_heir(site.application, place)
        if heir:
            ledger.update(owner=heir, keep=False)
            return status.handed_over(heir)
    return ""


def _give_back(
    site: Site, say: Callable[[str], object], *, patient: bool
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Give everything back.

    Returns:
        The addresses that stay on vfio-pci until the next boot, and those that keep their VFs.
    """
    from passthrough import reconcile
    from passthrough.effects import nrpe, reboot_request, tools

    host_tools = tools.HostTools()
    reboot_request.resume(site, host_tools)
    start = reconcile.Start(is_patient=patient)
    result = reconcile.reconcile(site, options.Options(leaving=True), host_tools, say, start)
    nrpe.remove(site)  # no hook of that relation is sure to come
    for error in result.outcome.failed.values():
        logger.warning("left on vfio-pci until the next boot: %s", error)
    pending = [binding.address for binding in result.decision.plan.pending]
    for address in pending:
        logger.warning("%s: left on vfio-pci until the next boot for a guest", address)
    made = tuple(result.decision.plan.vfs.record)
    for address in made:
        logger.warning("%s: keeps its VFs until the next boot, which makes none", address)
    left = sorted({*result.outcome.failed, *pending}, key=pci_address.sort_key)
    return tuple(each for each in left if each not in made), made
