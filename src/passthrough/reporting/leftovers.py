"""Recognise a passthrough set-up that somebody made by hand, and say what of it can go.

The pattern is the OpenStack Charm Guide's page "PCI Passthrough": a model's cloudinit-userdata
that writes /etc/rc.local, /etc/modules, /etc/initramfs-tools/modules and /etc/default/grub, and
what other guides have: drop-ins of GRUB, modprobe and dracut, scripts of the initramfs, udev rules,
driverctl, netplan. Reads only; deletes nothing.

To recognise one more thing, write a finder and add a row to ``_PLACES``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from passthrough import frozen, pci_address
from passthrough.config import values
from passthrough.host import grub, pci, shell_settings
from passthrough.planning import claims

# The first words of every file that this charm writes (templates/header.j2).
OWN_HEADER = "Written by the Juju charm pci-passthrough"

_FUNCTION_HEAD = re.compile(
    r"\s*(?:function\s+vfiobind\b(?:\s*\(\s*\))?|vfiobind\s*\(\s*\))\s*\{?\s*$"
)
_CALL = re.compile(r"[^#]*\bvfiobind\b")
_ADDRESS = re.compile(r"\b(?:[0-9a-f]{4,8}:)?[0-9a-f]{2}:[01][0-9a-f]\.[0-7]\b")
_DRIVER_WRITE = re.compile(
    r">\s*[\"']?/sys/bus/pci/drivers/(?:vfio-pci|pci-stub)/(?:new_id|bind)\b"
)
# What else has a driver take a device: written to sysfs, or done by a tool.
_BINDS = re.compile(
    r"\bdriver_override\b|/drivers/(?:vfio-pci|pci-stub)/(?:new_id|bind)\b"
    r"|\bdriverctl\b.*\bset-override\b|\b(?:dpdk-devbind|dpdk_nic_bind)(?:\.py)?\b.*(?:-b|--bind)"
)
_STUB = re.compile(r"\b(?:vfio[-_]pci|pci[-_]stub)\b")
_VFIO_DRIVER = re.compile(r"\b(?:\w+[-_])?vfio[-_]pci\b|\bpci[-_]stub\b")
# An id as the kernel takes it in new_id, "10de 1b80", and as udev compares it.
_PAIR = re.compile(r"\becho\s+[\"']?(?:0x)?([0-9a-f]{4})[\s:]+(?:0x)?([0-9a-f]{4})\b", re.I)
_UDEV_VENDOR = re.compile(r"ATTRS?\{vendor\}==\"0x([0-9a-f]{4})\"", re.I)
_UDEV_DEVICE = re.compile(r"ATTRS?\{device\}==\"0x([0-9a-f]{4})\"", re.I)
_UDEV_PCI_ID = re.compile(r"(?:ENV\{)?PCI_ID\}?==\"([0-9a-f]{4}:[0-9a-f]{4})\"", re.I)
_MODALIAS = re.compile(r"\bpci:v0000([0-9a-f]{4})d0000([0-9a-f]{4})", re.I)
# As dpdk's own service reads /etc/dpdk/interfaces: BUS ID DRIVER.
_DPDK = re.compile(r"\s*pci\s+\S+\s+\S+")
_VFS = re.compile(r"\bsriov_numvfs\b")
_NETPLAN_VFS = re.compile(r"\s*virtual-function-count\s*:\s*\d")
_DRACUT = re.compile(
    r"\s*(?:(?:add|force)_drivers|kernel_cmdline|install_items|add_dracutmodules)\s*\+?="
    r".*\b(?:vfio|pci[-_]stub)"
)
# Packages own these, and expect them, even empty.
_OF_PACKAGES = (
    "/etc/modules",
    "/etc/initramfs-tools/modules",
    "/etc/crontab",
    "/etc/dpdk/interfaces",
)
# A longer file is no script that somebody wrote.
_MOST = 1 << 20
_MODULE = re.compile(r"\s*(?:pci[_-]stub|vfio(?:[_-](?:pci|iommu_type1|virqfd))?)(?:\s|$)")
_IDS = re.compile(r"\bids=\\?[\"']?(?P<ids>[0-9A-Fa-f:,]+)")
_MODPROBE = re.compile(
    r"\s*(?:options\s+(?:vfio[_-]pci|pci[_-]stub)\s.*\bids="
    r"|options\s+vfio_iommu_type1\s.*\ballow_unsafe_interrupts="
    r"|softdep\s+\S+\s+pre:.*\bvfio[_-]pci\b"
    r"|install\s+vfio[_-]pci\s|install\s+\S+\s.*\b(?:vfio|pci)[_-](?:pci|stub)\b"
    r"|alias\s+pci:\S+\s+(?:vfio[_-]pci|pci[_-]stub)\b)"
)
_INSTALL = re.compile(r"\s*install\s+\S+\s+(.*)")
_GRUB_TOKEN = re.compile(
    r"(?<![\w.=-])(?:intel_iommu=on|amd_iommu=on|iommu=pt|modprobe\.blacklist="
    r"|vfio_iommu_type1\.allow_unsafe_interrupts=|(?:vfio|pci)[_-](?:pci|stub)\.ids="
    r"|rd\.driver\.pre=(?:[^\s\"'\\]*,)?(?:vfio|pci[_-]stub))"
    r"(?:(?<=\.ids=)\\?[\"'])?[^\s\"'\\;]*"
)

# As charm-sysconfig heads what it generates.
_GENERATED = re.compile(r"#.*\bJuju generated\b", re.I)

_REBUILD_INITRAMFS = "update-initramfs -u -k all"
_REBUILD_GRUB = "update-grub"


class Part(frozen.Value):
    """A part of a file: the number of its line, from 1, and the text within that line."""

    line: int
    text: str


class Leftover(frozen.Value):
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
            with path.open("rb") as file:
                text = file.read(_MOST).decode("utf-8", "replace")
            if OWN_HEADER not in text and f"/{path.relative_to(root)}" not in _paths(found):
                found += finder(f"/{path.relative_to(root)}", text.splitlines())
    return (*found, *_find_called(root, found))


def _paths(found: Iterable[Leftover]) -> list[str]:
    return [each.path for each in found]


def _find_called(root: Path, found: Sequence[Leftover]) -> list[Leftover]:
    """Find the scripts that modprobe runs in place of loading a module."""
    called: list[Leftover] = []
    for leftover in found:
        for part in leftover.parts:
            install = _INSTALL.match(part.text)
            for word in install[1].split() if install else ():
                path = root / word.strip("\"';").lstrip("/")
                if not word.startswith("/") or not path.is_file():
                    continue
                with path.open("rb") as file:
                    lines = file.read(_MOST).decode("utf-8", "replace").splitlines()
                shown = f"/{path.relative_to(root)}"
                if shown not in _paths((*found, *called)):
                    called += _find_script(shown, lines, f"it binds devices for {leftover.path}")
    return called


def suggest_devices(leftovers: Sequence[Leftover], host: pci.Host) -> str:
    """Write the option ``devices`` that claims what the leftovers bind on this host.

    Returns:
        Items in the short form without an alias: the addresses that leftovers name, then the ids of
        which no such function is; empty when the leftovers bind nothing that is in the host.
    """
    addresses, ids = _meant(leftovers, host)
    by_address = (f"{host.functions[each].id}@{each}" for each in addresses)
    there = {function.id for function in host.functions.values()}
    return ",".join((*by_address, *(each for each in ids if each in there)))


def find_unclaimed(
    leftovers: Sequence[Leftover], host: pci.Host, outcome: claims.Outcome
) -> tuple[str, ...]:
    """Find the functions that would go back to the host's drivers without the leftovers.

    Returns:
        The addresses of functions that the leftovers bind and the charm does not claim.
    """
    addresses, ids = _meant(leftovers, host)
    return tuple(
        address
        for address, function in host.functions.items()
        if (address in addresses or function.id in ids) and address not in outcome.addresses
    )


def _meant(
    leftovers: Sequence[Leftover], host: pci.Host
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Work out what all leftovers together mean: functions of this host, and ids.

    Where some functions of an id are named, those are meant: the id beside them, as in the Charm
    Guide's set-up, keeps the native driver off all of the model.
    """
    named = {each for found in leftovers for each in found.addresses if each in host.functions}
    narrowed = {host.functions[each].id for each in named}
    ids = {each for found in leftovers for each in found.ids} - narrowed
    return tuple(sorted(named, key=pci_address.sort_key)), tuple(sorted(ids))


