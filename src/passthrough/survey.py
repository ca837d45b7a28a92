"""One look at the host, one decision; reads only.

`look` reads everything once into `Facts`. `decide` is pure: it gives everything that follows from
the facts and the options, and whatever a hook applies, an action prints and a status says comes
from that one `Decision`. No way to change anything is imported here.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from passthrough import frozen, pci_address
from passthrough.config import devices, host_exceptions
from passthrough.config.options import Options
from passthrough.host import (
    health,
    identity,
    machine,
    modules,
    pci,
    ports,
    usage,
    vf_makers,
    vfio_users,
    watch,
)
from passthrough.host.uses import kinds
from passthrough.nova import facts as nova_facts
from passthrough.nova import lines as nova_lines
from passthrough.nova import offer as nova_offer
from passthrough.planning import (
    away,
    boot_files,
    claims,
    missing,
    plan,
    quarantine,
    templates,
    vfs,
    viability,
)
from passthrough.planning import health as judging
from passthrough.site import Site
from passthrough.state import record, stuck
from passthrough.state.record import Record
from passthrough.system import clock, files, procfs

if TYPE_CHECKING:
    from passthrough.host import guests, hindrances


class Facts(frozen.Value):
    """Everything that was read of one site.

    Attributes:
        site: where it was read.
        host: the PCI functions.
        machine: boot loader, generator, running command line.
        usage: what the host itself uses.
        record: what the application has taken and activated before.
        others: the records of the host's other applications of this charm, by name.
        present: what each owned path holds.
        nova: what is known of Nova.
        processes: the processes, asked at most once: the first question makes the one pass over
            their open files, and most looks have none.
        users: who has functions open through VFIO, out of that pass.
        watched: whether the caretaker's files are on the host.
        aliases: the modules that the installed kernels name for a function, read at the first
            question: only a host that claims something has one.
        ports: the functions' interfaces, read where VFs are asked for.
        makers: who else makes VFs, the same.
        health: what the kernel tells of a function's health, read for what is claimed.
        serials: the cards' serial numbers, read where one is missing.
        now: when it was read, in seconds since the epoch.
    """

    site: Site
    host: pci.Host
    machine: machine.Platform
    usage: usage.Usage = frozen.field(default_factory=usage.Usage)
    record: Record = frozen.field(default_factory=Record)
    others: Mapping[str, Record] = frozen.field(default_factory=dict[str, Record])
    present: Mapping[str, files.Present | None] = frozen.field(
        default_factory=dict[str, files.Present | None]
    )
    nova: nova_facts.Facts = frozen.field(default_factory=nova_facts.Facts)
    processes: procfs.Processes = frozen.field(default_factory=procfs.Processes.none, compare=False)
    users: vfio_users.Users = frozen.field(default_factory=vfio_users.Users.none, compare=False)
    watched: bool = True
    aliases: modules.Aliases = frozen.field(default_factory=modules.Aliases.none, compare=False)
    ports: ports.Ports = frozen.field(default_factory=ports.Ports.none, compare=False)
    makers: vf_makers.Makers = frozen.field(default_factory=vf_makers.Makers.none, compare=False)
    health: health.Reader = frozen.field(default_factory=health.Reader.none, compare=False)
    serials: identity.Serials = frozen.field(default_factory=identity.Serials.none, compare=False)
    now: int = frozen.field(default=0, compare=False)

    def guests(self) -> tuple[guests.Guest, ...]:
        """The guests that run, in the order of their processes."""
        from passthrough.host import guests  # only a pending reboot and verify ask

        return guests.running(self.processes)

    def defined(self) -> Mapping[str, tuple[str, ...]]:
        """The functions that libvirt's defined domains name, see `domains.named`."""
        from passthrough.host import domains  # only a unit that leaves asks

        return domains.named(self.site.root)

    def hindrances(self, principal: str = "") -> tuple[hindrances.Hindrance, ...]:
        """What else bars a reboot; `hindrances.find` has the rest."""
        from passthrough.host import hindrances  # only a pending reboot asks

        return hindrances.find(
            self.site.root,
            self.site.application,
            self.processes,
            principal or (self.record.owner.principal if self.record.owner else ""),
        )


