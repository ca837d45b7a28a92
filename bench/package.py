"""What the packed charm weighs, part by part."""

from __future__ import annotations

import pathlib
import zipfile
from typing import Any

_SITE_PACKAGES = "site-packages/"
_OWN = ("src", "lib", "templates", "compiled", "bin")


def weigh(charm: pathlib.Path) -> list[dict[str, Any]]:
    """Sum up the files of a packed charm by part, the heaviest first.

    Returns:
        Rows with the part, the number of files, and its bytes in the charm and unpacked. The
        charm's bytes beyond its files are those of the archive itself.
    """
    parts: dict[str, list[int]] = {}
    with zipfile.ZipFile(charm) as archive:
        for entry in archive.infolist():
            row = parts.setdefault(part_of(entry.filename), [0, 0, 0])
            row[0] += not entry.is_dir()
            row[1] += entry.compress_size
            row[2] += entry.file_size
    return [
        {"part": part, "files": files, "packed-bytes": packed, "bytes": unpacked}
        for part, (files, packed, unpacked) in sorted(
            parts.items(), key=lambda each: (-each[1][1], each[0])
        )
    ]


def part_of(name: str) -> str:
    """Name the part of the charm that a file belongs to: a directory of ours, or a package.

    A package's metadata and its helpers beside it count as the package.
    """
    _, found, inside = name.partition(_SITE_PACKAGES)
    if found:
        top = inside.split("/")[0].removesuffix(".py").lstrip("_").lower()
        package = top.partition("-")[0] if top.endswith(("-info", ".dist-info")) else top
        return f"venv: {_PACKAGES.get(package, package)}"
    top = name.split("/")[0]
    return top if top in _OWN else "everything else"


# Names of modules that are not those of their packages.
_PACKAGES = {
    "yaml": "pyyaml",
    "pkg_resources": "setuptools",
    "distutils_hack": "setuptools",
    "distutils": "setuptools",
    "opentelemetry": "opentelemetry_api",
    "websocket": "websocket_client",
}
