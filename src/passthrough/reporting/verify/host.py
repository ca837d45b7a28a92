"""Checks of the host's kernel, boot files and guests. Pure.

To add a check, write a function and add it to ``CHECKS``; a field of `evidence.Seen` holds what it
needs to see beyond the decision.
"""

from __future__ import annotations

from collections.abc import Iterator

from passthrough import enums, reboot
from passthrough.host import exporter_files, kernel_line, watch
from passthrough.planning import caretaking
from passthrough.reporting import words
from passthrough.reporting.verify.evidence import Seen
from passthrough.reporting.verify.result import FAIL, OK, UNKNOWN, Check
from passthrough.state import record
from passthrough.survey import Decision

_RECONCILE = "run the action reconcile"


def _interrupts(decision: Decision, seen: Seen) -> Iterator[Check]:
    name = "interrupt-remapping"
    if not decision.host.has_groups:
        return
    machine = decision.facts.machine
    off = kernel_line.leaves_remapping_off(machine.command_line, machine.iommu_table)
    if seen.remaps_interrupts is None:
        yield Check(name, OK, "the kernel shows none to remap (not an x86 machine)")
    elif seen.remaps_interrupts:
        yield Check(name, OK, "on")
    elif seen.unsafe_interrupts:
        yield Check(
            name, OK, "off, and allow_unsafe_interrupts is set: a guest can attack the host with it"
        )
    elif off:
        yield Check(
            name,
            FAIL,
            f"off, so vfio refuses every guest: the kernel was started with {off}",
            f"take {off} off the kernel's command line, and reboot",
        )
    else:
        yield Check(
            name,
            FAIL,
            "off, so vfio refuses every guest",
            "turn interrupt remapping (and x2APIC) on in the firmware's settings; where it has"
            " none, and for trusted guests alone, set allow-unsafe-interrupts=true",
        )


def _modules(decision: Decision, seen: Seen) -> Iterator[Check]:
    if not decision.claims:
        return
    # No check of the IOMMU backend: the kernel loads it when the first guest needs it.
    if seen.has_vfio_pci:
        how = "built into the kernel" if seen.vfio_is_built_in else "loaded"
        yield Check("vfio-modules", OK, f"vfio-pci is {how}")
    else:
        hint = f"; lockdown is {seen.lockdown}: modules must be signed" if _is_locked(seen) else ""
        line = decision.facts.machine.command_line
        off = kernel_line.keeps_off_module(line, "vfio_pci")
        mend = f"{_take_off(off)}run modprobe vfio-pci and see dmesg{hint}"
        # The charm loads it where a function can be bound.
        waits = not (decision.host.has_groups or off)
        yield Check(
            "vfio-modules",
            FAIL,
            f"vfio-pci is not loaded{_started_with(off)}",
            "follows from iommu" if waits else mend,
        )


def _noiommu(decision: Decision, seen: Seen) -> Iterator[Check]:
    if seen.noiommu:
        line = decision.facts.machine.command_line
        by = kernel_line.setter(line, "vfio.enable_unsafe_noiommu_mode")
        yield Check(
            "noiommu",
            FAIL,
            "vfio's enable_unsafe_noiommu_mode is on: guests could write to all of the memory"
            + _started_with(by),
            f"take {by} off the kernel's command line, and reboot"
            if by
            else "take it out of modprobe.d and the kernel command line, and reboot",
        )
    else:
        yield Check("noiommu", OK, "off")


def _started_with(token: str) -> str:
    return f"; the kernel was started with {token}" if token else ""


def _take_off(token: str) -> str:
    return f"take {token} off the kernel's command line, or " if token else ""


def _lockdown(decision: Decision, seen: Seen) -> Iterator[Check]:
    del decision
    if seen.lockdown is None:
        yield Check("lockdown", OK, "the kernel has none")
    else:
        signed = ": only signed modules load" if _is_locked(seen) else ""
        yield Check("lockdown", OK, f"{seen.lockdown}{signed}")


