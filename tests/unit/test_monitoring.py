"""The charm keeps its NRPE check up to date, through ops.testing on a made-up host."""

from __future__ import annotations

import json

import ops
import pytest
from harness import hosttree
from harness.fakekernel import GPUS, FakeKernel, FakeTools
from ops import testing
from unit.test_charm import PRINCIPAL

import charm
import monitoring
from passthrough.effects import nrpe
from passthrough.effects import tools as host_tools

NRPE = testing.SubordinateRelation(monitoring.ENDPOINT, remote_app_name="nrpe")
REPORT = f"{nrpe.REPORTS}/pci_passthrough.nrpe"


class Unit:
    """A unit beside nova-compute/0 and nrpe/0."""

    def __init__(self, tree: hosttree.HostTree):
        self.tree = tree
        self.context = testing.Context(charm.PciPassthroughCharm, principal_unit="nova-compute/0")
        self.state = testing.State(relations=[PRINCIPAL, NRPE], config={"devices": GPUS})

    def run(self, event: str) -> None:
        self.state = self.context.run(getattr(self.context.on, event)(), self.state)

    def run_relation(self, event: str) -> None:
        relation = self.state.get_relation(NRPE.id)
        self.state = self.context.run(getattr(self.context.on, event)(relation), self.state)

    @property
    def report(self) -> str:
        return self.tree.read(REPORT)

    @property
    def databag(self) -> dict[str, str]:
        return dict(self.state.get_relation(NRPE.id).local_unit_data)


@pytest.fixture
def unit(
    tree: hosttree.HostTree,
    kernel: FakeKernel,
    tools: FakeTools,
    monkeypatch: pytest.MonkeyPatch,
) -> Unit:
    """A unit whose host has nagios-nrpe-server."""
    del kernel
    (tree.root / nrpe.CONFIGURATION).mkdir(parents=True)
    monkeypatch.setattr(charm, "ROOT", tree.root)
    monkeypatch.setattr(host_tools, "HostTools", lambda: tools)
    return Unit(tree)


def test_check_is_installed_and_made_known(unit: Unit):
    unit.run_relation("relation_changed")
    for path in nrpe.owned_files("pci-passthrough"):
        assert (unit.tree.root / path).exists()
    assert unit.databag["primary"] == "False"
    assert unit.databag["monitors"] == nrpe.monitors("pci-passthrough")
    assert "check_pci_passthrough" in json.dumps(json.loads(unit.databag["monitors"]))


def test_it_waits_for_the_server(unit: Unit):
    (unit.tree.root / nrpe.CONFIGURATION).rmdir()
    unit.run_relation("relation_joined")
    assert "monitors" not in unit.databag
    assert not (unit.tree.root / REPORT).exists()


def test_without_the_relation_nothing_is_written(unit: Unit):
    unit.state = testing.State(relations=[PRINCIPAL], config={"devices": GPUS})
    unit.run("config_changed")
    assert not (unit.tree.root / REPORT).exists()
    assert not (unit.tree.root / nrpe.owned_files("pci-passthrough")[0]).exists()


def test_a_pending_reboot_is_a_warning_then_all_is_well_then_drift_is_critical(
    unit: Unit, kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch
):
    unit.run("config_changed")
    assert unit.report.startswith("1\nWARNING: reboot required: ")

    kernel.reboot()
    unit.run("start")
    assert unit.report.startswith("0\nOK: ")

    unit.tree.bind("0000:83:00.0", "nouveau")
    # A hook would mend it; here it cannot.
    monkeypatch.setattr("passthrough.effects.drivers.bind", _refuse)
    unit.run("update_status")
    code, text = unit.report.splitlines()
    assert code == "2"
    assert "0000:83:00.0" in text


def _refuse(root: object, address: str, *_: object) -> bool:
    from passthrough import errors

    del root
    raise errors.BindError(address, "vfio-pci did not take it")


def test_a_bad_option_is_critical_with_the_reason(unit: Unit):
    unit.state = testing.State(relations=[PRINCIPAL, NRPE], config={"devices": "gpu=10de:zzzz"})
    unit.run("config_changed")
    assert unit.report.startswith("2\nCRITICAL: devices: item 1 ")


def test_a_check_that_cannot_be_written_fails_no_hook(unit: Unit, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(nrpe, "write_report", fail)
    unit.run("update_status")
    assert unit.state.unit_status.name == "blocked", "a reboot is pending, that is all"
    assert any(
        line.level == "ERROR" and "NRPE check is not up to date" in line.message
        for line in unit.context.juju_log
    )


def test_nothing_is_sent_twice(unit: Unit, monkeypatch: pytest.MonkeyPatch):
    unit.run_relation("relation_changed")
    sent: list[str] = []
    monkeypatch.setattr(ops.RelationDataContent, "update", lambda self, *_: sent.append(str(self)))
    unit.run("update_status")
    assert sent == []


def test_the_check_goes_with_the_relation(unit: Unit):
    unit.run_relation("relation_changed")
    unit.run_relation("relation_broken")
    for path in (*nrpe.owned_files("pci-passthrough"), REPORT):
        assert not (unit.tree.root / path).exists()
