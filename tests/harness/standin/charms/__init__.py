"""Charms that stand in for those that pci-passthrough is integrated with.

Each has the endpoints of the real charm, as far as `juju integrate` could mean them, and the
options and actions that the pages name. Their hooks say ``active`` and do no more.
"""

from __future__ import annotations

import pathlib
import zipfile
from typing import Any

import yaml

HERE = pathlib.Path(__file__).parent
NAMES = tuple(sorted(path.parent.name for path in HERE.glob("*/metadata.yaml")))
_SHARED = ("dispatch", "manifest.yaml")


def declarations(name: str) -> dict[str, Any]:
    """What a charm declares, as `charmdir.read_declarations` would read it from the packed one."""
    return {
        kind: yaml.safe_load(text) if (text := _read(name, kind)) else {}
        for kind in ("metadata", "config", "actions")
    }


def _read(name: str, kind: str) -> str:
    path = HERE / name / f"{kind}.yaml"
    return path.read_text(encoding="utf-8") if path.exists() else ""


def pack(name: str, directory: pathlib.Path) -> pathlib.Path:
    """Pack a charm: it has nothing that charmcraft would be needed for.

    Args:
        name: one of `NAMES`.
        directory: where to put it.

    Returns:
        The packed charm.
    """
    charm = directory / f"{name}.charm"
    files = [HERE / each for each in _SHARED] + sorted((HERE / name).iterdir())
    with zipfile.ZipFile(charm, "w") as archive:
        for path in files:
            archive.write(path, path.name)
    return charm
