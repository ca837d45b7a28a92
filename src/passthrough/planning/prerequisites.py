"""Which hosts can do what is asked. Pure."""

from __future__ import annotations

from collections.abc import Container, Iterable

from passthrough.config import options
from passthrough.errors import OptionError, PassthroughError
from passthrough.host import generators, machine, modules, pci
from passthrough.planning import boot_files
from passthrough.system.quoting import show

_END = ". Nothing was changed"


class UnsupportedHostError(PassthroughError):
    """The host cannot do what is asked, and nothing is changed on it.

    Attributes:
        cause: what makes it so, where that is known and is not the fact itself.
    """

    def __init__(
        self, fact: str, way_out: str = "", *, cause: str = "", joint: str = "; ", end: str = _END
    ):
        super().__init__(fact, way_out)
        self.cause = cause
        self._joint = joint
        self._end = end

    def __str__(self) -> str:
        explained = ": ".join(part for part in (self.fact, self.cause) if part)
        return self._joint.join(part for part in (explained, self.way_out) if part) + self._end


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
    if starts_iommu(token):
        # The kernel takes the last of several values.
        return [each for each in facts.command_line if starts_iommu(each)][-1:] == [token]
    # Some stand there several times: hugepages= behind each hugepagesz=.
    return facts.command_line.count(token) >= tokens.count(token)


def starts_iommu(token: str) -> bool:
    """Tell whether a token turns the IOMMU on or off; where groups show one, it is on."""
    return token.startswith("intel_iommu=")


def check(
    wanted: options.Options, tokens: tuple[str, ...], host: pci.Host, facts: machine.Platform
) -> None:
    """Refuse a host on which claims would not work, or not outlive a reboot.

    Args:
        wanted: the application's options.
        tokens: what the kernel's command line should hold.
        host: the PCI functions.
        facts: bootloader, generator, running command line.

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
    if lacking and not facts.has_grub:
        raise UnsupportedHostError(
            "this host does not boot with GRUB, so its kernel command line cannot be set",
            f"add {' '.join(lacking)} by its boot loader's own means",
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
                f"{function.address} ({function.id}) is on {_driver_and_module(function)} and not"
                " claimed, and would lose it at the next boot",
                f"item {show(name)}",
                "leave the name out, or claim that function too",
            )


def _driver_and_module(function: pci.Function) -> str:
    *_, module = boot_files.module_names(function)
    driver = function.driver or ""
    return driver if module == modules.normalize(driver) else f"{driver} of the module {module}"


def _check_iommu_can_start(
    wanted: options.Options, tokens: tuple[str, ...], facts: machine.Platform
) -> None:
    """Refuse where no reboot would bring an IOMMU; otherwise one with ``tokens`` will."""
    if facts.iommu_table is None:
        raise UnsupportedHostError(
            "the firmware offers no IOMMU (no DMAR, IVRS or IORT table)",
            "enable VT-d, AMD-Vi or the SMMU in its settings",
        )
    running = [each for each in facts.command_line if starts_iommu(each)][-1:]
    wants_on = any(token.startswith("intel_iommu=on") for token in tokens)
    if facts.iommu_table == "DMAR" and wants_on and running[:1] != ["intel_iommu=on"]:
        return
    joint = "; "
    if facts.iommu_table == "DMAR" and not wants_on and not wanted.iommu:
        cause = "the option iommu=manual keeps this charm from turning it on"
        way_out = "set iommu=auto"
    elif running == ["intel_iommu=on"]:
        cause = "it was started with intel_iommu=on"
        way_out = "check VT-d in the firmware's settings"
    else:
        cause, joint = "", ": "
        way_out = "remove iommu=off or amd_iommu=off from its command line, or check the firmware"
    raise UnsupportedHostError(
        "the running kernel has no active IOMMU", way_out, cause=cause, joint=joint
    )
