"""The real udev reads the rules that keep it off a disk while that is being erased.

As in test_udev.py, udevadm is this machine's own and stands on a made-up host's /sys. A rule behind
all others does what LVM's and snapd's do: it goes by what udev has found out, and starts a program.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
from collections.abc import Callable

import pytest
from harness import hosttree, uses, world
from harness.fakekernel import FakeTools

from passthrough.effects import drivers, handing

DISK, OTHER = "0000:02:00.0", "0000:3b:00.0"
LATE = (
    'SUBSYSTEM=="block", ENV{SYSTEMD_READY}!="0", ENV{LAB}="ready"\n'
    'SUBSYSTEM=="block", RUN+="/bin/lab-was-here"\n'
)
SCRIPT = """\
set -e
mount --bind "$ROOT/sys" /sys
mount -t tmpfs none /run
mkdir -p /run/udev/rules.d
cp "$ROOT"/run/udev/rules.d/*.rules /run/udev/rules.d/
exec udevadm test --action=add "$DEVICE"
"""


@pytest.fixture
def host(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> hosttree.HostTree:
    """A host with two disks, of which one is being erased: the rules are there."""
    if os.geteuid() or not shutil.which("udevadm"):
        pytest.fail("needs root and udevadm: apt-get install udev")
    tree = world.build_host(tmp_path / "host")
    monkeypatch.setattr(drivers, "move", lambda *_: None)
    handing.take(tree.root, DISK, FakeTools(tree))
    tree.write("run/udev/rules.d/99-lab.rules", LATE)
    return tree


def show(tree: hosttree.HostTree, directory: pathlib.Path, kind: str) -> pathlib.Path:
    """Let sysfs show a device as udev wants to see it."""
    there = tree.root / "sys/class" / kind
    there.mkdir(parents=True, exist_ok=True)
    (directory / "subsystem").symlink_to(os.path.relpath(there, directory.resolve()))
    (directory / "uevent").write_text("")
    return directory


def on_a_path(tree: hosttree.HostTree, address: str) -> pathlib.Path:
    """A namespace that stands below its function."""
    return show(tree, uses.disk(tree, address, "nvme0n1", "259:0", "nvme/nvme0"), "block")


def head(tree: hosttree.HostTree, address: str) -> pathlib.Path:
    """The head of a multipath subsystem, which links to the controller lead away from."""
    uses.multipath_namespace(tree, "nvme0n1", "259:0", {"nvme0": address})
    controller = tree.directory(address) / "nvme/nvme0"
    (controller / "device").symlink_to("../..")
    found = (tree.root / "sys/class/block/nvme0n1").resolve()
    show(tree, found.parent, "nvme-subsystem")
    return show(tree, found, "block")


def partition_of_head(tree: hosttree.HostTree, address: str) -> pathlib.Path:
    """A partition of one."""
    head(tree, address)
    return show(tree, uses.partition(tree, "nvme0n1", "nvme0n1p1", "259:1"), "block")


def tell(tree: hosttree.HostTree, directory: pathlib.Path) -> str:
    """Have udev see a device for the first time; what it says it has found out and would run."""
    place = directory.resolve().relative_to(tree.root.resolve() / "sys")
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", SCRIPT],
        env={
            **os.environ,
            "ROOT": str(tree.root),
            "DEVICE": f"/sys/{place}",
            "SYSTEMD_DEVICE_VERIFY_SYSFS": "0",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    said = done.stdout + done.stderr
    assert "00-pci-passthrough-erase" in said, said
    assert not [line for line in said.splitlines() if "00-pci" in line and "nvalid" in line], said
    return said


SHAPES = [on_a_path, head, partition_of_head]


@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_kept_off_the_disk(
    host: hosttree.HostTree, shape: Callable[[hosttree.HostTree, str], pathlib.Path]
) -> None:
    said = tell(host, shape(host, DISK)).splitlines()
    assert "UDEV_DISABLE_PERSISTENT_STORAGE_RULES_FLAG=1" in said
    assert "SYSTEMD_READY=0" in said
    assert "LAB=ready" not in said
    assert [line for line in said if line.startswith("run:")] == ["run: '/bin/true'"]


@pytest.mark.parametrize("shape", SHAPES)
def test_any_other_disk_is_as_ever(
    host: hosttree.HostTree, shape: Callable[[hosttree.HostTree, str], pathlib.Path]
) -> None:
    said = tell(host, shape(host, OTHER)).splitlines()
    assert "UDEV_DISABLE_PERSISTENT_STORAGE_RULES_FLAG=1" not in said
    assert "LAB=ready" in said
    assert "run: '/bin/lab-was-here'" in said
