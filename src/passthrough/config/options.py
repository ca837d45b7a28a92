"""The charm's configuration, read once at the edge into one typed, frozen value."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

from passthrough.config import devices, kernel_options, words
from passthrough.config import devices as devices_option
from passthrough.errors import OptionError
from passthrough.system.quoting import show

_DRIVER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")

_LEAVE_OUT = "leave it out"


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
        kernel_options=kernel_options.parse(str(config.get("kernel-options", ""))),
        report_in_placement=bool(config.get("report-in-placement", False)),
        reboot_when_idle=_choice(config, "reboot", ("manual", "when-idle")) == "when-idle",
    )


def _choice(config: Mapping[str, object], option: str, choices: tuple[str, ...]) -> str:
    value = str(config.get(option, choices[0]))
    if value not in choices:
        raise OptionError(option, f"{show(value)} is not one of {', '.join(choices)}")
    return value


def _drivers(text: str) -> tuple[str, ...] | None:
    if text.strip() == "auto":
        return None
    names: dict[str, None] = {}
    for number, name in enumerate(words.split("blacklist-drivers", text, r"[,\s]+"), 1):
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
