"""Units that stand where they should not: in a chain of subordinates, beside a controller.

Each is blocked with the line that undoes it, does nothing to the host, and nothing on leaving. All
of it goes through the stand-in's ``juju``, with the endpoints of the real charms.
"""

from __future__ import annotations

import re

import pytest
from harness import hostbox, hosttree
from harness.constants import GPUS, NATIVE, OWNED, READY
from harness.standin import JUJU_3, JUJU_4, ModelError
from harness.standin.command import Command

FIRST = "pci-passthrough/0"
UNDO = "juju remove-relation pci-passthrough:nrpe-external-master nrpe"
# How many units of a chain are enough; Juju 4.0.15 made 38 in two minutes.
ENOUGH = 4
DEPLOY = "juju deploy {} --base ubuntu@22.04"


@pytest.fixture
def host(tmp_path) -> hosttree.HostTree:
    """A compute host whose IOMMU is on, where nrpe has its folders."""
    tree = hosttree.compute_host(tmp_path / "host")
    tree.iommu_on()
    for directory in ("etc/nagios/nrpe.d", "usr/local/lib/nagios/plugins"):
        (tree.root / directory).mkdir(parents=True)
    return tree


@pytest.fixture(params=[JUJU_3, JUJU_4])
def manner(request: pytest.FixtureRequest) -> str:
    return request.param


def deploy(juju: Command, *names: str) -> None:
    for name in names:
        juju.line(DEPLOY.format(name))


def statuses(juju: Command) -> dict[str, str]:
    """The statuses of the charm's units, all of them but the first."""
    units = [unit for unit in juju.agent.units("pci-passthrough") if unit != FIRST]
    return {unit: str(juju.agent.status(unit)) for unit in units}


def seen(host: hosttree.HostTree, box: hostbox.Box) -> object:
    """All that a unit could do to a host; the check for nrpe apart, which the first one keeps."""
    drivers = {address: host.driver_of(address) for address in (*NATIVE, *READY)}
    files = {path: entry for path, entry in host.snapshot(*OWNED).items() if "nagios" not in path}
    return files, drivers, box.calls("update-initramfs", "update-grub", "modprobe")


class TestChain:
    @pytest.fixture
    def integrated(self, juju: Command) -> Command:
        """A host as it should be: the charm and nrpe, each beside nova-compute."""
        deploy(juju, "nova-compute", "pci-passthrough", "nrpe")
        juju.line(f"juju config pci-passthrough devices='{GPUS}'")
        juju.line("juju integrate pci-passthrough:juju-info nova-compute:juju-info")
        juju.line("juju integrate nrpe:nrpe-external-master nova-compute:nrpe-external-master")
        assert str(juju.agent.status(FIRST)) == "active: gpu: 2 ready"
        juju.agent.adopt(chain=ENOUGH)
        return juju

    @pytest.mark.parametrize("manner", [JUJU_4])
    def test_each_unit_is_blocked_and_the_host_is_left_alone(self, integrated, host, box):
        juju = integrated
        before = seen(host, box)
        juju.line("juju integrate pci-passthrough:nrpe-external-master nrpe:nrpe-external-master")

        found = statuses(juju)
        chained = {u: juju.agent.model().units[u].principal for u in found}
        assert len(found) == ENOUGH // 2
        assert {principal.partition("/")[0] for principal in chained.values()} == {"nrpe"}
        assert found == {
            unit: f"blocked: {principal} is a subordinate: units without end; {UNDO}"
            for unit, principal in chained.items()
        }
        assert str(juju.agent.status(FIRST)) == "active: gpu: 2 ready"
        assert seen(host, box) == before, "the check of the first unit apart"

        # The way out: the line of the status, and what is left behind goes by force.
        juju.line(UNDO)
        assert set(statuses(juju)) == set(found), "Juju leaves them"
        juju.line("juju remove-application nrpe --force --no-prompt")
        assert statuses(juju) == {}
        assert str(juju.agent.status(FIRST)) == "active: gpu: 2 ready"
        assert seen(host, box) == before

    @pytest.mark.parametrize("manner", [JUJU_3])
    def test_juju_3_makes_none(self, integrated):
        integrated.line(
            "juju integrate pci-passthrough:nrpe-external-master nrpe:nrpe-external-master"
        )
        assert statuses(integrated) == {}
        assert str(integrated.agent.status(FIRST)) == "active: gpu: 2 ready"
        data = integrated.agent.relation_data("nrpe-external-master", FIRST, remote="nrpe")
        assert "monitors" in data


class TestMisplaced:
    def check(self, juju: Command, unit: str, principal: str, kind: str) -> None:
        undo = f"juju remove-relation pci-passthrough:juju-info {principal.partition('/')[0]}"
        assert str(juju.agent.status(unit)) == f"blocked: {principal} is {kind}; {undo}"
        said = juju.line(f"juju run {unit} list-devices")
        assert re.search(r"0000:83:00\.0 +10de:1bb0", said), "it can be asked all the same"

    def test_beside_a_controller_through_juju_info(self, juju: Command, host, box, manner: str):
        deploy(juju, "nova-cloud-controller", "pci-passthrough")
        juju.line(f"juju config pci-passthrough devices='{GPUS}'")
        before = seen(host, box)
        if manner == JUJU_4:
            with pytest.raises(ModelError, match="ambiguous relation"):
                juju.line("juju integrate pci-passthrough nova-cloud-controller")
        juju.line("juju integrate pci-passthrough:juju-info nova-cloud-controller:juju-info")
        self.check(juju, FIRST, "nova-cloud-controller/0", "a controller")
        juju.line("juju remove-relation pci-passthrough:juju-info nova-cloud-controller")
        assert juju.agent.units("pci-passthrough") == []
        assert seen(host, box) == before

    @pytest.mark.parametrize("manner", [JUJU_4])
    def test_beside_a_subordinate_through_juju_info(self, juju: Command, host, box):
        deploy(juju, "nova-compute", "nrpe", "pci-passthrough")
        juju.line(f"juju config pci-passthrough devices='{GPUS}'")
        juju.line("juju integrate nrpe:nrpe-external-master nova-compute:nrpe-external-master")
        juju.agent.adopt(chain=1)
        before = seen(host, box)
        juju.line("juju integrate pci-passthrough:juju-info nrpe:juju-info")
        self.check(juju, FIRST, "nrpe/0", "a subordinate")
        juju.line("juju remove-application pci-passthrough --no-prompt")
        assert juju.agent.units("pci-passthrough") == []
        assert seen(host, box) == before
