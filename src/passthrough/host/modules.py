"""Which modules the installed kernels name for a PCI function.

Source: modules.alias, which depmod makes of the modules' own tables: a pattern as fnmatch(3) has
them, and the name of a module (modprobe.d(5), "alias").
"""

from __future__ import annotations

import fnmatch
import functools
import re
from collections.abc import Mapping
from pathlib import Path

from passthrough.system import sysfs

_DIRECTORY = "lib/modules"
# The vendor is written out in every pattern but those of a whole class.
_ALIAS = rb"^alias (pci:v(?:%s|\*)\S*) (\S+)$"
_MODALIAS = re.compile(r"pci:v([0-9A-F]{8})d")


def normalize(name: str) -> str:
    """Give a module's name as modprobe compares it: with ``_`` for ``-``."""
    return name.replace("-", "_")


class Aliases:
    """The module names by alias of every installed kernel, read at the first question.

    Args:
        root: the host's root; None for a host that has no kernel to ask.
    """

    def __init__(self, root: Path | None):
        self._root = root
        self._of_vendor: dict[str, list[tuple[re.Pattern[str], str]]] = {}

    @functools.cached_property
    def _texts(self) -> Mapping[str, bytes]:
        """The content of each kernel's modules.alias, by the kernel's release."""
        found: dict[str, bytes] = {}
        directory = None if self._root is None else self._root / _DIRECTORY
        for release in sysfs.names_if_there(directory) if directory else ():
            try:
                found[release] = (Path(directory or "") / release / "modules.alias").read_bytes()
            except OSError:
                continue  # half of a kernel, which dpkg has left or not yet finished
        return found

    @property
    def known(self) -> bool:
        """Whether any installed kernel tells its aliases."""
        return bool(self._texts)

    def of(self, modalias: str | None) -> frozenset[str]:
        """Name the modules that any installed kernel would load for a function.

        Args:
            modalias: the function's modalias; None where it shows none.

        Returns:
            The names, normalized.
        """
        vendor = _MODALIAS.match(modalias or "")
        if not (modalias and vendor):
            return frozenset()
        rows = self._rows(vendor[1])
        return frozenset(name for pattern, name in rows if pattern.fullmatch(modalias))

    def _rows(self, vendor: str) -> list[tuple[re.Pattern[str], str]]:
        if vendor not in self._of_vendor:
            line = re.compile(_ALIAS % vendor.encode(), re.MULTILINE)
            pairs = {pair for text in self._texts.values() for pair in line.findall(text)}
            self._of_vendor[vendor] = [
                (
                    re.compile(fnmatch.translate(pattern.decode("ascii", "replace"))),
                    normalize(name.decode("ascii", "replace")),
                )
                for pattern, name in sorted(pairs)
            ]
        return self._of_vendor[vendor]

    @classmethod
    def none(cls) -> Aliases:
        """The aliases of a host that is made up."""
        return cls(None)
