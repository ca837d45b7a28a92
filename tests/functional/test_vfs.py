"""VFs that the packed charm makes on a made-up host, whose kernel makes and takes them away."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import pytest
from functional import nova_client
from functional.test_leaving import ROADS
from harness import hostbox, hosttree, standin
from harness.constants import OWNED
from harness.hosttree import kernel

PRINCIPAL = "nova-compute/0"
PF, VFS = "0000:06:00.0", ["0000:06:10.0", "0000:06:10.2", "0000:06:10.4"]
PF_ID, VF_ID = "8086:10fb", "8086:10ed"
UNIT = "etc/systemd/system/pci-passthrough-vfs.service"


def ask(number: int) -> str:
    card = json.dumps({"id": PF_ID, "address": PF, "vfs": number})
    return f"[{card}, vf={VF_ID}/VF]"


@pytest.fixture(params=["22.04", "26.04"])
def host(tmp_path: pathlib.Path, request: pytest.FixtureRequest) -> hosttree.HostTree:
    """A compute host with Nova and a NIC that can have VFs; its IOMMU is on, its port down."""
    tree = hosttree.compute_host(tmp_path / "host", ubuntu=request.param)
    tree.install_nova()
    tree.function(PF, PF_ID, 0x020000, driver="ixgbe", total_vfs=8)
    tree.can_have_vfs(PF, VFS, VF_ID, driver="ixgbevf")
    tree.nic(PF, "eno1", mac="52:54:00:00:00:01")
    tree.iommu_on()
    return tree


def deploy(agent: standin.Agent, charm: pathlib.Path, devices: str) -> str:
    agent.deploy(charm, principal=PRINCIPAL, config={"devices": devices})
    return str(agent.status())


def number(host: hosttree.HostTree) -> tuple[str, str]:
    names = ("sriov_numvfs", kernel.AUTOPROBE)
    found, autoprobe = (host.read(f"{kernel.DEVICES}/{PF}/{name}").strip() for name in names)
    return found, autoprobe


def drivers(host: hosttree.HostTree) -> list[str | None]:
    there = [each for each in VFS if (host.root / kernel.DEVICES / each).exists()]
    return [host.driver_of(each) for each in there]


def reboot(box: hostbox.Box, agent: standin.Agent) -> None:
    """Reboot the host, see that no script complains, and let Juju run start again."""
    for script in box.reboot():
        assert (script.returncode, script.stdout, script.stderr) == (0, "", "")
    agent.rebooted()


def test_they_are_made_offered_and_there_after_a_boot(
    agent: Any, box: hostbox.Box, host: hosttree.HostTree, packed_charm: pathlib.Path, nova: Any
) -> None:
    client: nova_client.NovaClient = nova
    assert deploy(agent, packed_charm, ask(2)) == "active: vf: 2 ready"
    assert number(host) == ("2", "1")
    assert drivers(host) == ["vfio-pci"] * 2
    assert client.look_at(host, ["vf:2"])["passes"]["vf:2"]
    reboot(box, agent)
    assert number(host) == ("2", "1")
    assert drivers(host) == ["vfio-pci"] * 2
    log = host.kernel_log()
    assert f"pci-passthrough: {PF} has 2 of 2 VFs" in log
    assert [f"pci-passthrough: {each} is on vfio-pci" in log for each in VFS[:2]] == [True, True]
    assert str(agent.status()) == "active: vf: 2 ready"
    assert not agent.action("verify").failed


def test_a_port_that_is_up_gets_them_by_the_boot(
    agent: Any, box: hostbox.Box, host: hosttree.HostTree, packed_charm: pathlib.Path
) -> None:
    (host.root / "sys/class/net/eno1/flags").write_text("0x1003\n")
    assert "gets its 2 VFs at the next boot" in deploy(agent, packed_charm, ask(2))
    assert number(host) == ("0", "1")
    reboot(box, agent)
    assert number(host) == ("2", "1")
    assert str(agent.status()) == "active: vf: 2 ready"


def test_a_boot_with_the_switch_makes_none(
    agent: Any, box: hostbox.Box, host: hosttree.HostTree, packed_charm: pathlib.Path
) -> None:
    deploy(agent, packed_charm, ask(2))
    host.write(
        "etc/default/grub.d/99-off.cfg",
        'GRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX pci-passthrough=off"\n',
    )
    assert box.run(["update-grub"]).returncode == 0
    reboot(box, agent)
    assert number(host) == ("0", "1")
    assert "pci-passthrough: switched off on the kernel command line" in host.kernel_log()
    assert str(agent.status()).startswith("blocked: switched off for this boot")


def test_netplan_that_sets_the_card_is_left_to_it(
    agent: Any, host: hosttree.HostTree, packed_charm: pathlib.Path
) -> None:
    text = "network:\n  ethernets:\n    eno1:\n      virtual-function-count: 2\n"
    host.write("etc/netplan/50-cloud-init.yaml", text)
    status = deploy(agent, packed_charm, ask(2))
    assert "has its VFs set by /etc/netplan/50-cloud-init.yaml" in status
    assert number(host) == ("0", "1")
    assert not (host.root / UNIT).exists()


@pytest.mark.parametrize("road", [each for each in ROADS if not each.endswith("force")])
def test_every_road_gives_them_back(
    agent: Any, host: hosttree.HostTree, packed_charm: pathlib.Path, road: str
) -> None:
    before = host.snapshot(*OWNED, "etc/systemd")
    assert deploy(agent, packed_charm, ask(2)) == "active: vf: 2 ready"
    ROADS[road](agent)
    assert number(host) == ("0", "1")
    assert host.snapshot(*OWNED, "etc/systemd") == before


def test_with_on_removal_keep_they_stay_and_the_boot_makes_them(
    agent: Any, box: hostbox.Box, host: hosttree.HostTree, packed_charm: pathlib.Path
) -> None:
    config = {"devices": ask(2), "on-removal": "keep"}
    agent.deploy(packed_charm, principal=PRINCIPAL, config=config)
    agent.remove()
    assert number(host) == ("2", "1")
    for script in box.reboot():
        assert script.returncode == 0
    assert number(host) == ("2", "1")
    assert drivers(host) == ["vfio-pci"] * 2
