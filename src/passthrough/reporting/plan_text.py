"""Plans, checks and rebinds: tables for people, and the same as plain values for programs."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from passthrough import errors, pci_address
from passthrough.host import pci
from passthrough.planning import caretaking, plan
from passthrough.reporting import (
    flavors,
    health_text,
    nova_text,
    quarantines,
    schema,
    tables,
    words,
)
from passthrough.reporting import leftovers as hand_made
from passthrough.reporting.verify import result
from passthrough.survey import Decision

# Enough for a word and an address: "device_spec 0000:83:00.0".
_NAME_WIDTH = 26
# Where nobody has looked for the caretaker's files.
NOBODY: Mapping[str, str | None] = {}
_RESULT_COLOURS: dict[str, str] = {result.OK: "green", result.FAIL: "red", result.UNKNOWN: "yellow"}


def describe_plan(
    decision: Decision,
    leftovers: Sequence[hand_made.Leftover] = (),
    caretaker: Mapping[str, str | None] = NOBODY,
) -> dict[str, Any]:
    """Describe a survey's plan in plain values, stable for the same host and options.

    Args:
        decision: the host, and what would change on it.
        leftovers: what `leftovers.find` found on the host.
        caretaker: what `watch.read` read of it.
    """
    planned = decision.plan
    problem = planned.grub_problem
    return {
        "schema": schema.NUMBER,
        "claims": [
            {
                "address": claim.address,
                "id": claim.function.id,
                "driver": claim.function.driver,
                "alias": claim.item.alias if claim.companion_of is None else None,
                "companion-of": claim.companion_of,
                "allow-in-use": claim.item.allow_in_use,
                "overridden": [words.objection_fact(each) for each in claim.overridden],
            }
            for claim in decision.claims
        ],
        "health": [
            {"address": address, **health_text.describe(judged)}
            for address, judged in decision.health.items()
        ],
        "refusals": [
            {"rule": refusal.rule, "blocking": refusal.blocking, "reason": words.refusal(refusal)}
            for refusal in decision.refusals
        ],
        "flavors": flavors.describe(decision),
        "files": [
            {"path": f"/{change.file.path}", "change": _kind_of(change), "diff": _diff(change)}
            for change in _changes(decision)
        ],
        "caretaker": [
            {"path": f"/{path}", "change": change}
            for path, change in _changes_of_caretaker(decision, caretaker).items()
        ],
        "rebuild": list(planned.rebuild),
        "vfs": [each._asdict() for each in planned.vfs.changes],
        "bind": [binding.address for binding in planned.bind],
        "release": [binding.address for binding in planned.release],
        "pending": [
            {"address": binding.address, "processes": list(decision.held[binding.address])}
            for binding in planned.pending
        ],
        "switched-off": decision.facts.machine.switch or None,
        "at-boot": list(planned.at_boot),
        "reboot": [words.sentence(each) for each in planned.reboot],
        "grub-problem": words.sentence(problem) if problem else None,
        "kept-options": list(planned.kept_options),
        "lent": sorted(decision.facts.record.lent, key=pci_address.sort_key),
        "quarantine": quarantines.describe_all(planned.record.quarantine),
        "erasing": sorted(planned.record.erasing, key=pci_address.sort_key),
        "nova": nova_text.describe_offer(decision.nova_planned),
        "leftovers": [dataclasses.asdict(each) for each in leftovers],
    }


def plan_text(
    decision: Decision,
    leftovers: Sequence[hand_made.Leftover] = (),
    style: tables.Style = tables.PLAIN,
    caretaker: Mapping[str, str | None] = NOBODY,
) -> str:
    """Lay a survey's plan out for a person: claims, refusals, diffs, then what follows."""
    planned = decision.plan
    sections: list[str] = []
    if decision.claims:
        sections.append(_claims_table(decision, style))
    said = [each for judged in decision.health.values() for each in health_text.sentences(judged)]
    said += quarantines.sentences(decision)
    if said:
        sections.append("\n".join(tables.wrap(each, style) for each in said))
    if decision.refusals:
        refusals = (f"not claimed: {words.refusal(each)}" for each in decision.refusals)
        sections.append("\n".join(tables.wrap(each, style) for each in refusals))
    overridden = [
        f"claimed by allow-in-use: {claim.address}, though it {words.objection_fact(each)}"
        for claim in decision.claims
        for each in claim.overridden
    ]
    if overridden:
        sections.append("\n".join(tables.wrap(each, style) for each in overridden))
    sections += [tables.wrap(each, style) for each in _kept_from_nova(decision)]
    sections += flavors.sections(decision)
    sections += [tables.paint_diff(_diff(change), style) for change in _changes(decision)]
    steps = [
        f"caretaker: {change} /{path}"
        for path, change in _changes_of_caretaker(decision, caretaker).items()
    ]
    steps += [
        f"VFs of {each.address} now: {each.present} -> {each.number}"
        for each in planned.vfs.changes
    ]
    steps += [f"rebuild: {what}" for what in planned.rebuild]
    steps += [f"give back: {_movement(binding)}" for binding in planned.release]
    steps += [
        f"give back when the guest is gone: {_movement(binding)}, held by process"
        f" {', '.join(map(str, decision.held[binding.address]))}"
        if decision.held[binding.address]
        else f"goes with the other VFs of its card: {binding.address}"
        for binding in planned.pending
    ]
    steps += [f"bind now: {_movement(binding)}" for binding in planned.bind]
    switched_off = words.switched_off(decision)
    if switched_off:
        steps.append(switched_off)
    if planned.at_boot:
        steps.append(f"bind at the next boot: {' '.join(planned.at_boot)}")
    steps += nova_text.offer_steps(decision.nova_planned)
    steps += [f"reboot required: {words.sentence(each)}" for each in planned.reboot]
    steps += words.kept_options(planned)
    if planned.grub_problem:
        steps.append(f"to be mended first: {words.sentence(planned.grub_problem)}")
    sections.append(
        "\n".join(tables.wrap(step, style) for step in steps) if steps else "nothing to change"
    )
    if leftovers:
        sections.append(_leftovers_text(decision, leftovers, style))
    return "\n\n".join(section.rstrip("\n") for section in sections)


