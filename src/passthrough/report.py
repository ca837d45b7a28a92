"""The same data twice: tables for people and plain values for programs."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from passthrough import claims, names, pci, plan, tables, vfio
from passthrough.reconcile import Survey


def describe_devices(root: Path, host: pci.Host) -> list[dict[str, Any]]:
    """Describe every PCI function: what it is, who has it, and whether it can be claimed.

    Returns:
        One mapping a function, in address order. ``reason`` says why it cannot be claimed, or is
        None; ``devices`` is the item that would claim exactly this function.
    """
    known = names.look_up(root, host.functions.values())
    described = []
    for address, function in host.functions.items():
        reason = claims.explain_unclaimable(function, host)
        described.append(
            {
                "address": address,
                "id": function.id,
                "name": known.device(function),
                "class": known.kind(function),
                "driver": function.driver,
                "numa-node": function.numa_node,
                "iommu-group": function.group,
                "group-members": [each.address for each in host.group_members(function)],
                "device-type": function.device_type,
                "sriov-total-vfs": function.total_vfs,
                "sriov-vfs": function.num_vfs,
                "claimable": reason is None,
                "reason": reason,
                "devices": f"{function.id}@{address}",
            }
        )
    return described


def devices_table(described: list[dict[str, Any]]) -> str:
    """Lay the result of `describe_devices` out for a person."""
    return tables.format_table(
        ("ADDRESS", "ID", "DRIVER", "GROUP", "NUMA", "CLAIMABLE", "NAME"),
        (
            (
                row["address"],
                row["id"],
                row["driver"] or "-",
                "-" if row["iommu-group"] is None else str(row["iommu-group"]),
                "-" if row["numa-node"] is None else str(row["numa-node"]),
                "yes" if row["claimable"] else "no",
                f"{row['class']}: {row['name']}",
            )
            for row in described
        ),
    )


def describe_plan(survey: Survey) -> dict[str, Any]:
    """Describe a survey's plan in plain values, stable for the same host and options."""
    planned = survey.plan
    return {
        "claims": [
            {
                "address": claim.address,
                "id": claim.function.id,
                "driver": claim.function.driver,
                "alias": claim.item.alias if claim.companion_of is None else None,
                "companion-of": claim.companion_of,
            }
            for claim in survey.decision.claims
        ],
        "refusals": [
            {"rule": refusal.rule, "blocking": refusal.blocking, "reason": str(refusal)}
            for refusal in survey.decision.refusals
        ],
        "files": [
            {"path": f"/{change.file.path}", "change": _kind_of(change), "diff": _diff(change)}
            for change in planned.files
        ],
        "rebuild": list(planned.rebuild),
        "bind": [binding.address for binding in planned.bind],
        "release": [binding.address for binding in planned.release],
        "at-boot": list(planned.at_boot),
        "reboot": list(planned.reboot),
    }


def plan_text(survey: Survey) -> str:
    """Lay a survey's plan out for a person: claims, refusals, diffs, then what follows."""
    planned = survey.plan
    sections = []
    if survey.decision.claims:
        sections.append(_claims_table(survey))
    if survey.decision.refusals:
        sections.append("\n".join(f"not claimed: {each}" for each in survey.decision.refusals))
    sections += [_diff(change) for change in planned.files]
    steps = [f"rebuild: {what}" for what in planned.rebuild]
    steps += [f"give back: {_movement(binding)}" for binding in planned.release]
    steps += [f"bind now: {_movement(binding)}" for binding in planned.bind]
    if planned.at_boot:
        steps.append(f"bind at the next boot: {' '.join(planned.at_boot)}")
    steps += [f"reboot required: {reason}" for reason in planned.reboot]
    sections.append("\n".join(steps) if steps else "nothing to change")
    return "\n\n".join(section.rstrip("\n") for section in sections)


def describe_rebind(done: Mapping[str, vfio.BindError | None]) -> list[dict[str, Any]]:
    """Describe what the rebind action did to each function."""
    return [
        {"address": address, "bound": error is None, "error": str(error) if error else None}
        for address, error in done.items()
    ]


def rebind_table(done: Mapping[str, vfio.BindError | None]) -> str:
    """Lay out for a person what the rebind action did."""
    return tables.format_table(
        ("ADDRESS", "RESULT"),
        ((address, str(error or "bound to vfio-pci")) for address, error in done.items()),
    )


def _claims_table(survey: Survey) -> str:
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
            for claim in survey.decision.claims
        ),
    )


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
