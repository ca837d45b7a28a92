"""Checks of what is in effect for Nova, from which files, and of what is missing. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from passthrough.nova import aliases as nova_aliases
from passthrough.nova import conf as nova_conf
from passthrough.nova import lines as nova_lines
from passthrough.nova import offer as nova_offer
from passthrough.nova import publication
from passthrough.reporting import words
from passthrough.reporting.verify.result import FAIL, OK, UNKNOWN, Check
from passthrough.survey import Decision

_UNSET = "unset it there; of the charm's own file, run the action reconcile"
_RENDERED = "wait for nova-cloud-controller's next hook, which renders its nova.conf"


def check_compute(decision: Decision) -> Iterator[Check]:
    """Check the drop-in, the device_specs and the aliases of nova-compute on this host."""
    offer = decision.nova
    for problem in offer.problems:
        yield Check("nova", FAIL, words.fact(problem), words.way_out(problem))
    if not offer.facts.release:
        yield Check("nova", OK, "nova-common is not installed on this host")
        return
    yield Check("nova", OK, f"Nova {offer.facts.release}")
    yield from _drop_in(decision)
    yield from _device_specs(decision)
    yield from _aliases_on_host(decision)
    yield from _console(decision)


def check_controller(
    published: publication.Publication, wanted: Iterable[nova_lines.Fields]
) -> tuple[Check, ...]:
    """Check what the charm has sent to nova-cloud-controller, and whether it is in effect.

    Args:
        published: what the unit sends, and what Nova's files say.
        wanted: the aliases that the configuration asks for.
    """
    release = published.release
    checks = [
        Check("nova", FAIL, words.fact(each), words.way_out(each)) for each in published.problems
    ]
    checks.append(Check("nova", OK, f"Nova {release}" if release else "no nova-common here"))
    names = sorted({alias["name"] for alias in wanted})
    for name in names:
        lines = [alias for alias in published.aliases if alias["name"] == name]
        files = _files_with(name, published.config)
        present = {nova_aliases.meaning(entry.content) for entry in _named(name, published.config)}
        if lines and not {nova_aliases.meaning(each) for each in lines} <= present:
            checks.append(
                Check(f"alias {name}", UNKNOWN, "published, not in nova.conf yet", _RENDERED)
            )
        elif files:
            checks.append(Check(f"alias {name}", OK, f"in {files}"))
    if names:
        checks += [_filter(published.config, each) for each in published.filters]
    return tuple(checks)


def _filter(config: nova_conf.Config, name: str) -> Check:
    value = config.last(nova_conf.ENABLED_FILTERS)
    if publication.has_filter(config, name):
        return Check("scheduler-filter", OK, f"{name} in {value}")
    seen = f"{name} is not in {value or 'enabled_filters, which is not set'}"
    return Check(
        "scheduler-filter",
        FAIL,
        seen,
        f"{_RENDERED}; elsewhere add it to [filter_scheduler] enabled_filters",
    )


def _drop_in(decision: Decision) -> Iterator[Check]:
    offer = decision.nova
    path = f"/{nova_lines.path_of(decision.site.application)}"
    if offer.change:
        yield Check("nova-file", FAIL, f"{path} is not as it should be", "run the action reconcile")
    elif offer.content is not None:
        yield Check("nova-file", OK, path)
    if offer.deferred:
        yield Check(
            "nova-compute",
            FAIL,
            f"has not read {path}: the policy layer denied its restart",
            "run nova-compute's restart-services action, or restart the service",
        )
    elif not offer.read:
        yield Check(
            "nova-compute",
            FAIL,
            f"has not read {path}",
            "run the action reconcile, or restart the service",
        )
    elif offer.content is not None:
        yield Check("nova-compute", OK, f"started with {path}, or is down")


def _why_not(decision: Decision, address: str) -> str:
    """Why Nova shall not have a claimed function; empty where it shall."""
    aim = decision.plan.record
    if address in aim.erasing:
        return "its erase has not come to its end"
    return "it is in quarantine" if address in aim.quarantine else ""


def _device_specs(decision: Decision) -> Iterator[Check]:
    offer = decision.nova
    offered = {each["address"] for each in offer.device_specs}
    held = {each["address"] for each in offer.held}
    files = {
        each.address: [
            str(entry.value)
            for entry in offer.facts.config.device_specs()
            if entry.offers(each.function)
        ]
        for each in decision.claims
    }
    for claim in decision.claims:
        name = f"device_spec {claim.address}"
        where = ", ".join(dict.fromkeys(files[claim.address]))
        if claim.companion_of:
            if where:
                yield Check(name, FAIL, f"a companion, yet {where} offers it", "unset it there")
        elif claim.address in offered | held and where:
            seen = f"in {where}"
            yield Check(name, OK, f"{seen}; a guest holds it" if claim.address in held else seen)
        elif reason := _why_not(decision, claim.address):
            if where:
                yield Check(name, FAIL, f"{reason}, yet {where} offers it", _UNSET)
            else:
                yield Check(name, OK, f"not offered to Nova: {reason}")
        else:
            on_vfio = claim.function.is_on_vfio
            fix = "see its group's check" if on_vfio else f"follows from driver {claim.address}"
            yield Check(name, FAIL, "not offered to Nova", fix)
    for address in sorted(held - {claim.address for claim in decision.claims}):
        seen = "no longer claimed; offered while a guest holds it"
        if address in offer.facts.missing:
            seen = "missing, so Nova does not list it"
        yield Check(f"device_spec {address}", OK, seen)


def _aliases_on_host(decision: Decision) -> Iterator[Check]:
    config = decision.nova.facts.config
    verified = nova_offer.find_verified(decision.outcome)
    for name in decision.options.devices.aliases():
        addresses = [claim.address for claim in verified if name in claim.item.names]
        files = _files_with(name, config)
        behind = " ".join(addresses) or "no device on this host, as is normal in a mixed fleet"
        if files:
            yield Check(f"alias {name}", OK, f"{behind}; in {files}")
        else:
            yield Check(
                f"alias {name}", FAIL, "in none of Nova's files", "run the action reconcile"
            )


def _console(decision: Decision) -> Iterator[Check]:
    """Hint at SPICE, which gives a guest a usable VGA device beside a GPU.

    Source: the OpenStack charm guide's page on PCI passthrough.
    """
    primary = nova_offer.find_primary(decision.outcome)
    displays = [claim.address for claim in primary if claim.function.is_display]
    config = decision.nova.facts.config
    if not displays or config.is_true(nova_conf.SPICE_ENABLED):
        return
    vnc = config.last(nova_conf.VNC_ENABLED)
    yield Check(
        "console",
        UNKNOWN,
        f"SPICE is not enabled ({vnc or 'no [vnc] enabled either'}), and guests get"
        f" {' '.join(displays)}",
        "for guests with a GPU: juju config nova-cloud-controller console-access-protocol=spice",
    )


def _named(name: str, config: nova_conf.Config) -> list[nova_conf.Entry]:
    return [entry for entry in config.aliases() if entry.name == name]


def _files_with(name: str, config: nova_conf.Config) -> str:
    return ", ".join(dict.fromkeys(str(entry.value) for entry in _named(name, config)))