class Decision(frozen.Value):
    """What follows from the options and the facts.

    Attributes:
        options: what was asked for.
        facts: what it was decided on.
        outcome: what is claimed and what is refused.
        plan: what would change.
        nova: what to offer to Nova now.
        nova_planned: what to offer once all claims are on their VFIO drivers.
        held: the processes that hold a function which is to be given back, by its address; none
            where a guest that is shut off names it.
        rendered: what the templates gave, as `templates.Renderer.learned` has it.
        health: how the functions are that are claimed, and those that are missing, by address.
    """

    options: Options
    facts: Facts
    outcome: claims.Outcome
    plan: plan.Plan
    nova: nova_offer.Offer = frozen.field(default_factory=nova_offer.Offer)
    nova_planned: nova_offer.Offer = frozen.field(default_factory=nova_offer.Offer)
    held: Mapping[str, tuple[int, ...]] = frozen.field(default_factory=dict[str, tuple[int, ...]])
    rendered: Mapping[str, str] = frozen.field(default_factory=dict[str, str])
    health: Mapping[str, judging.Health] = frozen.field(default_factory=dict[str, judging.Health])

    @property
    def site(self) -> Site:
        """Where it was decided for."""
        return self.facts.site

    @property
    def host(self) -> pci.Host:
        """The PCI functions that it was decided on."""
        return self.facts.host

    @property
    def claims(self) -> tuple[claims.Claim, ...]:
        """What is claimed, companions too, in address order."""
        return self.outcome.claims

    @property
    def refusals(self) -> tuple[claims.Refusal, ...]:
        """What is not claimed, in the order of the items."""
        return self.outcome.refusals


def look(site: Site) -> Facts:
    """Read everything about a site, once.

    Raises:
        RecordError: when an application's record is damaged.
        StuckError: when looking would never end.
        OSError: when the tree cannot be read.
    """
    root = site.root
    stuck.check_responsive(root)
    host = pci.read(root)
    mine = record.read(site)
    others = record.read_others(site, partial(_has_files, root))
    processes = procfs.Processes(root)
    accounts = vfio_users.Accounts(root, processes)
    return Facts(
        site=site,
        host=host,
        machine=machine.read(root),
        usage=usage.read(root, host, _ours(mine, others), processes, accounts),
        record=mine,
        others=others,
        present={
            file.path: files.read(root / file.path)
            for file in boot_files.owned_files(site.application)
        },
        nova=nova_facts.read(site, mine.nova),
        processes=processes,
        users=vfio_users.Users(root, processes, accounts),
        watched=watch.is_installed(root, site.application),
        aliases=modules.Aliases(root),
        ports=ports.Ports(root),
        makers=vf_makers.Makers(root),
        health=health.Reader(root),
        serials=identity.Serials(root),
        now=clock.now(),
    )


def ask_again(facts: Facts, addresses: Iterable[str]) -> Facts:
    """Ask once more, for safety, about a few functions: what has them, and what the host uses.

    A function's group and card belong to the question, since their uses can bar it, and so do the
    records of other applications. What the kernel says of a function by itself does not do here:
    the processes are asked. The rest of the facts stays as it was.

    Raises:
        RecordError: when another application's record is damaged.
        StuckError: when looking would never end.
        OSError: when the tree cannot be read.
    """
    root = facts.site.root
    stuck.check_responsive(root)
    asked = _with_neighbours(facts.host, addresses)
    found = pci.read_some(root, asked)
    there = {
        **{address: each for address, each in facts.host.functions.items() if address not in asked},
        **found.functions,
    }
    ordered = {address: there[address] for address in sorted(there, key=pci_address.sort_key)}
    host = frozen.replace(found, functions=ordered)
    others = record.read_others(facts.site, partial(_has_files, root))
    processes = procfs.Processes(root)
    used = usage.read(root, found, _ours(facts.record, others), processes)
    uses = {address: each for address, each in facts.usage.uses.items() if address not in asked}
    return frozen.replace(
        facts,
        host=host,
        usage=usage.Usage({**uses, **used.uses}, used.openers.of_host(host), used.blocks),
        others=others,
        processes=processes,
        users=vfio_users.Users(root, processes),
        ports=ports.Ports(root),
        makers=vf_makers.Makers(root),
    )


def add_uses(facts: Facts, more: Mapping[str, Iterable[kinds.Use]]) -> Facts:
    """The same facts with uses that a look does not see, by the function's address."""
    return frozen.replace(facts, usage=facts.usage.with_more(more))


