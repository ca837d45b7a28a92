"""The initramfs generators that the charm knows, a row each: all that tells one from another.

To support another one, add its row, its templates, and a test. Source: Debian's and Ubuntu's
packages of initramfs-tools 0.140 to 0.151 and of dracut 051 to 110.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from passthrough import enums
from passthrough.system import files

# Packages and people make the images anew by this command. initramfs-tools ships it, and so does
# dracut from Ubuntu 25.10 on.
_COMMAND = "usr/sbin/update-initramfs"
_PROGRAMS = ("usr/local/sbin", "usr/local/bin", "usr/sbin", "usr/bin", "sbin", "bin")
# A kernel's package runs these hooks when it is installed.
_KERNEL_HOOKS = "etc/kernel/postinst.d"
# Make every image anew: an older kernel that somebody boots by hand must bind too.
_UPDATE_INITRAMFS = ("update-initramfs", "-u", "-k", "all")
_NAMED_SETTINGS = r"/(etc/[\w./-]*update-initramfs\.conf)\b"
_SETTING = r"""(?m)^[ \t]*(?:export[ \t]+)?update_initramfs=["']?(\w*)"""
# The line that each command prints when it comes to a kernel. update-initramfs names the image, and
# dracut the command that it runs for each kernel (its --regenerate-all).
_REACHED = (
    r"update-initramfs: Generating /boot/initrd\.img-(\S+)"
    r"|dracut(?:\[I\])?: Executing: \S*dracut\S* --kver=(\S+)(?: .*)?"
)


class OwnedFile(NamedTuple):
    """One file that each application owns.

    Attributes:
        path: where it stands below the root; ``{name}`` is the application's own part.
        template: the template that it is rendered from, below ``templates/``.
        feeds: the rebuild by which a change takes effect; None where it needs none.
        mode: its permission bits.
        needs: values of the template; the charm writes the file while any of them is true.
        needs_claims: whether something has to be claimed besides.
        in_initramfs: whether an image that was built with it holds a copy.
    """

    path: str
    template: str
    feeds: enums.Rebuild | None = None
    mode: int = 0o644
    needs: tuple[str, ...] = ("claims",)
    needs_claims: bool = True
    in_initramfs: bool = False


class Generator(NamedTuple):
    """One initramfs generator.

    Attributes:
        name: its name, which is that of its package and of its hook in /etc/kernel/postinst.d.
        signs: groups of paths below the root. It can make images where one path of each exists.
        builder: the program that makes an image, which its own update-initramfs runs.
        rebuilds: commands that make all images anew; the charm runs the first that is installed.
        files: the files that the charm writes for it.
        folders: the directories among them that only this charm creates.
        image_prefix: the beginning of the names of its images on /boot, and of links to them.
        image: the name of a kernel's image on /boot; ``{release}`` is the kernel's.
        settings: of its update-initramfs, below the root; empty where that has none, or names
            them itself.
    """

    name: str
    signs: tuple[tuple[str, ...], ...]
    builder: str
    rebuilds: tuple[tuple[str, ...], ...]
    files: tuple[OwnedFile, ...]
    folders: tuple[str, ...] = ()
    image_prefix: str = "initr"
    image: str = "initrd.img-{release}"
    settings: str = ""


INITRAMFS_TOOLS = Generator(
    name="initramfs-tools",
    # initramfs-tools-core has the first alone, and stays behind where dracut replaces the rest.
    signs=(("usr/share/initramfs-tools/hook-functions",), (_COMMAND,)),
    builder="mkinitramfs",
    rebuilds=(_UPDATE_INITRAMFS,),
    settings="etc/initramfs-tools/update-initramfs.conf",
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
    # Ubuntu's update-initramfs also keeps a backup and tells the boot loader; Debian's dracut ships
    # none.
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

    The only one that can make images does. Of several, the one whose builder update-initramfs runs
    does, unless a kernel's package runs the hook of another.

    Returns:
        The generator; none where no known one can make images; several where the host does not
        tell which of them does.

    Raises:
        OSError: when a file that tells is there and cannot be read.
    """
    able = tuple(generator for generator in GENERATORS if _is_able(root, generator))
    if len(able) < 2:
        return able
    command = files.read(root / _COMMAND)
    text = command.content if command else ""
    run = [one for one in able if re.search(rf"(?m)^[^#\n]*\b{one.builder}\s", text)]
    hooked = [one for one in able if (root / _KERNEL_HOOKS / one.name).exists()]
    is_told = len(run) == 1 and (run[0] in hooked or not hooked)
    return tuple(run) if is_told else able


def served_by(generator: Generator | None) -> tuple[Generator, ...]:
    """Give the generators whose commands serve: all of them where a host's own cannot be told."""
    return (generator,) if generator else GENERATORS


def is_told_not_to(root: Path, served: Iterable[Generator]) -> str:
    """Find the settings by which update-initramfs leaves the images as they are, and exits with 0.

    Source: update-initramfs.conf(5). The settings of a package that was removed stay, and nobody
    reads them.

    Args:
        root: the host's root.
        served: the generators whose commands serve.

    Returns:
        The path of the settings below the root; empty where none say so.

    Raises:
        OSError: when a file that tells is there and cannot be read.
    """
    served = tuple(served)
    if rebuild_command(root, served) != _UPDATE_INITRAMFS:
        return ""
    command = files.read(root / _COMMAND)
    named = re.findall(_NAMED_SETTINGS, command.content) if command else []
    for path in dict.fromkeys([*named, *(each.settings for each in served if each.settings)]):
        settings = files.read(root / path)
        values = re.findall(_SETTING, settings.content) if settings else []
        if values and values[-1] == "no":
            return path
    return ""


def rebuild_command(root: Path, served: Iterable[Generator]) -> tuple[str, ...]:
    """Give the first installed command that makes all images anew; the very first where none is.

    Args:
        root: the host's root.
        served: the generators whose commands serve.
    """
    known = [command for each in served for command in each.rebuilds]
    return next((each for each in known if _is_installed(root, each[0])), known[0])


def find_reached(line: str) -> str:
    """Tell which kernel's image a command begins to make, by a line that it prints.

    Args:
        line: the line, without its end.

    Returns:
        The kernel's release; empty where the line says nothing of that kind.
    """
    found = re.fullmatch(_REACHED, line.strip())
    return found[found.lastindex or 0] if found else ""


def _is_installed(root: Path, program: str) -> bool:
    return any((root / folder / program).exists() for folder in _PROGRAMS)


def _is_able(root: Path, generator: Generator) -> bool:
    return all(any((root / path).exists() for path in group) for group in generator.signs)
