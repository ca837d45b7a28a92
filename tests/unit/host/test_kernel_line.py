"""What options of the kernel's command line bring about, by the kernel's own rules."""

from __future__ import annotations

import pytest

from passthrough.host import kernel_line


@pytest.mark.parametrize(
    ("line", "on"),
    [
        ("quiet", None),
        ("intel_iommu=on", True),
        ("intel_iommu=off", False),
        ("intel_iommu=on intel_iommu=off", False),
        ("intel_iommu=off intel_iommu=on", True),
        ("intel_iommu=on intel_iommu=igfx_off", True),
        ("intel_iommu=on intel_iommu=on,sm_on", True),
        ("intel_iommu=igfx_off", None),
        ("intel_iommu=sm_on,off", False),
        ("intel_iommu=off,on", True),
        ('intel_iommu="on,sm_on"', True),
        ("intel-iommu=on", True),
        ("intel_iommu=", None),
        ("-- intel_iommu=on", None),
        ("intel_iommu=on --- intel_iommu=off", False),
    ],
)
def test_each_part_of_intel_iommu_counts_and_the_last_on_or_off_wins(line: str, on: bool | None):
    assert kernel_line.starts_iommu(line.split()) is on


@pytest.mark.parametrize(
    ("line", "table", "token"),
    [
        ("iommu=off", "DMAR", "iommu=off"),
        ("intel_iommu=on iommu=off", "DMAR", "iommu=off"),
        ("iommu=off intel_iommu=on iommu=pt", "DMAR", "iommu=off"),
        ("iommu=pt,off", "DMAR", "iommu=pt,off"),
        ("iommu=off,pt", "IVRS", "iommu=off,pt"),
        ('iommu="off"', "IVRS", 'iommu="off"'),
        ("iommu=usedac,off", "DMAR", ""),
        ("iommu=pt", "DMAR", ""),
        ("iommu=soft", "IVRS", ""),
        ("amd_iommu=off", "IVRS", "amd_iommu=off"),
        ("amd_iommu=fullflush,off amd_iommu=on", "IVRS", "amd_iommu=fullflush,off"),
        ("amd-iommu=off", "IVRS", "amd-iommu=off"),
        # The kernel of another vendor's machine does not read it.
        ("amd_iommu=off", "DMAR", ""),
        ("intel_iommu=off", "IVRS", ""),
        ("intel_iommu=off", "DMAR", ""),
        ("iommu=off", "IORT", ""),
        ("iommu=off", None, ""),
        ("-- iommu=off", "DMAR", ""),
        ("xiommu=off iommu.passthrough=off", "DMAR", ""),
    ],
)
def test_what_leaves_the_iommu_off_whatever_comes_later(line: str, table: str | None, token: str):
    assert kernel_line.leaves_iommu_off(line.split(), table) == token


@pytest.mark.parametrize(
    ("ours", "line", "revoked"),
    [
        ("intel_iommu=on", "intel_iommu=on intel_iommu=off", "intel_iommu=off"),
        ("intel_iommu=on", "intel_iommu=on intel_iommu=on,sm_on", None),
        ("intel_iommu=on", "intel_iommu=on intel_iommu=igfx_off", None),
        ("intel_iommu=on", "intel_iommu=on intel_iommu=sm_on,off", "intel_iommu=sm_on,off"),
        ("intel_iommu=on,sm_on", "intel_iommu=on,sm_on intel_iommu=sm_off", "intel_iommu=sm_off"),
        ("iommu=pt", "iommu=pt iommu=nopt", "iommu=nopt"),
        ("iommu=pt", "iommu=pt iommu=force", None),
        ("iommu=pt", "iommu=pt iommu=force,nopt", "iommu=force,nopt"),
        ("modprobe.blacklist=a", "modprobe.blacklist=a modprobe.blacklist=b", None),
        (
            "vfio_iommu_type1.allow_unsafe_interrupts=1",
            "vfio_iommu_type1.allow_unsafe_interrupts=1 vfio-iommu-type1.allow_unsafe_interrupts=0",
            "vfio-iommu-type1.allow_unsafe_interrupts=0",
        ),
        ("intel_iommu=on intel_iommu=off", "intel_iommu=on intel_iommu=off", None),
    ],
)
def test_options_are_compared_by_what_they_do(ours: str, line: str, revoked: str | None):
    found = kernel_line.revoked(ours.split(), line.split())
    assert (found[1].token if found else None) == revoked


@pytest.mark.parametrize(
    ("token", "line", "there"),
    [
        ("intel_iommu=on", "intel_iommu=on,sm_on", True),
        ("intel_iommu=on,sm_on", "intel_iommu=sm_on intel_iommu=on", True),
        ("intel_iommu=on,sm_on", "intel_iommu=on", False),
        ("intel_iommu=igfx_off", "intel_iommu=on", False),
        ("iommu=pt", "iommu=force,pt", True),
        ("iommu=pt", "iommu=pt,nopt", False),
    ],
)
def test_an_option_is_in_force_by_what_it_does(token: str, line: str, there: bool):
    assert kernel_line.is_in_force(token, [token], line.split()) is there


@pytest.mark.parametrize(
    ("line", "token"),
    [
        ("intremap=off", "intremap=off"),
        ("intremap=nosid,off", "intremap=nosid,off"),
        ("intremap=off intremap=on", ""),
        ("intremap=no_x2apic_optout", ""),
        ("nointremap", "nointremap"),
        ("noapic", "noapic"),
        ("iommu=off", "iommu=off"),
        ("quiet -- noapic", ""),
    ],
)
def test_what_leaves_interrupts_as_they_come(line: str, token: str):
    assert kernel_line.leaves_remapping_off(line.split(), "DMAR") == token


def test_what_hides_the_tables_keeps_a_module_off_and_sets_a_parameter():
    line = ["acpi=off", "module_blacklist=x,vfio-pci", "vfio.enable_unsafe_noiommu_mode=1"]
    assert kernel_line.hides_tables(line) == "acpi=off"
    assert kernel_line.keeps_off_module(line, "vfio_pci") == "module_blacklist=x,vfio-pci"
    assert kernel_line.keeps_off_module(line, "vfio") == ""
    name = "vfio.enable_unsafe_noiommu_mode"
    assert kernel_line.setter(line, name) == f"{name}=1"
    assert kernel_line.setter(line, "acpi_x") == kernel_line.hides_tables(["acpi=force"]) == ""
