"""A rebuild is done when the images and grub.cfg hold what they should, not when a tool exits 0.

Before a rebuild: what is known to keep it from its work. Meanwhile: a copy of every image, put back
where one of several kernels' images could not be made. After it: a look into each of them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Generator, Iterable, Mapping
from pathlib import Path

from passthrough import enums, frozen
from passthrough.errors import PassthroughError
from passthrough.host import generators, grub, initramfs
from passthrough.planning import boot_files
from passthrough.site import Site
from passthrough.system import files, procfs

_BOOT = "boot"
_KEPT = ".{name}.pci-passthrough.kept"
# Where the copies stand when /boot has no room for them.
_ELSEWHERE = "var/cache/pci-passthrough"
# Older initramfs-tools keep a file for every image that they make, some with its checksum.
_STATES = "var/lib/initramfs-tools"
_MIB = 1 << 20

Report = Callable[[str], object]
Identity = tuple[int, int, int]


class RebuildError(PassthroughError):
    """A rebuild cannot begin, or has not brought what it was for."""


class Before(frozen.Value):
    """A file as it was before a rebuild.

    Attributes:
        path: where it stands, links followed.
        shown: the path to show to people.
        identity: tells whether it was written since; None where it was not there.
        copy: holds what it held; None where there was no room for one.
        state: the generator's own file for it, by its path; None where it has none.
    """

    path: Path
    shown: str
    identity: Identity | None
    copy: Path | None = None
    state: tuple[Path, files.Present] | None = None

    @property
    def is_written(self) -> bool:
        """Whether somebody has written the file since, or removed it."""
        return _identify(self.path) != self.identity


def find_obstacle(
    root: Path, rebuilds: Iterable[enums.Rebuild], generator: generators.Generator | None
) -> RebuildError | None:
    """Find what is known to keep a rebuild from its work, though its tool may exit with 0.

    Args:
        root: the host's root.
        rebuilds: what is to be rebuilt.
        generator: makes the initramfs, where that is known.

    Returns:
        The first obstacle, with its way out; None where none is known.

    Raises:
        OSError: when a file that tells is there and cannot be read.
    """
    rebuilds = tuple(rebuilds)
    if rebuilds and _is_read_only(root):
        return RebuildError(
            "/boot is mounted read-only, so nothing can be rebuilt",
            "mount it for writing: mount -o remount,rw /boot",
        )
    if enums.Rebuild.INITRAMFS not in rebuilds:
        return None
    settings = generators.is_told_not_to(root, generators.served_by(generator))
    if settings:
        return RebuildError(
            f"/{settings} says update_initramfs=no, so no image is made anew",
            "set update_initramfs=yes there",
        )
    largest = max((each.stat().st_size for each in initramfs.find_all(root).values()), default=0)
    free = _free(root / _BOOT)
    if free < largest:
        return RebuildError(
            f"/boot has {free // _MIB} MiB free, and an image takes {-(-largest // _MIB)} MiB",
            "make room there, as by apt autoremove --purge of old kernels",
        )
    return None


def sweep(root: Path) -> None:
    """Remove the copies that a killed run has left behind.

    Raises:
        OSError: when one of them cannot be removed.
    """
    elsewhere = root / _ELSEWHERE
    for folder in (root / _BOOT, elsewhere):
        for copy in folder.glob(_KEPT.format(name="*")):
            copy.unlink(missing_ok=True)
    files.drop_empty(elsewhere)


@contextlib.contextmanager
def kept(root: Path, what: enums.Rebuild, report: Report) -> Generator[tuple[Before, ...]]:
    """Keep what a rebuild replaces while the block runs, and put it back when the block fails.

    The tools put one image after the other in place, and stop at the first that fails. GRUB's
    configuration needs no copy: it is replaced once it is whole.

    Args:
        root: the host's root.
        what: the rebuild.
        report: takes a sentence for everything that is put back.

    Yields:
        The files that the rebuild is to replace, as they are before it.

    Raises:
        RebuildError: when the block fails and not all could be put back; with the block's error
            and what boots with what.
    """
    before = tuple(_keep(root) if what is enums.Rebuild.INITRAMFS else _identify_grub(root))
    try:
        yield before
    except Exception as error:
        left = [each for each in before if each.is_written and not _put_back(each, report)]
        if left and what is enums.Rebuild.INITRAMFS:
            raise _mixed(error, before, left) from error
        raise
    finally:
        with contextlib.suppress(OSError):  # the next run sweeps too, and says so
            sweep(root)


def check(
    site: Site,
    what: enums.Rebuild,
    generator: generators.Generator | None,
    before: Iterable[Before],
    report: Report,
) -> None:
    """Look whether a rebuild whose tool has succeeded has brought what it was for.

    What cannot be looked into counts as done, as long as the tool has written anything at all.

    Args:
        site: where.
        what: what was rebuilt.
        generator: makes the initramfs, where that is known.
        before: what `kept` gave.
        report: takes a sentence about each image that cannot be looked into.

    Raises:
        RebuildError: when an image lacks a file of the application's as it is now, or holds one
            that is no more; or when the tool has written nothing.
        OSError: when a file of the application's cannot be read.
    """
    before = tuple(before)
    if what is enums.Rebuild.INITRAMFS:
        command = generators.rebuild_command(site.root, generators.served_by(generator))
        faults = _look_into_images(site, before, report)
    else:
        command = grub.UPDATE_GRUB
        faults = [f"{each.shown} is as it was before" for each in before if not each.is_written]
    if faults:
        more = f" ({len(faults) - 1} more)" if len(faults) > 1 else ""
        raise RebuildError(
            f"{faults[0]}{more}, although the rebuild of {what} reported success",
            f"run {' '.join(command)}, and see what it says",
        )


def _is_read_only(root: Path) -> bool:
    """Tell whether a file system of its own on /boot is mounted read-only; proc_mounts(5)."""
    options: list[str] = []
    for line in procfs.text_if_there(root, "mounts").splitlines():
        fields = line.split()
        if len(fields) > 3 and fields[1] == "/boot":
            options = fields[3].split(",")  # the last one lies over the others
    return "ro" in options


def _free(folder: Path) -> int:
    """The bytes that root can still write to a file system."""
    found = os.statvfs(folder)
    return found.f_bfree * found.f_frsize


def _identify(path: Path) -> Identity | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _identify_grub(root: Path) -> list[Before]:
    path = (root / grub.CONFIG).resolve()
    return [Before(path, f"/{grub.CONFIG}", _identify(path))]


def _keep(root: Path) -> list[Before]:
    images = initramfs.find_all(root)
    sizes = [path.stat().st_size for path in images.values()]
    folder = _find_room(root, sizes)
    found: list[Before] = []
    for release, path in images.items():
        copy = _copy(path, folder) if folder else None
        state = root / _STATES / release
        present = files.read(state)
        found.append(
            Before(
                path,
                f"/boot/{path.name}",
                _identify(path),
                copy,
                (state, present) if present else None,
            )
        )
    return found


def _find_room(root: Path, sizes: list[int]) -> Path | None:
    """Find where copies of all images fit, and on /boot a new image beside them."""
    boot, elsewhere = root / _BOOT, root / _ELSEWHERE
    try:
        if _free(boot) >= sum(sizes) + 2 * max(sizes, default=0):
            return boot
        elsewhere.mkdir(mode=0o700, parents=True, exist_ok=True)
        return elsewhere if _free(elsewhere) >= 2 * sum(sizes) else None
    except OSError:
        return None


def _copy(path: Path, folder: Path) -> Path | None:
    copy = folder / _KEPT.format(name=path.name)
    mode = path.stat().st_mode & 0o7777
    try:
        # An image can hold keys: nobody else reads the copy before it has the image's mode.
        handle = os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with open(handle, "wb") as target, path.open("rb") as source:
            shutil.copyfileobj(source, target, _MIB)
            os.fchmod(handle, mode)
    except OSError:
        copy.unlink(missing_ok=True)
        return None
    return copy


def _put_back(image: Before, report: Report) -> bool:
    """Put an image's copy in its place; False where that cannot be."""
    if image.copy is None:
        return False
    try:
        new = image.copy
        if new.parent != image.path.parent:
            new = image.path.with_name(image.copy.name)
            shutil.copy2(image.copy, new)
        files.move_into_place(new, image.path)
        if image.state:
            path, present = image.state
            files.ensure(path, present.content, present.mode)
    except OSError as error:
        report(f"{image.shown}: could not be put back: {error.strerror}")
        return False
    report(f"{image.shown}: put back")
    return True


