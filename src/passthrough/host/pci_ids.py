"""Names of vendors, products and classes, from the pci.ids file of the pciutils project."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from passthrough import frozen
from passthrough.host import pci

# Where Debian, Ubuntu and hwdata put it.
_FILES = ("usr/share/misc/pci.ids", "usr/share/hwdata/pci.ids")

# A card's name often ends in the name on its box, as in "GP104GL [Quadro P5000]"; the names of
# other products end in remarks, such as "[AHCI mode]".
_BOX_NAME = re.compile(r"\[([^\[\]]{4,})\]$")
# The PCI base classes of cards: network, display, processing accelerator.
_CARD_CLASSES = (0x02, 0x03, 0x12)

# A section goes on below its first line with entries, comments and empty lines.
_NEXT_SECTION = re.compile(rb"\n(?=[^\t#\n])")
_ENTRY = re.compile(rb"\n\t(\S+)  (.*)")
_CLASS = b"\nC "


class Names(frozen.Value):
    """Names from pci.ids. Where it knows none, or is not installed, the bare id stands."""

    vendors: Mapping[str, str]
    products: Mapping[tuple[str, str], str]
    classes: Mapping[str, str]

    def device(self, function: pci.Function) -> str:
        """``Vendor Product``, as lspci prints it."""
        vendor = self.vendors.get(function.vendor, function.vendor)
        product = self.products.get((function.vendor, function.product), function.product)
        return f"{vendor} {product}"

    def model(self, function: pci.Function) -> str:
        """The shortest name that tells the product; where pci.ids has none, its class."""
        product = self.products.get((function.vendor, function.product))
        if product is None:
            return self.kind(function)
        is_card = function.class_code >> 16 in _CARD_CLASSES
        box_name = _BOX_NAME.search(product) if is_card else None
        return box_name[1] if box_name else product

    def kind(self, function: pci.Function) -> str:
        """The name of the function's class, such as ``VGA compatible controller``."""
        code = f"{function.class_code >> 8:04x}"
        return self.classes.get(code) or self.classes.get(code[:2]) or f"class {code}"


def look_up(root: Path, functions: Iterable[pci.Function]) -> Names:
    """Look the names of ``functions`` up in the host's pci.ids, in one pass over the file."""
    products: dict[str, set[str]] = {}
    for function in functions:
        products.setdefault(function.vendor, set()).add(function.product)
    path = next((root / name for name in _FILES if (root / name).exists()), None)
    return _scan(path.read_bytes(), products) if path else Names({}, {}, {})


def _scan(content: bytes, wanted: Mapping[str, set[str]]) -> Names:
    """Read the format that the head of pci.ids describes: one tab a level, ``C`` for classes.

    No loop over the lines, nor an expression over all of them: the file has 40,000, of which few
    are wanted, and ``bytes.find`` is by far the fastest way to a text that is known. Vendors are in
    order there, and classes come last, so that one way through the file meets all of them.
    """
    vendors: dict[str, str] = {}
    products: dict[tuple[str, str], str] = {}
    classes: dict[str, str] = {}
    content = b"\n" + content
    end = 0
    for vendor in sorted(wanted):
        head = f"\n{vendor}  ".encode()
        start = content.find(head, end)
        if start < 0:
            start = content.find(head, 0, end)  # a file that somebody has added to
        if start < 0:
            continue
        vendors[vendor] = _rest_of_line(content, start + len(head))
        end = _end_of_section(content, start)
        for product in wanted[vendor]:
            entry = f"\n\t{product}  ".encode()
            at = content.find(entry, start, end)
            if at >= 0:
                products[vendor, product] = _rest_of_line(content, at + len(entry))
    start = content.find(_CLASS, end)
    if start < 0:
        start = content.find(_CLASS)  # somebody has added a vendor behind them
    while start >= 0:
        end = _end_of_section(content, start)
        base, _, name = _rest_of_line(content, start + len(_CLASS)).partition("  ")
        classes[base] = name.strip()
        for number, text in _ENTRY.findall(content, start, end):
            classes[base + _text(number)] = _text(text)
        start = content.find(_CLASS, end)
    return Names(vendors, products, classes)


def _end_of_section(content: bytes, start: int) -> int:
    following = _NEXT_SECTION.search(content, start + 1)
    return following.start() if following else len(content)


def _rest_of_line(content: bytes, start: int) -> str:
    end = content.find(b"\n", start)
    return _text(content[start : end if end >= 0 else len(content)])


def _text(found: bytes) -> str:
    return found.decode("utf-8", "replace").strip()
