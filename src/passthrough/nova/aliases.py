"""Which aliases to publish where Nova's files hold others of the same name. Pure."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from passthrough.config import values
from passthrough.nova import conf as nova_conf
from passthrough.nova import lines as nova_lines
from passthrough.problem import Kind, Problem

_TRUE = ("1", "on", "t", "true", "y", "yes")  # oslo.utils' bool_from_string


class Sharing(NamedTuple):
    """The aliases to publish beside those that somebody else has set.

    ``notes`` inform an operator and ask for nothing. ``problems`` ask for a decision; ``published``
    holds none of their aliases.
    """

    published: tuple[nova_lines.Fields, ...] = ()
    notes: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()


def share(
    wanted: Iterable[nova_lines.Fields],
    elsewhere: Iterable[nova_conf.Entry],
    pci_in_placement: bool,
) -> Sharing:
    """Decide which aliases to publish.

    Nova reads several lines of one name as alternatives (nova/pci/request.py): a second alias of
    that name, which somebody else has set, widens both, and nova-api does not start where the two
    differ in device type or NUMA policy.

    Args:
        wanted: the aliases that the configuration asks for.
        elsewhere: the aliases that somebody else has set on this unit.
        pci_in_placement: whether the scheduler asks Placement, and wants one line per alias.

    Returns:
        The aliases to publish; a note on each that somebody else has set alike; and a problem for
        each that somebody else has set otherwise, or that Placement would refuse.
    """
    ours = _by_name((each["name"], each) for each in wanted)
    theirs = _by_name((each.name, each) for each in elsewhere)
    published: list[nova_lines.Fields] = []
    notes: list[str] = []
    problems: list[Problem] = []
    for name, lines in ours.items():
        others = theirs.get(name, [])
        if not others:
            if pci_in_placement and len(lines) > 1:
                problems.append(
                    Problem(
                        Kind.ALIAS_OF_SEVERAL_MODELS,
                        f"has {len(lines)} models, and with pci_in_placement Nova takes one per"
                        " alias",
                        "give each model an alias of its own",
                        subject=f"alias {name}",
                        where=("devices",),
                    )
                )
            else:
                published += lines
        elif {meaning(each) for each in lines} == {meaning(each.content) for each in others}:
            notes.append(
                f"alias {name}: {others[0].value} has the same one, so it is not set twice"
            )
        else:
            problems.append(
                Problem(
                    Kind.ALIAS_DIFFERS,
                    f"is {_join(lines)} here but {_join(each.content for each in others)} in"
                    f" {others[0].value}",
                    "rename one of them, or remove the other",
                    subject=f"alias {name}",
                    where=("devices",),
                )
            )
    return Sharing(tuple(published), tuple(notes), tuple(problems))


def meaning(alias: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Give an alias as Nova understands it, so that two spellings of the same compare equal."""
    said = {key: str(value).strip() for key, value in alias.items() if key != "capability_type"}
    said.setdefault("device_type", values.DEFAULT_DEVICE_TYPE)
    said.setdefault("numa_policy", "legacy")
    for key in ("vendor_id", "product_id"):
        if key in said:
            said[key] = said[key].lower()
    if "live_migratable" in said:
        said["live_migratable"] = str(said["live_migratable"].lower() in _TRUE)
    if "resource_class" in said:
        said["resource_class"] = _placement_name(said["resource_class"])
    if "traits" in said:
        said["traits"] = ",".join(
            sorted(_placement_name(each) for each in said["traits"].split(","))
        )
    return tuple(sorted(said.items()))


def foreign(
    entries: Iterable[nova_conf.Entry], ours: Iterable[Mapping[str, Any]]
) -> tuple[nova_conf.Entry, ...]:
    """Leave out one entry for each alias of ``ours``: somebody else has set the rest."""
    mine = collections.Counter(meaning(alias) for alias in ours)
    rest: list[nova_conf.Entry] = []
    for entry in entries:
        key = meaning(entry.content)
        if mine[key] and entry.value.section == "default":
            mine[key] -= 1
        else:
            rest.append(entry)
    return tuple(rest)


def _placement_name(name: str) -> str:
    return name.strip().upper().removeprefix("CUSTOM_")


def _by_name(pairs: Iterable[tuple[str | None, Any]]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for name, each in pairs:
        if name:
            found.setdefault(name, []).append(each)
    return {name: found[name] for name in sorted(found)}


def _join(aliases: Iterable[Mapping[str, Any]]) -> str:
    return " or ".join(
        nova_lines.to_line({k: v for k, v in each.items() if k != "name"}) for each in aliases
    )
