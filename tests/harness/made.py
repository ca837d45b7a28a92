"""Hosts, items and claims made up in memory, for the modules that decide and never read."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from harness import constants

from passthrough import errors, pci_address, survey
from passthrough.config import devices as devices_option
from passthrough.config import options
from passthrough.host import generators, machine, pci, vfio_users
from passthrough.planning import claims
from passthrough.site import Site
from passthrough.state import record
from passthrough.system import procfs

T = TypeVar("T")

DISPLAY, AUDIO, ETHERNET, STORAGE = 0x030000, 0x040300, 0x020000, 0x010802
HOST_BRIDGE, PCI_BRIDGE = 0x060000, 0x060400


def function(
    address: str, identity: str = constants.GPU_ID, class_code: int = DISPLAY, **values: Any
) -> pci.Function:
    """One PCI function; a GPU's display part unless it is said otherwise."""
    vendor, _, product = identity.partition(":")
    return pci.Function(address, vendor, product, class_code, **values)


def audio(address: str, **values: Any) -> pci.Function:
    """The audio function of a GPU."""
    return function(address, constants.AUDIO_ID, AUDIO, **values)


def host(*functions: pci.Function) -> pci.Host:
    """A host with these functions, in address order as `pci.read` gives them."""
    ordered = sorted(functions, key=lambda each: pci_address.sort_key(each.address))
    return pci.Host({each.address: each for each in ordered})


def gpus(*buses: str, group: int | None = None, **values: Any) -> list[pci.Function]:
    """Cards with a display and an audio function, each card in its own group from ``group`` on."""
    found = []
    for offset, bus in enumerate(buses):
        number = None if group is None else group + offset
        drivers = {"driver": "nouveau", **values}
        found.append(function(f"0000:{bus}:00.0", group=number, **drivers))
        drivers = {"driver": "snd_hda_intel", **values}
        found.append(audio(f"0000:{bus}:00.1", group=number, **drivers))
    return found


# The cards, with the IOMMU off and on.
CARDS_OFF = tuple(gpus(*constants.GPU_BUSES))
CARDS_ON = tuple(gpus(*constants.GPU_BUSES, group=15))


def decide(devices: str, *functions: pci.Function, **values: Any) -> claims.Outcome:
    """What `claims.decide` makes of the option ``devices`` on such a host."""
    return claims.decide(devices_option.parse(devices), host(*functions), **values)


def wanted(devices: str = "", **config: object) -> options.Options:
    """Parsed options; names as Python spells them, so ``kernel_options`` for kernel-options."""
    named = {name.replace("_", "-"): value for name, value in config.items()}
    return options.parse({"devices": devices, **named})


def attempt(
    parse: Callable[..., T], *values: Any, **named: Any
) -> tuple[T | None, errors.OptionError | None]:
    """Parse something: the result or the OptionError; no other error is caught."""
    try:
        return parse(*values, **named), None
    except errors.OptionError as error:
        return None, error


# A host of the kind: VT-d that the running kernel has not turned on, GRUB, initramfs-tools.
IOMMU_OFF = machine.Platform(
    iommu_table="DMAR",
    has_grub=True,
    generator=generators.INITRAMFS_TOOLS,
    command_line=("root=/dev/sda1", "quiet"),
)
IOMMU_ON = dataclasses.replace(IOMMU_OFF, command_line=(*IOMMU_OFF.command_line, "intel_iommu=on"))


class Holders(vfio_users.Users):
    """Who has functions open, as it is said: processes by address."""

    def __init__(self, users: Mapping[str, tuple[int, ...]]):
        super().__init__(None, procfs.Processes.none())
        self._users = users

    def of(self, addresses: Iterable[str]) -> dict[str, tuple[int, ...]]:
        """Who has these open."""
        return {each: self._users[each] for each in addresses if each in self._users}


def facts(
    *functions: pci.Function,
    machine: machine.Platform = IOMMU_OFF,
    taken: Mapping[str, str] | None = None,
    held: Mapping[str, tuple[int, ...]] | None = None,
    application: str = constants.APPLICATION,
    **values: Any,
) -> survey.Facts:
    """The facts of such a host, without one.

    Args:
        functions: the PCI functions.
        machine: boot loader, generator, command line.
        taken: functions that other applications have taken, and those.
        held: functions that guests hold, and the guests' processes.
        application: the Juju application.
        values: more of `survey.Facts`, such as the record or the files that are ``present``.
    """
    others = {
        name: record.Record(
            taken={each: None for each, by in (taken or {}).items() if by == name},
            activated={"initramfs": "x"},
        )
        for name in (taken or {}).values()
    }
    return survey.Facts(
        site=Site(Path("/nowhere"), application),
        host=host(*functions),
        machine=machine,
        others=others,
        users=Holders(held or {}),
        **values,
    )


def decision(wanted: options.Options, *functions: pci.Function, **values: Any) -> survey.Decision:
    """What is decided of such a host; ``values`` are those of `facts`."""
    return survey.decide(wanted, facts(*functions, **values))


def applied(before: survey.Decision) -> dict[str, Any]:
    """The ``present`` and ``record`` of the next facts, once this plan was applied."""
    changed = {change.file.path: change.file.as_present() for change in before.plan.files}
    return {"present": changed, "record": before.plan.record}
