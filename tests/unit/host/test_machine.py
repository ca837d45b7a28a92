"""What kind of host it is, read from the tree."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from harness import hosttree

from passthrough.host import machine

MakeHost = Callable[..., hosttree.HostTree]


@pytest.mark.parametrize("table", ["DMAR", "IVRS", None])
def test_iommu_is_told_by_its_acpi_table(make_host: MakeHost, table: str | None):
    assert machine.read(make_host(iommu_table=table).root).iommu_table == table


def test_arm_has_a_table_of_its_own(make_host: MakeHost):
    tree = make_host(iommu_table=None)
    tree.write("sys/firmware/acpi/tables/IORT", b"IORT")
    assert machine.read(tree.root).iommu_table == "IORT"


@pytest.mark.parametrize(
    ("ubuntu", "generator"),
    [("22.04", "initramfs-tools"), ("24.04", "initramfs-tools"), ("26.04", "dracut")],
)
def test_generator_is_the_one_that_is_installed(make_host: MakeHost, ubuntu: str, generator: str):
    """Each of the three has an update-initramfs; on 26.04 it is dracut's."""
    tree = make_host(ubuntu=ubuntu)
    assert (tree.root / "usr/sbin/update-initramfs").exists()
    found = machine.read(tree.root).generator
    assert found
    assert found.name == generator


def test_generator_that_nobody_knows_is_none(make_host: MakeHost):
    assert machine.read(make_host(generator=None).root).generator is None


def test_command_line_is_split_into_its_tokens(tree: hosttree.HostTree):
    tree.set_command_line("quiet intel_iommu=on,sm_on  console=ttyS0,115200n8")
    assert machine.read(tree.root).command_line[-3:] == (
        "quiet",
        "intel_iommu=on,sm_on",
        "console=ttyS0,115200n8",
    )


@pytest.mark.parametrize("missing", [None, "boot/grub/grub.cfg", "usr/sbin/update-grub"])
def test_grub_boots_the_host_only_where_it_is_whole(tree: hosttree.HostTree, missing: str | None):
    """An update-grub without grub.cfg is what a container or a zipl host has left over."""
    if missing:
        (tree.root / missing).unlink()
    assert machine.read(tree.root).has_grub is (missing is None)


def test_container_is_told_by_systemds_mark(tree: hosttree.HostTree):
    assert not machine.read(tree.root).is_container
    tree.write("run/systemd/container", "lxc\n")
    assert machine.read(tree.root).is_container


def test_an_empty_tree_has_none_of_it(tmp_path):
    assert machine.read(tmp_path) == machine.Platform()
