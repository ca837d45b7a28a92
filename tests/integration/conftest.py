"""Fixtures of the integration tests; `make integration` runs them where a controller is."""

from __future__ import annotations

import os
import pathlib
import zipfile

import pytest

HERE = pathlib.Path(__file__).resolve().parent


@pytest.fixture(scope="session")
def base() -> str:
    """The base of the machines: the one whose Python the packed charm is for."""
    return os.environ.get("PCI_PASSTHROUGH_BASE", "ubuntu@24.04")


@pytest.fixture(scope="session")
def stand_in_charm(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The stand-in principal, packed: it has no dependency that charmcraft would be needed for."""
    charm = tmp_path_factory.mktemp("charms") / "stand-in.charm"
    with zipfile.ZipFile(charm, "w") as archive:
        for path in sorted((HERE / "stand-in").iterdir()):
            archive.write(path, path.name)
    return charm
