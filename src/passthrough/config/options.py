"""The charm's configuration, read once at the edge into one typed, frozen value."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

from passthrough.config import devices
from passthrough.config import devices as devices_option
from passthrough.errors import OptionError
from passthrough.system.quoting import show

# A grub.d file is shell that root sources, and grub-mkconfig writes what it gives into grub.cfg
# without quotes: nothing here can end a word, a command or a string of either language.
_KERNEL_TOKEN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}(=[A-Za-z0-9_.,:/@+%-]{1,128})?")
_DRIVER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")

_LEAVE_OUT = "leave it out"
_CLOUD_INIT = ("tells cloud-init what to do as root", _LEAVE_OUT)
# Names of kernel options that are refused, behind why and the way out. A name stands here as the
# kernel and systemd compare it, with "_" for "-", and without the "rd." that addresses the
# initramfs's programs.
_NAMES_REFUSED = {
    # A slip here is not mended by another reboot. The words are run levels and the like.
    ("decides what the host boots", _LEAVE_OUT): (
        "init", "rdinit", "initrd", "noinitrd", "root", "rootflags", "rootfstype", "boot",
        "nfsroot", "netroot", "overlayroot", "initcall_blacklist", "emergency", "rescue", "single",
        "recovery", "s", "S", "1", "2", "3", "4", "5", "break", "rdbreak",
    ),
    (
        "keeps drivers off",
        "name them in the option blacklist-drivers, which looks first whether the host needs them",
    ): (
        "modprobe.blacklist", "module_blacklist", "driver.blacklist", "rdblacklist",
    ),
    (
        "is this charm's own switch, for GRUB's menu",
        "to claim nothing, take the devices out of the option devices",
    ): ("pci_passthrough",),
    _CLOUD_INIT: ("cloud_config_url", "cloud_init", "ds", "network_config", "url"),
}  # fmt: skip
_NOIOMMU = ("lets guests write to all of the host's memory, and is never to be used", _LEAVE_OUT)
# systemd has many that start, mask or mount something, and more with each release; not these.
_SYSTEMD_HARMLESS = ("systemd.log_", "systemd.show_status", "systemd.unified_cgroup_hierarchy")
_SYSTEMD = ("tells systemd what to do, which decides what the host boots", _LEAVE_OUT)

MAX_TOKENS = 64


@dataclasses.dataclass(frozen=True)
class Options:
    """Every option of the charm, validated.

    ``blacklist_drivers`` is None for ``auto``. ``kernel_options`` holds single command-line
    tokens in the operator's order. ``leaving`` is no option: it tells that the unit leaves the
    host, and then nothing is asked for any more.
    """

    devices: devices_option.Spec = dataclasses.field(default_factory=devices_option.Spec)
    iommu: bool = True
    iommu_passthrough: bool = False
    allow_unsafe_interrupts: bool = False
    blacklist_drivers: tuple[str, ...] | None = None
    kernel_options: tuple[str, ...] = ()
    report_in_placement: bool = False
    reboot_when_idle: bool = False
    leaving: bool = False


def parse(config: Mapping[str, object]) -> Options:
    """Read the charm's configuration; an option that is not there has its default.

    Raises:
        OptionError: naming the option, the item and the way out.
    """
    return Options(
        devices=devices.parse(str(config.get("devices", ""))),
        iommu=_choice(config, "iommu", ("auto", "off")) == "auto",
        iommu_passthrough=bool(config.get("iommu-passthrough", False)),
        allow_unsafe_interrupts=bool(config.get("allow-unsafe-interrupts", False)),
        blacklist_drivers=_drivers(str(config.get("blacklist-drivers", "auto"))),
        kernel_options=_kernel_options(str(config.get("kernel-options", ""))),
        report_in_placement=bool(config.get("report-in-placement", False)),
        reboot_when_idle=_choice(config, "reboot", ("manual", "when-idle")) == "when-idle",
    )


def _choice(config: Mapping[str, object], option: str, choices: tuple[str, ...]) -> str:
    value = str(config.get(option, choices[0]))
    if value not in choices:
        raise OptionError(option, f"{show(value)} is not one of {', '.join(choices)}")
    return value


def _words(option: str, text: str, separators: str) -> list[str]:
    # Only these separate: str.split() would also split at characters that a shell keeps.
    words = [word for word in re.split(separators, text) if word]
    if len(words) > MAX_TOKENS:
        raise OptionError(
            option, f"there are {len(words)}, and at most {MAX_TOKENS} are accepted", "the list"
        )
    return words


def _drivers(text: str) -> tuple[str, ...] | None:
    if text.strip() == "auto":
        return None
    names: dict[str, None] = {}
    for number, name in enumerate(_words("blacklist-drivers", text, r"[,\s]+"), 1):
        if not _DRIVER.fullmatch(name):
            raise OptionError(
                "blacklist-drivers",
                "not a module name (letters, digits, '_' and '-')",
                f"item {number} {show(name)}",
                "write auto, or names such as nouveau,nvidiafb",
            )
        if name.replace("-", "_").startswith("vfio"):
            raise OptionError(
                "blacklist-drivers",
                "the claimed devices need this driver",
                f"item {number} {show(name)}",
                _LEAVE_OUT,
            )
        names[name] = None
    return tuple(sorted(names))


def _kernel_options(text: str) -> tuple[str, ...]:
    tokens: dict[str, None] = {}
    for number, token in enumerate(_words("kernel-options", text, r"\s+"), 1):
        label = f"item {number} {show(token)}"
        if not _KERNEL_TOKEN.fullmatch(token):
            raise OptionError(
                "kernel-options",
                "not NAME or NAME=VALUE of letters, digits and . _ - , : / @ + % (quotes, spaces,"
                " ; and $ cannot be passed on)",
                label,
            )
        refused = _why_refused(token)
        if refused:
            fact, way_out = refused
            raise OptionError("kernel-options", fact, label, way_out)
        tokens[token] = None
    return tuple(tokens)


def _why_refused(token: str) -> tuple[str, str] | None:
    """Why a kernel option would keep the host from booting, or take away what guards it.

    Returns:
        What the option does and the way out; None where it is harmless.
    """
    name = token.partition("=")[0].replace("-", "_").removeprefix("rd.")
    for reason, names in _NAMES_REFUSED.items():
        if name in names:
            return reason
    if name.startswith("systemd.") and not name.startswith(_SYSTEMD_HARMLESS):
        return _SYSTEMD
    if "noiommu" in name:
        return _NOIOMMU
    # What follows is a configuration; cloud-init looks for it anywhere on the command line.
    return _CLOUD_INIT if "cc:" in token else None
