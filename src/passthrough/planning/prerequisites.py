"""Which hosts can do what is asked. Pure."""

from __future__ import annotations

from collections.abc import Container, Iterable

from passthrough.config import options
from passthrough.errors import OptionError, PassthroughError
from passthrough.host import generators, grub, kernel_line, machine, modules, pci
from passthrough.planning import boot_files
from passthrough.system.quoting import show

_END = ". Nothing was changed"
_INACTIVE = "the running kernel has no active IOMMU"
# What firmware's settings call the IOMMU that an ACPI table announces.
_NAMES = {"DMAR": "VT-d", "IVRS": "AMD-Vi (IOMMU)", "IORT": "the SMMU"}


class UnsupportedHostError(PassthroughError):
    """The host cannot do what is asked, and nothing is changed on it.

    Attributes:
        cause: what makes it so, where that is known and is not the fact itself.
        check: the check of verify that this is about.
    """

    def __init__(
        self,
        fact: str,
        way_out: str = "",
        *,
        cause: str = "",
        end: str = _END,
        check: str = "host",
    ):
        super().__init__(fact, way_out)
        self.cause = cause
        self.check = check
        self._end = end

    def __str__(self) -> str:
        explained = ": ".join(part for part in (self.fact, self.cause) if part)
        return "; ".join(part for part in (explained, self.way_out) if part) + self._end


def missing(tokens: tuple[str, ...], facts: machine.Platform) -> list[str]:
    """The tokens that the running kernel lacks and that only its command line can bring.

    Leaves out blacklists: they matter at boot alone, and stand in modprobe.d too.
    """
    return [
        token
        for token in dict.fromkeys(tokens)
        if not _is_in_force(token, tokens, facts) and not token.startswith("modprobe.blacklist=")
    ]


def _is_in_force(token: str, tokens: tuple[str, ...], facts: machine.Platform) -> bool:
    if kernel_line.has_effects(token):
        return kernel_line.is_in_force(token, tokens, facts.command_line)
    # Some stand there several times: hugepages= behind each hugepagesz=.
    return [*kernel_line.own(facts.command_line)].count(token) >= tokens.count(token)


def starts_iommu(token: str) -> bool:
    """Tell whether a token turns the IOMMU on or off; where groups show one, it is on."""
    return kernel_line.starts_iommu([token]) is not None


def check(
    wanted: options.Options,
    tokens: tuple[str, ...],
    host: pci.Host,
    facts: machine.Platform,
    drop_in: str,
) -> None:
    """Refuse a host on which claims would not work, or not outlive a reboot.

    Args:
        wanted: the application's options.
        tokens: what the kernel's command line should hold.
        host: the PCI functions.
        facts: bootloader, generator, running command line.
        drop_in: the application's file among GRUB's settings, below the root.

    Raises:
        UnsupportedHostError: with what is in the way, and the way out.
    """
    if facts.is_container:
        raise UnsupportedHostError(
            "this unit is in a container, which has no kernel or boot loader of its own",
            "deploy nova-compute and this charm on a machine",
            end="",
        )
    if facts.rivals:
        raise UnsupportedHostError(
            f"{' and '.join(each.name for each in facts.rivals)} are both installed, and which of"
            " them makes this host's initramfs cannot be told",
            "purge the one that does not",
        )
    if facts.generator is None:
        known = sorted(each.name for each in generators.GENERATORS)
        raise UnsupportedHostError(f"this host's initramfs generator is none of {', '.join(known)}")
    lacking = missing(tokens, facts)
    if host.has_groups:
        # An IOMMU runs, whichever option has turned it on.
        lacking = [token for token in lacking if not starts_iommu(token)]
    if not host.has_groups:
        _check_nothing_leaves_it_off(drop_in, facts)
    if lacking and not facts.boots_by_grub:
        started = f"{facts.other_loader} started its kernel, which has no BOOT_IMAGE="
        raise UnsupportedHostError(
            "this host does not boot with GRUB, so its kernel command line cannot be set",
            f"add {' '.join(lacking)} by its boot loader's own means",
            cause=started if facts.has_grub else "",
            check="command-line",
        )
    if not host.has_groups:
        _check_iommu_can_start(wanted, tokens, facts)


