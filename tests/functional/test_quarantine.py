"""The packed charm keeps what is sick off Nova's offer, judged by the real Nova."""

from __future__ import annotations

import json
import pathlib

import pytest
from functional import nova_client
from harness import hosttree, standin

PRINCIPAL = "nova-compute/0"
FIRST, SECOND = "0000:83:00.0", "0000:84:00.0"
READY = "active: gpu: 2 ready"
AWAY = f"active: gpu: 1 ready; quarantined: {FIRST}"
SICK = f"active: sick: {FIRST} fell off the bus; gpu: 1 ready; quarantined: {FIRST}"
RECORD = "var/lib/pci-passthrough/pci-passthrough.json"


@pytest.fixture
def host(tmp_path: pathlib.Path) -> hosttree.HostTree:
    """A compute host whose IOMMU is on already, so that devices are bound without a reboot."""
    tree = hosttree.compute_host(tmp_path / "host", ubuntu="24.04")
    tree.set_command_line("quiet splash intel_iommu=on")
    tree.iommu_on()
    tree.install_nova()
    return tree


class Deployed:
    """The charm beside nova-compute, with two GPUs that Nova is offered."""

    def __init__(
        self,
        agent: standin.Agent,
        charm: pathlib.Path,
        host: hosttree.HostTree,
        nova: nova_client.NovaClient,
    ):
        self.agent, self.host, self._nova = agent, host, nova
        config = {"devices": f"gpu=10de:1bb0@{FIRST}, gpu=10de:1bb0@{SECOND}"}
        agent.deploy(charm, principal=PRINCIPAL, config=config)

    @property
    def status(self) -> str:
        return str(self.agent.status())

    def offered(self) -> list[str]:
        """What the real Nova would give to guests."""
        return self._nova.look_at(self.host, ("gpu:1",))["assignable"]

    def restarts(self) -> int:
        return json.loads(self.host.read(RECORD))["record"].get("restarts", 0)

    def pass_time(self, seconds: int) -> None:
        """Have the record's times lie so much further back."""
        data = json.loads(self.host.read(RECORD))
        kept = data["record"]
        kept["restarted"] -= seconds
        for entry in kept.get("quarantine", {}).values():
            entry["since"] -= seconds
            entry["well_since"] = max(entry["well_since"] - seconds, 0)
        self.host.write(RECORD, json.dumps(data))


@pytest.fixture
def deployed(agent, packed_charm, host, nova: nova_client.NovaClient) -> Deployed:
    made = Deployed(agent, packed_charm, host, nova)
    assert (made.status, made.offered()) == (READY, [FIRST, SECOND])
    return made


def test_a_card_that_fell_off_the_bus_goes_and_returns(deployed: Deployed, box):
    config = deployed.host.directory(FIRST) / "config"
    before = config.read_bytes()
    config.write_bytes(b"\xff" * 4096)
    deployed.agent.hook("update-status")
    assert (deployed.status, deployed.offered()) == (SICK, [SECOND])
    config.write_bytes(before)
    deployed.agent.hook("update-status")
    assert deployed.status == AWAY
    deployed.pass_time(1800)
    deployed.agent.hook("update-status")
    assert (deployed.status, deployed.offered()) == (READY, [FIRST, SECOND])
    calls = [call for call in box.calls("invoke-rc.d") if call.args[-1] == "restart"]
    assert (len(calls), deployed.restarts()) == (3, 2), "one was for the devices themselves"


def test_what_a_guest_holds_stays(deployed: Deployed, box):
    group = (deployed.host.directory(FIRST) / "iommu_group").resolve().name
    with box.holding(f"/dev/vfio/{group}") as process:
        (deployed.host.directory(FIRST) / "config").write_bytes(b"\xff" * 4096)
        deployed.agent.hook("update-status")
        assert deployed.status == f"active: sick: {FIRST} fell off the bus; gpu: 1 ready"
        assert deployed.offered() == [FIRST, SECOND]
        run = deployed.agent.action("quarantine", {"address": FIRST})
        assert run.failed
        assert run.message.startswith(f"{FIRST}: a guest holds it (process {process})")
    deployed.agent.hook("update-status")
    assert (deployed.status, deployed.offered()) == (SICK, [SECOND])


def test_by_hand_and_back(deployed: Deployed):
    run = deployed.agent.action("quarantine", {"address": FIRST, "format": "json"})
    assert not run.failed, run.message
    deployed.agent.hook("update-status")
    assert (deployed.status, deployed.offered()) == (AWAY, [SECOND])
    assert json.loads(deployed.host.read(RECORD))["format"] == 5
    run = deployed.agent.action("rebind", {"address": FIRST})
    assert not run.failed, run.message
    assert (deployed.status, deployed.offered()) == (READY, [FIRST, SECOND])
    run = deployed.agent.action("quarantine", {"address": "0000:85:00.0"})
    assert run.failed
    assert " is not claimed on this host; claimed are 0000:83:00.0, " in run.message
