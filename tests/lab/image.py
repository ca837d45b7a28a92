"""Build the disk images of the lab from Debian's packages, once; then take them from the cache.

Nothing here needs privileges: mmdebstrap unpacks the packages in a user namespace, mke2fs fills a
file system from a folder, and GRUB is installed by the machine itself in a first boot that takes
its kernel from outside. So there is no loop device, mount or chroot to clean up after a failure.
"""

import dataclasses
import hashlib
import io
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile

from lab import apt, cache, errors, guest, images, progress, requirements

ROOT_LABEL = "lab-root"
ENABLED_UNITS = ("systemd-networkd.service", "ssh.service", "serial-getty@ttyS0.service")
# Work that a machine of a few minutes' life should not spend its slow processor on.
MASKED_UNITS = (
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "man-db.timer",
    "systemd-networkd-wait-online.service",
)
DEBCONF = "grub-pc grub-pc/install_devices_empty boolean true\n"
# A BIOS boot partition for GRUB's core image, then the root file system.
ROOT_OFFSET_MIB = 2
PARTITIONS = (
    "label: gpt\nstart=1MiB, size=1MiB, type=21686148-6449-6E6F-744E-656564454649\nstart=2MiB"
)
# What the emulator needs of a kernel, as in rootfs/common/etc/default/grub.d/10-lab.cfg.
CPU_OPTIONS = "mitigations=off tsc=reliable clocksource=tsc no_timer_check"
FIRST_BOOT_LINE = f"root=LABEL={ROOT_LABEL} rw console=ttyS0 {CPU_OPTIONS}"
KEY_DIGITS = 16
BUILD_BYTES = 6 << 30
ROOTFS = pathlib.Path(__file__).with_name("rootfs")


@dataclasses.dataclass(frozen=True)
class Built:
    """An image in the cache: its disk (qcow2, never written again) and the key to log in with."""

    name: str
    disk: pathlib.Path
    key: pathlib.Path


def ensure(image: images.Image, steps: progress.Progress) -> Built:
    """Return the image from the cache, built first when its inputs have changed or it is new.

    Raises:
        LabError: a tool is missing or failed; the message has the end of the build's log.
    """
    requirements.check()
    own = apt.choose_suite(apt.read_os_release())
    suite = image.suite or own
    sources = apt.change_suite(apt.read_sources(own), own, suite)
    folder = cache.root() / "images"
    entry = folder / f"{image.name}-{compute_key(image, suite, sources)}"
    waiting = f"another run builds the image '{image.name}': waiting for it"
    with cache.lock(folder / f"{image.name}.lock", lambda: steps.say(waiting)):
        if not entry.exists():
            cache.need_space(folder, BUILD_BYTES)
            with cache.scratch(folder, f"building-{image.name}") as work:
                _build(image, suite, sources, work, steps)
                (work / "result").rename(entry)
            _prune(image, entry)
    return Built(image.name, entry / "disk.qcow2", entry / "key")


def compute_key(image: images.Image, suite: str, sources: str) -> str:
    """Return the hash over all an image is made of: its row, this code, its files, Debian."""
    digest = hashlib.sha256(repr((image, suite, sources)).encode())
    digest.update(pathlib.Path(__file__).read_bytes())
    digest.update(_pack_trees(image))
    return digest.hexdigest()[:KEY_DIGITS]


def _build(
    image: images.Image, suite: str, sources: str, work: pathlib.Path, steps: progress.Progress
) -> None:
    """Make `work`/result with the disk and its key."""
    result = work / "result"
    result.mkdir()
    log = _Log(work / "build.log")
    trees = work / "trees.tar"
    trees.write_bytes(_pack_trees(image))
    with steps.step(f"image '{image.name}': unpack Debian {suite} and its kernel"):
        packed = _unpack_packages(image, suite, sources, trees, work, log)
    with steps.step(f"image '{image.name}': fill the disk"):
        log.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f", result / "key")
        disk = _fill_disk(image, packed, trees, result / "key.pub", work, log)
    tree = work / "tree"
    boot = ("-kernel", tree / "vmlinuz", "-initrd", tree / "initrd.img", "-append", FIRST_BOOT_LINE)
    arguments = [str(word) for word in boot]
    with (
        guest.install(disk, result / "key", work, steps, arguments) as first_boot,
        steps.step(f"image '{image.name}': install GRUB from inside"),
    ):
        _install_grub(first_boot)
        first_boot.power_off()
    with steps.step(f"image '{image.name}': pack the disk"):
        log.run("qemu-img", "convert", "-O", "qcow2", disk, result / "disk.qcow2")
    shutil.copy(log.path, result / "build.log")


