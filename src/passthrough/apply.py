"""Carry out a plan, in an order that a crash at any point leaves mendable by the next run."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from passthrough import PassthroughError, files, record, vfio
from passthrough.host import Tools
from passthrough.plan import Plan
from passthrough.record import Record


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a run did and what it could not do.

    ``did`` are sentences for the log. ``failed`` maps the address of a function that did not
    change its driver to the error.
    """

    did: tuple[str, ...] = ()
    failed: Mapping[str, vfio.BindError] = dataclasses.field(default_factory=dict)


def apply(
    root: Path,
    application: str,
    plan: Plan,
    present: Record,
    tools: Tools,
    progress: Callable[[str], object],
) -> Outcome:
    """Carry out ``plan`` on the host at ``root``.

    Args:
        root: ``/`` on a real host.
        application: the Juju application.
        plan: what to do; an empty plan touches nothing.
        present: the application's record as it is now.
        tools: how to rebuild and to load modules.
        progress: told, in words, of everything that is done.

    Returns:
        What was done. Functions that could not be bound or given back are in it, not raised: each
        was left with a driver, and stays in the record.

    Raises:
        PassthroughError: when a rebuild fails; the files that fed it are as they were before.
        OSError: when a file cannot be written.
    """
    did: list[str] = []

    def report(sentence: str) -> None:
        did.append(sentence)
        progress(sentence)

    # Functions enter the record before they are touched and leave it after they are given back.
    everything = {**present.taken, **plan.record.taken}
    record.write(root, application, dataclasses.replace(present, taken=everything))
    for change in plan.files:
        files.ensure(root / change.file.path, change.file.content, change.file.mode)
        report(f"/{change.file.path}: {'written' if change.file.content else 'removed'}")
    present = dataclasses.replace(present, taken=everything)
    for what in plan.rebuild:
        with _restoring(root, plan, what):
            tools.rebuild(what, report)
        present = _mark_rebuilt(present, plan, what)
        record.write(root, application, present)
    failed = _change_drivers(root, plan, tools, report)
    taken = {
        **plan.record.taken,
        **{each: everything[each] for each in failed if each not in plan.record.taken},
    }
    record.write(root, application, dataclasses.replace(plan.record, taken=taken))
    return Outcome(tuple(did), failed)


def _mark_rebuilt(present: Record, plan: Plan, what: str) -> Record:
    activated = {key: value for key, value in present.activated.items() if key != what}
    if what in plan.record.activated:
        activated[what] = plan.record.activated[what]
    return dataclasses.replace(present, activated=activated)


@contextlib.contextmanager
def _restoring(root: Path, plan: Plan, what: str) -> Iterator[None]:
    """Put the files that feed a rebuild back when it fails: what is there is what boots."""
    try:
        yield
    except PassthroughError:
        for change in plan.files:
            if change.file.feeds == what:
                old = change.old or files.Present("", 0)
                content = old.content if change.old else None
                files.ensure(root / change.file.path, content, old.mode)
        raise


def _change_drivers(
    root: Path, plan: Plan, tools: Tools, report: Callable[[str], object]
) -> dict[str, vfio.BindError]:
    failed: dict[str, vfio.BindError] = {}
    for binding in plan.release:
        try:
            vfio.release(root, binding.address, tools.load_native)
        except vfio.BindError as error:
            failed[binding.address] = error
            report(f"not given back: {error}")
        else:
            report(f"{binding.address}: given back")
    if plan.bind:
        tools.load_vfio()
    for binding in plan.bind:
        try:
            vfio.bind(root, binding.address)
        except vfio.BindError as error:
            failed[binding.address] = error
            report(f"not bound: {error}")
        else:
            report(f"{binding.address}: bound to vfio-pci")
    return failed
