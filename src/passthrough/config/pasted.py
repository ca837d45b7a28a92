"""What people paste into ``devices`` that is no item: what it is, and the item to write. Pure.

Each function gives a fact and a way out, or None where the text is nothing of the kind.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from passthrough import pci_address
from passthrough.system.quoting import bare, show

_ID = r"[0-9A-Fa-f]{4}:[0-9A-Fa-f]{4}"
_ADDRESS = r"(?:[0-9A-Fa-f]{4,8}:)?[0-9A-Fa-f]{2}:[01][0-9A-Fa-f]\.[0-7]"
_LSPCI = rf"({_ADDRESS}) .*\[({_ID})\]"
_BLANKS = r"([\w.|-]+)(?:[ \t]+=[ \t]*|=[ \t]+)([\w:.@/*?\[\]-]+)"
_BAR = r"([\w.|-]+)(?:[ \t]+\|[ \t]*|\|[ \t]+)([\w.|-]+(?:=\S+)?)"
_KEY = r"([A-Za-z][\w.|-]*):[ \t]+(\S+)"
_WITH_COLON = rf"([A-Za-z][\w.|-]*):({_ID}.*)"
_ADDRESS_ALONE = rf"(?:(.+)=)?({_ADDRESS})"
_IDS = r"(?:vfio[-_]pci\.)?ids=(.+)"
_LONGEST = 1000  # characters of a line that are looked at: the patterns go back and forth
_LISTS = "items are separated by commas, blanks or newlines"


class Mistake(NamedTuple):
    """What a text is, and what to write instead."""

    fact: str
    way_out: str


def of_text(text: str, keys: Iterable[str]) -> Mistake | None:
    """Look at the option as a whole, which is in the short form.

    Args:
        text: the option.
        keys: the keys of the YAML form.
    """
    line = text.strip().partition("\n")[0][:_LONGEST]
    if " " not in line and "\t" not in line:
        return None
    lspci = re.match(_LSPCI, line)
    if lspci:
        address, identity = lspci[1].lower(), lspci[2].lower()
        where = _full(address)
        return Mistake(
            f"{show(line)} is a line of lspci{pci_address.about_domain(where)}",
            f"of it an item has {identity}@{where}",
        )
    key = re.match(_KEY, line)
    if key and key[1] in keys:
        return Mistake(
            f"{show(key[1])} is a key of the YAML form, which is a list",
            "begin each item with a dash: - {alias: gpu, id: 10de:1bb0}",
        )
    if key:
        return Mistake(f"{show(key[0])} has a colon behind the ALIAS", _write(key[1], key[2]))
    bar = re.search(_BAR, line)
    if bar:
        return Mistake(
            f"{show(bar[0])} has blanks around the |", f"write {bare(bar[1])}|{bare(bar[2])}"
        )
    blanks = re.search(_BLANKS, line)
    if blanks:
        return Mistake(
            f"{show(blanks[0])} has blanks around the =",
            _write(blanks[1], blanks[2]),
        )
    return None


def of_entry(entry: str) -> Mistake | None:
    """Look at one item of the short form."""
    colon = re.fullmatch(_WITH_COLON, entry)
    address = re.fullmatch(_ADDRESS_ALONE, entry)
    ids = re.fullmatch(_IDS, entry)
    if entry[:1] in "\"'" and entry[:1]:
        return Mistake("quotes are no part of an item", f"leave {entry[0]} out")
    if entry.startswith("@"):
        return Mistake(
            "is the name of a file",
            f"Juju reads one as a whole value: juju config pci-passthrough devices={bare(entry)}",
        )
    if ";" in entry:
        return Mistake("a semicolon stands in it", f"{_LISTS}, and by no semicolon")
    if ids:
        return Mistake(
            "is the option of vfio-pci for the kernel, and no alias",
            f"write the ids alone: {bare(ids[1])}",
        )
    if address:
        name = f"{bare(address[1])}=" if address[1] else ""
        where = _full(address[2].lower())
        return Mistake(
            f"{show(address[2])} is an address{pci_address.about_domain(where)}, and an item begins"
            " with the id of what is there",
            f"write {name}VENDOR:PRODUCT@{where}; list-devices and lspci -nns {where} show the id",
        )
    if colon:
        return Mistake(
            f"{show(colon[1])} is an alias, which = follows",
            _write(colon[1], colon[2]),
        )
    return None


def of_keys(entry: Mapping[object, object], keys: Iterable[str]) -> str:
    """Say what a mapping with keys of another spelling would be as an item; empty if nothing."""
    known = tuple(keys)
    meant = {str(key): str(key).replace("_", "-") for key in entry if key not in known}
    better = [new for old, new in meant.items() if new in known and new != old]
    vendor, product = entry.get("vendor_id"), entry.get("product_id")
    if isinstance(vendor, str) and isinstance(product, str):
        identity = show(f"{vendor}:{product}".lower())
        return f"this is Nova's own form, of which an item has {{id: {identity}}}"
    if {"devname", "vendor_id", "product_id", "physical_network"} & meant.keys() and (
        "id" not in entry
    ):
        return "this is Nova's own form; an item begins with an id: {id: VENDOR:PRODUCT}"
    return f"did you mean {better[0]}?" if better else ""


def _write(alias: str, rest: str) -> str:
    return f"write {bare(alias)}={bare(rest)}"


def _full(address: str) -> str:
    return f"0000:{address}" if address.count(":") == 1 else address
