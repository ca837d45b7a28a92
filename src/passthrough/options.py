"""The charm's configuration, read once at the edge into one typed, frozen value."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

from passthrough import spec
from passthrough.fields import OptionError, show

# A grub.d file is shell that root sources: nothing here can end a word or a double-quoted string.
_KERNEL_TOKEN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}(=[A-Za-z0-9_.,:;/@+%-]{1,128})?")
_DRIVER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
# Options that decide what boots at all; a slip here is not mended by another reboot.
_BOOT_CRITICAL = ("init", "initrd", "rdinit", "root", "rootflags", "rootfstype")

MAX_TOKENS = 64


@dataclasses.dataclass(frozen=True)
class Options:
    """Every option of the charm, validated.

    ``blacklist_drivers`` is None for ``auto``. ``kernel_options`` holds single command-line
    tokens in the operator's order.
    """

    devices: spec.Spec = dataclasses.field(default_factory=spec.Spec)
    iommu: bool = True
    iommu_passthrough: bool = False
    allow_unsafe_interrupts: bool = False
    blacklist_drivers: tuple[str, ...] | None = None
    kernel_options: tuple[str, ...] = ()
    report_in_placement: bool = False
    reboot_when_idle: bool = False


def parse(config: Mapping[str, object]) -> Options:
    """Read the charm's configuration; an option that is not there has its default.

    Raises:
        OptionError: naming the option, the item and the way out.
    """
    return Options(
        devices=spec.parse(str(config.get("devices", ""))),
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
                "not a module name (letters, digits, '_' and '-'); write auto, or names such as"
                " nouveau,nvidiafb",
                f"item {number} {show(name)}",
            )
        if name.replace("-", "_").startswith("vfio"):
            raise OptionError(
                "blacklist-drivers",
                "the claimed devices need this driver; leave it out",
                f"item {number} {show(name)}",
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
                "not NAME or NAME=VALUE of letters, digits and . _ - , : ; / @ + % (quotes, spaces"
                " and $ cannot be passed on)",
                label,
            )
        if token.partition("=")[0] in _BOOT_CRITICAL:
            raise OptionError(
                "kernel-options",
                "decides what the host boots; this charm does not set it",
                label,
            )
        tokens[token] = None
    return tuple(tokens)
