"""What an initramfs image really holds, unpacked while it is read.

Source: the kernel's Documentation/driver-api/early-userspace/buffer-format.rst. An image is one
cpio archive after another, the last of them compressed.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import hashlib
import json
import lzma
import os
import re
import subprocess
import zlib
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from passthrough import frozen
from passthrough.errors import PassthroughError
from passthrough.host import generators, modules
from passthrough.system import files, quoting

CACHE = "run/pci-passthrough.initramfs"
VFIO_PCI = "vfio-pci.ko"

# The names of kernels on /boot, as linux-version(1) knows them.
_KERNELS = ("vmlinuz", "vmlinux")
_CPIO = (b"070701", b"070702")
_HEADER = 110
_TRAILER = "TRAILER!!!"
_CHUNK = 1 << 16
_MAX_NAME = 4096
_MAX_ANSWERS = 8
# Scripts, rules and settings are shorter, the owner's name stands in their first lines.
_MAX_TEXT, _HEAD = 1 << 16, 512
# dracut's module squash packs an image's files once more (its modules.d/*squash*/module-setup.sh).
_PACKED = ("squash-root.img", "squashfs-root.img", "erofs-root.img")
# The format of the answers below /run. One in another format is none: the image is read again.
_FORMAT = 3
# Of the modules in an image only these are asked for.
_VFIO_MODULE = re.compile(r"([\w-]*vfio[\w-]*)\.ko\b")

# Magic numbers, as in the kernel's lib/decompress.c. A program unpacks what Python cannot.
_LIBRARIES: dict[bytes, Callable[[BinaryIO], Any]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ": lzma.LZMAFile,
    b"\x5d\x00": lzma.LZMAFile,
}
_PROGRAMS = {
    b"\x28\xb5\x2f\xfd": ("zstd", "--decompress", "--stdout", "--quiet"),
    b"\x02\x21\x4c\x18": ("lz4", "--decompress", "--stdout", "--quiet"),
    b"\x89LZO": ("lzop", "--decompress", "--stdout", "--quiet"),
}


class ImageError(PassthroughError):
    """An image cannot be read: no program to unpack it, or it is not an initramfs."""


class BrokenError(ImageError):
    """An image begins as an initramfs does and does not go on as one: no kernel can use it."""


class Contents(frozen.Value):
    """What an image holds.

    Attributes:
        digests: of those of the wanted files that it holds.
        has_vfio_pci: whether it holds that module.
        modules: the kernel modules with vfio in their names that it holds, normalized.
        marked: its files that bear the mark which was asked for → the digest of each.
    """

    digests: frozenset[str] = frozenset()
    has_vfio_pci: bool = False
    modules: frozenset[str] = frozen.field(default=frozenset(), compare=False)
    marked: Mapping[str, str] = frozen.field(default_factory=dict[str, str])


def digest(content: bytes) -> str:
    """The digest by which `read` and `look_up` know a file's content."""
    return hashlib.sha256(content).hexdigest()


def find(
    root: Path, generator: generators.Generator, initrds: Iterable[str], release: str
) -> dict[Path, str]:
    """Find the images that count: those that boot next, and the running kernel's.

    Args:
        root: the host's root.
        generator: makes the images.
        initrds: what the boot loader loads, as its configuration spells it; microcode has an image
            of its own among them.
        release: the running kernel's.

    Returns:
        The images that are there, links followed, each with the path to show to people.
    """
    booted = [os.path.basename(each) for each in initrds]
    names = [each for each in booted if each.startswith(generator.image_prefix)]
    found: dict[Path, str] = {}
    for name in dict.fromkeys((*names, generator.image.format(release=release))):
        path = (root / "boot" / name).resolve()
        if path.is_file():
            found.setdefault(path, f"/boot/{name}")
    return found