def _find_rc_local(path: str, lines: list[str]) -> list[Leftover]:
    inside = _function_lines(lines)
    hits = {
        number: line
        for number, line in enumerate(lines, 1)
        if number in inside or _CALL.match(line) or _binds(line)
    }
    if not hits:
        return []
    reason = "it binds through new_id, which takes every device of an id, the host's own too"
    if not lines[0].startswith("#!"):
        reason += "; it has no #! line, so systemd cannot even start it"
    leftover = _describe(path, lines, hits, reason)
    # Behind what binds stands what it binds: loops and variables name it elsewhere.
    loops = [line for line in lines if re.match(r"\s*(?:for\b|\w+=)", line)]
    meant = [*hits.values(), *(loops if any(map(_binds, hits.values())) else ())]
    return [frozen.replace(leftover, addresses=_addresses(meant), ids=_pairs(meant))]


def _function_lines(lines: list[str]) -> frozenset[int]:
    """Find the numbers of the lines that define the shell function vfiobind."""
    for start, line in enumerate(lines, 1):
        if _FUNCTION_HEAD.match(line):
            for end in range(start, len(lines) + 1):
                if lines[end - 1].strip() == "}":
                    return frozenset(range(start, end + 1))
    return frozenset()


def _find_script(
    path: str, lines: list[str], reason: str = "it binds devices for /etc/rc.local"
) -> list[Leftover]:
    code = _code(lines)
    if not (_STUB.search("\n".join(code)) and any(map(_binds, code))):
        return []
    meant, ids = _addresses(code), _pairs(code)
    return [Leftover(path, (), True, reason, "delete the file", addresses=meant, ids=ids)]


