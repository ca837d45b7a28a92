"""Names of vendors, products and classes, from the pci.ids file of the pciutils project."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from passthrough import pci

# Where Debian, Ubuntu and hwdata put it.
_FILES = ("usr/share/misc/pci.ids", "usr/share/hwdata/pci.ids")

# The name of a card often ends in what is printed on its box: "GP104GL [Quadro P5000]". Other
# products have remarks there, such as "[AHCI mode]". Network, display, processing accelerator.
_BOX_NAME = re.compile(r"\[([^\[\]]{4,})\]$")
_CARD_CLASSES = (0x02, 0x03, 0x12)


@dataclasses.dataclass(frozen=True)
class Names:
    """Looked-up names; the bare id stands where the file knows none, or is not installed."""

    vendors: Mapping[str, str]
    products: Mapping[tuple[str, str], str]
    classes: Mapping[str, str]

    def device(self, function: pci.Function) -> str:
        """``Vendor Product``, as lspci prints it."""
        vendor = self.vendors.get(function.vendor, function.vendor)
        product = self.products.get((function.vendor, function.product), function.product)
        return f"{vendor} {product}"

    def model(self, function: pci.Function) -> str:
        """The shortest name that tells the product; its class where the product is not known."""
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
    """Look the names of ``functions`` up in the tree's pci.ids, in one pass over the file."""
    products: dict[str, set[str]] = {}
    for function in functions:
        products.setdefault(function.vendor, set()).add(function.product)
    path = next((root / name for name in _FILES if (root / name).exists()), None)
    found = Names({}, {}, {})
    if path is None:
        return found
    with path.open(encoding="utf-8", errors="replace") as file:
        return _scan(file, products)


def _scan(lines: Iterable[str], wanted: Mapping[str, set[str]]) -> Names:
    """Read the format that the head of pci.ids describes: one tab a level, ``C`` for classes."""
    vendors: dict[str, str] = {}
    products: dict[tuple[str, str], str] = {}
    classes: dict[str, str] = {}
    section, code = "", ""
    for line in lines:
        if line.startswith(("#", "\t\t", "\n")):
            continue
        key, _, name = line.strip().partition("  ")
        if line.startswith("C "):
            section, code = "class", key.partition(" ")[2]
            classes[code] = name
        elif line.startswith("\t"):
            if section == "class":
                classes[code + key] = name
            elif section == "vendor" and key in wanted[code]:
                products[code, key] = name
        elif key in wanted:
            section, code = "vendor", key
            vendors[code] = name
        else:
            section = ""
    return Names(vendors, products, classes)
