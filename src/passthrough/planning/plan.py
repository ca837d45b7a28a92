"""What would change on the host as it is, so that the claims come true. Pure.

A hook applies a `Plan`, the action ``plan`` prints it, and tests assert on it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Container, Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from passthrough import enums, frozen, pci_address
from passthrough.config import kernel_options, options
from passthrough.host import generators, grub, machine, modules, pci
from passthrough.planning import (
    away,
    boot_files,
    claims,
    guards,
    prerequisites,
    templates,
    vfio_driver,
    vfs,
    viability,
)
from passthrough.problem import Kind, Problem
from passthrough.state import digest
from passthrough.state.record import Record

if TYPE_CHECKING:
    from passthrough.system import files

# Of the way in which files are spelled out for their digest.
_FINGERPRINT = 2


class FileChange(NamedTuple):
    """One owned file that is not as it should be; ``old`` is None where there is none yet.

    ``drifted`` tells whether it was as it should be, and somebody else has changed it since.
    """

    file: boot_files.File
    old: files.Present | None
    drifted: bool = False


class Binding(NamedTuple):
    """A function that should change its driver while the host runs.

    ``current`` is the driver it has, None for none. ``target`` is the one it should have: a VFIO
    driver, or the driver that it had before; None where that is not known. ``module`` is the VFIO
    driver's module, and ``is_pinned`` tells that vfio-pci will not do instead. For one that is
    given back ``variant`` is the variant of vfio-pci that has it.
    """

    address: str
    current: str | None
    target: str | None
    module: str = modules.VFIO_PCI
    is_pinned: bool = False
    variant: str | None = None


class Plan(frozen.Value):
    """Everything that would change, in the order in which a hook applies it.

    Attributes:
        release: functions to give back to their native drivers.
        files: owned files to write or remove.
        rebuild: what has to be rebuilt after them, in that order.
        bind: functions to bind to their VFIO drivers now.
        at_boot: claimed functions that only a reboot can bind.
        reboot: the reasons for a reboot, empty when none is needed.
        record: what the application's record should hold in the end.
        pending: functions to leave alone until the guests that hold them are gone, and to give
            back then.
        grub_problem: why GRUB would boot without our options although its configuration was
            rebuilt, and what to do; None when all is well.
        kernel_options: what the kernel's command line should hold for the claims.
        generator: makes the initramfs, where that is among ``rebuild``; None where none can be
            told.
        kept_options: those of them that the option kernel-options takes no more, and that stay
            since this host runs with them.
        vfs: what becomes of the VFs of functions that stay with the host; before all the rest.
    """

    release: tuple[Binding, ...] = ()
    files: tuple[FileChange, ...] = ()
    rebuild: tuple[enums.Rebuild, ...] = ()
    bind: tuple[Binding, ...] = ()
    at_boot: tuple[str, ...] = ()
    reboot: tuple[Problem, ...] = ()
    record: Record = frozen.field(default_factory=Record)
    pending: tuple[Binding, ...] = ()
    grub_problem: Problem | None = None
    kernel_options: tuple[str, ...] = ()
    generator: generators.Generator | None = None
    kept_options: tuple[str, ...] = ()
    vfs: vfs.Outcome = frozen.field(default_factory=vfs.Outcome)

    @property
    def changes_host(self) -> bool:
        """Whether applying it would change anything on the host."""
        made = self.vfs.changes or self.vfs.restores
        return bool(self.release or self.files or self.rebuild or self.bind or made)


class Situation(NamedTuple):
    """What a plan starts from, besides what is claimed.

    Attributes:
        application: the Juju application.
        machine: boot loader, generator, running command line.
        record: what the application has taken and activated before.
        present: what each owned path holds now.
        held: who holds a function that is to be given back, by its address.
        others: addresses that another application has taken, which are its own to give back.
        aliases: the modules that the installed kernels name for a function.
        vfs: what becomes of the VFs.
        missing: what was taken and is not there any more, as `Record.missing` has it.
        away: the claims of that, as `away.recall` gives them.
    """

    application: str
    machine: machine.Platform
    record: Record = Record()
    present: Mapping[str, files.Present | None] = {}
    held: Container[str] = ()
    others: Collection[str] = ()
    aliases: modules.Aliases = modules.Aliases.none()
    vfs: vfs.Outcome = vfs.Outcome()
    missing: Mapping[str, Mapping[str, str]] = {}
    away: tuple[claims.Claim, ...] = ()


def make(
    wanted: options.Options,
    outcome: claims.Outcome,
    now: Situation,
    renderer: templates.Renderer,
) -> Plan:
    """Compare the host as it should be with the host as it is.

    Args:
        wanted: the application's options.
        outcome: what it claims on this host.
        now: the host as it is.
        renderer: gives the content of files.

    Raises:
        prerequisites.UnsupportedHostError: when the host cannot do what is asked; nothing may
            change then.
        OptionError: when blacklist-drivers names a driver that the host needs, or kernel-options
            what this charm does not set and the host does not run with; the same.
    """
    host, record, others = outcome.host, now.record, now.others
    facts = _told_by_record(now)
    application, present, held = now.application, now.present, now.held
    claimed = outcome.claims
    # What is away for a while stays in the boot files, so that it costs no rebuild.
    at_boot = tuple(
        sorted((*claimed, *now.away), key=lambda each: pci_address.sort_key(each.address))
    )
    # VFs are for guests, so they need all of the kernel that claims need, one boot earlier.
    asks = bool(at_boot or now.vfs.wanted)
    blacklist = boot_files.blacklisted_drivers(wanted, at_boot, host, now.aliases, others)
    tokens = boot_files.kernel_options(wanted, blacklist, facts)
    # Keep the option that turns the IOMMU on where a group bars a claim: a boot without it shows no
    # group, and the charm would claim again.
    unviable = any(refusal.rule in claims.GROUP_RULES for refusal in outcome.refusals)
    keeps = unviable and bool(present.get(boot_files.grub_path(application)))
    kept: tuple[str, ...] = ()
    if asks or keeps:
        kept = kernel_options.check(wanted.kernel_options, _options_in_force(now))
    if asks:
        drop_in = boot_files.grub_path(application)
        prerequisites.check(wanted, tokens, host, facts, drop_in)
        # What is lent may be on any driver: who has put it there has asked for that.
        given = {*outcome.addresses, *others, *record.lent}
        prerequisites.check_blacklist(blacklist, host, given)
    desired = boot_files.desired_files(
        boot_files.Wanted(
            application=application,
            claims=at_boot,
            twins=boot_files.find_twins(at_boot, host),
            blacklist=blacklist,
            kernel_options=tokens if facts.boots_by_grub else (),
            allow_unsafe_interrupts=wanted.allow_unsafe_interrupts,
            generator=facts.generator,
            keeps_kernel_options=keeps or bool(now.vfs.wanted),
            vfs=now.vfs.wanted,
        ),
        renderer,
        present,
    )
    activated: dict[str, str] = {
        feeds: found for feeds in enums.Rebuild if (found := fingerprint(desired, feeds))
    }
    current = [
        feeds
        for feeds in enums.Rebuild
        if _took_in(record.activated.get(feeds), activated.get(feeds), desired, feeds)
    ]
    changes = tuple(
        FileChange(
            file,
            present.get(file.path),
            drifted=bool(activated) and all(each in current for each in _fed_by(file)),
        )
        for file in desired
        if present.get(file.path) != file.as_present()
    )
    grub_problem = None
    if asks and facts.boots_by_grub:
        ours = tokens if enums.Rebuild.GRUB in activated else ()
        drop_in = boot_files.grub_path(application)
        grub_problem = grub.find_problem(facts.grub, drop_in, ours, facts.iommu_table)
    rebuild = tuple(
        feeds
        for feeds in enums.Rebuild
        if (feeds != enums.Rebuild.GRUB or facts.boots_by_grub)
        and (
            feeds not in current
            or any(change.file.feeds == feeds for change in changes)
            # Somebody has mended the settings that spoiled our option, and not run update-grub.
            or (feeds == enums.Rebuild.GRUB and grub_problem and facts.grub.is_stale)
        )
    )
    returns = _releases(outcome, now, blacklist)
    pending = tuple(binding for binding in returns if binding.address in held)
    waiting = _wait_for_boot(outcome, tokens, facts)
    taken = _target_taken(claimed, record)
    variants = _target_variants(claimed, record)
    for each in pending:
        taken[each.address] = record.taken[each.address]
        if each.address in record.variants:
            variants[each.address] = record.variants[each.address]
    return Plan(
        release=tuple(binding for binding in returns if binding.address not in held),
        files=changes,
        rebuild=rebuild,
        bind=tuple(each for each in _bindings(claimed) if each.address not in waiting),
        at_boot=waiting,
        reboot=()
        if facts.switch
        else _reboot_reasons(tokens if claimed or now.vfs.wanted else None, now, host),
        record=frozen.replace(
            record,
            taken=taken,
            variants=variants,
            inherited=frozenset(claim.address for claim in claimed if claim.inherited),
            activated=activated,
            # Keep the reboot record while any device is requested; otherwise a late device
            # triggers a second reboot.
            reboot=record.reboot if wanted.devices.items or pending or now.vfs.record else None,
            vfs=now.vfs.record,
            lent={} if wanted.leaving else record.lent,
            missing=now.missing,
            shapes=away.shapes(at_boot, record, taken, variants),
            erasing=_erasing({*taken, *now.missing}, outcome, record, wanted),
        ),
        pending=pending,
        grub_problem=None if enums.Rebuild.GRUB in rebuild else grub_problem,
        kernel_options=tokens if asks else (),
        generator=facts.generator if enums.Rebuild.INITRAMFS in rebuild else None,
        kept_options=kept,
        vfs=now.vfs,
    )


def _told_by_record(now: Situation) -> machine.Platform:
    """The machine, as one that GRUB starts where it has taken in our file before.

    A kernel that another one started by kexec has no BOOT_IMAGE either, and names no loader.
    """
    unnamed = now.machine.other_loader == machine.UNNAMED
    if unnamed and enums.Rebuild.GRUB in now.record.activated:
        return frozen.replace(now.machine, other_loader="")
    return now.machine


def _options_in_force(now: Situation) -> tuple[str, ...]:
    """The kernel options that the application has set on this host before."""
    drop_in = boot_files.options_in_force(now.application, now.present)
    # Somebody may have taken the drop-in away since the last rebuild took it in.
    activated = enums.Rebuild.GRUB in now.record.activated
    return (*drop_in, *(now.machine.command_line if activated else ()))


def _fed_by(file: boot_files.File) -> tuple[enums.Rebuild, ...]:
    """The rebuilds that a file came with; a file that feeds none came with all of them."""
    return (file.feeds,) if file.feeds else tuple(enums.Rebuild)


def fingerprint(desired: Iterable[boot_files.File], feeds: enums.Rebuild) -> str | None:
    """Digest the files that feed one rebuild; None when there are none."""
    found = _feeding(desired, feeds)
    spelled = {file.path: [f"{file.mode:o}", file.content] for file in found}
    return digest.of(_FINGERPRINT, spelled) if found else None


def _took_in(
    known: str | None,
    wanted: str | None,
    desired: Iterable[boot_files.File],
    feeds: enums.Rebuild,
) -> bool:
    """Tell whether the last rebuild took in these very files, whichever revision recorded it.

    Args:
        known: the fingerprint of what it took in, by the record.
        wanted: that of the files as they should be.
        desired: the files.
        feeds: the rebuild.
    """
    return known == wanted or (
        known is not None and known == _fingerprint_of_first_release(desired, feeds)
    )


def _fingerprint_of_first_release(desired: Iterable[boot_files.File], feeds: enums.Rebuild) -> str:
    """The digest that 52ee0af and its forebears recorded of the same files. Frozen."""
    found = hashlib.sha256()
    for file in _feeding(desired, feeds):
        found.update(f"{file.path}\0{file.mode:o}\0{file.content}\0".encode())
    return found.hexdigest()


def _feeding(desired: Iterable[boot_files.File], feeds: enums.Rebuild) -> list[boot_files.File]:
    return [file for file in desired if file.feeds == feeds and file.content is not None]


def unclaimed(
    outcome: claims.Outcome, record: Record, others: Container[str] = ()
) -> tuple[str, ...]:
    """The addresses that the application took and does not claim any more, in order."""
    kept = set(outcome.addresses)
    return tuple(
        address
        for address in sorted(record.taken, key=pci_address.sort_key)
        if address not in kept and address not in others
    )


def _releases(
    outcome: claims.Outcome, now: Situation, blacklist: Iterable[str]
) -> tuple[Binding, ...]:
    taken = now.record.taken
    found: list[Binding] = []
    for address in unclaimed(outcome, now.record, now.others):
        function = outcome.host.functions.get(address)
        if function is None:
            continue
        # Nothing has touched a function that the next boot was to bind. One that had a driver and
        # has none was left so by a crash between unbind and probe.
        halfway = function.driver is None and taken[address] is not None
        # libvirt may have moved a function that we took to the variant that it prefers.
        ours = address in now.record.variants or taken[address] is not None
        variant = None
        if ours and function.is_for_variant:
            variant = function.driver if function.is_on_vfio else function.override
        if halfway or variant or pci.VFIO_PCI in (function.driver, function.override):
            target = _native(function, taken[address], now, blacklist)
            found.append(Binding(address, function.driver, target, variant=variant))
    return tuple(found)


def _native(
    function: pci.Function, former: str | None, now: Situation, blacklist: Iterable[str]
) -> str | None:
    """The driver to expect on a function that is given back; None where the blacklist bars it."""
    kept_off = {modules.normalize(name) for name in blacklist}
    if former is None or not kept_off:
        return former
    named = now.aliases.of(function.modalias)
    barred = modules.normalize(former) in kept_off or (bool(named) and named <= kept_off)
    return None if barred else former


def _bindings(claimed: tuple[claims.Claim, ...]) -> tuple[Binding, ...]:
    return tuple(
        Binding(
            claim.address,
            claim.function.driver,
            claim.vfio.driver,
            claim.vfio.module,
            claim.vfio.is_pinned,
        )
        for claim in claimed
        if not (claim.vfio.is_left or _is_bound(claim))
    )


def _is_bound(claim: claims.Claim) -> bool:
    """Whether a claimed function is on the driver that it goes to.

    vfio-pci counts with its driver_override alone. A variant may be somebody else's work, and stays
    as it is.
    """
    if claim.vfio.module == modules.VFIO_PCI:
        return {claim.function.driver, claim.function.override} == {pci.VFIO_PCI}
    return vfio_driver.drives(claim.vfio.module, claim.function)


def _wait_for_boot(
    outcome: claims.Outcome, tokens: tuple[str, ...], facts: machine.Platform
) -> tuple[str, ...]:
    """The claimed functions that only another boot can bind."""
    if facts.switch:
        return tuple(binding.address for binding in _bindings(outcome.claims))
    if not outcome.host.has_groups:
        return outcome.addresses
    if not any(map(viability.lifts_denylist, prerequisites.missing(tokens, facts))):
        return ()
    return tuple(
        claim.address
        for claim in outcome.claims
        if viability.is_denied(claim.function) and not claim.function.is_on_vfio
    )


def _target_taken(claimed: tuple[claims.Claim, ...], record: Record) -> dict[str, str | None]:
    taken: dict[str, str | None] = {}
    for claim in claimed:
        driver = claim.function.driver
        native = None if claim.function.is_on_vfio else driver
        taken[claim.address] = native or record.taken.get(claim.address)
    return taken


def _erasing(
    kept: Iterable[str], outcome: claims.Outcome, record: Record, wanted: options.Options
) -> Mapping[str, str]:
    """The erases that have not come to their ends, of what the application still answers for.

    That is what an item asks for, too, although a guard refuses it now, as while the host uses the
    disk that a kill has left there; and a PF whose VFs are asked for, which share its namespaces.
    """
    if wanted.leaving:
        return {}
    refused = {each.address for each in outcome.refusals if each.rule != guards.Rule.EXCEPTED}
    parents = {each.function.address for each in outcome.parents}
    parents.update(each.function.physfn for each in outcome.claims if each.function.physfn)
    answers = {*kept, *record.lent, *refused, *parents}
    return {each: record.erasing[each] for each in record.erasing if each in answers}


def _target_variants(claimed: tuple[claims.Claim, ...], record: Record) -> dict[str, str]:
    """The variants that the charm asks for, now or at the next boot, by address.

    What somebody else has put on a variant stays that one's, and is not given back.
    """
    found: dict[str, str] = {}
    for claim in claimed:
        wanted: str | None = claim.vfio.wanted_variant
        if claim.function.is_on_vfio and claim.function.is_for_variant:
            wanted = record.variants.get(claim.address)
        if wanted:
            found[claim.address] = wanted
    return found


def _reboot_reasons(
    tokens: tuple[str, ...] | None, now: Situation, host: pci.Host
) -> tuple[Problem, ...]:
    """What only another boot brings; ``tokens`` is None where the kernel needs nothing."""
    reasons: list[Problem] = []
    if tokens is not None and not host.has_groups:
        fact = "the IOMMU is off until the kernel starts with intel_iommu=on"
        reasons.append(Problem(Kind.IOMMU_IS_OFF, fact))
    missing = [
        token
        for token in prerequisites.missing(tokens or (), _told_by_record(now))
        if not prerequisites.starts_iommu(token)
    ]
    if missing:
        fact = f"the running kernel lacks {' '.join(missing)}"
        reasons.append(Problem(Kind.KERNEL_LACKS_OPTIONS, fact))
    return (*reasons, *now.vfs.waits)
