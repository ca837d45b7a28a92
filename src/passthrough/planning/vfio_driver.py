"""Which VFIO driver a claimed function gets: vfio-pci, or the variant that the kernel names. Pure.

A variant knows its device better than vfio-pci does: it can migrate it, or gives more of it to the
guest. From 10.0 on libvirt prefers it, too: it moves a managed function to it from vfio-pci, and
clears its driver_override behind the guest, so that the native driver comes back
(virPCIDeviceBindToStub() and virPCIDeviceUnbindFromStub() in its src/util/virpci.c).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from passthrough.host import modules, pci


class Choice(NamedTuple):
    """The VFIO driver of one claimed function.

    Attributes:
        module: the module of the driver that it is to have in this boot.
        driver: that driver's name; where the kernel does not show it yet, the module's.
        at_boot: the module for the next boot, whichever kernel that starts.
        by_kernel: the kernels that differ from that: release → module.
        variant: the variant that an installed kernel names, or that the function is on; empty where
            there is none.
        is_pinned: whether the item names the driver, so that no other will do.
        is_left: whether somebody else has chosen the driver, also for the next boot.
    """

    module: str = modules.VFIO_PCI
    driver: str = pci.VFIO_PCI
    at_boot: str = modules.VFIO_PCI
    by_kernel: tuple[tuple[str, str], ...] = ()
    variant: str = ""
    is_pinned: bool = False
    is_left: bool = False

    @property
    def wanted_variant(self) -> str:
        """The variant that the charm asks the kernel for, in this boot or the next; else empty."""
        if self.is_left:
            return ""
        wanted = (self.module, self.at_boot, *(module for _, module in self.by_kernel))
        return next((each for each in wanted if each != modules.VFIO_PCI), "")

    def module_at(self, release: str) -> str:
        """The module for a boot of one kernel."""
        return dict(self.by_kernel).get(release, self.at_boot)


# The choice where no kernel names a variant and no item a driver.
VFIO_PCI = Choice()


def drives(module: str, function: pci.Function) -> bool:
    """Tell whether the driver that a function is on is of a module."""
    return function.driver is not None and module == modules.normalize(
        function.module or function.driver
    )


def choose(
    function: pci.Function,
    pinned: str | None,
    aliases: modules.Aliases,
    known: str | None = None,
) -> Choice:
    """Choose the VFIO driver of a claimed function.

    What is on one stays there as long as it is bound, and no item names another. What is bound
    anew, now or at a boot, gets the variant that the kernel names for it.

    Args:
        function: which one.
        pinned: the driver that its item names; None for the kernel's choice.
        aliases: what the installed kernels name.
        known: the variant that the charm has asked for before, by its module; None for none.
    """
    by_kernel = aliases.vfio_modules(function.modalias)
    variants = [each for each in by_kernel.values() if each != modules.VFIO_PCI]
    present = _present_variant(function)
    named = variants[-1] if variants else present
    if pinned is not None:
        module = modules.normalize(pinned)
        return Choice(module, _driver_of(module, aliases), module, variant=named, is_pinned=True)
    if present and not (known or present in variants):
        driver = function.driver or pci.VFIO_PCI
        return Choice(present, driver, present, variant=present, is_left=True)
    if not named:
        return VFIO_PCI
    at_boot = _of_newest(by_kernel)
    differing = tuple(each for each in by_kernel.items() if each[1] != at_boot)
    if function.is_on_vfio and function.driver:
        module = modules.normalize(function.module or function.driver)
        return Choice(module, function.driver, at_boot, differing, named)
    module = _module_now(by_kernel, aliases)
    return Choice(module, _driver_of(module, aliases), at_boot, differing, named)


def choose_anew(choice: Choice, function: pci.Function, aliases: modules.Aliases) -> Choice:
    """Choose as for a function that nothing has bound yet: what an operator has rebound."""
    if choice.is_left or choice.is_pinned or not choice.variant:
        return choice
    module = _module_now(aliases.vfio_modules(function.modalias), aliases)
    return choice._replace(module=module, driver=_driver_of(module, aliases))


def _present_variant(function: pci.Function) -> str:
    """The variant that a function is on or that its driver_override names, as a module's name."""
    if not function.is_for_variant:
        return ""
    if function.is_on_vfio:
        return modules.normalize(function.module or function.driver or "")
    return modules.normalize(function.override or "")


def _module_now(by_kernel: Mapping[str, str], aliases: modules.Aliases) -> str:
    """What the running kernel names; the newest one's where nothing tells which runs."""
    if not aliases.running:
        return _of_newest(by_kernel)
    return by_kernel.get(aliases.running, modules.VFIO_PCI)


def _of_newest(by_kernel: Mapping[str, str]) -> str:
    return [modules.VFIO_PCI, *by_kernel.values()][-1]


def _driver_of(module: str, aliases: modules.Aliases) -> str:
    """A module's driver by the name that the kernel shows; the module's until it is loaded."""
    return pci.VFIO_PCI if module == modules.VFIO_PCI else aliases.driver_of(module) or module
