"""Hosts, items and claims made up in memory, for the modules that decide and never read."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from passthrough import errors, pci_address
from passthrough import survey as surveying
from passthrough.config import devices as devices_option
from passthrough.config import options
from passthrough.host import machine, pci
from passthrough.planning import claims, plan
from passthrough.state import record
from passthrough.system import files

T = TypeVar("T")

DISPLAY, AUDIO, ETHERNET, STORAGE = 0x030000, 0x040300, 0x020000, 0x010802
HOST_BRIDGE, PCI_BRIDGE = 0x060000, 0x060400

GPU_ID, AUDIO_ID = "10de:1bb0", "10de:10f0"


def function(
    address: str, identity: str = GPU_ID, class_code: int = DISPLAY, **values: Any
) -> pci.Function:
    """One PCI function; a GPU's display part unless it is said otherwise."""
    vendor, _, product = identity.partition(":")
    return pci.Function(address, vendor, product, class_code, **values)


def audio(address: str, **values: Any) -> pci.Function:
    """The audio function of a GPU."""
    return function(address, AUDIO_ID, AUDIO, **values)


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


def decide(devices: str, *functions: pci.Function, **values: Any) -> claims.Decision:
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
    generator=machine.INITRAMFS_TOOLS,
    command_line=("root=/dev/sda1", "quiet"),
)
IOMMU_ON = dataclasses.replace(IOMMU_OFF, command_line=(*IOMMU_OFF.command_line, "intel_iommu=on"))


def survey(
    wanted: options.Options,
    *functions: pci.Function,
    facts: machine.Platform = IOMMU_OFF,
    present: Mapping[str, files.Present | None] | None = None,
    has: record.Record | None = None,
    taken: Mapping[str, str] | None = None,
    held: Mapping[str, tuple[int, ...]] | None = None,
    application: str = "pci-passthrough",
) -> surveying.Survey:
    """What `surveying.survey` gives for such a host, without one.

    Args:
        wanted: the options.
        functions: the PCI functions.
        facts: boot loader, generator, command line.
        present: the owned files that are there, by path.
        has: the application's record.
        taken: what other applications have.
        held: functions that guests hold, and the guests' processes.
        application: the Juju application.
    """
    there = host(*functions)
    mine = has or record.Record()
    decision = claims.decide(wanted.devices, there, taken)
    planned = plan.make(
        application,
        wanted,
        decision,
        there,
        facts,
        mine,
        present or {},
        held=held or {},
        others=taken or {},
    )
    return surveying.Survey(
        application, wanted, there, facts, mine, decision, planned, held=held or {}
    )


def applied(before: surveying.Survey) -> dict[str, Any]:
    """The ``present`` and ``has`` of the next survey, once this one's plan was applied."""
    changed = {change.file.path: change.file.as_present() for change in before.plan.files}
    return {"present": changed, "has": before.plan.record}
