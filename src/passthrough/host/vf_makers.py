"""Who else sets how many VFs a function has: netplan, udev, systemd, other charms. Reads only.

Two that set it fight at every boot, and the second is refused by the kernel: VFs are made from none
alone. Sources: netplan(5), "virtual-function-count" and "link"; systemd.link(5),
"SR-IOVVirtualFunctions="; udev(7); tmpfiles.d(5); nm-settings-keyfile(5), "sriov"; modinfo(8) of
igb and mlx4_core; /etc/sriov-netplan-shim/interfaces.yaml, which the charms ovn-chassis and
neutron-openvswitch write for their option sriov-numvfs.

To recognise one more, write a finder and add a row to ``_PLACES``.
"""

from __future__ import annotations

import fnmatch
import functools
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

from passthrough.host import pci, ports
from passthrough.system import sysfs

_MOST = 1 << 20
_UDEV_MATCH = re.compile(r'([A-Z]+(?:\{[^}]*\})?)\s*==\s*"([^"]*)"')
_VFS_PARAMETER = re.compile(r"\b(?:max_vfs|num_vfs)=(?!0\b)")
_LINK_SECTION = re.compile(r"^\s*\[(\w+)\]")
_LINK_SETTING = re.compile(r"^\s*([\w-]+)\s*=\s*(.*?)\s*$")


