"""Recognise a passthrough set-up that somebody made by hand, and say what of it can go.

The pattern is the OpenStack Charm Guide's page "PCI Passthrough": a model's cloudinit-userdata
that writes /etc/rc.local, /etc/modules, /etc/initramfs-tools/modules and /etc/default/grub, and
its common variations (GRUB drop-ins, modprobe.d). Reads only; deletes nothing.

To recognise one more thing, write a finder and add a row to ``_PLACES``.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from passthrough import pci_address
from passthrough.config import values
from passthrough.host import pci
from passthrough.planning import claims

# The first words of every file that this charm writes (templates/header.j2).
OWN_HEADER = "Written by the Juju charm pci-passthrough"

_FUNCTION_HEAD = re.compile(
    r"\s*(?:function\s+vfiobind\b(?:\s*\(\s*\))?|vfiobind\s*\(\s*\))\s*\{?\s*$"
)
_CALL = re.compile(r"[^#]*\bvfiobind\b")
_ADDRESS = re.compile(r"\b(?:[0-9a-f]{4,8}:)?[0-9a-f]{2}:[01][0-9a-f]\.[0-7]\b")
_DRIVER_WRITE = re.compile(r">\s*/sys/bus/pci/drivers/(?:vfio-pci|pci-stub)/(?:new_id|bind)\b")
_MODULE = re.compile(r"\s*(?:pci[_-]stub|vfio(?:[_-](?:pci|iommu_type1|virqfd))?)(?:\s|$)")
_IDS = re.compile(r"\bids=(?P<ids>[0-9A-Fa-f:,]+)")
_MODPROBE = re.compile(
    r"\s*(?:options\s+(?:vfio[_-]pci|pci[_-]stub)\s.*\bids="
    r"|options\s+vfio_iommu_type1\s.*\ballow_unsafe_interrupts="
    r"|softdep\s+\S+\s+pre:.*\bvfio[_-]pci\b)"
)
_GRUB_LINE = re.compile(r"\s*GRUB_CMDLINE_LINUX(?:_DEFAULT)?=")
_GRUB_TOKEN = re.compile(
    r"(?<![\w.=-])(?:intel_iommu=on|amd_iommu=on|iommu=pt|modprobe\.blacklist="
    r"|vfio_iommu_type1\.allow_unsafe_interrupts=|(?:vfio|pci)[_-](?:pci|stub)\.ids=)[^\s\"']*"
)

_REBUILD_INITRAMFS = "update-initramfs -u -k all"
_REBUILD_GRUB = "update-grub"


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of a file: the number of its line, from 1, and the text within that line."""

    line: int
    text: str


@dataclasses.dataclass(frozen=True)
class Leftover:
    """What one file holds of a set-up by hand.

    Attributes:
        path: absolute, as the host sees it.
        parts: the recognised parts, in file order; empty where the whole file is a leftover.
        can_go: whether the file can be deleted: it holds nothing else, and no package expects it.
        reason: why it should go.
        advice: what to do.
        rebuild: the command that makes the change effective, or None.
        addresses: the functions that it binds by address.
        ids: the ``vendor:product`` ids that it binds.
    """

    path: str
    parts: tuple[Part, ...]
    can_go: bool
    reason: str
    advice: str
    rebuild: str | None = None
    addresses: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()


def find(root: Path) -> tuple[Leftover, ...]:
    """Look for a set-up by hand on the host at ``root``.

    Returns:
        One entry a file, in the order of ``_PLACES``, then by path; none on most hosts.

    Raises:
        OSError: when a file is there but cannot be read.
    """
    found: list[Leftover] = []
    for pattern, finder in _PLACES:
        for path in sorted(root.glob(pattern)):
            # modules-load.d/modules.conf is a link to /etc/modules, which has a row of its own.
            if path.is_symlink() or not path.is_file():
                continue
            text = path.read_text(encoding="utf-8", errors="replace")
            if OWN_HEADER not in text:
                found += finder(f"/{path.relative_to(root)}", text.splitlines())
    return tuple(found)


def suggest_devices(leftovers: Sequence[Leftover], host: pci.Host) -> str:
    """Write the option ``devices`` that claims what the leftovers bind on this host.

    Returns:
        Items in the short form without an alias: by address where a leftover names addresses, by
        id otherwise; empty when the leftovers bind nothing that is in the host.
    """
    addresses = sorted(
        {each for found in leftovers for each in found.addresses}, key=pci_address.sort_key
    )
    if addresses:
        present = [host.functions[each] for each in addresses if each in host.functions]
        return ",".join(f"{function.id}@{function.address}" for function in present)
    there = {function.id for function in host.functions.values()}
    return ",".join(sorted({each for found in leftovers for each in found.ids} & there))


def find_unclaimed(
    leftovers: Sequence[Leftover], host: pci.Host, outcome: claims.Outcome
) -> tuple[str, ...]:
    """Find the functions that would go back to the host's drivers without the leftovers.

    Returns:
        The addresses of functions that the leftovers bind and the charm does not claim.
    """
    addresses = {each for found in leftovers for each in found.addresses}
    ids = {each for found in leftovers for each in found.ids}
    return tuple(
        address
        for address, function in host.functions.items()
        if (address in addresses if addresses else function.id in ids)
        and address not in outcome.addresses
    )