def _kept_from_nova(decision: Decision) -> list[str]:
    """What an operator's actions keep from Nova, a sentence for each."""
    erasing, lent = words.erasing(decision), words.lent(decision)
    return [
        *([f"{erasing}; until then Nova is not offered it"] if erasing else []),
        *([f"{lent}; the action take-back ends that"] if lent else []),
    ]


def _leftovers_text(
    decision: Decision, leftovers: Sequence[hand_made.Leftover], style: tables.Style
) -> str:
    lines = ["left over from a set-up by hand (the charm deletes none of it):"]
    for each in leftovers:
        lines.append(tables.wrap(f"{each.path}: {each.advice}", style))
        lines.append(tables.wrap(f"  {each.reason}", style))
        if not each.can_go:
            shown = (f"  line {part.line}: {part.text}" for part in each.parts)
            lines += [tables.cut(line, style.width) for line in shown]
    commands = dict.fromkeys(each.rebuild for each in leftovers if each.rebuild)
    if commands:
        lines.append(f"after that, run: {' && '.join(commands)}")
    unclaimed = hand_made.find_unclaimed(leftovers, decision.host, decision.outcome)
    if unclaimed:
        text = (
            "before that, claim what it binds, or the next boot leaves"
            f" {' '.join(unclaimed)} to the host's drivers"
            f" (devices={hand_made.suggest_devices(leftovers, decision.host)})"
        )
        lines.insert(1, tables.wrap(text, style))
    return "\n".join(lines)


def describe_checks(checks: Sequence[result.Check]) -> list[dict[str, Any]]:
    """Describe checks in plain values."""
    return [{"schema": schema.NUMBER, **dataclasses.asdict(each)} for each in checks]


def checks_table(checks: Sequence[result.Check], style: tables.Style = tables.PLAIN) -> str:
    """Lay checks out for a person; below the table stand the failed ones, with the way out."""
    table = tables.format_table(
        ("CHECK", "RESULT", "SEEN"),
        (_check_row(each) for each in checks),
        style,
        {1: _RESULT_COLOURS},
    )
    notes: list[str] = []
    for each in checks:
        if each.status != result.OK:
            notes.append(tables.wrap(f"{each.name}: {each.seen}", style))
            if each.fix:
                notes.append(tables.wrap(f"  to mend it: {each.fix}", style, indent="    "))
    return "\n".join([table, *([""] if notes else []), *notes])


