"""Judges every byte that would be written: what no template wrote must match a pattern of its own.

The patterns are not those of the code under test. They are what the reader of each file (a shell,
GRUB, udev, modprobe, Nova) takes as one harmless word.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re

from passthrough.config import options
from passthrough.host import generators, machine, pci
from passthrough.nova import lines as nova_lines
from passthrough.nova import release as nova_release
from passthrough.planning import boot_files, claims, plan, templates, vfs

HEX = "[0-9a-f]"
ADDRESS = rf"{HEX}{{4,8}}:{HEX}{{2}}:[01]{HEX}\.[0-7]"
OPTION = r"[A-Za-z0-9][A-Za-z0-9_.-]*(=[A-Za-z0-9_.,:/@+%=-]+)?"
# What would boot something else, hand the host to cloud-init, or take a guard away.
FATAL_OPTION = re.compile(
    r"(rd\.)?(init|rdinit|root|emergency|rescue|single|[sS1-5]|break|systemd\.(?!log_|show_|unified_)"
    r"[^ ]*|pci[-_]passthrough|module[-_]blacklist|driver\.blacklist|ds|url|cloud-config-url)(=.*)?"
    r"|.*(noiommu|cc:).*"
    # What no part of the kernel knows goes to PID 1's environment, but for a module's parameters.
    r"|[^.=]*[A-Z][^.=]*(=.*)?|[^=]*[._]ids(=.*)?|(intel_iommu|amd_iommu|iommu)=(.*,)?off(,.*)?"
    r"|blacklist=.*|(fstab|luks|rd\.lvm|container|initrdmem|nomodule)(=.*)?"
)
MODULE = r"[A-Za-z0-9][A-Za-z0-9_-]*"
WORD = re.compile(r"[A-Za-z0-9_.,:-]{1,8192}")

GRUB_LINE = re.compile(rf'GRUB_CMDLINE_LINUX_DEFAULT="\$GRUB_CMDLINE_LINUX_DEFAULT( {OPTION})+"')
LINES = (
    GRUB_LINE,
    re.compile(rf"claim {ADDRESS} 0x{HEX}{{4}} 0x{HEX}{{4}}( {ADDRESS})*"),
    re.compile(rf"make {ADDRESS} 0x{HEX}{{4}} 0x{HEX}{{4}} [1-9][0-9]{{0,4}}"),
    re.compile(rf"blacklist {MODULE}"),
    re.compile(r"options vfio_iommu_type1 allow_unsafe_interrupts=1"),
    re.compile(
        rf'KERNEL=="{ADDRESS}", ATTR{{vendor}}=="0x{HEX}{{4}}", ATTR{{device}}=="0x{HEX}{{4}}",'
        rf' TEST=="iommu_group",( ATTR{{\[pci/{ADDRESS}\]vendor}}=="0x{HEX}{{4}}",'
        rf' ATTR{{\[pci/{ADDRESS}\]device}}=="0x{HEX}{{4}}",)* ATTR{{driver_override}}="vfio-pci",'
        r' RUN{builtin}\+="kmod load vfio-pci",'
        r""" RUN\+="/bin/sh -c 'echo %k >/sys/bus/pci/drivers_probe'\""""
    ),
)
NOVA_LINE = re.compile(r"(?:device_spec|passthrough_whitelist|alias) = (\{.*\})")
RELEASES = tuple(nova_release.Release(major) for major in (25, 29, 33))
APPLICATION = "pci-passthrough"


def check_message(error: Exception) -> None:
    """What an operator is shown stays on one line, and brings a terminal to nothing."""
    message = str(error)
    assert message.isprintable(), ascii(message)
    assert len(message) < 1000, len(message)


def _function(address: str, identity: str, class_code: int, driver: str) -> pci.Function:
    vendor, _, product = identity.partition(":")
    return pci.Function(address, vendor, product, class_code, driver=driver)


