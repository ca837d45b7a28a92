"""The files that make the claims survive a reboot: GRUB, modprobe, udev and the initramfs.

Every file is one row: of ``_FILES``, or of the initramfs generator that it is for.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator, Mapping
from typing import NamedTuple

from passthrough import enums, frozen, naming
from passthrough.config import options
from passthrough.host import generators, machine, modules, pci
from passthrough.planning import claims, templates, vfio_driver, vfs
from passthrough.state import digest
from passthrough.system import files

# The display drivers of each vendor that a console or a desktop would load by itself.
DISPLAY_DRIVERS = {
    "1002": ("amdgpu", "radeon"),
    "10de": ("nouveau", "nvidia", "nvidia_drm", "nvidiafb"),
    "1234": ("bochs",),
    "8086": ("i915", "xe"),
}
# Drivers whose module has another name, for where the kernel does not show the module, as of one
# that is built in. Every other name differs at most in "-" for "_".
_MODULES = {
    "bochs-drm": "bochs",
    "xhci_hcd": "xhci_pci",
    "nvidia-nvswitch": "nvidia",
    "nvidia-gpu": "i2c_nvidia_gpu",
    "c3xxx": "qat_c3xxx",
    "c6xx": "qat_c62x",
    "dh895xcc": "qat_dh895xcc",
    "4xxx": "qat_4xxx",
    "420xx": "qat_420xx",
}


class File(frozen.Value):
    """One owned file: where it stands below the root, and what it should hold.

    ``feeds`` is the rebuild by which a change takes effect; None where it needs none. ``content``
    is None where the file should be absent. ``in_initramfs`` tells whether an initramfs that was
    built with the file holds a copy.
    """

    path: str
    mode: int
    feeds: enums.Rebuild | None
    content: str | None = None
    in_initramfs: bool = False

    def as_present(self) -> files.Present | None:
        """The file as `files.read` gives it once it is as it should be."""
        return None if self.content is None else files.Present(self.content, self.mode)


# Sorts after 50-cloudimg-settings, 50-curtin-settings and 90-sysconfig.
_GRUB_DROP_IN = generators.OwnedFile(
    "etc/default/grub.d/95-{name}.cfg",
    "grub.cfg.j2",
    feeds=enums.Rebuild.GRUB,
    needs=("kernel_options",),
)

_VFS_PROGRAM = "var/lib/pci-passthrough/{name}.vfs.sh"

_FILES = (
    _GRUB_DROP_IN,
    generators.OwnedFile("etc/modules-load.d/{name}.conf", "modules-load.conf.j2"),
    # initramfs-tools copies modprobe.d into the initramfs; for dracut our module does.
    generators.OwnedFile(
        "etc/modprobe.d/{name}.conf",
        "modprobe.conf.j2",
        feeds=enums.Rebuild.INITRAMFS,
        needs=("blacklist", "allow_unsafe_interrupts"),
        in_initramfs=True,
    ),
    # Sorts before 80-drivers.rules, which loads the native driver by modalias.
    generators.OwnedFile(
        "etc/udev/rules.d/60-{name}.rules", "udev.rules.j2", feeds=enums.Rebuild.INITRAMFS
    ),
    # VFs are made by the driver of their card, which the initramfs may not have. The last file has
    # systemd start the unit at every boot, as a folder of that target that it merges.
    *(
        generators.OwnedFile(path, template, needs=("vfs",), needs_claims=False)
        for path, template in (
            (_VFS_PROGRAM, "vfs.sh.j2"),
            ("etc/systemd/system/{name}-vfs.service", "vfs.service.j2"),
            ("etc/systemd/system/multi-user.target.d/{name}-vfs.conf", "vfs-boot.conf.j2"),
        )
    ),
)

# What the template of the GRUB drop-in, of this revision and of the first, puts around its options.
_ADDED = r'(?m)^GRUB_CMDLINE_LINUX_DEFAULT="\$GRUB_CMDLINE_LINUX_DEFAULT ([^"]*)"$'


def owned_files(application: str) -> tuple[File, ...]:
    """Every file that the application may own, each as absent: how removal leaves the host."""
    return tuple(_absent(row, application) for row, _ in _rows())


def owned_folders(application: str) -> tuple[str, ...]:
    """The directories to remove once no file is left in them."""
    name = naming.name_for(application)
    return tuple(path.format(name=name) for each in generators.GENERATORS for path in each.folders)


def mark(application: str) -> bytes:
    """The text by which a file is known as the application's, wherever it is copied to."""
    return f"pci-passthrough (application {application})".encode()


def grub_path(application: str) -> str:
    """The application's GRUB drop-in, below the root."""
    return _GRUB_DROP_IN.path.format(name=naming.name_for(application))


def options_in_force(
    application: str, present: Mapping[str, files.Present | None]
) -> tuple[str, ...]:
    """The kernel options that the application's GRUB drop-in adds as it is now.

    Args:
        application: the Juju application.
        present: what each owned path holds now.
    """
    drop_in = present.get(grub_path(application))
    found = re.search(_ADDED, drop_in.content) if drop_in else None
    return tuple(found[1].split()) if found else ()