def read_own_again(facts: Facts) -> Facts:
    """Read again what a run has just written itself: the record, and Nova's drop-in.

    Raises:
        RecordError: when the record is damaged.
        OSError: when a file cannot be read.
    """
    site = facts.site
    mine = record.read(site)
    return frozen.replace(facts, record=mine, nova=nova_facts.read(site, mine.nova))


def decide(
    options: Options,
    facts: Facts,
    trusted: Mapping[str, str] | None = None,
) -> Decision:
    """Work out everything that follows; pure.

    Args:
        options: what is asked for; default options undo everything.
        facts: the host as it is.
        trusted: what an earlier `Decision.rendered` said of the templates. For looking, never for
            writing: a memory that is damaged or made up can hide that a file has changed.

    Raises:
        OptionError: when two items ask for the same function, blacklist-drivers names what the
            host needs, Nova does not know what an option asks for, or there are host-exceptions on
            a host that does not tell its name.
        UnsupportedHostError: when this host cannot do what is asked.
    """
    renderer = templates.Renderer(trusted or {})
    taken = record.taken_by(facts.others)
    left_out = host_exceptions.of(options.host_exceptions, facts.machine.name)
    wanted = frozen.replace(options.devices, excepted=left_out)
    host = _with_denylist(options, facts)
    # What another application has lent to the host is no less that one's than what it has taken.
    barred = {**record.lent_by(facts.others), **taken}
    outcome = claims.decide(wanted, host, barred, facts.usage, facts.record)
    made = _decide_vfs(outcome, options, facts, barred)
    if made.gone:
        left = {each: host.functions[each] for each in host.functions if each not in made.gone}
        host = frozen.replace(host, functions=left)
        outcome = claims.decide(wanted, host, barred, facts.usage, facts.record)
    outcome = claims.with_refusals(outcome, made.refusals)
    outcome = claims.with_drivers(outcome, facts.record, facts.aliases)
    unclaimed = plan.unclaimed(outcome, facts.record, taken)
    lingering = {each: () for each in unclaimed if each in made.lingering}
    held = {**lingering, **_find_held(facts, unclaimed, options.leaving)}
    gone = missing.find(wanted, outcome, facts.record, facts.serials)
    planned = plan.make(
        options,
        outcome,
        plan.Situation(
            application=facts.site.application,
            machine=facts.machine,
            record=facts.record,
            present=facts.present,
            held=held,
            others=taken,
            aliases=facts.aliases,
            vfs=made,
            missing=gone,
            away=away.recall(away.Situation(wanted, host, facts.record, gone, facts.aliases)),
        ),
        renderer,
    )
    well = judging.judge_all(
        {claim.address: facts.health.of(claim.function) for claim in outcome.claims},
        planned.record.missing,
        quarantine.accepted_errors(facts.record, facts.machine.boot_id),
    )
    planned = _with_quarantine(wanted, facts, outcome, planned, well)
    now, later = _decide_offers(options, facts, outcome, renderer, planned.record)
    return Decision(options, facts, outcome, planned, now, later, held, renderer.learned(), well)


def _with_quarantine(
    wanted: devices.Spec,
    facts: Facts,
    outcome: claims.Outcome,
    planned: plan.Plan,
    well: Mapping[str, judging.Health],
) -> plan.Plan:
    """The plan, with what its record is to hold of the functions that are not offered."""
    aim = planned.record
    if not quarantine.concerns(aim, well.values()):
        return planned
    ready = {claim.address for claim in nova_offer.find_verified(outcome)}
    seen = quarantine.Seen(
        known=aim,
        missing=aim.missing,
        health=well,
        offered=nova_offer.listed(facts.nova) if facts.nova.release else ready,
        ready=ready,
        boot_id=facts.machine.boot_id,
        now=facts.now,
    )
    found = quarantine.decide(wanted, outcome, seen, facts.users.of)
    return frozen.replace(planned, record=quarantine.note(aim, found, facts.now))