def _is_locked(seen: Seen) -> bool:
    return seen.lockdown not in (None, "none")


def _initramfs(decision: Decision, seen: Seen) -> Iterator[Check]:
    if not decision.claims:
        return
    if not seen.images:
        yield Check("initramfs-content", UNKNOWN, "no image was found below /boot")
    for image in seen.images:
        name = f"initramfs-content {image.path}"
        if image.problem:
            yield Check(name, UNKNOWN, image.problem)
        elif image.missing:
            yield Check(
                name,
                FAIL,
                f"lacks {' '.join(image.missing)} as they are now",
                f"run {seen.rebuild}, and see what it says",
            )
        elif enums.Rebuild.INITRAMFS in decision.plan.rebuild:
            yield Check(name, FAIL, "is not made anew yet", "follows from initramfs")
        elif not (image.has_vfio_pci or seen.vfio_is_built_in):
            yield Check(
                name,
                FAIL,
                "holds our files and no vfio-pci module",
                "see whether the kernel has vfio-pci: modinfo vfio-pci",
            )
        elif image.lacking:
            yield Check(
                name,
                FAIL,
                f"holds no module {' '.join(image.lacking)}, so this kernel boots with vfio-pci",
                f"see modinfo -k {image.release} {image.lacking[0]}, then run {seen.rebuild}",
            )
        else:
            yield Check(name, OK, " and ".join(["holds our files", "vfio-pci", *image.variants]))


def _grub(decision: Decision, seen: Seen) -> Iterator[Check]:
    del seen
    machine = decision.facts.machine
    if machine.has_grub and machine.other_loader and decision.claims:
        yield Check(
            "grub.cfg",
            OK,
            f"this kernel was not booted by GRUB ({machine.other_loader} started it), so the charm"
            " writes no options for it",
        )
    # Without GRUB there is only the running kernel's command line to see.
    if not (decision.plan.kernel_options and machine.boots_by_grub):
        return
    entry = decision.facts.machine.grub.entry
    problem = decision.plan.grub_problem
    if problem:
        yield Check("grub.cfg", FAIL, words.fact(problem), words.way_out(problem))
    elif enums.Rebuild.GRUB in decision.plan.rebuild:
        yield Check("grub.cfg", FAIL, "not rebuilt since its files changed", "follows from grub")
    elif entry is None:
        yield Check("grub.cfg", UNKNOWN, "there is none, or it has no entry")
    else:
        yield Check("grub.cfg", OK, f"boots with {' '.join(decision.plan.kernel_options)}")


def _holders(decision: Decision, seen: Seen) -> Iterator[Check]:
    for claim in decision.claims:
        who = seen.holders.get(claim.address)
        if who:
            names = ", ".join(f"{seen.guests.get(each, 'a process')} ({each})" for each in who)
            yield Check(f"in-use {claim.address}", OK, f"held by {names}")
    for binding in decision.plan.pending:
        who = ", ".join(map(str, decision.held[binding.address]))
        if not who:
            continue  # it waits with the other VFs of its card
        yield Check(
            f"in-use {binding.address}",
            FAIL,
            f"not claimed any more, and held by process {who}",
            "stop or migrate the guest; the next hook then gives the device back",
        )


def _overrides(decision: Decision, seen: Seen) -> Iterator[Check]:
    del seen
    for claim in decision.claims:
        if claim.item.allow_in_use:
            facts = "; ".join(f"it {words.objection_fact(each)}" for each in claim.overridden)
            yield Check(
                f"allow-in-use {claim.address}", OK, facts or "no guard has anything against it"
            )


def _switch(decision: Decision, seen: Seen) -> Iterator[Check]:
    del seen
    if words.switched_off(decision):
        switch = decision.facts.machine.switch
        yield Check(
            "switch",
            FAIL,
            f"the kernel was started with {switch}, so nothing is claimed in this boot",
            f"reboot without {switch}",
        )


