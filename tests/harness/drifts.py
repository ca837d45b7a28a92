"""What can change on a settled unit's host behind the charm's back, and in what it remembers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from harness import hosttree
from harness.constants import CLAIMED, MODULES
from harness.unit import Unit

from passthrough.state import record


def edit(tree: hosttree.HostTree) -> None:
    tree.write(MODULES, "# edited\n")


def delete(tree: hosttree.HostTree) -> None:
    (tree.root / MODULES).unlink()


def change_mode(tree: hosttree.HostTree) -> None:
    (tree.root / MODULES).chmod(0o666)


def lose_driver(tree: hosttree.HostTree) -> None:
    tree.bind(CLAIMED[0], "nouveau")


def lose_record(tree: hosttree.HostTree) -> None:
    (tree.root / record.DIRECTORY / "pci-passthrough.json").unlink()


def spoil_record(tree: hosttree.HostTree) -> None:
    path = tree.root / record.DIRECTORY / "pci-passthrough.json"
    path.write_text(path.read_text().replace('"initramfs": "', '"initramfs": "0'))


DRIFT = (edit, delete, change_mode, lose_driver, lose_record, spoil_record)


def remembered(unit: Unit, tree: hosttree.HostTree) -> Path:
    """Where the last hook wrote down how it left the unit."""
    (found,) = (tree.root / "run").glob("pci-passthrough.settled-*")
    assert found.stat().st_mode & 0o777 == 0o600
    return found


def spoil(path: Path, **values: Any) -> None:
    """Overwrite parts of what a hook wrote down."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