def _unpack_packages(
    image: images.Image,
    suite: str,
    sources: str,
    trees: pathlib.Path,
    work: pathlib.Path,
    log: "_Log",
) -> pathlib.Path:
    """Return a tar file of a Debian root with all packages configured."""
    packed = work / "root.tar"
    units = {
        "enable": ENABLED_UNITS,
        "disable": image.disabled_units,
        "mask": (*MASKED_UNITS, *image.masked_units),
    }
    systemctl = [f"systemctl {verb} {' '.join(names)}" for verb, names in units.items() if names]
    (work / "sources.list").write_text(sources)
    (work / "debconf").write_text(DEBCONF)
    mode = "root" if os.geteuid() == 0 else "unshare"
    log.run(
        "mmdebstrap",
        f"--mode={mode}",
        "--format=tar",
        "--variant=minbase",
        "--architectures=amd64",
        f"--include={','.join(image.packages)}",
        "--dpkgopt=force-unsafe-io",
        "--dpkgopt=path-exclude=/usr/share/doc/*",
        "--dpkgopt=path-exclude=/usr/share/locale/*",
        "--dpkgopt=path-exclude=/usr/share/man/*",
        # Before the kernel comes: its initramfs is to be made the way these files say.
        f"--essential-hook=tar-in {trees} /",
        # Some packages ask for the machine's full name while they are set up, which is this host's
        # name here, and nobody answers for it on every host. The disk gets the image's own file.
        '--essential-hook=echo "127.0.1.1 $(uname -n)" >>"$1/etc/hosts"',
        f"--essential-hook=copy-in {work / 'debconf'} /tmp",
        '--essential-hook=chroot "$1" debconf-set-selections /tmp/debconf',
        *(f'--customize-hook=chroot "$1" {command}' for command in systemctl),
        '--customize-hook=chroot "$1" rm /tmp/debconf',
        suite,
        packed,
        *([work / "sources.list"] if sources else []),
    )
    return packed


def _fill_disk(
    image: images.Image,
    packed: pathlib.Path,
    trees: pathlib.Path,
    public_key: pathlib.Path,
    work: pathlib.Path,
    log: "_Log",
) -> pathlib.Path:
    """Return a raw disk with the root file system, and leave its files in `work`/tree."""
    tree = work / "tree"
    tree.mkdir()
    disk = work / "disk.raw"
    with disk.open("wb") as file:
        file.truncate(image.size_mib << 20)
    log.run("sfdisk", "--quiet", disk, stdin=PARTITIONS)
    # fakeroot remembers the owners and device nodes from one command to the next.
    owners = work / "owners"
    owners.touch()
    fakeroot = ("fakeroot", "-i", owners, "-s", owners, "--")
    log.run(*fakeroot, "tar", "-C", tree, "-xf", packed)
    packed.unlink()
    log.run(*fakeroot, "tar", "-C", tree, "-xf", trees)
    authorized = tree / "root/.ssh/authorized_keys"
    log.run(*fakeroot, "install", "-D", "-m", "600", public_key, authorized)
    # Two MiB at the end stay free for the second copy of the partition table.
    blocks_kib = (image.size_mib - ROOT_OFFSET_MIB - 2) << 10
    log.run(
        *(*fakeroot, "mke2fs", "-q", "-F", "-t", "ext4", "-L", ROOT_LABEL, "-m", "0", "-d", tree),
        *("-E", f"offset={ROOT_OFFSET_MIB << 20}", disk, f"{blocks_kib}k"),
    )
    return disk


def _install_grub(first_boot: guest.Guest) -> None:
    first_boot.run("grub-install --target=i386-pc /dev/vda")
    first_boot.run("update-grub")
    first_boot.run("grep -q root=UUID= /boot/grub/grub.cfg")


def _pack_trees(image: images.Image) -> bytes:
    """Return the image's trees as one tar file: the same files give the same bytes."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name in image.trees:
            root = ROOTFS / name
            for path in sorted(root.rglob("*")):
                if path.is_file():
                    info = tarfile.TarInfo(str(path.relative_to(root)))
                    info.size = path.stat().st_size
                    info.mode = 0o755 if path.stat().st_mode & 0o100 else 0o644
                    archive.addfile(info, io.BytesIO(path.read_bytes()))
    return packed.getvalue()


def _prune(image: images.Image, keep: pathlib.Path) -> None:
    """Delete the image's former versions. A machine that runs on one keeps its open file."""
    former = re.compile(rf"{re.escape(image.name)}-[0-9a-f]{{{KEY_DIGITS}}}")
    for entry in sorted(keep.parent.iterdir()):
        if former.fullmatch(entry.name) and entry != keep:
            shutil.rmtree(entry)


class _Log:
    """Runs the build's commands, their output kept in one file."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path

    def run(self, *command: str | pathlib.Path, stdin: str = "") -> None:
        with self.path.open("ab") as log:
            begin = log.tell()
            status = subprocess.run(
                command,
                input=stdin.encode(),
                stdout=log,
                stderr=subprocess.STDOUT,
                check=False,  # the log's end goes into the error
                env={**os.environ, "PATH": requirements.SEARCH_PATH},
            ).returncode
        if status:
            printed = self.path.read_bytes()[begin:].decode(errors="replace")
            raise errors.LabError(
                f"{command[0]} ended with status {status}:\n{errors.tail(printed)}"
            )


def main() -> int:
    """Build the images named on the command line, all of them by default."""
    steps = progress.Progress()
    for name in sys.argv[1:] or sorted(images.IMAGES):
        if name not in images.IMAGES:
            known = ", ".join(sorted(images.IMAGES))
            print(f"no image '{name}': there are {known}", file=sys.stderr)
            return 2
        try:
            built = ensure(images.IMAGES[name], steps)
        except errors.LabError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        print(built.disk)
    if steps.steps:
        print(steps.table(), file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
