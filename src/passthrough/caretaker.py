"""The caretaker: gives back what a unit that vanished has left on its host.

A timer runs it from a copy of the charm's code below /var/lib, by the system's Python, without
Juju and without a package. It acts on positive evidence alone: `judge` decides, purely, on what a
look at Juju's agents shows and on what the looks before have shown. What it gives back, and what it
leaves to guests, the charm's own code decides: `reconcile`, as the hook stop runs it.

    python3 -I -S -B /var/lib/pci-passthrough/APPLICATION.caretaker.pyz APPLICATION
"""

from __future__ import annotations

import contextlib
import enum
import json
import logging
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from passthrough import naming
from passthrough.errors import BusyError, PassthroughError
from passthrough.host import juju_agents, watch
from passthrough.site import Site
from passthrough.state import record
from passthrough.system import files, lock, procfs

if TYPE_CHECKING:
    from passthrough.effects.tools import Tools

Sight = juju_agents.Sight

# Seconds of uptime.
BETWEEN_LOOKS = 600.0
WITHOUT_AGENTS = 24 * 3600.0
# Of the time between two looks, this much counts as seen: a host may sleep, or nobody look.
LONGEST_GAP = 1800.0
FIRST_PAUSE, LONGEST_PAUSE = 3600.0, 24 * 3600.0
_MOST_FAILURES = 8  # Beyond them the pause grows no more.

# What one run tells the next, until the host starts anew.
MEMORY = "run/pci-passthrough.caretaker-"
_MODE = 0o600
_FORMAT = 1
EXIT_FAILED = 1


class OtherCardsError(PassthroughError):
    """The record is of other cards than stand at its addresses."""


class UnknownContentError(PassthroughError):
    """The record holds what this caretaker does not know."""


class Verdict(enum.Enum):
    """What a look leads to.

    GO is for a host without a record: a unit that left has given all back, and a kill has left the
    caretaker behind.
    """

    NOTHING = "nothing"
    OFF = "off"
    WAIT = "wait"
    GIVE_BACK = "give-back"
    GO = "go"


# Under the host's lock, and after a second look.
_ACTING = (Verdict.GIVE_BACK, Verdict.GO)


class Moment(NamedTuple):
    """A point in time that no wall clock moves: a boot's id, and seconds since its start."""

    boot: str
    seconds: float


class Past(NamedTuple):
    """The looks of one boot that have shown the same evidence, without another in between.

    ``first`` and ``last`` are the seconds of the first and the last of them; ``seen`` are those
    for which nobody can have been there unnoticed.
    """

    boot: str
    sight: str
    first: float
    last: float
    seen: float = 0.0


class Memory(NamedTuple):
    """What one run tells the next in the same boot.

    Attributes:
        past: the looks that have shown evidence.
        said: the sentence that the journal has already, so that it is there once.
        failures: how often giving back has failed.
        pause_until: the seconds of this boot before which it is not tried again.
    """

    past: Past | None = None
    said: str = ""
    failures: int = 0
    pause_until: float = 0.0


def judge(
    sight: Sight, past: Past | None, now: Moment, *, off: bool = False
) -> tuple[Verdict, Past | None]:
    """Decide on what a look has shown; pure.

    Args:
        sight: what it has shown.
        past: what the looks before have shown.
        now: when.
        off: whether the caretaker is turned off.

    Returns:
        What to do, and what to remember of the looks.
    """
    if off:
        return Verdict.OFF, None
    if sight in (Sight.LIVES, Sight.UNCLEAR) or not now.boot:
        return Verdict.NOTHING, None
    if past is None or (past.boot, past.sight) != (now.boot, sight) or now.seconds < past.last:
        return Verdict.WAIT, Past(now.boot, sight, now.seconds, now.seconds)
    seen = past.seen + min(now.seconds - past.last, LONGEST_GAP)
    past = past._replace(last=now.seconds, seen=seen)
    enough = (
        seen >= WITHOUT_AGENTS
        if sight is Sight.NO_AGENT
        else now.seconds - past.first >= BETWEEN_LOOKS
    )
    return Verdict.GIVE_BACK if enough else Verdict.WAIT, past


def run(
    site: Site, find_tools: Callable[[], Tools], now: Moment, say: Callable[[str], object]
) -> int:
    """Look, and give back where the evidence is there.

    Args:
        site: the application on its host.
        find_tools: gives what giving back needs of the host; most looks need none of it.
        now: the time.
        say: takes what belongs into the journal.

    Returns:
        The exit code: 1 while something keeps the caretaker from its work.
    """
    memory = _recall(site, now)

    def end(code: int, **changes: Any) -> int:
        _keep(site, now, memory._replace(**changes))
        return code

    try:
        verdict, past = _look(site, find_tools, memory.past, now)
        if verdict not in _ACTING:
            return end(0, past=past, said="", failures=0, pause_until=0.0)
        if now.seconds < memory.pause_until:
            return end(EXIT_FAILED, past=past)
        with lock.hold(site.root, f"the caretaker of {site.application}"):
            # A unit may have come since, or another one taken the host over.
            verdict, past = _look(site, find_tools, memory.past, now)
            if verdict not in _ACTING:
                return end(0, past=past)
            left = _act(site, verdict, find_tools(), say)
    except (lock.LockError, BusyError):
        return end(0)  # another run, or dpkg, is at work; the next look is soon enough
    except (PassthroughError, OSError) as error:
        if str(error) != memory.said:
            say(str(error))
        failures = min(memory.failures + 1, _MOST_FAILURES)
        pause = min(FIRST_PAUSE * 2 ** (failures - 1), LONGEST_PAUSE)
        until = now.seconds + pause
        return end(EXIT_FAILED, said=str(error), failures=failures, pause_until=until)
    if not left:
        _forget(site)
        return 0
    kept = f"left to guests that hold or name them, or to their driver: {' '.join(left)}"
    if kept != memory.said:
        say(kept)
    return end(0, past=past, said=kept, failures=0, pause_until=0.0)


