"""What a few programs do to a made-up host: modprobe, update-grub, systemctl and more.

The box's recorded programs call these; a unit test may call them in place of the real ones.
"""

from __future__ import annotations

import pathlib
import subprocess
import sys
import tarfile
from collections.abc import Sequence

from harness.hosttree import etcfiles, kernel, services

# What ends up in a real initramfs of what the charm may write. A tar file, not a cpio archive: it
# only has to tell what was there when it was built.
_IN_INITRAMFS = {
    "update-initramfs": (
        "etc/modprobe.d",
        "etc/initramfs-tools/hooks",
        "etc/initramfs-tools/scripts",
    ),
    "dracut": ("etc/modprobe.d", "etc/dracut.conf.d", "usr/lib/dracut/modules.d"),
}
# grub-mkconfig sources these files the same way, as root: util/grub-mkconfig.in of GRUB 2.
_SOURCE_GRUB = """
set -e
if test -f "$1/etc/default/grub"; then . "$1/etc/default/grub"; fi
for x in "$1"/etc/default/grub.d/*.cfg; do if [ -e "$x" ]; then . "$x"; fi; done
printf '%s %s\\n' "$GRUB_CMDLINE_LINUX" "$GRUB_CMDLINE_LINUX_DEFAULT"
"""


def run(root: pathlib.Path, name: str, args: Sequence[str]) -> int:
    """Imitate one run of a program.

    Args:
        root: the host tree.
        name: the program; one that is not imitated does nothing.
        args: its arguments.

    Returns:
        Its exit code.
    """
    words = [arg for arg in args if not arg.startswith("-")]
    if name == "modprobe":
        return _modprobe(root, words, quiet="-q" in args)
    if name == "systemctl":
        return services.systemctl(root, args)
    if name == "invoke-rc.d":
        return services.invoke_rc_d(root, args)
    if name in ("update-grub", "grub-mkconfig"):
        update_grub(root)
    elif name == "update-initramfs" and _runs_dracut(root / etcfiles.UPDATE_INITRAMFS):
        update_initramfs(root, "dracut")
    elif name in ("update-initramfs", "dracut"):
        update_initramfs(root, name)
    elif name in ("lsinitramfs", "lsinitrd"):
        print("\n".join(list_initramfs(root)))
    return 0


def _runs_dracut(command: pathlib.Path) -> bool:
    return command.exists() and "if dracut " in command.read_text(encoding="utf-8")


def _modprobe(root: pathlib.Path, names: list[str], *, quiet: bool) -> int:
    if kernel.load(root, names):
        return 0
    if not quiet:
        print(f"modprobe: FATAL: Module {' '.join(names)} not found.", file=sys.stderr)
    return 1


def update_grub(root: pathlib.Path) -> None:
    """Write grub.cfg from /etc/default/grub and grub.d, which a shell sources.

    Raises:
        subprocess.CalledProcessError: the shell could not source them.
    """
    done = subprocess.run(
        ["/bin/sh", "-c", _SOURCE_GRUB, "grub-mkconfig", str(root)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    (root / etcfiles.GRUB_CFG).write_text(
        etcfiles.grub_cfg(_kernel_release(root), done.stdout.strip())
    )


def update_initramfs(root: pathlib.Path, generator: str) -> None:
    """Write the initramfs anew from what is on the host now."""
    with tarfile.open(_initramfs(root), "w") as archive:
        for directory in _IN_INITRAMFS[generator]:
            if (root / directory).exists():
                archive.add(root / directory, directory)


def list_initramfs(root: pathlib.Path) -> list[str]:
    """Names of the files in the initramfs; an initramfs that was never written is empty."""
    path = _initramfs(root)
    if not path.stat().st_size:
        return []
    with tarfile.open(path) as archive:
        return sorted(member.name for member in archive.getmembers() if member.isfile())


def unpack_boot_scripts(root: pathlib.Path, target: pathlib.Path) -> list[pathlib.Path]:
    """Unpack the initramfs; its scripts that run before udev, in their order."""
    if not list_initramfs(root):
        return []
    with tarfile.open(_initramfs(root)) as archive:
        archive.extractall(target)  # noqa: S202 - this module has written it
    scripts = (target / "etc/initramfs-tools/scripts/init-top").glob("*")
    return sorted([*scripts, *target.glob("usr/lib/dracut/modules.d/91*/claim.sh")])


def _initramfs(root: pathlib.Path) -> pathlib.Path:
    return root / "boot" / f"initrd.img-{_kernel_release(root)}"


def _kernel_release(root: pathlib.Path) -> str:
    (image,) = (root / "boot").glob("vmlinuz-*")
    return image.name.removeprefix("vmlinuz-")