def _find_any_script(path: str, lines: list[str]) -> list[Leftover]:
    return _find_script(path, lines, "it binds devices by itself")


def _find_early_script(path: str, lines: list[str]) -> list[Leftover]:
    reason = "it binds devices in the initramfs, as the charm does by address"
    found = _find_script(path, lines, reason)
    return [frozen.replace(each, rebuild=_REBUILD_INITRAMFS) for each in found]


def _find_unit(path: str, lines: list[str]) -> list[Leftover]:
    found = _find_script(path, lines, "it binds devices at boot, behind their drivers")
    name = path.rpartition("/")[2]
    advice = f"delete the file, after systemctl disable {name}"
    return [frozen.replace(each, advice=advice) for each in found]


def _find_driverctl(path: str, lines: list[str]) -> list[Leftover]:
    if not _VFIO_DRIVER.search("\n".join(_code(lines))):
        return []
    addresses = _addresses([path.rpartition("/")[2]])
    reason = "driverctl gives the device to vfio-pci at each boot"
    return [Leftover(path, (), True, reason, "delete the file", addresses=addresses)]


def _find_table(path: str, lines: list[str]) -> list[Leftover]:
    """Look at a file of which each line stands for itself, as in a crontab."""
    numbered = enumerate(lines, 1)
    hits = {
        number: line
        for number, line in numbered
        if _VFIO_DRIVER.search(line) and (_binds(line) or _DPDK.match(line))
    }
    if not hits:
        return []
    leftover = _describe(path, lines, hits, "it binds devices by itself, behind their drivers")
    meant = hits.values()
    return [frozen.replace(leftover, addresses=_addresses(meant), ids=_pairs(meant))]


def _find_udev(path: str, lines: list[str]) -> list[Leftover]:
    logical = _logical(lines)
    hits = {
        number: line
        for number, line in logical.items()
        if not line.lstrip().startswith("#")
        and (_VFS.search(line) or (_STUB.search(line) and _binds(line)))
    }
    if not hits:
        return []
    binding = [line for line in hits.values() if _STUB.search(line)]
    reason = "it gives devices to vfio-pci, the host's own of the model too"
    if len(binding) < len(hits):
        reason = "it makes VFs" if not binding else f"{reason}; it makes VFs"
    leftover = _describe(path, list(logical.values()), hits, reason, numbers=list(logical))
    if not binding:
        advice = "keep it while the charm claims these VFs, or have vfs make them"
        return [frozen.replace(leftover, can_go=False, advice=advice)]
    ids = tuple(sorted({each for line in binding for each in _udev_ids(line)}))
    return [
        frozen.replace(leftover, rebuild=_REBUILD_INITRAMFS, addresses=_addresses(binding), ids=ids)
    ]


def _udev_ids(line: str) -> Iterable[str]:
    vendor, device = _UDEV_VENDOR.search(line), _UDEV_DEVICE.search(line)
    if vendor and device:
        yield f"{vendor[1]}:{device[1]}".lower()
    yield from (each.lower() for each in _UDEV_PCI_ID.findall(line))
    yield from (f"{vendor}:{device}".lower() for vendor, device in _MODALIAS.findall(line))
    yield from _pairs([line])