class Wanted(NamedTuple):
    """What the boot files are to bring about.

    Attributes:
        application: the Juju application.
        claims: the functions that go to VFIO drivers; without any, every file should be absent.
        twins: what `find_twins` gave for them.
        blacklist: what `blacklisted_drivers` gave.
        kernel_options: what `kernel_options` gave, empty where GRUB cannot set them.
        allow_unsafe_interrupts: the option of that name.
        generator: the host's initramfs generator, for which the charm writes its files.
        keeps_kernel_options: whether the GRUB drop-in stays although nothing is claimed.
        vfs: the functions that stay with the host and have VFs made at boot.
    """

    application: str
    claims: tuple[claims.Claim, ...] = ()
    twins: Mapping[str, list[str]] = {}
    blacklist: tuple[str, ...] = ()
    kernel_options: tuple[str, ...] = ()
    allow_unsafe_interrupts: bool = False
    generator: generators.Generator | None = None
    keeps_kernel_options: bool = False
    vfs: tuple[vfs.Wanted, ...] = ()


def desired_files(
    wanted: Wanted,
    renderer: templates.Renderer,
    present: Mapping[str, files.Present | None] | None = None,
) -> tuple[File, ...]:
    """Work out every owned file as it should be, in a stable order.

    Args:
        wanted: what the files are to bring about.
        renderer: gives their content.
        present: what each path holds now; known to be right, it saves rendering.
    """
    present = present or {}
    context = {
        "application": wanted.application,
        "name": naming.name_for(wanted.application),
        "claims": [_spell(claim.function) for claim in wanted.claims if not claim.vfio.is_left],
        "variants": _variants(wanted.claims),
        "twins": wanted.twins,
        "blacklist": wanted.blacklist,
        "kernel_options": wanted.kernel_options,
        "allow_unsafe_interrupts": wanted.allow_unsafe_interrupts,
        "vfs": [_spell_vfs(each, wanted.claims) for each in wanted.vfs],
        "program": _VFS_PROGRAM.format(name=naming.name_for(wanted.application)),
    }
    found: list[File] = []
    for row, generator in _rows():
        absent = _absent(row, wanted.application)
        wants = (
            (
                bool(wanted.claims)
                or not row.needs_claims
                or (row.feeds == enums.Rebuild.GRUB and wanted.keeps_kernel_options)
            )
            and generator in (None, wanted.generator)
            and any(context[name] for name in row.needs)
        )
        there = present.get(absent.path)
        content = (
            renderer.render(row.template, context, there.content if there else None)
            if wants
            else None
        )
        found.append(frozen.replace(absent, content=content))
    return tuple(found)


def _variants(claimed: Iterable[claims.Claim]) -> dict[str, digest.Plain]:
    """What the templates need to know of the variants of vfio-pci; all empty where none is wanted.

    A kernel that was installed since the files were written gets what the newest one had then.
    """
    wanted = [claim for claim in claimed if claim.vfio.wanted_variant]
    releases = sorted({release for claim in wanted for release, _ in claim.vfio.by_kernel})
    boots = {
        release: [
            {"address": claim.address, "module": module}
            for claim in wanted
            if (module := claim.vfio.module_at(release)) != modules.VFIO_PCI
        ]
        for release in (*releases, "")
    }
    named = {each["module"] for boot in boots.values() for each in boot}
    return {
        "modules": sorted(named),
        "default": boots.pop(""),
        "kernels": [{"release": each, "functions": boots[each]} for each in releases],
        "functions": {
            claim.address: [
                _where(claim.vfio, module, releases)
                for module in sorted({claim.vfio.at_boot, *dict(claim.vfio.by_kernel).values()})
                if module != modules.VFIO_PCI
            ]
            for claim in wanted
        },
    }


def _where(
    choice: vfio_driver.Choice, module: str, releases: Iterable[str]
) -> dict[str, digest.Plain]:
    """On which kernels a module is the choice: those named, or all but those."""
    is_default = choice.at_boot == module
    named = [each for each in releases if (choice.module_at(each) == module) != is_default]
    return {"module": module, "operator": "!=" if is_default else "==", "releases": named}


def _spell(function: pci.Function) -> dict[str, digest.Plain]:
    return {
        "address": function.address,
        "vendor": function.vendor,
        "product": function.product,
    }


def _spell_vfs(wanted: vfs.Wanted, claimed: Iterable[claims.Claim]) -> dict[str, digest.Plain]:
    """A function, how many VFs it gets, and those of them that go to vfio-pci at once."""
    function = wanted.function
    mine = (each for each in claimed if each.function.physfn == function.address)
    return {
        **_spell(function),
        "count": wanted.number,
        "claims": [_spell(each.function) for each in mine if not each.vfio.is_left],
    }


