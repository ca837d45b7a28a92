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
    """Read the format that the head of pci.ids describes: one tab a level, ``C`` for classes."""
    vendors: dict[str, str] = {}
    products: dict[tuple[str, str], str] = {}
    classes: dict[str, str] = {}
    content = b"\n" + content
    heads = [rb"C \S+", *(re.escape(vendor.encode()) for vendor in wanted)]
    # No loop over the lines: the file has 40,000, of which few are wanted.
    for section in re.finditer(rb"\n(%b)  (.*)" % b"|".join(heads), content):
        code, name = map(_text, section.groups())
        following = _NEXT_SECTION.search(content, section.end())
        end = following.start() if following else len(content)
        entries = dict(_ENTRY.findall(content, section.end(), end))
        if code in wanted:
            vendors[code] = name
            for product in wanted[code]:
                found = entries.get(product.encode())
                if found is not None:
                    products[code, product] = _text(found)
        else:
            base = code.partition(" ")[2]
            classes[base] = name
            classes.update({base + _text(key): _text(entries[key]) for key in entries})
    return Names(vendors, products, classes)


def _text(found: bytes) -> str:
    return found.decode("utf-8", "replace").strip()