def find_all(root: Path) -> dict[str, Path]:
    """Find the image of every kernel on /boot, by the kernel's release; links are followed.

    An image without a kernel, such as a backup, boots nothing.
    """
    boot = root / "boot"
    found: dict[str, Path] = {}
    for template in dict.fromkeys(each.image for each in generators.GENERATORS):
        prefix, _, suffix = template.partition("{release}")
        for path in sorted(boot.glob(template.format(release="*"))):
            release = path.name.removeprefix(prefix).removesuffix(suffix)
            kernels = (boot / f"{name}-{release}" for name in _KERNELS)
            if path.is_file() and any(each.exists() for each in kernels):
                found[release] = path.resolve()
    return found


def look_up(root: Path, image: Path, wanted: Collection[bytes], keep: bool = True) -> Contents:
    """Look for files in an image as `read` does, once for every image and question.

    Args:
        root: the host's root.
        image: the image.
        wanted: contents to look for.
        keep: whether a new answer is kept below /run, which a boot empties, with the image's size
            and times.

    Raises:
        ImageError: when the image cannot be read.
        OSError: when there is no such image.
    """
    status = image.stat()
    question = digest(b"".join(sorted(digest(each).encode() for each in wanted)))
    key = f"{image.relative_to(root)} {status.st_ino} {status.st_size} {status.st_mtime_ns}"
    cache = _read_cache(root)
    known = cache.get(f"{key} {question}")
    if known is not None:
        held = frozenset(map(str, known["modules"]))
        return Contents(frozenset(known["digests"]), bool(known["has_vfio_pci"]), held)
    found = read(image, wanted)
    if not keep:
        return found
    answer = {
        "digests": sorted(found.digests),
        "has_vfio_pci": found.has_vfio_pci,
        "modules": sorted(found.modules),
    }
    latest = [*cache.items(), (f"{key} {question}", answer)][-_MAX_ANSWERS:]
    with contextlib.suppress(PermissionError):  # whoever is not root reads the image every time
        kept = {"format": _FORMAT, "answers": dict(latest)}
        files.ensure(root / CACHE, json.dumps(kept), 0o600)
    return found


def read(image: Path, wanted: Collection[bytes], mark: bytes = b"") -> Contents:
    """Read an image and look for files with exactly these contents, under whatever name.

    Args:
        image: the image.
        wanted: contents to look for.
        mark: also gives the files that have this text in their first lines; none when empty.

    Raises:
        BrokenError: when the image is damaged.
        ImageError: when the image cannot be read for another reason.
        OSError: when there is no such image.
    """
    digests = {digest(each) for each in wanted}
    lengths = {len(each) for each in wanted}
    sizes = range(max(_MAX_TEXT, *lengths, 0) + 1) if mark else lengths
    found: set[str] = set()
    marked: dict[str, str] = {}
    has_vfio_pci = False
    held: set[str] = set()
    try:
        for name, content in _members(image, sizes):
            # Compressed modules have one more ending.
            has_vfio_pci = has_vfio_pci or VFIO_PCI in os.path.basename(name)
            module = _VFIO_MODULE.match(os.path.basename(name))
            if module:
                held.add(modules.normalize(module[1]))
            if os.path.basename(name) in _PACKED:
                raise ImageError(f"/boot/{image.name} has its files in {name}")
            if content is not None and len(content) in lengths:
                found.add(digest(content))
            if mark and content is not None and mark in content[:_HEAD]:
                marked[f"/{name.removeprefix('./').lstrip('/')}"] = digest(content)
    except (EOFError, OSError, ValueError, lzma.LZMAError, zlib.error) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the file system's, not a library's that cannot unpack
        raise BrokenError(f"/boot/{image.name} is not an initramfs: {error}") from error
    return Contents(frozenset(found & digests), has_vfio_pci, frozenset(held), marked)


def _read_cache(root: Path) -> dict[str, Any]:
    try:
        present = files.read(root / CACHE)
        kept: dict[str, Any] = json.loads(present.content) if present else {}
        return dict(kept["answers"]) if kept["format"] == _FORMAT else {}
    except (PermissionError, ValueError, TypeError, KeyError):
        return {}