def _rows() -> Iterator[tuple[generators.OwnedFile, generators.Generator | None]]:
    """Every owned file, with the generator that it is for, or None."""
    for row in _FILES:
        yield row, None
    for generator in generators.GENERATORS:
        for row in generator.files:
            yield row, generator


def _absent(row: generators.OwnedFile, application: str) -> File:
    path = row.path.format(name=naming.name_for(application))
    return File(path, row.mode, row.feeds, in_initramfs=row.in_initramfs)


def find_twins(claimed: tuple[claims.Claim, ...], host: pci.Host) -> dict[str, list[str]]:
    """Find the twins of each claimed function: those of the same id that stay with the host.

    Once somebody has taken a card out, the firmware numbers the others anew, and the disk that the
    host boots from can have the address of its claimed twin. No guard runs at boot, so the boot
    files claim a function only while every twin is where it was. Left out is what comes into being
    when a driver runs: VFs, as claims and as twins, and what is behind Intel VMD, whose domains
    begin above ffff (drivers/pci/controller/vmd.c).

    Returns:
        Address of a claimed function → addresses of its twins.
    """
    kept = host.functions.keys() - {claim.address for claim in claimed}
    return {
        claim.address: [
            each.address
            for each in host.with_id(claim.function.id)
            if each.address in kept
            and not (each.physfn or claim.function.physfn)
            and not each.is_beyond_nova
        ]
        for claim in claimed
    }


def kernel_options(
    wanted: options.Options, blacklist: Iterable[str], facts: machine.Platform
) -> tuple[str, ...]:
    """Work out the tokens for the kernel's command line, the operator's own last: they win.

    Intel's IOMMU alone needs a token. The kernel turns those of AMD and Arm on by itself, and
    knows no ``amd_iommu=on`` (its Documentation/admin-guide/kernel-parameters.txt).
    """
    tokens: list[str] = []
    if wanted.iommu and facts.iommu_table == "DMAR":
        tokens.append("intel_iommu=on")
    if wanted.iommu_passthrough:
        tokens.append("iommu=pt")
    names = ",".join(blacklist)
    if names:
        tokens.append(f"modprobe.blacklist={names}")
    if wanted.allow_unsafe_interrupts:
        tokens.append("vfio_iommu_type1.allow_unsafe_interrupts=1")
    return (*tokens, *wanted.kernel_options)


def blacklisted_drivers(
    wanted: options.Options,
    claimed: tuple[claims.Claim, ...],
    host: pci.Host,
    aliases: modules.Aliases,
    others: Container[str] = (),
) -> tuple[str, ...]:
    """Work out the drivers to keep off, sorted.

    With ``blacklist-drivers=auto`` these are the display drivers of each vendor whose displays are
    all claimed, except for those that a function of the host's own is on, or would need.

    Args:
        wanted: the application's options.
        claimed: what it claims.
        host: the PCI functions.
        aliases: the modules that the installed kernels name for a function.
        others: addresses that other applications of this charm have taken.
    """
    if not claimed:
        return ()
    if wanted.blacklist_drivers is not None:
        return wanted.blacklist_drivers
    addresses = {claim.address for claim in claimed}
    vendors = {claim.function.vendor for claim in claimed if claim.function.is_display}
    rest = [each for address, each in host.functions.items() if address not in addresses]
    vendors -= {each.vendor for each in rest if each.is_display}
    names = {name for vendor in vendors for name in DISPLAY_DRIVERS.get(vendor, ())}
    names -= modules_in_use(host, addresses).keys()
    for each in rest:
        waits = each.driver is None or each.is_on_vfio or each.module is None
        if names and waits and each.vendor in vendors and each.address not in others:
            names -= _modules_for(each, aliases)
    return tuple(sorted(names))


def _modules_for(function: pci.Function, aliases: modules.Aliases) -> frozenset[str]:
    """The modules that may drive a function, on no driver of the host's yet or an unknown one."""
    if aliases.known:
        return aliases.of(function.modalias)
    # Without a kernel that tells, any accelerator may want the drivers of its vendor's displays.
    names = DISPLAY_DRIVERS.get(function.vendor, ()) if function.is_accelerator else ()
    return frozenset(names)


def module_names(function: pci.Function) -> tuple[str, ...]:
    """The names, normalized, by which modprobe.d may mean the driver that a function is on.

    The driver's own name is among them, which an operator may take for the module's.
    """
    driver = function.driver
    if driver is None:
        return ()
    module = function.module or _MODULES.get(driver, driver)
    return tuple(dict.fromkeys(modules.normalize(name) for name in (driver, module)))


def modules_in_use(host: pci.Host, given_away: Container[str]) -> dict[str, pci.Function]:
    """Map each module that drives a function of the host's own to the first such function.

    Names are normalized, as modprobe compares them.

    Args:
        host: the PCI functions.
        given_away: addresses of the functions that do not stay with the host.
    """
    found: dict[str, pci.Function] = {}
    for address, function in host.functions.items():
        if address not in given_away:
            for name in module_names(function):
                found.setdefault(name, function)
    return found