def _look(
    site: Site, find_tools: Callable[[], Tools], past: Past | None, now: Moment
) -> tuple[Verdict, Past | None]:
    known = record.read(site)
    if known.is_empty:
        return Verdict.GO, None
    off = known.keep or (site.root / watch.SWITCH).exists()
    unit = known.owner.unit if known.owner else ""

    def is_running(service: str) -> bool:
        return find_tools().running(service) is not None

    sight = juju_agents.look(
        site.root, unit, known.caretaker.filesystem, is_running, site.application
    )
    return judge(sight, past, now, off=off)


def _act(
    site: Site, verdict: Verdict, tools: Tools, say: Callable[[str], object]
) -> tuple[str, ...]:
    """Give back as the hook stop does, or only go; the host's lock is held.

    Returns:
        The addresses that stay for now.

    Raises:
        OtherCardsError: when other cards stand at the record's addresses; nothing was touched.
        UnknownContentError: when the record holds what is not known here; the same.
        PassthroughError: as `reconcile.reconcile`.
        OSError: the same.
    """
    # A look alone does without them, and there are a hundred looks a day.
    from passthrough.effects import watching

    if verdict is Verdict.GO:
        watching.remove(site, tools)
        return ()
    from passthrough import reconcile
    from passthrough.config import options
    from passthrough.effects import nrpe
    from passthrough.state import settled

    known = record.read(site)
    _check(site, known)
    owner = known.owner
    say(f"{owner.unit if owner else site.application} has vanished: giving back what it left")
    nrpe.remove(site)
    if owner:
        settled.forget(site.root, owner.unit)
    result = reconcile.reconcile(site, options.Options(leaving=True), tools, say)
    pending = [binding.address for binding in result.decision.plan.pending]
    return tuple(sorted({*pending, *result.outcome.failed, *result.decision.plan.vfs.record}))


def _check(site: Site, known: record.Record) -> None:
    from passthrough.host import identity

    where = f"/{record.DIRECTORY}/{site.application}.json"
    unknown = record.find_unknown(site)
    if unknown:
        raise UnknownContentError(
            f"{where} holds what this caretaker does not know ({', '.join(unknown)}), so nothing"
            " was touched"
        )
    for address, card in known.identities.items():
        now = identity.read(site.root, address)
        then = identity.Identity(card["id"], card["serial"])
        if now and then.is_other(now):
            raise OtherCardsError(
                f"{where} is of other cards: {address} was {then.told} and is"
                f" {now.told}, so nothing was touched"
            )


def _path(site: Site) -> Path:
    return site.root / f"{MEMORY}{site.application}"


def _recall(site: Site, now: Moment) -> Memory:
    """Read what the last run has left; what is damaged, or of another boot, is no evidence."""
    present = files.read(_path(site))
    if not present or present.mode != _MODE:
        return Memory()
    try:
        data = json.loads(present.content)
        if data.pop("format") != _FORMAT or data.pop("boot") != now.boot:
            return Memory()
        past = data.pop("past")
        found = Memory(past and Past(**past), **data)
        numbers: list[Any] = [found.failures, found.pause_until, *(found.past or ())[2:]]
        if not all(isinstance(each, (int, float)) for each in numbers):
            return Memory()
    except (ValueError, TypeError, KeyError, AttributeError):
        return Memory()
    return found


def _keep(site: Site, now: Moment, memory: Memory) -> None:
    if memory == Memory():
        _forget(site)
        return
    past = memory.past._asdict() if memory.past else None
    data = {"format": _FORMAT, "boot": now.boot, **memory._asdict(), "past": past}
    files.ensure(_path(site), json.dumps(data, sort_keys=True), _MODE)


def _forget(site: Site) -> None:
    _path(site).unlink(missing_ok=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run once for the application that the first argument names; returns the exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    site = Site(Path("/"), naming.check_application(given[0]))
    boot = procfs.boot_id_if_there(site.root)
    now = Moment(boot, time.clock_gettime(time.CLOCK_BOOTTIME))
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        return run(site, _find_tools, now, _say)
    except (PassthroughError, OSError) as error:
        _say(str(error))
        return EXIT_FAILED


def _find_tools() -> Tools:
    from passthrough.effects import tools
    from passthrough.system import commands

    class SystemTools(tools.HostTools):
        """The host's tools without charmhelpers, which has gone with the charm."""

        def load_native(self, modalias: str) -> None:
            """Load what the modalias names, except what modprobe.d blacklists."""
            with contextlib.suppress(commands.CommandError):
                commands.run(("modprobe", modalias), tools.MODPROBE_TIMEOUT)

    return SystemTools()


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)