def describe_rebind(done: Mapping[str, errors.BindError | None]) -> list[dict[str, Any]]:
    """Describe what the rebind action did to each function."""
    return [
        {"address": address, "bound": error is None, "error": str(error) if error else None}
        for address, error in done.items()
    ]


def rebind_table(done: Mapping[str, errors.BindError | None], host: pci.Host | None = None) -> str:
    """Lay out for a person what the rebind action did; below the table stand the errors, whole.

    Args:
        done: what it did to each function.
        host: the functions behind it; None where all are on vfio-pci.
    """
    functions: Mapping[str, pci.Function] = host.functions if host else {}

    def driver(address: str) -> str:
        function = functions.get(address)
        return (function and function.driver) or pci.VFIO_PCI

    table = tables.format_table(
        ("ADDRESS", "RESULT"),
        ((each, "failed" if error else f"bound to {driver(each)}") for each, error in done.items()),
    )
    errors = [tables.wrap(str(error)) for error in done.values() if error]
    return "\n".join([table, *([""] if errors else []), *errors])


def _check_row(check: result.Check) -> tuple[str, str, str]:
    """The cells of a check. The subject of a long name moves to the last, and widens no column."""
    if len(check.name) <= _NAME_WIDTH:
        return check.name, check.status, check.seen
    kind, _, subject = check.name.partition(" ")
    return kind, check.status, f"{subject}: {check.seen}"


def _claims_table(decision: Decision, style: tables.Style) -> str:
    return tables.format_table(
        ("CLAIM", "ID", "DRIVER", "GROUP", "FOR"),
        (
            (
                claim.address,
                claim.function.id,
                claim.function.driver or "-",
                "-" if claim.function.group is None else str(claim.function.group),
                f"companion of {claim.companion_of}"
                if claim.companion_of
                else f"alias {claim.item.alias}"
                if claim.item.alias
                else f"item {claim.item.position}",
            )
            for claim in decision.claims
        ),
        style,
    )


def _changes(decision: Decision) -> tuple[plan.FileChange, ...]:
    """Every file that would change; the drop-in for Nova as it is once the functions are bound."""
    drop_in = decision.nova_planned.change
    return (*decision.plan.files, *([drop_in] if drop_in else []))


def _changes_of_caretaker(decision: Decision, present: Mapping[str, str | None]) -> dict[str, str]:
    """What becomes of the caretaker's files: path → create, replace or remove.

    Of the program there is no diff: it is a copy of the charm's own code.
    """
    if not present:
        return {}
    aim = decision.plan.record
    comes = aim.has_host or decision.nova_planned.content
    wanted = caretaking.contents(decision.site.application) if comes else {}
    changed = {path: text for path, text in present.items() if wanted.get(path) != text}
    if not comes and aim.reboot:
        return {}  # it stays as long as the record does
    return {
        path: "remove" if path not in wanted else "create" if text is None else "replace"
        for path, text in changed.items()
    }


def _movement(binding: plan.Binding) -> str:
    return f"{binding.address} {binding.current or 'no driver'} -> {binding.target or 'native'}"


def _kind_of(change: plan.FileChange) -> str:
    if change.old is None:
        return "create"
    return "remove" if change.file.content is None else "replace"


def _diff(change: plan.FileChange) -> str:
    """A unified diff; a change of mode alone is one line."""
    path = change.file.path
    old, new = change.old.content if change.old else "", change.file.content or ""
    if change.old and change.file.content == old:
        return f"/{path}: mode {change.old.mode:o} -> {change.file.mode:o}\n"
    return "".join(
        line if line.endswith("\n") else f"{line}\n"
        for line in difflib.unified_diff(
            old.splitlines(keepends=True),
            new.splitlines(keepends=True),
            f"a/{path}" if change.old else "/dev/null",
            f"b/{path}" if change.file.content is not None else "/dev/null",
        )
    )
