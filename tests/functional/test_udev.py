"""The real udev reads the rule that the charm wrote: with the switch it leaves a device alone.

udevadm is this machine's own, in a mount namespace where a made-up host's /sys stands, and is
told the kernel's command line. It does what `udevadm trigger --action=add` has udev do in the
initramfs and after it.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess

import pytest
from harness import hosttree, made, world
from harness.constants import CLAIMED, GPUS
from harness.hosttree import kernel

ADDRESS, TWIN = "0000:83:00.0", "0000:85:00.0"
SCRIPT = """\
set -e
mount --bind "$ROOT/sys" /sys
mount -t tmpfs none /run
mkdir -p /run/udev/rules.d
cp "$ROOT"/etc/udev/rules.d/*.rules /run/udev/rules.d/
exec udevadm test --action=add "$DEVICE"
"""


@pytest.fixture
def host(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> hosttree.HostTree:
    """A host whose IOMMU is on, with the charm's files, and its devices on their own drivers."""
    if os.geteuid() or not shutil.which("udevadm"):
        pytest.fail("needs root and udevadm: apt-get install udev")
    tree = world.build_host(tmp_path / "host")
    tree.iommu_on()
    claimed = world.World.of(tree, monkeypatch)
    claimed.run(made.wanted(GPUS))
    assert claimed.drivers()[ADDRESS] == "vfio-pci"
    for address in CLAIMED:
        tree.bind(address, "nouveau")
        (tree.directory(address) / "driver_override").write_text("(null)\n")
    return tree


def add(tree: hosttree.HostTree, address: str, command_line: str) -> str:
    """Have udev see a function for the first time; gives its driver_override afterwards."""
    return tell(tree, address, command_line)[0]


def tell(tree: hosttree.HostTree, address: str, command_line: str) -> tuple[str, str]:
    """Have udev see a function for the first time.

    Returns:
        Its driver_override afterwards, and what udevadm says: also what udev would run.
    """
    place = tree.directory(address).resolve()
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", SCRIPT],
        env={
            **os.environ,
            "ROOT": str(tree.root),
            "DEVICE": f"/sys/{place.relative_to(tree.root.resolve() / 'sys')}",
            "SYSTEMD_DEVICE_VERIFY_SYSFS": "0",
            # In a container udev takes PID 1's arguments for the kernel's.
            "SYSTEMD_PROC_CMDLINE": command_line,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    # What it does with each rule, and that it has understood all of them.
    said = done.stdout + done.stderr
    assert "60-pci-passthrough.rules" in said, said
    assert not [line for line in said.splitlines() if "60-pci" in line and "nvalid" in line], said
    return (place / "driver_override").read_text().strip(), said


@pytest.mark.parametrize(
    ("line", "override"),
    [
        ("quiet intel_iommu=on", "vfio-pci"),
        ("quiet pci-passthrough=on", "vfio-pci"),
        ("quiet pci-passthrough", "vfio-pci"),
        ("quiet pci-passthrough=off", "(null)"),
        ("quiet pci_passthrough=off splash", "(null)"),
        ("quiet pci-passthrough=off pci-passthrough=on", "vfio-pci"),
        ("ro recovery nomodeset dis_ucode_ldr", "(null)"),
        ("ro single", "(null)"),
        ("ro singles recovered", "vfio-pci"),
    ],
)
def test_a_claimed_function_is_claimed_unless_it_is_switched_off(host, line: str, override: str):
    assert add(host, ADDRESS, line) == override


def test_the_kernel_is_asked_once_more_where_vfio_pci_is_loaded_already(host):
    """It looks for a driver of a function that appears before udev hears of it."""
    probe = f"echo {ADDRESS} >/sys/bus/pci/drivers_probe"
    assert probe in tell(host, ADDRESS, "quiet intel_iommu=on")[1]
    assert probe not in tell(host, ADDRESS, "quiet pci-passthrough=off")[1]
    assert "/drivers_probe" not in tell(host, TWIN, "quiet intel_iommu=on")[1]


VARIANT, MODULE = "acme-vfio-pci", "acme_vfio_pci"


@pytest.fixture
def with_variant(
    host: hosttree.HostTree, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> hosttree.HostTree:
    """The same host, whose kernel names a variant of vfio-pci, loaded or not."""
    host.variant(VARIANT, "v000010DEd00001BB0sv*sd*bc*sc*i*", module=MODULE)
    world.World.of(host, monkeypatch).run(made.wanted(GPUS))
    for address in CLAIMED:
        host.bind(address, "nouveau")
    if not request.param:
        kernel.remove_driver(host.root, VARIANT)
    return host


@pytest.mark.parametrize(
    ("with_variant", "override"),
    [(True, VARIANT), (False, "vfio-pci")],
    indirect=["with_variant"],
    ids=["loaded", "not-to-be-loaded"],
)
def test_the_kernel_tells_the_name_of_a_variants_driver(with_variant, override: str):
    assert add(with_variant, ADDRESS, "quiet intel_iommu=on") == override
    assert add(with_variant, TWIN, "quiet intel_iommu=on") == "(null)"
    assert add(with_variant, ADDRESS, "quiet pci-passthrough=off") == override, "as it was"


def test_a_function_that_the_host_keeps_is_left_alone(host):
    assert add(host, TWIN, "quiet intel_iommu=on") == "(null)"