def _variants(decision: Decision, seen: Seen) -> Iterator[Check]:
    del seen
    for claim in decision.claims:
        said = words.unused_variant(claim)
        if said:
            yield Check(f"vfio-driver {claim.address}", OK, said)


def _kept_options(decision: Decision, seen: Seen) -> Iterator[Check]:
    del seen
    for said in words.kept_options(decision.plan):
        yield Check("kernel-options", OK, said)


def _exporter(decision: Decision, seen: Seen) -> Iterator[Check]:
    """See that the exporter of metrics is there where it is asked for, and answers."""
    name = "exporter"
    known, found = decision.facts.record.exporter, seen.exporter
    there = [f"/{path}" for path, text in found.files.items() if text is not None]
    if not known:
        if there:
            yield Check(name, FAIL, f"is off, and {' '.join(there)} is there", _RECONCILE)
        elif found.is_wanted:
            yield Check(name, FAIL, "the option metrics asks for it, and it is off", _RECONCILE)
        return
    texts = {path: text or "" for path, text in found.files.items()}
    lacks = [f"/{path}" for path, text in found.files.items() if text is None]
    socket = f"{exporter_files.unit_name(decision.site.application)}.socket"
    fix = f"{_RECONCILE}; if it stays so, see systemctl status {socket}"
    if lacks:
        yield Check(name, FAIL, f"lacks {' '.join(lacks)}", _RECONCILE)
    elif known == record.NOT_LISTENING:
        yield Check(name, FAIL, "systemd does not listen for it", fix)
    elif known != caretaking.fingerprint(texts):
        yield Check(name, FAIL, f"somebody has changed {' '.join(there)}", _RECONCILE)
    elif found.problem:
        seen_here = f"does not answer on port {found.port}: {found.problem}"
        yield Check(name, FAIL, seen_here, f"see systemctl status {socket}")
    else:
        how = "listens" if found.problem is None else "answers"
        yield Check(name, OK, f"{how} on port {found.port}")


def _caretaker(decision: Decision, seen: Seen) -> Iterator[Check]:
    """See that somebody would give back what a unit that vanished has left."""
    name = "caretaker"
    known = decision.facts.record
    if not seen.caretaker:
        return
    if known.keep:
        yield Check(name, OK, "does nothing: on-removal is keep")
        return
    if seen.caretaker_is_off:
        yield Check(name, OK, f"turned off: /{watch.SWITCH} is there")
        return
    wanted = caretaking.contents(decision.site.application)
    lacks = [f"/{path}" for path, text in seen.caretaker.items() if text is None]
    differs = [
        f"/{path}" for path, text in seen.caretaker.items() if text not in (None, wanted[path])
    ]
    if lacks:
        yield Check(name, FAIL, f"lacks {' '.join(lacks)}", _RECONCILE)
    elif differs:
        yield Check(name, FAIL, f"is not this revision's: {' '.join(differs)}", _RECONCILE)
    elif known.caretaker.started != caretaking.fingerprint(wanted):
        unit = f"{watch.unit_name(decision.site.application)}.timer"
        fix = f"{_RECONCILE}; if it stays so, see systemctl status {unit}"
        yield Check(name, FAIL, "its timer has not started", fix)
    else:
        yield Check(name, OK, "its timer is enabled, and its program is this revision's")


def _reboot(decision: Decision, seen: Seen) -> Iterator[Check]:
    del seen
    # A reboot that is still to come is no failure, whether or not guests run.
    verdict = reboot.judge(decision) if reboot.is_spent(decision) else reboot.Verdict()
    if verdict.action is reboot.Action.SPENT:
        yield Check("reboot", FAIL, words.verdict(verdict), "mend the cause, then reboot by hand")


CHECKS = (
    _switch,
    _interrupts,
    _modules,
    _noiommu,
    _lockdown,
    _initramfs,
    _grub,
    _holders,
    _overrides,
    _variants,
    _kept_options,
    _caretaker,
    _exporter,
    _reboot,
)