class Card(NamedTuple):
    """A function as these settings name it."""

    function: pci.Function
    ports: tuple[ports.Port, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its interfaces."""
        return tuple(port.name for port in self.ports)

    @property
    def macs(self) -> tuple[str, ...]:
        """The addresses of its interfaces."""
        return tuple(port.mac for port in self.ports)


_Finder = Callable[[str, Card], bool]


class Makers:
    """Who else makes the VFs of functions; the settings are read at the first question.

    Args:
        root: the host's root; None for a host where nobody does.
    """

    def __init__(self, root: Path | None):
        self._root = root

    @classmethod
    def none(cls) -> Makers:
        """A host where nobody makes VFs."""
        return cls(None)

    def of(self, function: pci.Function, its_ports: tuple[ports.Port, ...]) -> tuple[str, ...]:
        """Name the files that set the number of a function's VFs, as the host sees them.

        A setting of which it cannot be told whether it means this function counts.

        Args:
            function: the function.
            its_ports: its interfaces.

        Raises:
            OSError: when a file is there and cannot be read.
        """
        card = Card(function, its_ports)
        return tuple(path for path, text, finder in self._settings if finder(text, card))

    @functools.cached_property
    def _settings(self) -> tuple[tuple[str, str, _Finder], ...]:
        """Each file, its content, and what finds the cards that it means."""
        return tuple(_read(self._root)) if self._root else ()


def _read(root: Path) -> Iterator[tuple[str, str, _Finder]]:
    for pattern, finder in _PLACES:
        for path in sysfs.paths_if_there(root, pattern):
            if os.path.isfile(path):
                with open(path, "rb") as file:
                    text = file.read(_MOST).decode("utf-8", "replace")
                yield f"/{os.path.relpath(path, root)}", text, finder


def _load(text: str) -> Mapping[str, Any] | None:
    """Read YAML; None where nobody can, or it is no mapping."""
    import yaml  # only a host with such a file needs it

    try:
        found = yaml.load(text, Loader=yaml.BaseLoader)  # noqa: S506 - BaseLoader builds only text
    except (yaml.YAMLError, RecursionError):
        return None
    return cast("Mapping[str, Any]", found) if isinstance(found, dict) else None


def _mapping(value: object) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", value) if isinstance(value, dict) else {}


def _in_netplan(text: str, card: Card) -> bool:
    if "virtual-function-count" not in text and "link" not in text:
        return False
    found = _load(text)
    if found is None:
        return "virtual-function-count" in text
    interfaces = _mapping(_mapping(found.get("network")).get("ethernets"))
    # An ethernet with a link is a VF of that one, which netplan then makes.
    parents = {str(_mapping(each).get("link")) for each in interfaces.values()}
    return any(
        (name in parents or "virtual-function-count" in _mapping(each))
        and _netplan_means(name, _mapping(_mapping(each).get("match")), card)
        for name, each in interfaces.items()
    )


def _netplan_means(name: str, match: Mapping[str, Any], card: Card) -> bool:
    if not match:
        return name in card.names
    wanted: tuple[tuple[str, tuple[str, ...]], ...] = (
        ("name", card.names),
        ("macaddress", card.macs),
        ("driver", (card.function.driver or "",)),
    )
    return all(_fits_any(match[key], there) for key, there in wanted if key in match)


def _fits_any(patterns: object, values: tuple[str, ...]) -> bool:
    several = cast("list[object]", patterns) if isinstance(patterns, list) else [patterns]
    return any(
        fnmatch.fnmatchcase(value, str(pattern).lower() if ":" in value else str(pattern))
        for pattern in several
        for value in values
    )


def _in_shim(text: str, card: Card) -> bool:
    found = _load(text)
    if found is None:
        return bool(text.strip())
    for name, each in _mapping(found.get("interfaces")).items():
        match = _mapping(_mapping(each).get("match"))
        meant = {str(value).lower() for value in match.values()}
        known = {card.function.address, *card.macs}
        if name in card.names or meant & known:
            return True
    return False


def _in_udev(text: str, card: Card) -> bool:
    rules = re.sub(r"\\\n", " ", text).splitlines()
    return any(
        "sriov_numvfs" in rule and _udev_means(rule, card)
        for rule in rules
        if not rule.lstrip().startswith("#")
    )


def _udev_means(rule: str, card: Card) -> bool:
    """Tell whether all that a rule compares can be this function, its interface or its driver."""
    function = card.function
    ids = {"vendor": f"0x{function.vendor}", "device": f"0x{function.product}"}
    for key, pattern in _UDEV_MATCH.findall(rule):
        name, _, attribute = key.rstrip("}").partition("{")
        there: tuple[str, ...] | None = None
        if name in ("KERNEL", "KERNELS", "NAME", "INTERFACE"):
            there = (function.address, *card.names)
        elif name in ("DRIVER", "DRIVERS"):
            there = (function.driver or "",)
        elif name in ("ATTR", "ATTRS") and attribute in ids:
            there = (ids[attribute],)
        elif name in ("ATTR", "ATTRS") and attribute == "address":
            there = card.macs
        elif key == "ENV{PCI_SLOT_NAME}":
            there = (function.address,)
        if there is not None and not _udev_fits(pattern, there):
            return False
    return True


def _udev_fits(pattern: str, values: tuple[str, ...]) -> bool:
    alternatives = pattern.lower().split("|")
    return any(fnmatch.fnmatchcase(each.lower(), one) for each in values for one in alternatives)


def _in_link(text: str, card: Card) -> bool:
    settings: dict[str, str] = {}
    section = ""
    for line in text.splitlines():
        head = _LINK_SECTION.match(line)
        setting = _LINK_SETTING.match(line)
        if head:
            section = head[1]
        elif setting:
            settings[f"{section}.{setting[1]}"] = setting[2]
    if "Link.SR-IOVVirtualFunctions" not in settings:
        return False
    wanted: tuple[tuple[str, tuple[str, ...]], ...] = (
        ("OriginalName", card.names),
        ("MACAddress", card.macs),
        ("PermanentMACAddress", card.macs),
        ("Driver", (card.function.driver or "",)),
        ("Path", (f"pci-{card.function.address}",)),
    )
    return all(
        _fits_any(settings[f"Match.{key}"].split(), there)
        for key, there in wanted
        if settings.get(f"Match.{key}")
    )


def _in_script(text: str, card: Card) -> bool:
    """Look for a script or unit that sets the number, and names the function or its interface."""
    code = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    if "sriov_numvfs" not in code:
        return False
    short = card.function.address.removeprefix("0000:")
    return any(
        re.search(rf"(?<![\w.:-]){re.escape(each)}(?![\w.:-])", code)
        for each in (card.function.address, short, *card.names)
    )


def _in_keyfile(text: str, card: Card) -> bool:
    """Look for the SR-IOV setting of a connection of NetworkManager's."""
    pairs = [line.partition("=") for line in text.splitlines() if not line.startswith("#")]
    settings = {key.strip(): value.strip() for key, _, value in pairs}
    name, mac = settings.get("interface-name"), settings.get("mac-address")
    return "total-vfs" in settings and (
        (not name or name in card.names) and (not mac or mac.lower() in card.macs)
    )


def _in_modprobe(text: str, card: Card) -> bool:
    """Look for the parameter of the card's own module that makes VFs of every card."""
    module = card.function.module or card.function.driver or ""
    return any(
        words[:1] == ["options"]
        and words[1:2] == [each]
        and re.search(_VFS_PARAMETER, " ".join(words[2:]))
        for words in map(str.split, re.sub(r"\\\n", " ", text).splitlines())
        for each in (module, module.replace("_", "-"))
    )


_PLACES: tuple[tuple[str, _Finder], ...] = (
    ("etc/netplan/*.yaml", _in_netplan),
    ("run/netplan/*.yaml", _in_netplan),
    ("etc/sriov-netplan-shim/interfaces.yaml", _in_shim),
    ("etc/udev/rules.d/*.rules", _in_udev),
    ("run/udev/rules.d/*.rules", _in_udev),
    ("etc/systemd/network/*.link", _in_link),
    ("run/systemd/network/*.link", _in_link),
    ("etc/systemd/system/*.service", _in_script),
    ("etc/rc.local", _in_script),
    ("etc/tmpfiles.d/*.conf", _in_script),
    ("etc/sysfs.conf", _in_script),
    ("etc/sysfs.d/*.conf", _in_script),
    ("etc/network/interfaces", _in_script),
    ("etc/network/interfaces.d/*", _in_script),
    ("etc/network/if-*.d/*", _in_script),
    ("etc/networkd-dispatcher/*.d/*", _in_script),
    ("etc/NetworkManager/system-connections/*", _in_keyfile),
    ("run/NetworkManager/system-connections/*", _in_keyfile),
    ("etc/modprobe.d/*.conf", _in_modprobe),
)
