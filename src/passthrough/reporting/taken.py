"""What the charm's applications have taken of a host, how it is, and who holds it. Reads only.

`list` shows it and knows no decision: what is taken stands in the records, and the names follow
from the options that the units were last told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from passthrough.config import options as parsing
from passthrough.errors import PassthroughError
from passthrough.host import guests, pci, vfio_users
from passthrough.host import health as reading
from passthrough.planning import claims, health, quarantine
from passthrough.reporting import holdings
from passthrough.reporting.holdings import Holding, Holdings
from passthrough.site import Site
from passthrough.state import record, settled

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Any

    from passthrough.system import procfs


def read(
    root: Path,
    host: pci.Host,
    processes: procfs.Processes,
    told: Mapping[str, Mapping[str, Any]] | None = None,
) -> Holdings:
    """Read what is taken of a host.

    Args:
        root: the host's root.
        host: its functions.
        processes: its processes, asked only where something is taken and may be open.
        told: the options of applications that are known better than what their hooks have left.
    """
    try:
        records = record.read_others(Site(root, ""), lambda _: True)
    except (PassthroughError, OSError):
        return Holdings(lent=record.lent_on(root), are_known=False)
    lent = record.lent_by(records)
    erasing = frozenset(address for known in records.values() for address in known.erasing)
    if not any(each.taken or each.missing for each in records.values()):
        return Holdings(lent=lent, erasing=erasing)
    options = {**_last_told(root), **(told or {})}
    names: dict[str, tuple[str, bool]] = {}
    for application, known in records.items():
        named = _names(host, known, options.get(application))
        for address in known.taken:
            if address in host.functions:
                is_wanted = named is None or address in named
                names[address] = ((named or {}).get(address, application), is_wanted)
    users = vfio_users.Users(root, processes, vfio_users.Accounts(root, processes))
    held = users.of(address for address in names if host.functions[address].is_on_vfio)
    domains = guests.domains(root) if held else {}
    reader = reading.Reader(root)
    judged = health.judge_all(
        {each: reader.of(host.functions[each]) for each in names},
        {
            address: card
            for known in records.values()
            for address, card in known.missing.items()
            if address not in host.functions
        },
        {
            address: count
            for known in records.values()
            for address, count in quarantine.accepted_errors(known).items()
        },
    )
    aside = {
        address: entry for known in records.values() for address, entry in known.quarantine.items()
    }
    return Holdings(
        {
            address: Holding(
                name,
                is_wanted,
                tuple(holder(domains, processes, each) for each in held.get(address, ())),
                judged[address],
                aside.get(address),
            )
            for address, (name, is_wanted) in names.items()
        },
        tuple(judged[address] for address in judged if address not in names),
        lent,
        erasing,
    )


def _last_told(root: Path) -> Mapping[str, Mapping[str, Any]]:
    try:
        return settled.kept_options(root)
    except OSError:
        return {}  # root alone reads them


def _names(
    host: pci.Host, known: record.Record, config: Mapping[str, Any] | None
) -> dict[str, str] | None:
    """What the items call the functions that they claim, by address; None where nobody knows.

    Whether anything is in use does not matter to a name.
    """
    if config is None:
        return None
    try:
        wanted = parsing.parse(config).devices
        found = claims.decide(wanted, host, known=known).claims
    except PassthroughError:
        return None
    return {each.address: holdings.claim_name(each) for each in found}


def holder(domains: Mapping[int, guests.Domain], processes: procfs.Processes, process: int) -> str:
    """Who has a function open: a domain of libvirt with its UUID, or the process."""
    domain = domains.get(process)
    if domain:
        return f"{domain.name} ({domain.uuid})"
    return f"process {process} ({guests.program(processes, process)})"