def _find_netplan(path: str, lines: list[str]) -> list[Leftover]:
    hits = {number: line for number, line in enumerate(lines, 1) if _NETPLAN_VFS.match(line)}
    if not hits:
        return []
    parts = tuple(Part(number, hits[number].strip()) for number in sorted(hits))
    advice = "keep it while the charm claims these VFs, or have vfs make them"
    return [Leftover(path, parts, False, "netplan makes the VFs of these interfaces", advice)]


def _find_dracut(path: str, lines: list[str]) -> list[Leftover]:
    logical = _logical(lines)
    hits = {number: line for number, line in logical.items() if _DRACUT.match(line)}
    if not hits:
        return []
    reason = "the charm has dracut take in vfio-pci and what claims by address"
    leftover = _describe(path, list(logical.values()), hits, reason, numbers=list(logical))
    ids = _ids(hits.values())
    return [frozen.replace(leftover, rebuild=_REBUILD_INITRAMFS, ids=ids)]


def _find_command_line(path: str, lines: list[str]) -> list[Leftover]:
    found = {
        number: " ".join(_GRUB_TOKEN.findall(line))
        for number, line in enumerate(lines, 1)
        if not line.lstrip().startswith("#")
    }
    hits = {number: tokens for number, tokens in found.items() if tokens}
    if not hits:
        return []
    reason = "it gives the kernel options by hand, where GRUB does not boot the host"
    advice = "take out what binds by ids; keep what turns the IOMMU on"
    parts = tuple(Part(number, hits[number]) for number in sorted(hits))
    return [Leftover(path, parts, False, reason, advice, ids=_ids(hits.values()))]


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
    return [frozen.replace(leftover, rebuild=rebuild, ids=ids)]


def _find_modprobe(path: str, lines: list[str]) -> list[Leftover]:
    logical = _logical(lines)
    hits = {number: line for number, line in logical.items() if _MODPROBE.match(line)}
    if not hits:
        return []
    reason = "the charm binds by address, where ids= takes every device of an id"
    if any("allow_unsafe_interrupts" in line for line in hits.values()):
        reason += "; allow_unsafe_interrupts weakens the host (see the option of that name)"
    aliases = (pair for line in hits.values() for pair in _MODALIAS.findall(line))
    by_alias = {f"{vendor}:{device}".lower() for vendor, device in aliases}
    ids = tuple(sorted({*_ids(hits.values()), *by_alias}))
    leftover = _describe(path, list(logical.values()), hits, reason, numbers=list(logical))
    meant = _addresses(line for line in hits.values() if _INSTALL.match(line))
    return [frozen.replace(leftover, rebuild=_REBUILD_INITRAMFS, addresses=meant, ids=ids)]


def _find_grub(path: str, lines: list[str]) -> list[Leftover]:
    hits = _grub_hits(lines)
    if not hits:
        return []
    reason = "the charm writes the kernel options that the host needs into a file of its own"
    if any("allow_unsafe_interrupts" in tokens for tokens in hits.values()):
        reason += "; allow_unsafe_interrupts weakens the host (see the option of that name)"
    advice = "take these options out of the line, or off the machine's MAAS tag"
    # The package's file has comments: without any, a file made by hand has replaced it.
    if path == "/etc/default/grub" and not any(line.lstrip().startswith("#") for line in lines):
        advice += "; the file replaced the package's own, which is /usr/share/grub/default/grub"
    if any(_GENERATED.match(line) for line in lines):
        advice = "set them otherwise in the charm that writes this file (sysconfig: enable-iommu,"
        advice += " grub-config-flags, config-flags), which writes it again"
    advice += _ways_to_keep(" ".join(hits.values()).split())
    parts = tuple(Part(number, hits[number]) for number in sorted(hits))
    ids = _ids(hits.values())
    return [Leftover(path, parts, False, reason, advice, _REBUILD_GRUB, ids=ids)]


def _grub_hits(lines: list[str]) -> dict[int, str]:
    """Find the tokens on each line of an assignment that reaches the kernel's command line."""
    sourced = shell_settings.source("\n".join(lines) + "\n")
    feeding = grub.feeds_command_line(sourced)
    names = "|".join({re.escape(each.name) for each in feeding})
    found: dict[int, str] = {}
    for number in sorted({line for each in feeding for line in each.lines}):
        # The name of a variable is no part of its value.
        text = re.sub(rf"\b(?:{names})\+?=", " ", lines[number - 1]) if number <= len(lines) else ""
        tokens = " ".join(_GRUB_TOKEN.findall(text))
        if tokens:
            found[number] = tokens
    return found