class _Reader:
    """Reads forward through a stream, which need not be seekable, and can look ahead."""

    def __init__(self, stream: Any):
        self._stream = stream
        self._ahead = b""
        self.position = 0

    def peek(self, count: int) -> bytes:
        """The next bytes, fewer at the end."""
        while len(self._ahead) < count:
            chunk = self._stream.read(_CHUNK)
            if not chunk:
                break
            self._ahead += chunk
        return self._ahead[:count]

    def take(self, count: int) -> bytes:
        """Read exactly ``count`` bytes; raises EOFError where there are fewer."""
        data = self.peek(count)
        if len(data) < count:
            raise EOFError("it ends in the middle of a file")
        self._ahead = self._ahead[count:]
        self.position += count
        return data

    def skip(self, count: int) -> None:
        """Pass over ``count`` bytes; raises EOFError where there are fewer."""
        while count:
            count -= len(self.take(min(count, _CHUNK)))

    def skip_padding(self) -> bool:
        """Pass over bytes that are zero; False where no other follows."""
        while True:
            chunk = self.peek(_CHUNK)
            zeros = len(chunk) - len(chunk.lstrip(b"\0"))
            self.take(zeros)
            if zeros < len(chunk) or not chunk:
                return bool(chunk)


def _members(image: Path, sizes: Collection[int]) -> Iterator[tuple[str, bytes | None]]:
    """Yield every file of an image: its name, and the content of those of one of ``sizes``."""
    with open(image, "rb", buffering=0) as file:
        reader = _Reader(file)
        while reader.skip_padding():
            if reader.peek(len(_CPIO[0])) in _CPIO:
                yield from _archive(reader, sizes)
                continue
            with _unpack(image, file, reader) as inner:
                while inner.skip_padding():
                    yield from _archive(inner, sizes)
            return


def _archive(reader: _Reader, sizes: Collection[int]) -> Iterator[tuple[str, bytes | None]]:
    """Yield the files of one cpio archive, its trailer among them."""
    while True:
        header = reader.take(_HEADER)
        if not header.startswith(_CPIO):
            raise ValueError("no cpio archive where one should be")
        size, length = int(header[54:62], 16), int(header[94:102], 16)
        if not 0 < length <= _MAX_NAME:
            raise ValueError(f"a name of {length} bytes")
        name = reader.take(length)[:-1].decode("utf-8", "replace")
        reader.skip(-(_HEADER + length) % 4)
        if size in sizes:
            yield name, reader.take(size)
        else:
            reader.skip(size)
            yield name, None
        reader.skip(-size % 4)
        if name == _TRAILER:
            return


@contextlib.contextmanager
def _unpack(image: Path, file: BinaryIO, reader: _Reader) -> Generator[_Reader]:
    """Unpack the rest of an image."""
    file.seek(reader.position)
    magic = reader.peek(8)
    for number, library in _LIBRARIES.items():
        if magic.startswith(number):
            with library(file) as unpacked:
                yield _Reader(unpacked)
            return
    command = next((each for number, each in _PROGRAMS.items() if magic.startswith(number)), None)
    if command is None:
        raise ImageError(
            f"/boot/{image.name} is not an initramfs: unknown compression"
            f" {quoting.show(magic.hex())}"
        )
    try:
        process = subprocess.Popen(
            command, stdin=file, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
    except FileNotFoundError as error:
        raise ImageError(f"/boot/{image.name}: {command[0]} is not installed") from error
    with process:
        try:
            yield _Reader(process.stdout)
            said = process.stderr.read().decode("utf-8", "replace") if process.stderr else ""
            if process.wait():
                raise BrokenError(f"/boot/{image.name}: {command[0]}: {quoting.show(said.strip())}")
        finally:
            process.kill()  # where not all of it was read
