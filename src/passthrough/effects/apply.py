"""Carry out a plan, in an order that lets the next run mend a crash at any point.

The files that feed a rebuild, and the rebuild, are one step. When any part of it fails, the charm
puts the files back, so that the files in /etc are those that boot. The record says DIRTY before the
first file of a step changes and until its rebuild is done, so that the next run repeats a step that
did not end.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable, Mapping
from pathlib import Path

from passthrough import enums, errors, frozen
from passthrough.effects import drivers, images, turns
from passthrough.effects.tools import Tools
from passthrough.errors import PassthroughError
from passthrough.host import initramfs, modules
from passthrough.nova import lines as nova_lines
from passthrough.planning import boot_files
from passthrough.planning.plan import Binding, FileChange, Plan
from passthrough.site import Site
from passthrough.state import digest, record, retries
from passthrough.system import files

# Of the way in which a plan's rebuilds are spelled out for their digest.
_RETRY = 1
# Keeps a function free while the block runs, and gives what is against claiming it, or None.
Confirm = Callable[[str], contextlib.AbstractContextManager[str | None]]

_PUT_BACK = "the files that belong together were put back, and the next hook tries again"


class ApplyError(PassthroughError):
    """The charm or a rebuild cannot write a file; the files of that step are as before."""

    def __init__(self, what: str, error: OSError):
        super().__init__(f"{what}: {error.strerror}; {_PUT_BACK}")


class Outcome(frozen.Value):
    """What a run did and what it could not do.

    Attributes:
        did: sentences for the log.
        failed: address of a function that did not change its driver → the error.
        repaired: sentences on what somebody else had changed.
    """

    did: tuple[str, ...] = ()
    failed: Mapping[str, errors.BindError] = frozen.field(
        default_factory=dict[str, errors.BindError]
    )
    repaired: tuple[str, ...] = ()


def apply(
    ledger: record.Ledger,
    plan: Plan,
    tools: Tools,
    progress: Callable[[str], object],
    confirm: Confirm,
) -> Outcome:
    """Carry out ``plan`` on the host of the ledger's site.

    Args:
        ledger: the application's record, opened under the host's lock.
        plan: what to do; an empty plan touches nothing.
        tools: rebuild, and load modules.
        progress: takes a sentence about each thing that was done.
        confirm: keeps a function free while its driver changes, and gives what is against claiming
            it by then, or None. It is asked of each one immediately before: a rebuild takes
            minutes, and another driver may take a minute to let go; somebody can mount a disk
            meanwhile.

    Returns:
        What was done. A function that could not be bound or given back is in it, not raised: it
        keeps a driver, and stays in the record.

    Raises:
        BusyError: when somebody else makes images or grub.cfg, or dpkg is at work, for too long;
            nothing is changed then.
        PassthroughError: when a rebuild fails or a file cannot be written; the files that feed it,
            and the images, are then as they were before, and a later run tries again. Also as
            ``confirm``.
        OSError: when the record cannot be written; the host then stays as it is at that point.
    """
    root, application = ledger.site.root, ledger.site.application
    did: list[str] = []

    def report(sentence: str) -> None:
        did.append(sentence)
        progress(sentence)

    owned = [file.path for file in boot_files.owned_files(application)]
    files.sweep(root / path for path in (*owned, nova_lines.path_of(application)))
    images.sweep(root)
    # Functions enter the record before they are touched and leave it after they are given back.
    before, asked, aim = ledger.present.taken, ledger.present.variants, plan.record
    if plan.rebuild:
        obstacle = images.find_obstacle(root, plan.rebuild, plan.generator)
        if obstacle:
            raise obstacle
        with turns.taken(root, report):
            ledger.enter(aim.taken, plan.rebuild, aim.variants, aim.vfs)
            _rebuild_all(ledger, plan, tools, report)
    else:
        ledger.enter(aim.taken, (), aim.variants, aim.vfs)
    rest = [change for change in plan.files if change.file.feeds not in plan.rebuild]
    with _put_back_on_failure(root, rest, report):
        _write_files(root, rest, report)
    for folder in boot_files.owned_folders(application):
        files.drop_empty(root / folder)
    failed = _change_drivers(root, plan, confirm, tools, report)
    # What is written on a disk that the record has would be taken for a guest's. The host has one
    # whose driver it kept; so such a one leaves the record again, if it is new there.
    untouched = {
        each
        for each, error in failed.items()
        if isinstance(error, errors.ObjectedError) and each not in before
    }
    taken = {
        **{each: plan.record.taken[each] for each in plan.record.taken if each not in untouched},
        **{each: before[each] for each in failed if each not in plan.record.taken},
    }
    variants = {
        **{each: plan.record.variants[each] for each in plan.record.variants if each in taken},
        **{each: asked[each] for each in failed if each in asked and each in taken},
    }
    # Keep the reboot record while anything is left to do; otherwise that asks for a second reboot.
    reboot = ledger.present.reboot if failed else plan.record.reboot
    ledger.update(
        taken=taken,
        variants=variants,
        activated=plan.record.activated,
        reboot=reboot,
        inherited=plan.record.inherited,
        vfs=plan.record.vfs,
        lent=plan.record.lent,
        missing=plan.record.missing,
        erasing=plan.record.erasing,
        shapes=plan.record.shapes,
    )
    repaired = [_describe(change) for change in plan.files if change.drifted]
    if not plan.rebuild:
        repaired += [
            f"{each.address} was on {each.current or 'no driver'}"
            for each in plan.bind
            if each.address in before and each.address not in failed
        ]
    return Outcome(tuple(did), failed, tuple(repaired))


def _write_files(
    root: Path, changes: Iterable[FileChange], report: Callable[[str], object]
) -> None:
    for change in changes:
        try:
            files.ensure(root / change.file.path, change.file.content, change.file.mode)
        except OSError as error:
            raise ApplyError(f"/{change.file.path} cannot be {_verb(change)}", error) from error
        report(f"/{change.file.path}: {_verb(change)}")


def _rebuild_all(
    ledger: record.Ledger, plan: Plan, tools: Tools, report: Callable[[str], object]
) -> None:
    """Carry out the steps of files and the rebuild that takes them in, one after the other."""
    site = ledger.site
    try:
        for what in plan.rebuild:
            changes = [change for change in plan.files if change.file.feeds == what]
            with (
                _put_back_on_failure(site.root, changes, report),
                images.kept(site.root, what, report) as before,
            ):
                _write_files(site.root, changes, report)
                _rebuild(tools, what, plan, report)
                images.check(site, what, plan.generator, before, report)
            ledger.rebuilt(what, plan.record.activated.get(what))
    except Exception as error:
        retries.note(site, _retry_key(site, plan), error)
        raise
    retries.forget(site)


def hold_back(site: Site, plan: Plan, *, is_patient: bool) -> None:
    """Hold a plan back whose rebuild has failed before, until the pause after that is over.

    Args:
        site: where.
        plan: what to do.
        is_patient: whether the run waits for that; one that does not begins to count anew.

    Raises:
        HeldBackError: while the pause lasts, with the words of the former error.
        OSError: when it cannot be read what became of the last rebuild.
    """
    if not is_patient:
        retries.forget(site)
    elif plan.rebuild:
        retries.check(site, _retry_key(site, plan))


def _retry_key(site: Site, plan: Plan) -> str:
    """Digest what the rebuilds of a plan depend on: a change of it is worth another try."""
    wanted = dict(plan.record.activated)
    return digest.of(_RETRY, {"wanted": wanted, "kernels": sorted(initramfs.find_all(site.root))})


def _rebuild(
    tools: Tools, what: enums.Rebuild, plan: Plan, report: Callable[[str], object]
) -> None:
    try:
        tools.rebuild(what, report, plan.generator)
    except OSError as error:
        raise ApplyError(
            f"{what} was not rebuilt: {error.filename or 'the disk'}", error
        ) from error


@contextlib.contextmanager
def _put_back_on_failure(
    root: Path, changes: Iterable[FileChange], report: Callable[[str], object]
) -> Generator[None]:
    try:
        yield
    except Exception:
        for change in changes:
            old = change.old or files.Present("", change.file.mode)
            content = change.old.content if change.old else None
            try:
                if files.ensure(root / change.file.path, content, old.mode):
                    report(f"/{change.file.path}: put back")
            except OSError as error:
                # The record calls this step undone, so the next run mends it.
                report(f"/{change.file.path}: could not be put back: {error.strerror}")
        raise


def _verb(change: FileChange) -> str:
    return "removed" if change.file.content is None else "written"


def _describe(change: FileChange) -> str:
    if change.old is None:
        return f"/{change.file.path} was missing"
    return (
        f"/{change.file.path} had been {'left behind' if change.file.content is None else 'edited'}"
    )


def _change_drivers(
    root: Path,
    plan: Plan,
    confirm: Confirm,
    tools: Tools,
    report: Callable[[str], object],
) -> dict[str, errors.BindError]:
    """Change one driver after the other, each after it was asked for once more.

    Behind a driver that has not released its device no other one is touched.

    Returns:
        Address of each function that kept its driver → why.
    """
    failed: dict[str, errors.BindError] = {}

    def leave(error: errors.BindError) -> None:
        failed[error.address] = error
        report(f"not changed: {error}")

    releases = drivers.Releases(root, tools.load_native)

    def give_back(binding: Binding) -> None:
        releases.release(binding.address, binding.target, binding.variant)
        report(f"{binding.address}: given back")

    def take(binding: Binding) -> None:
        with confirm(binding.address) as objection:
            if objection is not None:
                raise errors.PostponedError.because(binding.address, objection)
            drivers.bind(root, binding.address, binding.module, is_pinned=binding.is_pinned)
        report(f"{binding.address}: {drivers.describe(root, binding.address, binding.module)}")

    steps = [(give_back, each) for each in plan.release] + [(take, each) for each in plan.bind]
    for number, (change, binding) in enumerate(steps):
        if plan.bind and binding is plan.bind[0]:
            tools.load_vfio(modules.variants_among(each.module for each in plan.bind))
        try:
            change(binding)
        except errors.StuckError as error:
            leave(error)
            for _, each in steps[number + 1 :]:
                leave(errors.PostponedError.after(error, each.address))
            break
        except errors.BindError as error:
            leave(error)
    return failed
