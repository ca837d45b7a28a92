"""What people paste into ``devices`` that is no item: what it is, and the item to write. Pure.

Each function gives a fact and a way out, or None where the text is nothing of the kind.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from passthrough import pci_address
from passthrough.system.quoting import bare, show

_ID = r"[0-9A-Fa-f]{4}:[0-9A-Fa-f]{4}"
_ADDRESS = r"(?:[0-9A-Fa-f]{4,8}:)?[0-9A-Fa-f]{2}:[01][0-9A-Fa-f]\.[0-7]"
_LSPCI = rf"({_ADDRESS}) .*\[({_ID})\]"
_LSPCI_N = rf"({_ADDRESS})[ \t]+(?:[0-9A-Fa-f]{{4}}:[ \t]+)?({_ID})(?:[ \t].*)?"
_LSPCI_MM = rf'({_ADDRESS}) "[^"]*" "[^"]*\[(\w{{4}})\]" "[^"]*\[(\w{{4}})\]".*'
_LSPCI_VMM = (
    r"(?s)Slot:\s*(\S+)\n.*?Vendor:[^\n]*\b(\w{4})\b\]?\n.*?Device:[^\n]*\b(\w{4})\b\]?(?:\n.*)?"
)
_LSHW = rf"pci@({_ADDRESS})[ \t].*\[({_ID})\].*"
_MODPROBE = r"options[ \t]+vfio[-_]pci[ \t].*?\bids=[\"']?([\w:,]+).*"
_BLANKS = r"([\w.|-]+)(?:[ \t]+=[ \t]*|=[ \t]+)([\w:.@/*?\[\]-]+)"
_BAR = r"(?<![\w.|:=@/-])([\w.|-]+)(?:[ \t]+\|[ \t]*|\|[ \t]+)([\w.|-]+(?:=\S+)?)"
_KEY = r"([A-Za-z][\w.|-]*)[ \t]*:[ \t]+(\S+)"
_LONGEST = 1000  # characters of a line that are looked at: the patterns go back and forth
_LISTS = "items are separated by commas, blanks or newlines"
_DASH = "begin each item with a dash: - {alias: gpu, id: 10de:1bb0}"
_QUOTES = "\"'`\u2018\u2019\u201c\u201d"

# A line of nova.conf, and what of it an item has.
_CONF = r"(?m)^[ \t]*(?:pci_)?(passthrough_whitelist|device_spec|alias)[ \t]*=[ \t]*[\[{]"
_CONF_ID = r'"(vendor_id|product_id|name)"\s*:\s*"([\w.-]+)"'
_OPTION = r"(juju[ \t]+config|--devices|devices[ \t]*(?=:)|devices(?==[^,\s]*=))"
# What somebody may take for a key of `devices`.
_OTHER_NAMES = {
    "addresses": "address",
    "ids": "id",
    "name": "alias",
    "network": "physical-network",
    "pci-id": "id",
    "type": "device-type",
}


class Mistake(NamedTuple):
    """What a text is, and what to write instead."""

    fact: str
    way_out: str


def of_any(text: str) -> Mistake | None:
    """Look at the option as a whole, in whichever form: for what is more than a list of items."""
    head = text[:_LONGEST]
    conf = re.search(_CONF, head)
    if conf:
        named = dict(re.findall(_CONF_ID, head))
        fact = f"{show(conf[1])} is an option of nova.conf"
        if not {"vendor_id", "product_id"} <= named.keys():
            return Mistake(fact, "an item begins with an id: VENDOR:PRODUCT")
        alias = f"{named['name']}=" if "name" in named else ""
        identity = f"{named['vendor_id']}:{named['product_id']}".lower()
        return Mistake(fact, f"of it an item has {bare(alias + identity)}")
    option = re.match(_OPTION, head)
    if option:
        return Mistake(f"{show(option[1].strip())} is no part of the value", "give the items alone")
    return None


def of_text(text: str, keys: Iterable[str]) -> Mistake | None:
    """Look at the option as a whole, which is in the short form.

    Args:
        text: the option.
        keys: the keys of the YAML form.
    """
    head = text.strip()[:_LONGEST]
    line = head.partition("\n")[0].rstrip()
    if line != head and re.fullmatch(r"[A-Za-z][\w.|-]*:", line):
        return Mistake(f"{show(line)} begins a mapping, and the YAML form is a list", _DASH)
    if " " not in line and "\t" not in line:
        return None
    return _of_lspci(head, line) or _of_blanks(line, keys)


def _of_lspci(head: str, line: str) -> Mistake | None:
    """Look for what a program prints of a function, or what vfio-pci is told of it."""
    for pattern, program in ((_LSPCI_MM, "lspci"), (_LSPCI_VMM, "lspci")):
        found = re.fullmatch(pattern, head if pattern == _LSPCI_VMM else line)
        if found:
            return _printed(line, program, found[1], f"{found[2]}:{found[3]}")
    for pattern, program in ((_LSHW, "lshw"), (_LSPCI, "lspci"), (_LSPCI_N, "lspci")):
        found = re.match(pattern, line)
        if found:
            return _printed(line, program, found[1], found[2])
    options = re.fullmatch(_MODPROBE, line)
    if options:
        return Mistake(
            f"{show(line)} is a line of modprobe.d", f"write the ids alone: {bare(options[1])}"
        )
    return None


def _printed(line: str, program: str, address: str, identity: str) -> Mistake:
    where = _full(address.lower())
    return Mistake(
        f"{show(line)} is a line of {program}{pci_address.about_domain(where)}",
        f"of it an item has {bare(f'{identity.lower()}@{where}')}",
    )


def _of_blanks(line: str, keys: Iterable[str]) -> Mistake | None:
    """Look for blanks where an item has none."""
    key = re.match(_KEY, line)
    if key and key[1] in keys:
        return Mistake(f"{show(key[1])} is a key of the YAML form, which is a list", _DASH)
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
    for pattern, explain in _ENTRIES:
        found = re.fullmatch(pattern, entry[:_LONGEST])
        if found:
            return explain(found)
    return None


def _of_quotes(found: re.Match[str]) -> Mistake:
    quote = found[0][:1]
    fact = "quotes are no part of an item"
    if quote in "\"'":
        return Mistake(fact, f"leave {quote} out")
    return Mistake(fact, f"write {bare(found[0].translate(dict.fromkeys(map(ord, _QUOTES))))}")


def _of_file(found: re.Match[str]) -> Mistake:
    path = bare(found[0].removeprefix("@"))
    return Mistake(
        "is the name of a file",
        f"Juju reads one as a whole value: juju config pci-passthrough devices=@{path}",
    )


def _of_address(found: re.Match[str]) -> Mistake:
    name = f"{bare(found[1])}=" if found[1] else ""
    where = _full(found[2].lower())
    return Mistake(
        f"{show(found[2])} is an address{pci_address.about_domain(where)}, and an item begins with"
        " the id of what is there",
        f"write {name}VENDOR:PRODUCT@{where}; list-devices and lspci -nns {where} show the id",
    )


def _of_node(found: re.Match[str]) -> Mistake:
    """An address as libvirt or lshw spells it, where an id belongs or behind one."""
    head, parts = found["head"] or "", re.split(r"[_:.]", found["node"])
    where = f"{':'.join(parts[:3])}.{parts[3]}".lower()
    identity = head if head.endswith("@") else f"{head}VENDOR:PRODUCT@"
    return Mistake(
        f"{show(found[0].removeprefix(head))} is a name of libvirt's or lshw's, and is not"
        " VENDOR:PRODUCT@ADDRESS",
        f"write {bare(identity)}{where}",
    )


# What an entry is → what to say of it; the first that fits the whole entry counts.
_ENTRIES: tuple[tuple[str, Callable[[re.Match[str]], Mistake]], ...] = (
    (rf"[{_QUOTES}].*|.*=[{_QUOTES}].*|.*[{_QUOTES}]", _of_quotes),
    (r"@.+|[~.]*/.+|[^=@:]+\.ya?ml", _of_file),
    (
        r".*;.*",
        lambda found: Mistake("a semicolon stands in it", f"{_LISTS}, and by no semicolon"),
    ),
    (
        rf"[|&+]+|and|.*{_ID}[|&+].*{_ID}.*",
        lambda found: Mistake("stands between items" if len(found[0]) < 4 else "is two", _LISTS),
    ),
    (
        r"(?:vfio[-_]pci\.)?ids=(.+)",
        lambda found: Mistake(
            "is the option of vfio-pci for the kernel, and no alias",
            f"write the ids alone: {bare(found[1])}",
        ),
    ),
    (
        r"pci_passthrough:alias=(.+)",
        lambda found: Mistake(
            "is a property of a flavor", "an item has ALIAS=VENDOR:PRODUCT of what it asks for"
        ),
    ),
    (rf"(?:(.+)=)?({_ADDRESS})", _of_address),
    (
        r"(?P<head>(?:.+=)?(?:[\w:/]+@)?)pci[@_]"
        r"(?P<node>[0-9A-Fa-f]{4}[_:][0-9A-Fa-f]{2}[_:][01][0-9A-Fa-f][_.][0-7])",
        _of_node,
    ),
    (rf"([A-Za-z][\w.|-]*)@({_ADDRESS})", _of_address),
    (
        rf"(.*{_ID})@({_ADDRESS})/(\w+)",
        lambda found: Mistake(
            "the type stands behind the address",
            f"write {bare(found[1])}/{bare(found[3])}@{bare(found[2])}",
        ),
    ),
    (
        rf"({_ID}|{_ADDRESS})=([A-Za-z][\w.|-]*)",
        lambda found: Mistake(
            "the alias stands behind the =",
            _write(found[2], found[1])
            if re.fullmatch(_ID, found[1])
            else f"write {bare(found[2])}=VENDOR:PRODUCT@{bare(_full(found[1].lower()))}",
        ),
    ),
    (
        rf"([A-Za-z][\w.|-]*)[:@]({_ID}.*)",
        lambda found: Mistake(
            f"{show(found[1])} is an alias, which = follows", _write(found[1], found[2])
        ),
    ),
    (
        r"((?:.+=)?)(0x[0-9A-Fa-f]{4}):0x([0-9A-Fa-f]{4})",
        lambda found: Mistake(
            f"vendor id {show(found[2])} is not four hex digits",
            f"write {bare(f'{found[1]}{found[2][2:]}:{found[3]}')}",
        ),
    ),
    (
        r"(?i)(?:.+=)?(?:pci:v0000|pci\\VEN_)([0-9a-f]{4})(?:d0000|&DEV_)([0-9a-f]{4}).*",
        lambda found: Mistake(
            "is a name by which a driver is found",
            f"of it an item has {found[1].lower()}:{found[2].lower()}",
        ),
    ),
    (
        rf"(alias|vendor|product|vendor_id|product_id|address)=(?!{_ID}).+",
        lambda found: Mistake(
            f"{show(found[1])} is a key of a longer form", "write ALIAS=VENDOR:PRODUCT@ADDRESS"
        ),
    ),
)


def of_keys(entry: Mapping[object, object], keys: Iterable[str]) -> str:
    """Say what a mapping with keys of another spelling would be as an item; empty if nothing."""
    known = tuple(keys)
    meant = {str(key): str(key).replace("_", "-") for key in entry if key not in known}
    lower = {key: _OTHER_NAMES.get(new.lower(), new.lower()) for key, new in meant.items()}
    better = [new for old, new in lower.items() if new in known and new != old]
    vendor = entry.get("vendor_id", entry.get("vendor"))
    product = entry.get("product_id", entry.get("product"))
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
