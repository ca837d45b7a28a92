"""Which modules the installed kernels name for a PCI function, and which drivers those have.

Source: modules.alias, which depmod makes of the modules' own tables: a pattern as fnmatch(3) has
them, and the name of a module (modprobe.d(5), "alias"). The drivers that take a function only where
its driver_override names them, vfio-pci and its variants, have the prefix ``vfio_pci:`` instead of
``pci:`` (do_pci_entry() in the kernel's scripts/mod/file2alias.c).
"""

from __future__ import annotations

import fnmatch
import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from passthrough.system import procfs, sysfs

VFIO_PCI = "vfio_pci"  # the module of vfio-pci itself

_MODULES = "sys/module"
_PCI_DRIVER = "pci:"
_DIRECTORY = "lib/modules"
# The vendor is written out in every pattern but those of a whole class.
_ALIAS = rb"^alias (pci:v(?:%s|\*)\S*) (\S+)$"
_MODALIAS = r"pci:v([0-9A-F]{8})d"
_VFIO_ROW = b"\nalias vfio_pci:"
# Both end up in a script that root runs at boot.
_MODULE_NAME = r"[A-Za-z0-9_-]{1,64}"
_RELEASE = r"[A-Za-z0-9][A-Za-z0-9._+~-]{0,127}"
_WILDCARD = r"[*?\[]"


def normalize(name: str) -> str:
    """Give a module's name as modprobe compares it: with ``_`` for ``-``."""
    return name.replace("-", "_")


def variants_among(names: Iterable[str]) -> tuple[str, ...]:
    """Give the modules of variants of vfio-pci among the modules of VFIO drivers, each once."""
    return tuple(sorted({normalize(each) for each in names} - {VFIO_PCI}))


def driver_of(root: Path, module: str) -> str | None:
    """Read the name of the PCI driver that a module has registered.

    Many a driver has another name than its module: vfio-pci is of vfio_pci, and nobody but the
    kernel knows which. A module that is not loaded shows none.

    Args:
        root: the host's root.
        module: the module's name.
    """
    names = sysfs.names_if_there(root / _MODULES / normalize(module) / "drivers")
    drivers = sorted(
        name.removeprefix(_PCI_DRIVER) for name in names if name.startswith(_PCI_DRIVER)
    )
    # A module with several has one for VFIO among them.
    return next((name for name in drivers if "vfio" in name), drivers[0] if drivers else None)


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

    @functools.cached_property
    def running(self) -> str:
        """The running kernel's release; empty where it cannot be told."""
        return procfs.release_if_there(self._root) if self._root else ""

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
        vendor = re.match(_MODALIAS, modalias or "")
        if not (modalias and vendor):
            return frozenset()
        rows = self._rows(vendor[1])
        return frozenset(name for pattern, name in rows if pattern.fullmatch(modalias))

    def vfio_modules(self, modalias: str | None) -> dict[str, str]:
        """Name, for each installed kernel, the module with the best VFIO driver for a function.

        That is the row with the fewest wildcards, of several such the first, as libvirt chooses
        (virPCIDeviceFindBestVFIOVariant() in its src/util/virpci.c).

        Args:
            modalias: the function's modalias; None where it shows none.

        Returns:
            Release → module, the oldest kernel first; ``vfio_pci`` where a kernel names no other.
        """
        wanted = f"vfio_{modalias}" if modalias else ""
        found: dict[str, str] = {}
        for release in sorted(self._vfio_rows, key=age):
            matching = [row for row in self._vfio_rows[release] if row[1].fullmatch(wanted)]
            best = min(matching, key=lambda row: row[0], default=None)
            found[release] = best[2] if best else VFIO_PCI
        return found

    @functools.cached_property
    def _vfio_rows(self) -> Mapping[str, list[tuple[int, re.Pattern[str], str]]]:
        """The rows of VFIO's drivers by kernel: number of wildcards, pattern, module."""
        return {
            release: list(_read_vfio_rows(text))
            for release, text in self._texts.items()
            if re.fullmatch(_RELEASE, release)
        }

    def driver_of(self, module: str) -> str | None:
        """Read the driver of a module that is loaded, as `driver_of` does."""
        return driver_of(self._root, module) if self._root else None

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


def _read_vfio_rows(text: bytes) -> Iterator[tuple[int, re.Pattern[str], str]]:
    # A kernel has a handful of them, among tens of thousands of lines.
    start = text.find(_VFIO_ROW)
    while start >= 0:
        end = text.find(b"\n", start + 1)
        words = text[start : end if end >= 0 else None].decode("ascii", "replace").split()
        if len(words) == 3 and re.fullmatch(_MODULE_NAME, words[2]):
            pattern = re.compile(fnmatch.translate(words[1]))
            yield len(re.findall(_WILDCARD, words[1])), pattern, normalize(words[2])
        start = text.find(_VFIO_ROW, start + 1)


def age(release: str) -> tuple[list[int], str]:
    """Give the key that sorts kernels by their releases, the oldest first."""
    return [int(number) for number in re.findall(r"[0-9]+", release)], release
