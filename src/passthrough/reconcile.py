"""Look at the host, decide, and bring it to what the options ask for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from passthrough import apply, boot, claims, files, options, pci, plan, platform, record
from passthrough.host import Tools


@dataclasses.dataclass(frozen=True)
class Survey:
    """The host as it is, what is decided for it, and what would change."""

    application: str
    wanted: options.Options
    host: pci.Host
    facts: platform.Platform
    record: record.Record
    decision: claims.Decision
    plan: plan.Plan


@dataclasses.dataclass(frozen=True)
class Result:
    """The survey after a run, and what the run did."""

    survey: Survey
    outcome: apply.Outcome = dataclasses.field(default_factory=apply.Outcome)


def survey(root: Path, application: str, wanted: options.Options) -> Survey:
    """Look at the tree at ``root`` and work out what would change; reads only.

    Raises:
        OptionError: when two items ask for the same function.
        UnsupportedHostError: when this host cannot do what is asked.
        RecordError: when an application's record is damaged.
        OSError: when the tree cannot be read.
    """
    host = pci.read(root)
    facts = platform.read(root)
    mine = record.read(root, application)
    decision = claims.decide(wanted.devices, host, record.taken_by_others(root, application))
    present = {file.path: files.read(root / file.path) for file in boot.owned_files(application)}
    return Survey(
        application=application,
        wanted=wanted,
        host=host,
        facts=facts,
        record=mine,
        decision=decision,
        plan=plan.make(application, wanted, decision, host, facts, mine, present),
    )


def reconcile(
    root: Path,
    application: str,
    wanted: options.Options,
    tools: Tools,
    progress: Callable[[str], object],
) -> Result:
    """Bring the host to what ``wanted`` asks for; default options undo everything.

    Returns:
        What was done, and the host as it is afterwards.

    Raises:
        PassthroughError: as `survey` does, before anything is changed; or when a rebuild fails.
        OSError: when a file cannot be read or written.
    """
    before = survey(root, application, wanted)
    outcome = apply.apply(root, application, before.plan, before.record, tools, progress)
    if not outcome.did:
        return Result(before, outcome)
    return Result(survey(root, application, wanted), outcome)
