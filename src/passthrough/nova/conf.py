"""Read what Nova's configuration files say about PCI devices, whoever wrote them.

The files hold passwords: this module keeps the options of ``_OPTIONS`` and nothing else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

from passthrough import pci_address
from passthrough.host import pci
from passthrough.system import files, sysfs

DIRECTORY = "etc/nova"
_INTERFACES = "sys/class/net"

_ALIAS = (("pci", "alias"), ("default", "pci_alias"))
_DEVICE_SPEC = (
    ("pci", "device_spec"),
    ("pci", "passthrough_whitelist"),
    ("default", "pci_passthrough_whitelist"),
)
REPORT_IN_PLACEMENT = (("pci", "report_in_placement"),)
PCI_IN_PLACEMENT = (("filter_scheduler", "pci_in_placement"),)
ENABLED_FILTERS = (("filter_scheduler", "enabled_filters"),)
VNC_ENABLED = (("vnc", "enabled"),)
SPICE_ENABLED = (("spice", "enabled"),)

_OPTIONS = frozenset(
    (
        *_ALIAS,
        *_DEVICE_SPEC,
        *REPORT_IN_PLACEMENT,
        *PCI_IN_PLACEMENT,
        *ENABLED_FILTERS,
        *VNC_ENABLED,
        *SPICE_ENABLED,
    )
)
# oslo.config's Boolean type takes these for true.
_TRUE = ("true", "1", "on", "yes")


class Value(NamedTuple):
    """One assignment: the file it stands in (an absolute path), its section and key, its text."""

    path: str
    section: str
    key: str
    text: str

    def __str__(self) -> str:
        section = "DEFAULT" if self.section == "default" else self.section
        return f"{self.path} [{section}] {self.key}"


class Entry(NamedTuple):
    """One JSON object out of a `Value`: an alias or a device_spec.

    ``interface`` is the address of the function whose network interface a device_spec names as
    ``devname``; None without that, or where the host has no such interface.
    """

    value: Value
    content: Mapping[str, Any]
    interface: str | None = None

    @property
    def name(self) -> str | None:
        """An alias's name."""
        name = self.content.get("name")
        return name.strip() if isinstance(name, str) else None

    def offers(self, function: pci.Function) -> bool:
        """Tell whether this device_spec matches a function, as nova/pci/devspec.py does.

        A device_spec by ``devname`` stands for a function and its VFs. The function itself is none
        that is claimed: on vfio-pci it has no network interface.
        """
        ids = ((self.content.get("vendor_id"), function.vendor),)
        ids += ((self.content.get("product_id"), function.product),)
        if any(wanted not in (None, "*") and _hex(wanted) != _hex(own) for wanted, own in ids):
            return False
        if "devname" in self.content:
            return self.interface is not None and self.interface in (
                function.address,
                function.physfn,
            )
        address = self.content.get("address")
        if not address:
            return True
        if _covers(address, function.address):
            return True
        # The exact address of a PF also stands for its VFs.
        exact = isinstance(address, str) and pci_address.is_exact(address.lower())
        return bool(exact and function.physfn and _covers(address, function.physfn))

    @property
    def tags(self) -> dict[str, Any]:
        """A device_spec's fields beside those that select devices."""
        selectors = ("vendor_id", "product_id", "address", "devname")
        return {key: self.content[key] for key in sorted(self.content) if key not in selectors}


class Config(NamedTuple):
    """The assignments in Nova's files, in the order in which Nova reads them.

    ``interfaces`` maps the network interfaces that device_specs name to their functions' addresses.
    """

    values: tuple[Value, ...] = ()
    interfaces: Mapping[str, str] = {}

    def aliases(self) -> tuple[Entry, ...]:
        """Every alias. Skips a line that holds no JSON object: Nova does not start with one."""
        return tuple(_entries(self._of(_ALIAS)))

    def device_specs(self) -> tuple[Entry, ...]:
        """Every device_spec, by any of the option's names."""
        return tuple(
            each._replace(interface=self.interfaces.get(str(each.content["devname"])))
            if "devname" in each.content
            else each
            for each in _entries(self._of(_DEVICE_SPEC))
        )

    def last(self, option: tuple[tuple[str, str], ...]) -> Value | None:
        """The assignment of a single-valued option that counts: the last; None without any."""
        found = self._of(option)
        return found[-1] if found else None

    def is_true(self, option: tuple[tuple[str, str], ...]) -> bool:
        """Tell whether a boolean option is on; without an assignment it is off."""
        value = self.last(option)
        return value is not None and value.text.strip().lower() in _TRUE

    def only(self, path: str) -> Config:
        """The assignments in the file at ``path``, an absolute one."""
        return self._replace(values=tuple(each for each in self.values if each.path == path))

    def without(self, path: str) -> Config:
        """The assignments in all files but the one at ``path``, an absolute one."""
        return self._replace(values=tuple(each for each in self.values if each.path != path))

    def _of(self, option: tuple[tuple[str, str], ...]) -> list[Value]:
        return [value for value in self.values if (value.section, value.key) in option]


