"""The charm's configuration, parsed once at the edge into one typed, frozen value."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from passthrough import frozen
from passthrough.config import devices as devices_option
from passthrough.config import host_exceptions, kernel_options, words
from passthrough.errors import OptionError
from passthrough.system.quoting import show

_DRIVER = r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}"

ON_REMOVAL = "on-removal"

METRICS, METRICS_PORT = "metrics", "metrics-port"
_DEFAULT_PORT, _PORTS = 10285, range(1024, 65536)

_LEAVE_OUT = "leave it out"


class Metrics(NamedTuple):
    """What the options say of the metrics; nothing that is done to a device goes by them.

    Attributes:
        are_wanted: whether the exporter is there without a relation that asks for it.
        port: the TCP port that it listens on.
    """

    are_wanted: bool = False
    port: int = _DEFAULT_PORT


class Options(frozen.Value):
    """Every option of the charm, validated.

    Attributes:
        devices: the items of ``devices``.
        iommu: whether the charm turns the IOMMU on; False for ``manual`` and ``off``.
        iommu_passthrough: whether the host's own devices bypass the IOMMU (``iommu=pt``).
        allow_unsafe_interrupts: whether guests may do without interrupt remapping.
        blacklist_drivers: the drivers to keep off, sorted; None for ``auto``.
        kernel_options: tokens of the kernel's command line, in the operator's order.
        report_in_placement: whether nova-compute reports the devices in Placement.
        reboot_when_idle: whether the charm reboots the host when no guest runs.
        keep: whether the host keeps everything when the unit leaves.
        host_exceptions: what single hosts leave out, in the operator's order.
        leaving: no option, but whether the unit leaves the host; the other fields then have their
            defaults, which ask for nothing.
    """

    devices: devices_option.Spec = frozen.field(default_factory=devices_option.Spec)
    iommu: bool = True
    iommu_passthrough: bool = False
    allow_unsafe_interrupts: bool = False
    blacklist_drivers: tuple[str, ...] | None = None
    kernel_options: tuple[str, ...] = ()
    report_in_placement: bool = False
    reboot_when_idle: bool = False
    keep: bool = False
    host_exceptions: tuple[host_exceptions.HostException, ...] = ()
    leaving: bool = False


def parse(config: Mapping[str, object]) -> Options:
    """Parse the charm's configuration.

    Args:
        config: the options by Juju's names; one that is missing has its default.

    Raises:
        OptionError: when an option does not accept its value; names the item and the way out.
    """
    parse_metrics(config)
    return Options(
        devices=devices_option.parse(str(config.get("devices", ""))),
        iommu=_choice(config, "iommu", ("auto", "manual", "off")) == "auto",
        iommu_passthrough=bool(config.get("iommu-passthrough", False)),
        allow_unsafe_interrupts=bool(config.get("allow-unsafe-interrupts", False)),
        blacklist_drivers=_drivers(str(config.get("blacklist-drivers", "auto"))),
        kernel_options=kernel_options.parse(str(config.get("kernel-options", ""))),
        report_in_placement=bool(config.get("report-in-placement", False)),
        reboot_when_idle=_choice(config, "reboot", ("manual", "when-idle")) == "when-idle",
        keep=parse_keep(config.get(ON_REMOVAL)),
        host_exceptions=parse_host_exceptions(config),
    )


def parse_metrics(config: Mapping[str, object]) -> Metrics:
    """Parse the options of the metrics alone, whatever the others hold.

    Args:
        config: the options by Juju's names.

    Raises:
        OptionError: when the port is none that an unprivileged service has.
    """
    port = config.get(METRICS_PORT, _DEFAULT_PORT)
    if type(port) is not int or port not in _PORTS:
        raise OptionError(METRICS_PORT, f"{show(port)} is not a port from 1024 to 65535")
    return Metrics(bool(config.get(METRICS, False)), port)


def parse_host_exceptions(
    config: Mapping[str, object],
) -> tuple[host_exceptions.HostException, ...]:
    """Parse the option host-exceptions alone, whatever the others hold.

    Args:
        config: the options by Juju's names.

    Raises:
        OptionError: when it does not accept its value.
    """
    return host_exceptions.parse(str(config.get(host_exceptions.OPTION, "")))


def parse_keep(value: object) -> bool:
    """Parse the option on-removal: whether the host keeps everything when the unit leaves.

    Args:
        value: the option's value; None for its default.

    Raises:
        OptionError: when it is no value of the option.
    """
    given = {} if value is None else {ON_REMOVAL: value}
    return _choice(given, ON_REMOVAL, ("restore", "keep")) == "keep"


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
        if not re.fullmatch(_DRIVER, name):
            raise OptionError(
                "blacklist-drivers",
                "not a module name (letters, digits, '_' and '-')",
                words.label(number, name),
                "write auto, or names such as nouveau,nvidiafb",
            )
        if name.replace("-", "_").startswith("vfio"):
            raise OptionError(
                "blacklist-drivers",
                "the claimed devices need this driver",
                words.label(number, name),
                _LEAVE_OUT,
            )
        names[name] = None
    return tuple(sorted(names))
