"""The charm tells collectors of metrics, and keeps the exporter, through ops.testing."""

from __future__ import annotations

import base64
import json
import lzma
import pathlib
import shutil
from typing import Any

import jsonschema
import ops
import pytest
from harness import unit as units
from harness.constants import CLAIMED, GPUS, MODEL_UUID
from harness.hosttree import HostTree
from harness.unit import COS_AGENT, METRICS, PRINCIPAL, Unit
from harness.world import World
from ops import testing

import cos
import metering
from passthrough import exporter
from passthrough.host import exporter_files
from passthrough.planning import exporting
from passthrough.state import look, record

APP = "pci-passthrough"
SOCKET = exporter_files.socket_path(APP)
SCHEMA = json.loads(pathlib.Path(__file__).with_name("cos.schema.json").read_text("utf-8"))
CONTROLLER = testing.SubordinateRelation(
    "nova-cloud-controller", remote_app_name="nova-cloud-controller"
)


def check(name: str, databag: dict[str, Any]) -> None:
    """Hold a databag, its JSON parsed, against the interface's description."""
    jsonschema.validate(databag, {**SCHEMA, "$ref": f"#/$defs/{name}"})


def listens(unit: Unit) -> list[str]:
    lines = unit.world.tree.read(SOCKET).splitlines()
    return [each.partition("=")[2] for each in lines if each.startswith("ListenStream=")]


def is_there(unit: Unit) -> bool:
    root = unit.world.root
    paths = (*exporter_files.owned_files(APP), look.path_of(APP))
    there = {(root / path).exists() for path in paths}
    named = bool(unit.world.record().exporter)
    running = f"{APP}-exporter" in unit.world.tools.sockets
    assert there == {named} == {running}, "all of it, or nothing"
    return named


def told(unit: Unit) -> dict[str, float]:
    """What Prometheus would be told, by metric and labels."""
    lines = exporter.measure(unit.world.site).splitlines()
    pairs = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {name.removeprefix("pci_passthrough_"): float(value) for name, _, value in pairs}


def application_data(unit: Unit) -> dict[str, Any]:
    found = unit.state.get_relation(METRICS.id).local_app_data
    return {key: json.loads(value) for key, value in found.items()}


