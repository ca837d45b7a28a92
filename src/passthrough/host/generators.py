"""The initramfs generators that the charm knows, a row each: all that tells one from another.

To support another one, add its row, its templates, and a test. What stands here of Debian's and
Ubuntu's packages was read in those of initramfs-tools 0.140 to 0.151 and dracut 051 to 110.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from passthrough import enums
from passthrough.system import files

# The command by which packages, and people, have the images made anew. initramfs-tools ships it,
# and so does dracut from Ubuntu 25.10 on.
_COMMAND = "usr/sbin/update-initramfs"
# What a kernel's package runs when it is installed.
_KERNEL_HOOKS = "etc/kernel/postinst.d"
# An older kernel that is booted by hand must bind too: every image is made anew.
_UPDATE_INITRAMFS = ("update-initramfs", "-u", "-k", "all")


class OwnedFile(NamedTuple):
    """One file that each application owns.

    Attributes:
        path: where it stands below the root; ``{name}`` is the application's own part.
        template: what it is rendered from, below ``templates/``.
        feeds: what has to be rebuilt for a change to take effect; None for nothing.
        mode: its permission bits.
        needs: values of the template; it is written while any of them is true.
        in_initramfs: whether an image that was built with it holds a copy.
    """

    path: str
    template: str
    feeds: enums.Rebuild | None = None
    mode: int = 0o644
    needs: tuple[str, ...] = ("claims",)
    in_initramfs: bool = False


class Generator(NamedTuple):
    """One initramfs generator.

    Attributes:
        name: its name, which is that of its package and of its hook in /etc/kernel/postinst.d.
        signs: paths below the root. It can make images where of each group one is there.
        builder: the program that makes an image, which an update-initramfs of its own runs.
        rebuilds: commands that make all images anew; the first one that is installed serves.
        files: the files that it is given.
        folders: the folders of those that are the charm's alone.
        image_prefix: what the names of its images on /boot begin with, and of links to them.
        image: the name of a kernel's image on /boot; ``{release}`` is the kernel's.
    """

    name: str
    signs: tuple[tuple[str, ...], ...]
    builder: str
    rebuilds: tuple[tuple[str, ...], ...]
    files: tuple[OwnedFile, ...]
    folders: tuple[str, ...] = ()
    image_prefix: str = "initr"
    image: str = "initrd.img-{release}"


INITRAMFS_TOOLS = Generator(
    name="initramfs-tools",
    # initramfs-tools-core has the first alone. It stays behind where dracut replaced the rest.
    signs=(("usr/share/initramfs-tools/hook-functions",), (_COMMAND,)),
    builder="mkinitramfs",
    rebuilds=(_UPDATE_INITRAMFS,),
    files=(
        OwnedFile(
            "etc/initramfs-tools/hooks/{name}",
            "initramfs-tools-hook.j2",
            feeds=enums.Rebuild.INITRAMFS,
            mode=0o755,
        ),
        OwnedFile(
            "etc/initramfs-tools/scripts/init-top/{name}",
            "initramfs-tools-init-top.j2",
            feeds=enums.Rebuild.INITRAMFS,
            mode=0o755,
            in_initramfs=True,
        ),
    ),
)

DRACUT = Generator(
    name="dracut",
    signs=(("usr/bin/dracut", "usr/sbin/dracut"),),
    builder="dracut",
    # Ubuntu's own command also keeps a backup and tells the boot loader; Debian's dracut has none.
    rebuilds=(_UPDATE_INITRAMFS, ("dracut", "--force", "--regenerate-all")),
    files=(
        OwnedFile(
            "etc/dracut.conf.d/{name}.conf",
            "dracut.conf.j2",
            feeds=enums.Rebuild.INITRAMFS,
        ),
        OwnedFile(
            "usr/lib/dracut/modules.d/91{name}/module-setup.sh",
            "dracut-module-setup.sh.j2",
            feeds=enums.Rebuild.INITRAMFS,
            mode=0o755,
        ),
        OwnedFile(
            "usr/lib/dracut/modules.d/91{name}/claim.sh",
            "dracut-claim.sh.j2",
            feeds=enums.Rebuild.INITRAMFS,
            mode=0o755,
            in_initramfs=True,
        ),
    ),
    folders=("usr/lib/dracut/modules.d/91{name}",),
)

GENERATORS = (INITRAMFS_TOOLS, DRACUT)


def find(root: Path) -> tuple[Generator, ...]:
    """Find the generator that makes the images of the host at ``root``.

    One that alone can make images does. Of several it is the one whose builder update-initramfs
    runs, unless the hook that a kernel's package runs is another one's.

    Returns:
        The generator; none where no known one can make images; several where it cannot be told
        which of them does.

    Raises:
        OSError: when a file that tells is there and cannot be read.
    """
    able = tuple(each for each in GENERATORS if _is_able(root, each))
    if len(able) < 2:
        return able
    command = files.read(root / _COMMAND)
    text = command.content if command else ""
    run = [each for each in able if re.search(rf"(?m)^[^#\n]*\b{each.builder}\s", text)]
    hooked = [each for each in able if (root / _KERNEL_HOOKS / each.name).exists()]
    is_told = len(run) == 1 and (run[0] in hooked or not hooked)
    return tuple(run) if is_told else able


def _is_able(root: Path, generator: Generator) -> bool:
    return all(any((root / path).exists() for path in group) for group in generator.signs)
