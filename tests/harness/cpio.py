"""Initramfs images as mkinitramfs and dracut write them, made by hand."""

from __future__ import annotations

import bz2
import gzip
import lzma
import subprocess
from collections.abc import Mapping


def archive(files: Mapping[str, bytes]) -> bytes:
    """A cpio archive in the new ASCII format."""
    parts = []
    for number, (name, content) in enumerate({**files, "TRAILER!!!": b""}.items()):
        path = name.encode() + b"\0"
        values = (number, 0o100644, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(path), 0)
        head = b"070701" + "".join(f"{value:08x}" for value in values).encode() + path
        parts += [head, b"\0" * (-len(head) % 4), content, b"\0" * (-len(content) % 4)]
    whole = b"".join(parts)
    return whole + b"\0" * (-len(whole) % 512)


def read(data: bytes) -> dict[str, bytes]:
    """The files of archives that `archive` has made, one after the other, not compressed."""
    found: dict[str, bytes] = {}
    position = 0
    while data[position : position + 6] == b"070701":
        head = data[position : position + 110]
        size, length = int(head[54:62], 16), int(head[94:102], 16)
        name = data[position + 110 : position + 110 + length - 1].decode()
        start = position + 110 + length + -(110 + length) % 4
        position = start + size + -size % 4
        if name == "TRAILER!!!":
            position += -position % 512
        else:
            found[name] = data[start : start + size]
    return found


def zstd(data: bytes) -> bytes:
    return subprocess.run(["zstd", "-q", "-c"], input=data, capture_output=True, check=True).stdout


COMPRESSIONS = {
    "none": lambda data: data,
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lambda data: lzma.compress(data, check=lzma.CHECK_CRC32),
    "lzma": lambda data: lzma.compress(data, format=lzma.FORMAT_ALONE),
    "zstd": zstd,
}


def image(files: Mapping[str, bytes], compression: str = "gzip") -> bytes:
    """Microcode in an archive of its own, then the rest, compressed."""
    early = archive({"kernel/x86/microcode/GenuineIntel.bin": b"microcode"})
    return early + COMPRESSIONS[compression](archive(files))