def check_blacklist(blacklist: Iterable[str], host: pci.Host, given_away: Container[str]) -> None:
    """Refuse to keep off a driver that the host needs: its disks and NICs would lose it at boot.

    Args:
        blacklist: the drivers to keep off.
        host: the PCI functions.
        given_away: addresses of the functions that are to be on vfio-pci, this application's and
            others'.

    Raises:
        OptionError: naming the driver, a function that has it, and the way out.
    """
    in_use = boot_files.modules_in_use(host, given_away)
    for name in blacklist:
        function = in_use.get(modules.normalize(name))
        if function:
            raise OptionError(
                "blacklist-drivers",
                f"{function.address} ({function.id}) is on {_driver_and_module(function)}",
                f"item {show(name)}",
                "it is not claimed, and would lose that at the next boot: leave the name out, or"
                " claim that function too",
            )


def _driver_and_module(function: pci.Function) -> str:
    *_, module = boot_files.module_names(function)
    driver = function.driver or ""
    return driver if module == modules.normalize(driver) else f"{driver} (module {module})"


def _check_nothing_leaves_it_off(drop_in: str, facts: machine.Platform) -> None:
    """Refuse where an option leaves the IOMMU off whatever comes behind it, now or from a boot on.

    Of both command lines, that of the running kernel and the one that GRUB's settings make.
    """
    hidden = kernel_line.hides_tables(facts.command_line)
    if hidden and facts.iommu_table is None:
        raise _off_by(hidden, "the running kernel reads none of the firmware's tables", "", facts)
    off = kernel_line.leaves_iommu_off(facts.command_line, facts.iommu_table)
    if off:
        raise _off_by(off, _INACTIVE, drop_in, facts)
    if facts.boots_by_grub:
        settled = grub.settled_options(facts.grub, drop_in)
        off = kernel_line.leaves_iommu_off(settled, facts.iommu_table)
        if off:
            raise _off_by(off, "the next boot would leave the IOMMU off", drop_in, facts)


def _off_by(token: str, fact: str, drop_in: str, facts: machine.Platform) -> UnsupportedHostError:
    """Name an option that turns off what the charm needs, and where it comes from."""
    held = [f"/{path}" for path in grub.holders(facts.grub, token, drop_in)]
    running = token in facts.command_line
    entry = facts.grub.entry
    if held and facts.boots_by_grub:
        way_out = f"take {token} out of {' and '.join(held)}, then run update-grub"
        if running:
            way_out = f"take {token} out of {' and '.join(held)}, then run update-grub and reboot"
    elif facts.boots_by_grub and entry and token not in entry.arguments:
        way_out = f"reboot, as GRUB does not start it with {token} any more"
    else:
        way_out = f"take {token} out of its boot loader's configuration, and reboot"
    cause = f"it was started with {token}" if running else f"GRUB's settings hold {token}"
    return UnsupportedHostError(fact, way_out, cause=cause, check="iommu")


def _check_iommu_can_start(
    wanted: options.Options, tokens: tuple[str, ...], facts: machine.Platform
) -> None:
    """Refuse where no reboot would bring an IOMMU; otherwise one with ``tokens`` will."""
    if facts.iommu_table is None:
        raise UnsupportedHostError(
            "the firmware offers no IOMMU (no DMAR, IVRS or IORT table)",
            "enable VT-d, AMD-Vi or the SMMU in its settings",
            check="iommu",
        )
    running = kernel_line.starts_iommu(facts.command_line)
    wants_on = bool(kernel_line.starts_iommu(tokens))
    if facts.iommu_table == "DMAR" and wants_on and not running:
        return
    cause = ""
    if facts.iommu_table == "DMAR" and not wants_on and not wanted.iommu:
        cause = "the option iommu=manual keeps this charm from turning it on"
        way_out = "set iommu=auto"
    elif facts.iommu_table == "DMAR" and running:
        cause = "it was started with intel_iommu=on"
        way_out = "check VT-d in the firmware's settings"
    else:
        way_out = f"check {_NAMES[facts.iommu_table]} in the firmware's settings, and dmesg"
    raise UnsupportedHostError(_INACTIVE, way_out, cause=cause, check="iommu")
