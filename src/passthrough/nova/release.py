"""Which Nova is installed, and which keys each release of it knows.

A key that Nova does not know stops nova-api and nova-compute at their start where it stands in an
alias, from 31.3.1 and 32 on; before, it fails every request for that alias. In a device_spec Nova
ignores it silently. So `check` refuses such a key, and names the release that it
needs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from passthrough import errors, frozen
from passthrough.config import devices

STATUS = "var/lib/dpkg/status"
PACKAGE = "nova-common"

# From this release on Nova reads [pci] device_spec; before it, passthrough_whitelist.
DEVICE_SPEC_SINCE = 26
REPORT_IN_PLACEMENT_SINCE = 26
# From this release on live_migratable is a trait in Placement, where VFs of one PF must agree.
LIVE_MIGRATABLE_IS_TRAIT_SINCE = 34
# From this release on an operator says who binds a device; before, libvirt always does.
MANAGED_SINCE = 31

# The two objects that a key can stand in.
ALIAS = "alias"
DEVICE_SPEC = "device_spec"

_NAMES = {
    17: "Queens",
    18: "Rocky",
    19: "Stein",
    20: "Train",
    21: "Ussuri",
    22: "Victoria",
    23: "Wallaby",
    24: "Xena",
    25: "Yoga",
    26: "Zed",
    27: "2023.1",
    28: "2023.2",
    29: "2024.1",
    30: "2024.2",
    31: "2025.1",
    32: "2025.2",
    33: "2026.1",
    34: "2026.2",
}
_VERSION = re.compile(r"(?:\d+:)?(\d+)[.~+-]")
_NAMES_LIST = r"[A-Za-z0-9_,]+"
_NETWORK = r"[A-Za-z0-9_.:-]+"
_TRUE_OR_FALSE = r"true|false"
_YES_OR_NO = r"yes|no"
# The states in which dpkg has no files of a package: dpkg(1), "Package states".
_ABSENT = ("", "not-installed", "config-files")


class Release(NamedTuple):
    """An installed Nova; ``major`` is what its versions begin with, such as 25 for Yoga."""

    major: int

    def __str__(self) -> str:
        return name_of(self.major)


def name_of(major: int) -> str:
    """Name a release for a person: ``25 (Yoga)``."""
    return f"{major} ({_NAMES[major]})" if major in _NAMES else str(major)


def installed(root: Path) -> Release | None:
    """Read which release of nova-common dpkg has installed; None where it has none.

    A package that dpkg is upgrading counts: its service runs, and starts again right after.

    Raises:
        OSError: when dpkg's status file is there but cannot be read.
    """
    try:
        content = (root / STATUS).read_bytes()
    except FileNotFoundError:
        return None
    for paragraph in _paragraphs_of(content, PACKAGE):
        found = dict(line.split(": ", 1) for line in paragraph.splitlines() if ": " in line)
        version = _VERSION.match(found.get("Version", ""))
        state = found.get("Status", "").rpartition(" ")[2]
        if version and state not in _ABSENT:
            return Release(int(version[1]))
    return None


def _paragraphs_of(content: bytes, package: str) -> Iterator[str]:
    """Find a package's paragraphs, without decoding the file: it is megabytes long."""
    head = f"\nPackage: {package}\n".encode()
    content = b"\n" + content
    start = content.find(head)
    while start >= 0:
        end = content.find(b"\n\n", start + len(head))
        yield content[start + 1 : end if end >= 0 else None].decode("utf-8", "replace")
        start = content.find(head, start + 1)


class Key(frozen.Value):
    """One key that an item can put into an alias or a device_spec.

    ``option`` is the key as ``devices`` spells it, ``name`` as Nova does, ``where`` is ALIAS or
    DEVICE_SPEC. ``value`` takes an item and gives Nova's value, always a string, or None where the
    item does not set it. ``since`` is the first release that knows the key; ``newer`` maps a value
    that came later to its first release. ``form`` matches every value.
    """

    option: str
    where: str
    name: str
    since: int
    value: Callable[[devices.Item], str | None]
    newer: Mapping[str, int] = frozen.field(default_factory=dict[str, int])
    form: str = _NAMES_LIST

    def needs(self, item: devices.Item) -> int | None:
        """The first release that knows the item's value; None where the item sets none."""
        value = self.value(item)
        return None if value is None else self.newer.get(value, self.since)


