"""The library nova_pci: both sides, and the tiny requirer charm."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import pathlib
import sys

import ops
import pytest
import yaml
from charms.pci_passthrough.v0 import nova_pci
from charms.pci_passthrough.v0.nova_pci import Alias, DeviceSpec
from hypothesis import given
from hypothesis import strategies as st
from ops import testing

REQUIRER = pathlib.Path(__file__).parents[1] / "requirer_charm"
GPU = Alias("gpu", "10de", "1bb0")
NIC = Alias("nic", "8086", "10fb", device_type="type-PF", numa_policy="socket", traits="A,B")
FIRST = DeviceSpec("10de", "1bb0", "0000:83:00.0")
SECOND = DeviceSpec("10de", "1bb0", "0000:84:00.0", resource_class="GPU", managed="no")


def load_requirer():
    spec = importlib.util.spec_from_file_location("requirer_charm", REQUIRER / "src/charm.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module.RequirerCharm


@pytest.fixture
def requirer() -> testing.Context:
    meta = yaml.safe_load((REQUIRER / "metadata.yaml").read_text())
    return testing.Context(load_requirer(), meta=meta, charm_root=None)


class Provider(ops.CharmBase):
    """Publishes what the test told it to."""

    aliases: tuple[Alias, ...] = ()
    device_specs: tuple[DeviceSpec, ...] = ()
    written: list[bool] = []  # noqa: RUF012 - the test reads it

    def __init__(self, framework: ops.Framework):
        super().__init__(framework)
        self.nova_pci = nova_pci.NovaPciProvider(self)
        framework.observe(self.on.update_status, self._on_update_status)

    def _on_update_status(self, _: ops.EventBase) -> None:
        if self.unit.is_leader():
            self.written.append(self.nova_pci.publish_aliases(self.aliases))
        self.written.append(self.nova_pci.publish_device_specs(self.device_specs))


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> testing.Context:
    monkeypatch.setattr(Provider, "aliases", (NIC, GPU, GPU))
    monkeypatch.setattr(Provider, "device_specs", (SECOND, FIRST))
    monkeypatch.setattr(Provider, "written", [])
    meta = {"name": "provider", "provides": {"nova-pci": {"interface": "nova_pci"}}}
    return testing.Context(Provider, meta=meta)


def related(**values) -> testing.Relation:
    return testing.Relation("nova-pci", interface="nova_pci", **values)


def run(context: testing.Context, *relations: testing.Relation, leader: bool = True):
    state = testing.State(relations=relations, leader=leader)
    return context.run(context.on.update_status(), state)


class TestProvider:
    def test_publishes_sorted_and_each_once(self, provider):
        relation = related()
        found = run(provider, relation).get_relation(relation.id)
        assert found.local_app_data == {
            "version": "1",
            "aliases": f"[{GPU.to_json()}, {NIC.to_json()}]",
        }
        specs = json.loads(found.local_unit_data["device_specs"])
        assert [each["address"] for each in specs] == ["0000:83:00.0", "0000:84:00.0"]
        assert found.local_unit_data["version"] == "1"

    def test_writes_nothing_when_nothing_changed(self, provider):
        state = run(provider, related())
        assert Provider.written == [True, True]
        again = provider.run(provider.on.update_status(), state)
        assert Provider.written == [True, True, False, False]
        assert again.relations == state.relations

    def test_any_order_gives_the_same_bytes(self, provider, monkeypatch):
        relation = related(id=7)
        first = run(provider, relation).get_relation(7)
        monkeypatch.setattr(Provider, "aliases", (GPU, NIC))
        monkeypatch.setattr(Provider, "device_specs", (FIRST, SECOND))
        second = run(provider, relation).get_relation(7)
        assert first.local_app_data == second.local_app_data
        assert first.local_unit_data == second.local_unit_data

    def test_only_the_leader_writes_aliases(self, provider):
        relation = related()
        found = run(provider, relation, leader=False).get_relation(relation.id)
        assert "aliases" not in found.local_app_data
        assert "device_specs" in found.local_unit_data

    def test_every_relation_and_none(self, provider):
        relations = [related(), related()]
        state = run(provider, *relations)
        for relation in relations:
            assert "aliases" in state.get_relation(relation.id).local_app_data
        run(provider)
        assert Provider.written[-2:] == [False, False]

    def test_nothing_any_more(self, provider, monkeypatch):
        relation = related()
        state = run(provider, relation)
        monkeypatch.setattr(Provider, "aliases", ())
        monkeypatch.setattr(Provider, "device_specs", ())
        found = provider.run(provider.on.update_status(), state).get_relation(relation.id)
        assert found.local_app_data["aliases"] == "[]"
        assert found.local_unit_data["device_specs"] == "[]"


def data(key: str, *objects, version: str = "1") -> dict[str, str]:
    lines = [each if isinstance(each, str) else each.to_json() for each in objects]
    return {"version": version, key: f"[{','.join(lines)}]"}


class TestRequirer:
    def changed(self, requirer, relation):
        return requirer.run(
            requirer.on.relation_changed(relation), testing.State(relations=[relation])
        )

    def test_collects_aliases_and_devices(self, requirer):
        relation = related(
            remote_app_data=data("aliases", NIC, GPU),
            remote_units_data={0: data("device_specs", SECOND, FIRST), 1: {}, 2: data("x")},
        )
        with requirer(
            requirer.on.relation_changed(relation), testing.State(relations=[relation])
        ) as manager:
            state = manager.run()
            assert manager.charm.nova_pci.aliases() == (GPU, NIC)
            assert manager.charm.nova_pci.device_specs() == {"remote/0": (FIRST, SECOND)}
        assert state.unit_status == testing.ActiveStatus("2 aliases, 2 devices")
        assert any(
            isinstance(event, nova_pci.NovaPciChangedEvent) for event in requirer.emitted_events
        )

    def test_several_providers_add_up(self, requirer):
        first = related(remote_app_name="a", remote_app_data=data("aliases", GPU))
        second = related(remote_app_name="b", remote_app_data=data("aliases", GPU, NIC))
        state = requirer.run(
            requirer.on.relation_changed(first), testing.State(relations=[first, second])
        )
        assert state.unit_status == testing.ActiveStatus("2 aliases, 0 devices")

    def test_every_key_is_optional(self, requirer):
        assert self.changed(requirer, related()).unit_status == testing.ActiveStatus(
            "0 aliases, 0 devices"
        )

    def test_a_broken_relation_counts_no_more(self, requirer):
        relation = related(remote_app_data=data("aliases", GPU))
        state = requirer.run(
            requirer.on.relation_broken(relation), testing.State(relations=[relation])
        )
        assert state.unit_status == testing.ActiveStatus("0 aliases, 0 devices")

    @pytest.mark.parametrize(
        ("sent", "message"),
        [
            ({"version": "2"}, "remote: schema version '2', and this library knows 1"),
            ({"aliases": "["}, "remote: aliases: "),
            ({"aliases": "{}"}, "remote: aliases: not an array"),
            ({"aliases": "[1]"}, "remote: aliases: "),
            ({"aliases": '[{"name": "gpu"}]'}, "remote: aliases: "),
            (data("aliases", GPU.to_json()[:-1] + ', "new_key": "x"}'), "remote: aliases: "),
            ({"aliases": "[" * 100_000}, "remote: aliases: "),
        ],
        ids=lambda value: str(value)[:40],
    )
    def test_what_it_does_not_understand_blocks(self, requirer, sent: dict, message: str):
        found = self.changed(requirer, related(remote_app_data=sent)).unit_status
        assert isinstance(found, testing.BlockedStatus)
        assert found.message.startswith(message)
        assert len(found.message) < 300

    def test_so_does_a_unit(self, requirer):
        relation = related(remote_units_data={3: {"device_specs": '[{"address": "x"}]'}})
        found = self.changed(requirer, relation).unit_status
        assert found.message.startswith("remote/3: device_specs: ")


class TestObjects:
    @pytest.mark.parametrize(
        "wrong",
        [
            {"name": ""},
            {"name": "a\nb"},
            {"name": 1},
            {"vendor_id": "10DE"},
            {"product_id": "1bb"},
            {"device_type": "vdpa"},
            {"numa_policy": "none"},
            {"resource_class": "A B"},
            {"traits": '"'},
            {"live_migratable": True},
        ],
        ids=str,
    )
    def test_alias_refuses(self, wrong: dict):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} cannot be "):
            dataclasses.replace(GPU, **wrong)

    @pytest.mark.parametrize(
        "wrong",
        [{"address": "83:00.0"}, {"address": "*"}, {"managed": "true"}, {"vendor_id": None}],
        ids=str,
    )
    def test_device_spec_refuses(self, wrong: dict):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} cannot be "):
            dataclasses.replace(FIRST, **wrong)

    def test_json_leaves_out_what_is_not_set(self):
        assert GPU.to_json() == (
            '{"device_type": "type-PCI", "name": "gpu", "product_id": "1bb0", "vendor_id": "10de"}'
        )

    @given(st.text(max_size=40))
    def test_no_text_breaks_a_line_of_nova_conf(self, text: str):
        try:
            line = Alias(text, "10de", "1bb0", traits=text or None).to_json()
        except ValueError:
            return
        assert "\n" not in line
        assert "$" not in line
        assert json.loads(line)["name"] == text


def test_documented_as_charm_libraries_are():
    assert nova_pci.__doc__
    assert (nova_pci.LIBAPI, nova_pci.LIBPATCH) == (0, 2)
    assert not hasattr(nova_pci, "LIBID")
    for name in ("NovaPciProvider", "NovaPciRequirer", "Alias", "DeviceSpec", "DataError"):
        assert getattr(nova_pci, name).__doc__
        assert name in nova_pci.__doc__ or name == "DataError"
