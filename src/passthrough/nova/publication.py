"""Which aliases nova-cloud-controller's charm is sent. Reads Nova's files and decides."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from passthrough import frozen
from passthrough.config import options
from passthrough.nova import aliases as nova_aliases
from passthrough.nova import conf as nova_conf
from passthrough.nova import lines as nova_lines
from passthrough.nova import release as nova_release
from passthrough.problem import Problem

if TYPE_CHECKING:
    from pathlib import Path

PROGRAMS = ("nova-api", "nova-scheduler")


class Memory(frozen.Value):
    """Aliases that an earlier hook sent, and that nova.conf holds until it is rendered anew.

    ``seen`` is a digest of the aliases in Nova's files at that time. Once those aliases change, the
    principal has rendered what it was sent last, and ``lines`` no longer count.
    """

    lines: tuple[str, ...] = ()
    seen: str = ""


class Publication(frozen.Value):
    """What a controller's charm should be sent.

    Attributes:
        release: the installed Nova; None where nova-common is not installed.
        config: what Nova's files say now.
        aliases: the aliases to publish.
        payload: the text that carries them, and the filter; None where ``devices`` has no alias.
        problems: what an operator has to resolve; their aliases are not published.
        notes: what an operator may want to know.
        memory: what to remember until the next hook.
        filters: the scheduler's filters that the aliases of ``devices`` need.
    """

    release: nova_release.Release | None = None
    config: nova_conf.Config = frozen.field(default_factory=nova_conf.Config)
    aliases: tuple[nova_lines.Fields, ...] = ()
    payload: str | None = None
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()
    memory: Memory = frozen.field(default_factory=Memory)
    filters: tuple[str, ...] = (nova_lines.FILTER,)


def survey(
    root: Path, wanted: options.Options, published: str | None, memory: Memory
) -> Publication:
    """Read Nova's files below ``root`` and decide what to publish; reads only.

    Args:
        root: ``/`` on a real unit.
        wanted: the charm's options.
        published: what this unit has published before; None for nothing.
        memory: what the last publication said to remember.

    Raises:
        OptionError: when the installed Nova does not know what an option asks for.
        OSError: when a file cannot be read.
    """
    return decide(
        wanted, nova_release.installed(root), nova_conf.read(root, PROGRAMS), published, memory
    )


def decide(
    wanted: options.Options,
    release: nova_release.Release | None,
    config: nova_conf.Config,
    published: str | None,
    memory: Memory,
) -> Publication:
    """Decide what to publish; see `survey`. Pure."""
    nova_release.check(wanted.devices, release, (nova_release.ALIAS,))
    found = config.aliases()
    seen = _digest([nova_lines.to_line(entry.content) for entry in found]) if found else ""
    # Until the principal renders again, its file holds what it was sent before.
    earlier = memory.lines if memory.seen == seen else ()
    ours = sorted({*nova_lines.published_aliases(published), *earlier})
    aliases = nova_lines.aliases(wanted.devices)
    sharing = nova_aliases.share(
        aliases,
        nova_aliases.foreign(found, [json.loads(line) for line in ours]),
        config.is_true(nova_conf.PCI_IN_PLACEMENT),
    )
    filters = nova_lines.filters_for(aliases)
    current = {nova_lines.to_line(each) for each in sharing.published}
    return Publication(
        release=release,
        config=config,
        aliases=sharing.published,
        payload=nova_lines.subordinate_configuration(sharing.published, filters)
        if aliases
        else None,
        filters=filters,
        problems=sharing.problems,
        notes=sharing.notes,
        memory=Memory(tuple(line for line in ours if line not in current), seen),
    )


def has_filter(config: nova_conf.Config, name: str = nova_lines.FILTER) -> bool:
    """Tell whether the scheduler's configuration enables a filter."""
    value = config.last(nova_conf.ENABLED_FILTERS)
    names = value.text.replace("\n", ",").split(",") if value else []
    return name in [each.strip().rpartition(".")[2] for each in names]


def _digest(lines: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