def read(root: Path, programs: Iterable[str]) -> Config:
    """Read what Nova's programs read.

    Source: oslo.config's find_config_files and find_config_dirs: nova.conf and PROGRAM.conf, then
    the ``*.conf`` of nova.conf.d and PROGRAM.conf.d in name order. The assignments of a
    multi-valued option add up; the last one of a single-valued option counts.

    Args:
        root: the unit's root.
        programs: the programs, such as ``nova-compute``.

    Raises:
        OSError: when a file is there but cannot be read.
    """
    names = ("nova", *programs)
    directory = root / DIRECTORY
    paths = [directory / f"{name}.conf" for name in names]
    for name in names:
        paths += _drop_ins(directory / f"{name}.conf.d")
    found: list[Value] = []
    for path in paths:
        present = files.read(path)
        if present:
            where = f"/{path.relative_to(root)}"
            found += [
                Value(where, section, key, text)
                for section, key, text in parse(present.content)
                if (section, key) in _OPTIONS
            ]
    config = Config(tuple(found))
    names = {str(each.content.get("devname", "")) for each in config.device_specs()}
    return config._replace(interfaces=_find_functions(root, names - {""}))


def _find_functions(root: Path, interfaces: Collection[str]) -> dict[str, str]:
    """Map network interfaces of the host to the addresses of the functions that they are on."""
    if not interfaces:
        return {}
    links = sysfs.links_or_raise(root / _INTERFACES)
    paths = {name: links[name].split("/") for name in interfaces if name in links}
    below = {name: [each for each in paths[name] if pci_address.is_exact(each)] for name in paths}
    return {name: functions[-1] for name, functions in below.items() if functions}


def parse(text: str) -> Iterator[tuple[str, str, str]]:
    """Read oslo.config's dialect of INI: yields section (in lower case), key and value.

    A line that starts with white space continues the value before it. The dialect drops one pair
    of quotes around a first line. Skips lines that are no assignment: Nova itself refuses them.
    """
    section, key, value = "default", "", []
    for line in (*text.splitlines(), ""):
        line = line.rstrip()
        if line[:1] in (" ", "\t"):
            value.append(line.lstrip())
            continue
        if key:
            yield section, key, "\n".join(value)
        key, value = "", []
        if line.startswith("[") and line.endswith("]"):
            section = line[1:-1].lower()
        elif line and line[0] not in "#;[":
            key, first = _split(line)
            value = [first]


def _split(line: str) -> tuple[str, str]:
    match = re.search(r"[=:]", line)
    if not match:
        return "", ""
    value = line[match.end() :].strip()
    if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
        value = value[1:-1]
    return line[: match.start()].strip(), value


def _drop_ins(directory: Path) -> list[Path]:
    try:
        names = [path.name for path in directory.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    # The glob that oslo.config uses matches no hidden file.
    return [
        directory / name
        for name in sorted(names)
        if name.endswith(".conf") and not name.startswith(".")
    ]


def _entries(values: Iterable[Value]) -> Iterator[Entry]:
    for value in values:
        try:
            loaded = json.loads(value.text)
        except (ValueError, RecursionError):
            continue
        entries = cast("list[object]", loaded) if isinstance(loaded, list) else [loaded]
        for entry in entries:
            if isinstance(entry, dict):
                yield Entry(value, cast("dict[str, Any]", entry))


def _hex(text: object) -> int | None:
    try:
        return int(str(text).strip(), 16)
    except ValueError:
        return None


def _covers(pattern: object, address: str) -> bool:
    """Match an address as Nova does: a glob whose absent parts are wild, or regular expressions."""
    domain, bus, rest = address.split(":")
    slot, _, function = rest.partition(".")
    if isinstance(pattern, Mapping):
        parts = {"domain": domain, "bus": bus, "slot": slot, "function": function}
        given = cast("Mapping[str, object]", pattern)
        return all(_matches(given.get(key, ".*"), part) for key, part in parts.items())
    front, _, last = str(pattern).partition(".")
    wanted = ["*"] * (3 - front.count(":") - 1) + front.split(":") if front else ["*"] * 3
    return all(
        part.strip() in ("", "*") or _hex(part) == _hex(own)
        for part, own in zip([*wanted, last], (domain, bus, slot, function), strict=False)
    )


def _matches(expression: object, part: str) -> bool:
    try:
        return re.match(str(expression), part) is not None
    except re.error:
        return False
