"""What a few programs do to a made-up host: modprobe, update-grub, systemctl and more.

The box's recorded programs call these; a unit test may call them in place of the real ones.
"""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence

from harness import cpio
from harness.hosttree import etcfiles, kernel, services

# What ends up in a real image of what the charm may write: the files of a folder of the host, and
# how their names go on in the image, where {} is the rest of the name.
_COPIED = {
    "update-initramfs": {
        "etc/modprobe.d": "etc/modprobe.d/{}",
        "etc/udev/rules.d": "usr/lib/udev/rules.d/{}",
        "etc/initramfs-tools/scripts": "scripts/{}",
    },
    "dracut": {
        "etc/modprobe.d": "etc/modprobe.d/{}",
        "etc/udev/rules.d": "etc/udev/rules.d/{}",
    },
}
_REACHED = {
    "update-initramfs": "update-initramfs: Generating /boot/initrd.img-{}",
    "dracut": "dracut: Executing: /usr/bin/dracut --kver={} --force",
}
_INST_HOOK = re.compile(r"inst_hook pre-udev (\S+) ")
_BOOT_SCRIPT = re.compile(r"scripts/init-top/.+|var/lib/dracut/hooks/pre-udev/.+")
_VFIO_PCI = "usr/lib/modules/{}/kernel/drivers/vfio/pci/vfio-pci.ko"
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
    path = root / etcfiles.GRUB_CFG
    new = path.with_name(f"{path.name}.new")
    new.write_text(etcfiles.grub_cfg(kernel_releases(root)[0], done.stdout.strip()))
    os.replace(new, path)


def update_initramfs(root: pathlib.Path, generator: str) -> None:
    """Make every kernel's image anew from what is on the host now, the newest kernel's first.

    Each tool says which kernel it comes to, in its own words.
    """
    for release in kernel_releases(root):
        print(_REACHED[generator].format(release), flush=True)
        update_image(root, generator, release)


def update_image(root: pathlib.Path, generator: str, release: str) -> None:
    """Make one kernel's image anew: beside the old one, which it replaces when it is whole."""
    image = image_of(root, release)
    new = image.with_name(f"{image.name}.new")
    files = dict(_files_of_image(root, generator, release))
    new.write_bytes(cpio.image(files, "none"))
    os.replace(new, image)


def image_of(root: pathlib.Path, release: str) -> pathlib.Path:
    """Where a kernel's image stands."""
    return root / "boot" / f"initrd.img-{release}"


def read_initramfs(image: pathlib.Path) -> Mapping[str, bytes]:
    """The files of an image that `update_image` has made; one that was never made is empty."""
    return cpio.read(image.read_bytes())


def list_initramfs(root: pathlib.Path) -> list[str]:
    """Names of the files in the newest kernel's image; one that was never made is empty."""
    return sorted(read_initramfs(_newest_image(root)))


def unpack_boot_scripts(root: pathlib.Path, target: pathlib.Path) -> list[pathlib.Path]:
    """Unpack from the newest kernel's image what runs before udev; the scripts in their order."""
    scripts = []
    for name, content in sorted(read_initramfs(_newest_image(root)).items()):
        if _BOOT_SCRIPT.fullmatch(name):
            script = target / name
            script.parent.mkdir(parents=True, exist_ok=True)
            script.write_bytes(content)
            scripts.append(script)
    return scripts


def _files_of_image(
    root: pathlib.Path, generator: str, release: str
) -> Iterator[tuple[str, bytes]]:
    for folder, place in _COPIED[generator].items():
        for path in sorted((root / folder).rglob("*")):
            if path.is_file() and not path.name.startswith("."):
                yield place.format(path.relative_to(root / folder)), path.read_bytes()
    modules = list(_modules_put_in(root, generator))
    if modules:
        # Also where it is built in: in a box the kernel tells this machine's release, and the charm
        # finds no list of what that has built in.
        yield _VFIO_PCI.format(release), b"\x7fELF"
    for name, content in modules:
        if name:
            yield name, content


def _modules_put_in(root: pathlib.Path, generator: str) -> Iterator[tuple[str, bytes]]:
    """What asks for vfio-pci in the image: a hook, or a module of dracut's with its own script."""
    if generator == "update-initramfs":
        for path in (root / "etc/initramfs-tools/hooks").glob("*"):
            yield "", path.read_bytes()
    else:
        for path in sorted((root / "usr/lib/dracut/modules.d").glob("91*/claim.sh")):
            setup = path.with_name("module-setup.sh").read_text(encoding="utf-8")
            (priority,) = _INST_HOOK.findall(setup)
            yield f"var/lib/dracut/hooks/pre-udev/{priority}-{path.name}", path.read_bytes()


def _newest_image(root: pathlib.Path) -> pathlib.Path:
    return image_of(root, kernel_releases(root)[0])


def kernel_releases(root: pathlib.Path) -> list[str]:
    """The kernels, the newest first, as GRUB and update-initramfs sort them."""
    names = [path.name.removeprefix("vmlinuz-") for path in (root / "boot").glob("vmlinuz-*")]
    return sorted(names, key=_version, reverse=True)


def _version(release: str) -> list[int]:
    return [int(each) for each in re.findall(r"\d+", release)]