def _ways_to_keep(tokens: list[str]) -> str:
    """Say by which options of the charm the host keeps what the charm does not set by itself."""
    ways: list[str] = []
    if "iommu=pt" in tokens:
        ways.append("iommu-passthrough=true keeps iommu=pt")
    more = [each for each in tokens if each.startswith("intel_iommu=on,")]
    ways += [f"kernel-options keeps {each}" for each in more]
    return f"; {', '.join(ways)}" if ways else ""


def _find_log(path: str, lines: list[str]) -> list[Leftover]:
    del lines
    return [Leftover(path, (), True, "it is a log of the first boot", "delete the file")]


def _binds(line: str) -> bool:
    """Tell whether a line has a driver take a device by other means than its ids."""
    if line.lstrip().startswith("#"):
        return False
    return bool(_BINDS.search(line) or _DRIVER_WRITE.search(line))


def _code(lines: Iterable[str]) -> list[str]:
    """Keep the lines that are no comments."""
    return [line for line in lines if not line.lstrip().startswith("#")]


def _logical(lines: list[str]) -> dict[int, str]:
    """Join what a backslash continues; each line by the number of its first."""
    found: dict[int, str] = {}
    start = 0
    for number, line in enumerate(lines, 1):
        start = start or number
        begun = found.get(start, "")
        found[start] = f"{begun.rstrip()} {line.strip()}" if begun else line
        if found[start].endswith("\\"):
            found[start] = found[start][:-1]
        else:
            start = 0
    return found


def _addresses(texts: Iterable[str]) -> tuple[str, ...]:
    found = _ADDRESS.findall("\n".join(_code(texts)).lower())
    return tuple(dict.fromkeys(values.read_address(each) for each in found))


def _pairs(texts: Iterable[str]) -> tuple[str, ...]:
    """Find the ids that are written to new_id."""
    found = (pair for text in texts for pair in _PAIR.findall(text) if "new_id" in text)
    return tuple(sorted({f"{vendor}:{device}".lower() for vendor, device in found}))


def _describe(
    path: str,
    lines: list[str],
    hits: dict[int, str],
    reason: str,
    numbers: Sequence[int] | None = None,
) -> Leftover:
    numbers = numbers or range(1, len(lines) + 1)
    rest = (line.strip() for number, line in zip(numbers, lines, strict=True) if number not in hits)
    is_empty = all(not line or line.startswith("#") or line == "exit 0" for line in rest)
    can_go = is_empty and path not in _OF_PACKAGES
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
    ("usr/local/*bin/*", _find_any_script),
    ("etc/libvirt/hooks/*", _find_any_script),
    ("etc/libvirt/hooks/qemu.d/*", _find_any_script),
    ("etc/initramfs-tools/scripts/*/*", _find_early_script),
    ("etc/initramfs-tools/hooks/*", _find_early_script),
    ("usr/lib/dracut/modules.d/*/*.sh", _find_early_script),
    ("etc/systemd/system/*.service", _find_unit),
    ("var/lib/cloud/scripts/per-boot/*", _find_any_script),
    ("etc/cron.d/*", _find_table),
    ("etc/crontab", _find_table),
    ("etc/tmpfiles.d/*.conf", _find_table),
    ("etc/dpdk/interfaces", _find_table),
    ("etc/driverctl.d/*", _find_driverctl),
    ("etc/udev/rules.d/*.rules", _find_udev),
    ("etc/netplan/*.yaml", _find_netplan),
    ("etc/initramfs-tools/modules", _find_modules),
    ("etc/modules", _find_modules),
    ("etc/modules-load.d/*.conf", _find_modules),
    ("etc/modprobe.d/*.conf", _find_modprobe),
    ("etc/dracut.conf", _find_dracut),
    ("etc/dracut.conf.d/*.conf", _find_dracut),
    ("etc/kernel/cmdline", _find_command_line),
    ("etc/default/grub", _find_grub),
    ("etc/default/grub.d/*.cfg", _find_grub),
    # Where the guide's postruncmd sends the output of its two commands.
    ("root/initramfs-update.log", _find_log),
    ("root/grub-update.log", _find_log),
)