class TestAgent:
    @pytest.fixture
    def related(self, settled: Unit) -> Unit:
        settled.relate(PRINCIPAL, COS_AGENT)
        settled.run("relation_joined", COS_AGENT)
        return settled

    def test_the_collector_learns_of_the_exporter(self, related: Unit):
        databag = related.databag(COS_AGENT)
        config = json.loads(databag["config"])
        check("agent-unit", {"config": config})
        assert config["metrics_scrape_jobs"] == [
            {"metrics_path": "/metrics", "static_configs": [{"targets": ["localhost:10285"]}]}
        ]
        assert is_there(related)
        assert listens(related) == ["127.0.0.1:10285"]

    def test_the_dashboard_is_in_the_databag(self, related: Unit):
        (packed,) = json.loads(related.databag(COS_AGENT)["config"])["dashboards"]
        assert json.loads(lzma.decompress(base64.b64decode(packed)))["uid"] == APP

    def test_rules_are_of_this_application_alone(self, related: Unit):
        rules = json.loads(related.databag(COS_AGENT)["config"])["metrics_alert_rules"]
        (group,) = rules["groups"]
        assert group["name"] == f"standin_{MODEL_UUID[:8]}_{APP}_pci-passthrough"
        for rule in group["rules"]:
            assert rule["labels"]["juju_application"] == APP
            assert rule["labels"]["juju_charm"] == APP
            metrics = rule["expr"].count("pci_passthrough_")
            assert rule["expr"].count(f'juju_model_uuid="{MODEL_UUID}"') == metrics > 0

    def test_a_settled_unit_stays_settled_and_goes_on_telling(
        self, related: Unit, runs: list[str], monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(metering.time, "time", lambda: 4711.0)
        assert related.run("update_status") == ops.ActiveStatus("gpu: 2 ready")
        assert runs == []
        assert told(related)["last_look_timestamp_seconds"] == 4711

    def test_nothing_is_sent_twice(self, related: Unit, monkeypatch: pytest.MonkeyPatch):
        sent: list[str] = []
        monkeypatch.setattr(ops.RelationDataContent, "update", lambda self, *_: sent.append("x"))
        related.run("config_changed")
        assert sent == []

    def test_it_goes_with_the_relation(self, related: Unit):
        related.run("relation_broken", COS_AGENT)
        assert not is_there(related)
        assert related.world.record().taken, "and nothing else"

    def test_it_goes_with_the_unit(self, related: Unit):
        related.run("stop")
        assert not is_there(related)
        assert related.world.record().is_empty

    def test_it_stays_with_what_is_kept(self, related: Unit):
        related.run("stop", on_removal="keep")
        assert is_there(related)

    def test_a_relation_that_breaks_as_the_unit_leaves_brings_nothing_back(self, related: Unit):
        related.run("relation_broken", PRINCIPAL)
        related.run("relation_broken", COS_AGENT)
        assert not is_there(related)

    def test_a_file_that_is_gone_comes_back(self, related: Unit):
        (related.world.root / SOCKET).unlink()
        related.run("config_changed")
        assert is_there(related)

    def test_two_applications_of_one_host_have_a_port_each(self, related: Unit):
        related.run("config_changed", metrics_port=10300)
        assert listens(related) == ["127.0.0.1:10300"]
        jobs = json.loads(related.databag(COS_AGENT)["config"])["metrics_scrape_jobs"]
        assert jobs[0]["static_configs"] == [{"targets": ["localhost:10300"]}]


class TestEndpoint:
    @pytest.fixture
    def related(self, settled: Unit) -> Unit:
        settled.replace(leader=True)
        settled.relate(PRINCIPAL, METRICS)
        settled.run("relation_joined", METRICS)
        return settled

    def test_prometheus_learns_of_every_unit(self, related: Unit):
        data = application_data(related)
        check("scrape-application", data)
        assert data["scrape_jobs"][0]["static_configs"] == [{"targets": ["*:10285"]}]
        assert data["scrape_metadata"]["model_uuid"] == MODEL_UUID
        unit = related.databag(METRICS)
        check("scrape-unit", unit)
        assert unit["prometheus_scrape_unit_name"] == f"{APP}/0"
        assert listens(related) == [
            "127.0.0.1:10285",
            f"{unit['prometheus_scrape_unit_address']}:10285",
        ]

    def test_the_own_address_is_closed_with_the_relation(self, related: Unit):
        related.relate(PRINCIPAL, METRICS, COS_AGENT)
        related.run("relation_joined", COS_AGENT)
        assert len(listens(related)) == 2
        related.run("relation_broken", METRICS)
        assert listens(related) == ["127.0.0.1:10285"]
        assert is_there(related), "the collector on the host still asks"

    def test_only_the_leader_speaks_for_all(self, settled: Unit):
        settled.relate(PRINCIPAL, METRICS)
        settled.run("relation_joined", METRICS)
        assert application_data(settled) == {}
        assert settled.databag(METRICS)

    def test_ipv6(self, settled: Unit):
        address = testing.Address("2001:db8::7")
        network = testing.Network(
            "metrics-endpoint", [testing.BindAddress([address])], ingress_addresses=["db8.example"]
        )
        settled.replace(networks={network})
        settled.relate(PRINCIPAL, METRICS)
        settled.run("relation_joined", METRICS)
        assert listens(settled) == ["127.0.0.1:10285", "[2001:db8::7]:10285"]
        assert settled.databag(METRICS)["prometheus_scrape_unit_address"] == "db8.example"

    def test_an_address_that_is_none_opens_nothing(self, settled: Unit):
        address = testing.Address("host.example\nListenStream=0.0.0.0:1")
        network = testing.Network("metrics-endpoint", [testing.BindAddress([address])])
        settled.replace(networks={network})
        settled.relate(PRINCIPAL, METRICS)
        settled.run("relation_joined", METRICS)
        assert not (settled.world.root / SOCKET).exists()
        assert "no metrics: " in settled.status

    def test_a_unit_beside_a_controller_has_no_exporter(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ):
        units.find_world(world, monkeypatch)
        unit = Unit(world, "nova-cloud-controller/0", (CONTROLLER, METRICS), leader=True)
        unit.configure(devices=GPUS, metrics=True)
        unit.run("relation_joined", METRICS)
        check("scrape-application", application_data(unit))
        assert unit.databag(METRICS).keys() & {"prometheus_scrape_unit_address"} == set()
        assert not (world.root / SOCKET).exists()
        unit.run("relation_broken", METRICS)


class TestAlone:
    def test_the_option_asks_for_it_and_takes_it_away(self, settled: Unit):
        assert settled.run("config_changed", metrics=True) == ops.ActiveStatus("gpu: 2 ready")
        assert is_there(settled)
        assert listens(settled) == ["127.0.0.1:10285"]
        settled.run("config_changed", metrics=False)
        assert not is_there(settled)

    def test_without_either_nothing_is_there_and_juju_is_not_asked(
        self, settled: Unit, monkeypatch: pytest.MonkeyPatch
    ):
        asked: list[str] = []
        real = ops.model.RelationMapping.__getitem__

        def ask(self: Any, name: str) -> Any:
            asked.append(name)
            return real(self, name)

        monkeypatch.setattr(ops.model.RelationMapping, "__getitem__", ask)
        settled.run("config_changed")
        assert not is_there(settled)
        assert set(asked) & {"cos-agent", "metrics-endpoint"} == set()

    def test_with_nothing_claimed_somebody_looks_after_it_all_the_same(self, unit: Unit):
        unit.run("config_changed", metrics=True)
        assert is_there(unit)
        assert f"{APP}-caretaker" in unit.world.tools.timers
        unit.run("config_changed", metrics=False)
        assert not is_there(unit)
        assert f"{APP}-caretaker" not in unit.world.tools.timers
        assert not (unit.world.root / record.DIRECTORY).exists()

    def test_a_port_that_is_anothers_is_told_and_tried_again(self, settled: Unit):
        settled.world.tools.failing["socket"] = "Address already in use"
        said = "gpu: 2 ready; no metrics: socket failed with exit code 1: Address already in use"
        assert settled.run("config_changed", metrics=True) == ops.ActiveStatus(said)
        assert settled.world.record().exporter == record.NOT_LISTENING
        settled.world.tools.failing.clear()
        assert settled.run("update_status") == ops.ActiveStatus("gpu: 2 ready")
        assert is_there(settled)

    def test_one_that_a_former_charm_has_forgotten_goes_too(self, settled: Unit):
        """A charm without an exporter was put back for a while: its record knows of none."""
        settled.run("config_changed", metrics=True)
        assert is_there(settled)
        with settled.world.ledger() as ledger:
            ledger.update(exporter="")
        settled.run("config_changed", metrics=False)
        assert not is_there(settled)

    @pytest.mark.parametrize("port", [0, 80, 65536, -1])
    def test_a_port_that_is_none_is_refused_and_the_exporter_stays(self, settled: Unit, port: int):
        settled.run("config_changed", metrics=True)
        status = settled.run("config_changed", metrics_port=port)
        assert status == ops.BlockedStatus(f"metrics-port: {port} is not a port from 1024 to 65535")
        assert is_there(settled)
        assert listens(settled) == ["127.0.0.1:10285"]

    def test_a_boot_begins_anew(self, settled: Unit):
        settled.run("config_changed", metrics=True)
        settled.world.reboot()
        shutil.rmtree(settled.world.root / "run")
        assert told(settled) == {}
        settled.run("start")
        assert told(settled)["blocked"] == 0


class TestTold:
    """What the hook leaves for the exporter, and what that makes of it."""

    @pytest.fixture
    def asked(self, settled: Unit) -> Unit:
        settled.run("config_changed", metrics=True)
        return settled

    def test_devices_that_are_ready(self, asked: Unit):
        found = told(asked)
        assert found['claimed{alias="gpu"}'] == 2, "companions go with them"
        assert found['offered{alias="gpu"}'] == 2
        assert found['quarantined{alias="gpu"}'] == 0
        assert (found["blocked"], found["reboot_required"]) == (0, 0)
        assert found["nova_compute_restarts_total"] == 0

    def test_a_reboot_that_is_due(self, unit: Unit):
        unit.run("config_changed", devices=GPUS, metrics=True)
        found = told(unit)
        assert (found["blocked"], found["reboot_required"]) == (1, 1)
        assert found['claimed{alias="gpu"}'] == 2
        assert found['offered{alias="gpu"}'] == 0

    def test_an_alias_without_a_device_is_none(self, asked: Unit):
        asked.run("config_changed", devices=f"{GPUS}, qat=8086:37c8")
        assert told(asked)['claimed{alias="qat"}'] == 0

    def test_a_hook_that_fails_keeps_what_was_seen(
        self, asked: Unit, monkeypatch: pytest.MonkeyPatch
    ):
        before = told(asked)
        asked.run("config_changed", devices="gpu=10de:zzzz")
        assert told(asked) == {**before, "blocked": 1}

    def test_a_hook_that_fails_before_any_look_tells_that_alone(self, asked: Unit):
        look.forget(asked.world.site)
        asked.run("config_changed", devices="gpu=10de:zzzz")
        assert told(asked) == {"blocked": 1}

    def test_what_is_missing_is_named(self, asked: Unit, tree: HostTree):
        tree.unplug(CLAIMED[0])
        asked.run("config_changed")
        names = [each for each in told(asked) if 'state="missing"' in each]
        assert names == [
            f'function_info{{address="{CLAIMED[0]}",id="10de:1bb0",alias="",driver="",'
            'state="missing"}'
        ]
        assert told(asked)[f'function_sick{{address="{CLAIMED[0]}"}}'] == 1

    @pytest.mark.parametrize("holders", [(), (4711,)])
    def test_who_has_one_on_a_variant_is_told_by_the_hook(
        self,
        asked: Unit,
        tree: HostTree,
        monkeypatch: pytest.MonkeyPatch,
        holders: tuple[int, ...],
    ):
        first = CLAIMED[0]
        tree.bind(first, "nvgrace_gpu_vfio_pci")
        (tree.directory(first) / "vfio-dev/vfio0").mkdir(parents=True)
        decision = asked.world.decide(GPUS)
        questions: list[list[str]] = []

        def of(_: object, addresses: list[str]) -> dict[str, tuple[int, ...]]:
            questions.append([*addresses])
            return {first: holders} if holders else {}

        monkeypatch.setattr(type(decision.facts.users), "of", of)
        metering.write(asked.world.site, metering.dispatched.Seen(decision))
        seen = look.read(asked.world.site)
        assert seen
        said = {each.address: each.is_held for each in seen.functions}
        assert (said[first], set(said.values())) == (bool(holders), {bool(holders), None})
        assert questions == [[first]], "of vfio-pci the kernel tells"

    def test_a_quarantine_is_counted(self, asked: Unit):
        with asked.world.ledger() as ledger:
            kept = record.Quarantine("10de:1bb0", "", "fatal-errors", 1)
            ledger.update(quarantine={CLAIMED[0]: kept}, restarts=3)
        done = asked.world.decide(GPUS)
        metering.write(asked.world.site, metering.dispatched.Seen(done))
        assert told(asked)['quarantined{alias="gpu"}'] == 1
        assert told(asked)["nova_compute_restarts_total"] == 3

    def test_an_exporter_that_cannot_be_written_fails_no_hook(
        self, asked: Unit, monkeypatch: pytest.MonkeyPatch
    ):
        def fail(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(look, "write", fail)
        asked.run("config_changed")
        assert asked.status.startswith("active: gpu: 2 ready; no metrics: ")
        assert any("metrics are not up to date" in each for each in asked.logged("ERROR"))


def test_rules_and_dashboard_are_the_same_bytes_each_time():
    topology = {
        "model": "m",
        "model_uuid": MODEL_UUID,
        "application": APP,
        "unit": f"{APP}/0",
        "charm_name": APP,
    }
    assert cos.agent_unit(topology, 1) == cos.agent_unit(dict(topology), 1)


def test_every_part_of_the_socket_is_an_address():
    with pytest.raises(ValueError, match="does not appear to be"):
        exporting.contents(APP, exporting.Listen(10285, "0.0.0.0\n[Service]"))


def test_dispatch_values_are_all_told_or_left(settled: Unit):
    """A hook that did nothing to the host leaves the exporter what it has."""
    settled.run("config_changed", metrics=True)
    before = look.read(settled.world.site)
    metering.write(settled.world.site, metering.dispatched.Nothing())
    assert look.read(settled.world.site) == before
