"""The charm keeps its NRPE check up to date, through ops.testing on a made-up host."""

from __future__ import annotations

import json

import ops
import pytest
from harness.constants import GPUS
from harness.unit import NRPE, PRINCIPAL, Unit

from passthrough.effects import nrpe

REPORT = f"{nrpe.REPORTS}/pci_passthrough.nrpe"


@pytest.fixture
def unit(unit: Unit) -> Unit:
    """A unit beside nova-compute/0 and nrpe/0, whose host has nagios-nrpe-server."""
    (unit.world.root / nrpe.CONFIGURATION).mkdir(parents=True)
    unit.relate(PRINCIPAL, NRPE)
    unit.configure(devices=GPUS)
    return unit


def report_of(unit: Unit) -> str:
    return unit.world.tree.read(REPORT)


def test_check_is_installed_and_made_known(unit: Unit):
    unit.run("relation_changed", NRPE)
    for path in nrpe.owned_files("pci-passthrough"):
        assert (unit.world.root / path).exists()
    assert unit.databag(NRPE)["primary"] == "False"
    assert unit.databag(NRPE)["monitors"] == nrpe.monitors("pci-passthrough")
    assert "check_pci_passthrough" in json.dumps(json.loads(unit.databag(NRPE)["monitors"]))


def test_it_waits_for_the_server(unit: Unit):
    (unit.world.root / nrpe.CONFIGURATION).rmdir()
    unit.run("relation_joined", NRPE)
    assert "monitors" not in unit.databag(NRPE)
    assert not (unit.world.root / REPORT).exists()


def test_without_the_relation_nothing_is_written(unit: Unit):
    unit.relate(PRINCIPAL)
    unit.run("config_changed")
    assert not (unit.world.root / REPORT).exists()
    assert not (unit.world.root / nrpe.owned_files("pci-passthrough")[0]).exists()


def test_a_pending_reboot_is_a_warning_then_all_is_well_then_drift_is_critical(
    unit: Unit, monkeypatch: pytest.MonkeyPatch
):
    unit.run("config_changed")
    assert report_of(unit).startswith("1\nWARNING: reboot required: ")

    unit.world.reboot()
    unit.run("start")
    assert report_of(unit).startswith("0\nOK: ")

    unit.world.tree.bind("0000:83:00.0", "nouveau")
    # A hook would mend it; here it cannot.
    monkeypatch.setattr("passthrough.effects.drivers.bind", _refuse)
    unit.run("update_status")
    code, text = report_of(unit).splitlines()
    assert code == "2"
    assert "0000:83:00.0" in text


def _refuse(root: object, address: str, *_: object, **__: object) -> bool:
    from passthrough import errors

    del root
    raise errors.BindError(address, "vfio-pci did not take it")


def test_a_bad_option_is_critical_with_the_reason(unit: Unit):
    unit.run("config_changed", devices="gpu=10de:zzzz")
    assert report_of(unit).startswith("2\nCRITICAL: devices: item 1 ")


def test_a_check_that_cannot_be_written_fails_no_hook(unit: Unit, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(nrpe, "write_report", fail)
    unit.run("update_status")
    assert unit.state.unit_status.name == "blocked", "a reboot is pending, that is all"
    assert any("NRPE check is not up to date" in each for each in unit.logged("ERROR"))


def test_a_check_that_breaks_down_blocks_the_unit_and_fails_no_hook(
    unit: Unit, monkeypatch: pytest.MonkeyPatch
):
    def fail(*_: object) -> None:
        raise ValueError("nobody thought of it")

    monkeypatch.setattr(nrpe, "write_report", fail)
    for event in ("config_changed", "update_status"):
        unit.run(event)
        assert unit.status.startswith("blocked: unexpected ValueError: nobody thought of it; ")


def test_a_check_that_stays_fails_no_hook(unit: Unit, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    unit.run("relation_changed", NRPE)
    monkeypatch.setattr(nrpe, "remove", fail)
    unit.run("relation_broken", NRPE)
    assert any("the NRPE check stays on the host" in each for each in unit.logged("ERROR"))


def test_nothing_is_sent_twice(unit: Unit, monkeypatch: pytest.MonkeyPatch):
    unit.run("relation_changed", NRPE)
    sent: list[str] = []
    monkeypatch.setattr(ops.RelationDataContent, "update", lambda self, *_: sent.append(str(self)))
    unit.run("update_status")
    assert sent == []


def test_the_check_goes_with_the_relation(unit: Unit):
    unit.run("relation_changed", NRPE)
    unit.run("relation_broken", NRPE)
    for path in (*nrpe.owned_files("pci-passthrough"), REPORT):
        assert not (unit.world.root / path).exists()