HOST = pci.Host(
    {
        each.address: each
        for each in (
            *(_function(f"0000:{bus}:00.0", "10de:1bb0", 0x030000, "nouveau") for bus in (83, 84)),
            *(_function(f"0000:{bus}:00.1", "10de:10f0", 0x040300, "snd") for bus in (83, 84)),
            _function("0000:3b:00.0", "8086:1572", 0x020000, "i40e"),
            _function("10000:e1:00.0", "8086:1572", 0x020000, "i40e"),
            dataclasses.replace(
                _function("0000:3c:00.0", "8086:10c9", 0x020000, "igb"), total_vfs=7
            ),
            dataclasses.replace(
                _function("0000:3c:10.0", "8086:10ca", 0x020000, "igbvf"),
                physfn="0000:3c:00.0",
            ),
        )
    }
)
GENERATORS = generators.GENERATORS


@functools.cache
def _skeleton(generator: generators.Generator) -> frozenset[str]:
    """Every line that the templates write by themselves."""
    claim = claims.decide(options.parse({"devices": "10de:1bb0"}).devices, HOST).claims
    card = vfs.Wanted(HOST.functions["0000:3c:00.0"], 1)
    asked = boot_files.Wanted(
        application=APPLICATION,
        claims=claim,
        twins=boot_files.find_twins(claim, HOST),
        blacklist=("x",),
        kernel_options=("x",),
        allow_unsafe_interrupts=True,
        generator=generator,
        vfs=(card,),
    )
    desired = boot_files.desired_files(asked, templates.Renderer())
    lines = {line for file in desired for line in (file.content or "").splitlines()}
    return frozenset(line for line in lines if not any(each.fullmatch(line) for each in LINES))


def check_boot_files(wanted: options.Options, generator: generators.Generator) -> list[str]:
    """Work out what would be written for these options, and judge it line by line.

    Returns:
        The contents of the GRUB drop-in, where there is one.
    """
    facts = machine.Platform(
        iommu_table="DMAR", has_grub=True, generator=generator, command_line=("ro",)
    )
    outcome = claims.decide(wanted.devices, HOST)
    made = vfs.decide(outcome, vfs.Situation(HOST))
    now = plan.Situation(APPLICATION, facts, vfs=made)
    planned = plan.make(wanted, outcome, now, templates.Renderer())
    drop_ins = []
    for change in planned.files:
        content = change.file.content or ""
        # splitlines() knows more line ends than a shell does: none of them may be in there.
        assert content.splitlines() == content.removesuffix("\n").split("\n")
        assert content.isascii()
        for line in content.splitlines():
            known = line in _skeleton(generator) or any(each.fullmatch(line) for each in LINES)
            assert known, f"{change.file.path}: {line!r}"
        if change.file.path == boot_files.grub_path(APPLICATION):
            fatal = [each for each in planned.kernel_options if FATAL_OPTION.fullmatch(each)]
            assert not fatal, fatal
            drop_ins.append(content)
    return drop_ins


def check_nova(wanted: options.Options) -> None:
    """Judge what Nova would be told, for every release that knows all of it."""
    aliases = nova_lines.aliases(wanted.devices)
    primary = [each for each in claims.decide(wanted.devices, HOST).claims if not each.companion_of]
    specs = [nova_lines.device_spec(claim.function, claim.item) for claim in primary]
    for release in RELEASES:
        text = (
            nova_lines.DropIn(
                APPLICATION, release, tuple(specs), aliases, wanted.report_in_placement
            ).render(templates.Renderer())
            or ""
        )
        assert text.isascii()
        for line in text.splitlines():
            found = NOVA_LINE.fullmatch(line)
            fixed = line.startswith("# ") or line in ("", "[pci]", "report_in_placement = true")
            assert found or fixed, line
            if found:
                for key, value in json.loads(found[1]).items():
                    assert WORD.fullmatch(key), line
                    assert WORD.fullmatch(value), line
    loaded = json.loads(nova_lines.subordinate_configuration(aliases))
    assert set(loaded) == {"nova"}
