"""A variant of vfio-pci and the packed charm: in a hook, in the boot script, for the real Nova."""

from __future__ import annotations

import os
import pathlib

import pytest
from functional import nova_client
from harness import hosttree

GPUS = "gpu=10de:1bb0@0000:8[34]:00.0"
CARD, SOUND = "0000:83:00.0", "0000:83:00.1"
VARIANT, MODULE = "acme-vfio-pci", "acme_vfio_pci"
NOVA = "etc/nova/nova.conf.d/pci-passthrough.conf"


@pytest.fixture
def host(tmp_path: pathlib.Path, request: pytest.FixtureRequest) -> hosttree.HostTree:
    """A compute host whose kernel names a variant for the cards; the IOMMU is on."""
    tree = hosttree.compute_host(tmp_path / "host", ubuntu=request.param)
    tree.set_command_line("quiet splash intel_iommu=on")
    tree.iommu_on()
    tree.install_nova()
    # A box shows this machine's kernel, which the made-up host does not have.
    for kernel in ("", os.uname().release):
        tree.variant(VARIANT, "v000010DEd00001BB0sv*sd*bc*sc*i*", module=MODULE, kernel=kernel)
    return tree


@pytest.mark.parametrize(
    ("host", "managed"), [("24.04", False), ("26.04", True)], indirect=["host"]
)
def test_the_kernels_variant_is_bound_now_and_at_boot_and_offered(
    agent, box, host, packed_charm, nova: nova_client.NovaClient, managed: bool
):
    agent.deploy(packed_charm, principal="nova-compute/0", config={"devices": GPUS})
    assert str(agent.status()) == "active: gpu: 2 ready"
    assert (host.driver_of(CARD), host.driver_of(SOUND)) == (VARIANT, "vfio-pci")
    text = host.read(NOVA)
    assert ('"managed": "no"' in text) == managed
    seen = nova.look_at(host)
    assert "error" not in seen, seen
    assert seen["assignable"] == ["0000:83:00.0", "0000:84:00.0"]
    (run,) = box.reboot()
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    assert (host.driver_of(CARD), host.driver_of(SOUND)) == (VARIANT, "vfio-pci")
    assert f"pci-passthrough: {CARD} is on {VARIANT}" in host.kernel_log()
    agent.hook("update-status")
    assert str(agent.status()) == "active: gpu: 2 ready"


@pytest.mark.parametrize("host", ["24.04", "26.04"], indirect=True)
def test_a_module_that_the_initramfs_lacks_leaves_it_to_vfio_pci(agent, box, host, packed_charm):
    agent.deploy(packed_charm, principal="nova-compute/0", config={"devices": GPUS})
    (host.root / ".made/variants" / VARIANT).unlink()
    (run,) = box.reboot()
    assert run.returncode == 0, run.stderr
    assert host.driver_of(CARD) == "vfio-pci"
    said = f"pci-passthrough: {CARD}: there is no driver of {MODULE}, so it goes to vfio-pci"
    assert said in host.kernel_log()
    agent.hook("update-status")
    assert f"is on vfio-pci, and not on {MODULE} (rebind tries that)" in str(agent.status())
