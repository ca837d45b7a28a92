"""What a hook keeps of its unit below /run."""

from __future__ import annotations

import json
import os
import pathlib

import pytest

from passthrough.state import settled

UNIT = "gpu-pool/3"
MEMORY = settled.Memory("abc", {"devices": "gpu=10de:1bb0"}, {"x": "y"}, True)


def keep(root: pathlib.Path, unit: str, devices: str, written: int) -> pathlib.Path:
    settled.keep(root, unit, settled.unsettled({"devices": devices}))
    path = root / f"run/pci-passthrough.settled-{unit.replace('/', '-')}"
    os.utime(path, (written, written))
    return path


@pytest.fixture
def root(tmp_path: pathlib.Path) -> pathlib.Path:
    (tmp_path / "run").mkdir()
    return tmp_path


def test_a_settled_unit_is_recalled(root: pathlib.Path):
    settled.keep(root, UNIT, MEMORY)
    assert settled.recall(root, UNIT) == MEMORY


def test_one_that_is_not_settled_keeps_its_options_alone(root: pathlib.Path):
    settled.keep(root, UNIT, MEMORY)
    settled.unsettle(root, UNIT)
    assert settled.recall(root, UNIT) is None
    assert settled.kept_options(root) == {"gpu-pool": {"devices": "gpu=10de:1bb0"}}
    (path,) = (root / "run").iterdir()
    before = path.stat()
    settled.unsettle(root, UNIT)
    assert path.stat() == before, "nothing to write twice"
    assert json.loads(path.read_text())["rendered"] == {}


def test_what_another_revision_has_kept_goes(root: pathlib.Path):
    settled.keep(root, UNIT, MEMORY)
    (path,) = (root / "run").iterdir()
    path.write_text('{"format": 2}')
    settled.unsettle(root, UNIT)
    assert list((root / "run").iterdir()) == []
    settled.unsettle(root, UNIT)


def test_options_are_those_of_applications(root: pathlib.Path):
    """A unit's name ends in its number, and an application's in no number of its own."""
    keep(root, "pci-passthrough/0", "a=10de:1bb0", 1)
    keep(root, "pci-passthrough-x/0", "b=10de:1bb0", 2)
    keep(root, "pci-passthrough/12", "c=10de:1bb0", 3)
    keep(root, "pci-passthrough/2", "d=10de:1bb0", 2)
    (root / "run/pci-passthrough.settled-pci-passthrough-").write_text("{}")
    assert settled.kept_options(root) == {
        "pci-passthrough": {"devices": "c=10de:1bb0"},
        "pci-passthrough-x": {"devices": "b=10de:1bb0"},
    }
    assert list(settled.kept_options(root, "pci-passthrough")) == ["pci-passthrough"]
    assert settled.kept_options(root, "qat") == {}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.chmod(0o644),
        lambda path: path.write_text("{}"),
        lambda path: path.write_text("[]"),
        lambda path: path.write_text(path.read_text().replace('"settled": ""', '"settled": 1')),
    ],
    ids=["mode", "empty", "list", "fields"],
)
def test_what_nobody_of_ours_wrote_is_not_read(root: pathlib.Path, spoil):
    spoil(keep(root, UNIT, "a=10de:1bb0", 1))
    assert settled.kept_options(root) == {}
