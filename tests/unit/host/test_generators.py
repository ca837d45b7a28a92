"""Which generator makes a host's images, from what the packages leave on the disk.

Which package has which file was read in Debian 12 and 13 and in Ubuntu 22.04, 24.04, 25.10 and
26.04. dracut and initramfs-tools conflict; dracut-core, initramfs-tools-core and the hooks for
kernels, which are conffiles, stay behind when the other one takes over.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from harness import hosttree
from harness.hosttree import etcfiles

from passthrough.host import generators, machine
from passthrough.host.generators import DRACUT, INITRAMFS_TOOLS

MakeHost = Callable[..., hosttree.HostTree]
Edit = Callable[[hosttree.HostTree], object]

WRAPPER = '#!/bin/sh\n# mkinitramfs or dracut, as it comes\nexec update-initramfs.real "$@"\n'


def has_initramfs_tools_core(tree: hosttree.HostTree) -> None:
    tree.write("usr/share/initramfs-tools/hook-functions", "# -*- shell-script -*-\n")
    tree.write("usr/sbin/mkinitramfs", "", mode=0o755)


def has_dracut_core(tree: hosttree.HostTree) -> None:
    tree.write("usr/bin/dracut", "", mode=0o755)


def has_hook(name: str) -> Edit:
    return lambda tree: tree.write(f"{etcfiles.KERNEL_HOOKS}/{name}", "#!/bin/sh\n", mode=0o755)


def lacks(path: str) -> Edit:
    return lambda tree: (tree.root / path).unlink()


def has_command(text: str) -> Edit:
    return lambda tree: tree.write(etcfiles.UPDATE_INITRAMFS, text, mode=0o755)


# A name, Ubuntu's release, what is changed on it, and the generators that are found.
HOSTS: dict[str, tuple[str, list[Edit], tuple[generators.Generator, ...]]] = {
    "initramfs-tools": ("24.04", [], (INITRAMFS_TOOLS,)),
    "dracut with a command of its own": ("26.04", [], (DRACUT,)),
    "dracut without one": ("26.04", [lacks(etcfiles.UPDATE_INITRAMFS)], (DRACUT,)),
    "dracut, and initramfs-tools-core stayed": ("26.04", [has_initramfs_tools_core], (DRACUT,)),
    "dracut, and initramfs-tools-core and its hook stayed": (
        "26.04",
        [has_initramfs_tools_core, has_hook("initramfs-tools")],
        (DRACUT,),
    ),
    "dracut without a command, and initramfs-tools-core stayed": (
        "26.04",
        [lacks(etcfiles.UPDATE_INITRAMFS), has_initramfs_tools_core, has_hook("initramfs-tools")],
        (DRACUT,),
    ),
    "initramfs-tools, and dracut-core": ("24.04", [has_dracut_core], (INITRAMFS_TOOLS,)),
    "initramfs-tools, and dracut-core and dracut's hook stayed": (
        "24.04",
        [has_dracut_core, has_hook("dracut")],
        (INITRAMFS_TOOLS,),
    ),
    "both, and no hook of either": (
        "26.04",
        [has_initramfs_tools_core, lacks(f"{etcfiles.KERNEL_HOOKS}/dracut")],
        (DRACUT,),
    ),
    "both, and a command that names neither": (
        "24.04",
        [has_dracut_core, has_command(WRAPPER)],
        (INITRAMFS_TOOLS, DRACUT),
    ),
    "both, and a command that runs either": (
        "24.04",
        [has_dracut_core, has_command("dracut --force x\nmkinitramfs -o x\n")],
        (INITRAMFS_TOOLS, DRACUT),
    ),
    "both, and a hook that runs the other one": (
        "24.04",
        [has_dracut_core, has_hook("dracut"), lacks(f"{etcfiles.KERNEL_HOOKS}/initramfs-tools")],
        (INITRAMFS_TOOLS, DRACUT),
    ),
    "initramfs-tools-core alone": ("24.04", [lacks(etcfiles.UPDATE_INITRAMFS)], ()),
    "initramfs-tools behind a wrapper": ("24.04", [has_command(WRAPPER)], (INITRAMFS_TOOLS,)),
}


@pytest.mark.parametrize(("ubuntu", "edits", "expected"), HOSTS.values(), ids=list(HOSTS))
def test_the_generator_is_the_one_that_makes_the_images(
    make_host: MakeHost,
    ubuntu: str,
    edits: list[Edit],
    expected: tuple[generators.Generator, ...],
):
    tree = make_host(ubuntu=ubuntu)
    for edit in edits:
        edit(tree)
    assert [each.name for each in generators.find(tree.root)] == [each.name for each in expected]
    facts = machine.read(tree.root)
    assert facts.generator == (expected[0] if len(expected) == 1 else None)
    assert facts.rivals == (expected if len(expected) > 1 else ())


def test_no_generator_is_found_where_none_is(make_host: MakeHost):
    assert generators.find(make_host(generator=None).root) == ()


@pytest.mark.parametrize("row", generators.GENERATORS, ids=lambda row: row.name)
def test_a_row_is_whole(row: generators.Generator):
    """What other modules take for granted of every row."""
    assert row.signs
    assert all(row.signs)
    assert row.rebuilds
    assert any(file.in_initramfs for file in row.files), "verify has nothing to look for"
    assert all("{name}" in path for path in (*(file.path for file in row.files), *row.folders))
    assert row.image.startswith(row.image_prefix)


@pytest.mark.parametrize(
    ("line", "kernel"),
    [
        ("update-initramfs: Generating /boot/initrd.img-6.8.0-45-generic", "6.8.0-45-generic"),
        ("update-initramfs: Generating /boot/initrd.img-6.1.0-29-amd64\r", "6.1.0-29-amd64"),
        ("dracut: Executing: /usr/bin/dracut --kver=6.8.0-45-generic --force", "6.8.0-45-generic"),
        ("dracut[I]: Executing: /usr/bin/dracut --kver=6.11.0-9 --force", "6.11.0-9"),
        ("dracut: Executing: /usr/bin/dracut --kver=6.11.0-9", "6.11.0-9"),
        ("dracut: Executing: /usr/bin/dracut --force --regenerate-all", ""),
        ("update-initramfs: deferring update (trigger activated)", ""),
        ("update-initramfs: failed for /boot/initrd.img-6.8.0-45-generic with 1.", ""),
        ("W: update-initramfs: Generating /boot/initrd.img-6.8 takes long", ""),
        ("", ""),
    ],
)
def test_a_command_says_which_kernel_it_comes_to(line: str, kernel: str):
    assert generators.find_reached(line) == kernel