def _decide_vfs(
    outcome: claims.Outcome, options: Options, facts: Facts, taken: Mapping[str, str]
) -> vfs.Outcome:
    """What becomes of the VFs of functions that stay with the host."""
    if not (outcome.parents or facts.record.vfs):
        return vfs.Outcome()
    others = {each: name for name, other in facts.others.items() for each in other.vfs}
    situation = vfs.Situation(
        host=facts.host,
        known=facts.record,
        usage=facts.usage,
        users=facts.users,
        ports=facts.ports,
        makers=facts.makers,
        taken={**taken, **others},
        named=facts.defined() if options.leaving else (),
        boot_id=facts.machine.boot_id,
        is_switched_off=bool(facts.machine.switch),
    )
    return vfs.decide(outcome, situation)


def _has_files(root: Path, application: str) -> bool:
    """Whether an application has a boot file on the host."""
    return any((root / file.path).exists() for file in boot_files.owned_files(application))


def _with_denylist(options: Options, facts: Facts) -> pci.Host:
    """The host as vfio-pci will be: the option that lifts its denylist may come with a reboot."""
    # Of GRUB's files the charm's comes last, and of one parameter's values the last one counts.
    lifted = viability.lifts_denylist(*facts.machine.command_line, *options.kernel_options)
    return frozen.replace(facts.host, denylist_is_off=True) if lifted else facts.host


def _ours(mine: Record, others: Mapping[str, Record]) -> frozenset[str]:
    """The functions that the charm answers for.

    An application that has left still answers for what a guest keeps on vfio-pci.
    """
    return frozenset(mine.taken).union(*(each.taken for each in others.values()))


def _with_neighbours(host: pci.Host, addresses: Iterable[str]) -> frozenset[str]:
    """These functions, with those of their cards and IOMMU groups."""
    found = set(addresses)
    for address in tuple(found):
        function = host.functions.get(address)
        if function:
            near = (*host.slot_members(function), *host.group_members(function))
            found |= {each.address for each in near}
    return frozenset(found)


def _find_held(
    facts: Facts, addresses: Iterable[str], leaving: bool
) -> Mapping[str, tuple[int, ...]]:
    """Who holds these functions; the processes are asked only where one is on a VFIO driver.

    Nobody gives a function to the guest that is shut off and names it once the unit has left, so
    that one stays as well; no process stands for it.
    """
    functions = facts.host.functions
    bound = [
        address for address in addresses if address in functions and functions[address].is_on_vfio
    ]
    held = facts.users.of(bound)
    if not (leaving and bound):
        return held
    named = facts.defined()
    return {**{address: () for address in bound if address in named}, **held}


def _decide_offers(
    options: Options,
    facts: Facts,
    outcome: claims.Outcome,
    renderer: templates.Renderer,
    aim: Record,
) -> tuple[nova_offer.Offer, nova_offer.Offer]:
    """What to offer now, and what to offer once every claimed function is on its VFIO driver."""
    off = {*aim.quarantine, *aim.erasing}
    # VFs share their PF's namespaces.
    off |= {each.address for each in outcome.claims if each.function.physfn in aim.erasing}
    absent = {
        each: nova_lines.missing_device_spec(each, item)
        for each, card in aim.missing.items()
        if each not in off and (item := missing.find_item(options.devices, each, card["id"]))
    }
    known = frozen.replace(facts.nova, missing=absent) if absent else facts.nova
    verified = _without(off, nova_offer.find_verified(outcome))
    if facts.machine.switch:
        # Switched off for this boot, the host keeps its devices: a guest that Nova gave one now
        # would take it from the host. What a guest holds stays offered.
        in_use = facts.users.of([claim.address for claim in verified])
        verified = tuple(claim for claim in verified if claim.address in in_use)
    now = nova_offer.decide(options, outcome, verified, known, renderer)
    # Only what would be withdrawn is worth the pass over the processes.
    stay = {each["address"] for each in now.device_specs}
    held = facts.users.of([each for each in nova_offer.listed(known) if each not in stay])
    if held:
        known = frozen.replace(known, held=frozenset(held))
        now = nova_offer.decide(options, outcome, verified, known, renderer)
    primary = _without(off, nova_offer.find_primary(outcome))
    if primary == verified:
        return now, now  # as on every host that is as it should be
    return now, nova_offer.decide(options, outcome, primary, known, renderer)


def _without(
    addresses: Container[str], found: tuple[claims.Claim, ...]
) -> tuple[claims.Claim, ...]:
    return tuple(claim for claim in found if claim.address not in addresses)