def _mixed(error: Exception, before: Iterable[Before], left: list[Before]) -> RebuildError:
    """Say which kernels boot with what, where images are new and the files in /etc are old."""
    new = " ".join(each.shown for each in left if _identify(each.path))
    gone = " ".join(each.shown for each in left if not _identify(each.path))
    old = " ".join(each.shown for each in before if each not in left)
    said = [
        f"{new} boots with the new files" if new else "",
        f"{gone} is gone" if gone else "",
        f"{old} with the former ones" if old else "",
    ]
    return RebuildError(
        f"{error}; the former images could not be put back: {', '.join(filter(None, said))}",
        "make room on /boot, and do not reboot before the next hook has rebuilt them",
    )


def _look_into_images(site: Site, before: tuple[Before, ...], report: Report) -> list[str]:
    ours = _read_ours(site)
    mark = boot_files.mark(site.application)
    images = initramfs.find_all(site.root)
    faults = [f"{each.shown} is gone" for each in before if _identify(each.path) is None]
    untold: list[str] = []
    for path in images.values():
        shown = f"/boot/{path.name}"
        try:
            contents = initramfs.read(path, [content for content, _ in ours.values()], mark)
        except initramfs.BrokenError as error:
            faults.append(f"{shown} cannot be used: {error}")
        except (initramfs.ImageError, OSError) as error:
            report(f"what {shown} holds cannot be told: {error}")
            untold.append(shown)
        else:
            faults += _find_faults(shown, contents, ours)
    if not images:
        report("what the images hold cannot be told: there is none on /boot")
    if untold and not any(each.is_written for each in before):
        faults.append(f"{untold[0]} is as it was before")
    return faults


def _read_ours(site: Site) -> Mapping[str, tuple[bytes, bool]]:
    """The application's files as they are: path → content, and whether an image needs it."""
    found: dict[str, tuple[bytes, bool]] = {}
    for file in boot_files.owned_files(site.application):
        present = files.read(site.root / file.path)
        if present:
            content = present.content.encode("utf-8", "surrogateescape")
            found[file.path] = (content, file.in_initramfs)
    return found


def _find_faults(
    shown: str, contents: initramfs.Contents, ours: Mapping[str, tuple[bytes, bool]]
) -> list[str]:
    lacking = [
        f"/{path}"
        for path, (content, is_needed) in ours.items()
        if is_needed and initramfs.digest(content) not in contents.digests
    ]
    known = {initramfs.digest(content) for content, _ in ours.values()}
    stale = [name for name, digest in contents.marked.items() if digest not in known]
    faults: list[str] = []
    if lacking:
        faults.append(f"{shown} lacks {' '.join(lacking)}")
    if stale:
        faults.append(f"{shown} still holds {' '.join(stale)}")
    return faults