def _find_rc_local(path: str, lines: list[str]) -> list[Leftover]:
    inside = _function_lines(lines)
    hits = {
        number: line
        for number, line in enumerate(lines, 1)
        if number in inside or _CALL.match(line) or _DRIVER_WRITE.search(line)
    }
    if not hits:
        return []
    reason = "it binds through new_id, which takes every device of an id, the host's own too"
    if not lines[0].startswith("#!"):
        reason += "; it has no #! line, so systemd cannot even start it"
    found = _ADDRESS.findall("\n".join(hits.values()).lower())
    addresses = tuple(dict.fromkeys(values.read_address(each) for each in found))
    leftover = _describe(path, lines, hits, reason)
    return [dataclasses.replace(leftover, addresses=addresses)]


def _function_lines(lines: list[str]) -> frozenset[int]:
    """Find the numbers of the lines that define the shell function vfiobind."""
    for start, line in enumerate(lines, 1):
        if _FUNCTION_HEAD.match(line):
            for end in range(start, len(lines) + 1):
                if lines[end - 1].strip() == "}":
                    return frozenset(range(start, end + 1))
    return frozenset()


def _find_script(path: str, lines: list[str]) -> list[Leftover]:
    if not any(_DRIVER_WRITE.search(line) for line in lines):
        return []
    return [Leftover(path, (), True, "it binds devices for /etc/rc.local", "delete the file")]


def _find_modules(path: str, lines: list[str]) -> list[Leftover]:
    hits = {number: line for number, line in enumerate(lines, 1) if _MODULE.match(line)}
    if not hits:
        return []
    ids = _ids(hits.values())
    reason = "the charm has the vfio modules loaded where they are needed"
    if ids:
        reason = "pci_stub takes every device of an id, the host's own too; " + reason
    rebuild = _REBUILD_INITRAMFS if "initramfs" in path else None
    leftover = _describe(path, lines, hits, reason)
    return [dataclasses.replace(leftover, rebuild=rebuild, ids=ids)]


def _find_modprobe(path: str, lines: list[str]) -> list[Leftover]:
    hits = {number: line for number, line in enumerate(lines, 1) if _MODPROBE.match(line)}
    if not hits:
        return []
    reason = "the charm binds by address, where ids= takes every device of an id"
    if any("allow_unsafe_interrupts" in line for line in hits.values()):
        reason += "; allow_unsafe_interrupts weakens the host (see the option of that name)"
    ids = _ids(hits.values())
    leftover = _describe(path, lines, hits, reason)
    return [dataclasses.replace(leftover, rebuild=_REBUILD_INITRAMFS, ids=ids)]


def _find_grub(path: str, lines: list[str]) -> list[Leftover]:
    hits = {
        number: " ".join(_GRUB_TOKEN.findall(line))
        for number, line in enumerate(lines, 1)
        if _GRUB_LINE.match(line) and _GRUB_TOKEN.search(line)
    }
    if not hits:
        return []
    reason = "the charm writes the kernel options that the host needs into a file of its own"
    if any("allow_unsafe_interrupts" in tokens for tokens in hits.values()):
        reason += "; allow_unsafe_interrupts weakens the host (see the option of that name)"
    advice = "take these options out of the line, or off the machine's MAAS tag"
    # The package's file has comments: without any, a file made by hand has replaced it.
    if path == "/etc/default/grub" and not any(line.lstrip().startswith("#") for line in lines):
        advice += "; the file replaced the package's own, which is /usr/share/grub/default/grub"
    parts = tuple(Part(number, hits[number]) for number in sorted(hits))
    ids = _ids(hits.values())
    return [Leftover(path, parts, False, reason, advice, _REBUILD_GRUB, ids=ids)]


def _find_log(path: str, lines: list[str]) -> list[Leftover]:
    del lines
    return [Leftover(path, (), True, "it is a log of the first boot", "delete the file")]


def _describe(path: str, lines: list[str], hits: dict[int, str], reason: str) -> Leftover:
    rest = (line.strip() for number, line in enumerate(lines, 1) if number not in hits)
    is_empty = all(not line or line.startswith("#") or line == "exit 0" for line in rest)
    # Packages own the two lists of modules and expect them, even empty.
    can_go = is_empty and path not in ("/etc/modules", "/etc/initramfs-tools/modules")
    advice = "delete the file" if can_go else "delete these lines"
    parts = tuple(Part(number, hits[number].strip()) for number in sorted(hits))
    return Leftover(path, parts, can_go, reason, advice)


def _ids(texts: Iterable[str]) -> tuple[str, ...]:
    found: set[str] = set()
    for text in texts:
        for match in _IDS.finditer(text):
            # A subvendor, a subdevice and a class can follow an id.
            found |= {":".join(each.split(":")[:2]) for each in match["ids"].lower().split(",")}
    return tuple(sorted(found))


_Finder = Callable[[str, list[str]], list[Leftover]]

_PLACES: tuple[tuple[str, _Finder], ...] = (
    ("etc/rc.local", _find_rc_local),
    ("usr/local/*bin/vfiobind", _find_script),
    ("etc/initramfs-tools/modules", _find_modules),
    ("etc/modules", _find_modules),
    ("etc/modules-load.d/*.conf", _find_modules),
    ("etc/modprobe.d/*.conf", _find_modprobe),
    ("etc/default/grub", _find_grub),
    ("etc/default/grub.d/*.cfg", _find_grub),
    # Where the guide's postruncmd sends the output of its two commands.
    ("root/initramfs-update.log", _find_log),
    ("root/grub-update.log", _find_log),
)