def _traits(item: devices.Item) -> str | None:
    return ",".join(item.traits) or None


def _live_migratable(item: devices.Item) -> str | None:
    return _yes_or_no(item.live_migratable)


def _managed(item: devices.Item) -> str | None:
    return _yes_or_no(item.managed)


def _trusted(item: devices.Item) -> str | None:
    # Neutron's ports ask for the word as it is spelled: nova/network/neutron.py.
    return None if item.trusted is None else str(item.trusted).lower()


def _one_time_use(item: devices.Item) -> str | None:
    return _yes_or_no(item.one_time_use)


def _yes_or_no(value: bool | None) -> str | None:
    return None if value is None else "yes" if value else "no"


# Source: Nova's release notes and nova/conf/pci.py of each release. Every release that this charm
# meets knows name, vendor_id, product_id, address and device_type.
KEYS = (
    Key("numa-policy", ALIAS, "numa_policy", 17, lambda item: item.numa_policy, {"socket": 23}),
    Key("resource-class", ALIAS, "resource_class", 27, lambda item: item.resource_class),
    Key("resource-class", DEVICE_SPEC, "resource_class", 26, lambda item: item.resource_class),
    Key("traits", ALIAS, "traits", 27, _traits),
    Key("traits", DEVICE_SPEC, "traits", 26, _traits),
    Key("live-migratable", ALIAS, "live_migratable", 31, _live_migratable, form=_YES_OR_NO),
    Key("live-migratable", DEVICE_SPEC, "live_migratable", 31, _live_migratable, form=_YES_OR_NO),
    Key("managed", DEVICE_SPEC, "managed", MANAGED_SINCE, _managed, form=_YES_OR_NO),
    Key(
        "physical-network",
        DEVICE_SPEC,
        "physical_network",
        17,
        lambda item: item.physical_network,
        form=_NETWORK,
    ),
    Key("trusted", DEVICE_SPEC, "trusted", 18, _trusted, form=_TRUE_OR_FALSE),
    Key("one-time-use", DEVICE_SPEC, "one_time_use", 32, _one_time_use, form=_YES_OR_NO),
)


def keys_of(item: devices.Item, where: str) -> dict[str, str]:
    """The keys and values that an item adds to its alias or device_spec, by Nova's names."""
    values = ((key.name, key.value(item)) for key in KEYS if key.where == where)
    return {name: value for name, value in values if value is not None}


def written_device_spec_keys() -> dict[str, str]:
    """The keys that `keys_of` can put into a device_spec, each with the pattern of its values."""
    return {key.name: key.form for key in KEYS if key.where == DEVICE_SPEC}


def check(
    wanted: devices.Spec, release: Release | None, places: Iterable[str] = (ALIAS, DEVICE_SPEC)
) -> None:
    """Refuse items with a key or a value that the installed Nova does not know.

    Args:
        wanted: the parsed ``devices``.
        release: the installed Nova; None, where none is known, takes no key of ``KEYS``.
        places: which of ALIAS and DEVICE_SPEC matter on this unit.

    Raises:
        OptionError: naming the item, the key and the release it needs.
    """
    present = f"this unit has Nova {release}" if release else f"this unit has no {PACKAGE}"
    for item in wanted.items:
        if DEVICE_SPEC in places and item.one_time_use is not None and item.takes_vfs_alone:
            raise errors.OptionError(
                "devices",
                "one-time-use is for whole devices",
                item.label,
                "Nova takes it on no VF, not even as false: leave the key out",
            )
        for key in KEYS:
            needed = key.needs(item)
            if needed is None or key.where not in places:
                continue
            if key.where == ALIAS and not item.alias:
                continue
            if not release or release.major < needed:
                value = f" {key.value(item)}" if key.newer else ""
                raise errors.OptionError(
                    "devices",
                    f"{key.option}{value} needs Nova {name_of(needed)} or later, and {present}",
                    item.label,
                    "leave it out, or upgrade",
                )
