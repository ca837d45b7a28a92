"""The charm's Nova side: roles, payload, nova-pci, statuses and actions."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Callable

import ops
import pytest
import yaml
from harness import unit as units
from harness.constants import GPUS, NOVA, ONE
from harness.hosttree import kernel as model
from harness.unit import Unit
from harness.world import World
from ops import testing

import publishing

ROOT = pathlib.Path(__file__).resolve().parents[2]
SECRET = "hunter2"  # noqa: S105 - what must not be seen anywhere
KEYSTONE = {"service_password": SECRET, "auth_host": "10.0.0.9", "admin_token": SECRET}


def published_in(state: testing.State, unit: Deployment) -> tuple[dict, dict]:
    found = state.get_relation(unit.nova_pci.id)
    return dict(found.local_app_data), dict(found.local_unit_data)


class Deployment(Unit):
    """A unit that leads, beside a principal that keeps secrets, with nova-pci related."""

    def __init__(self, world: World, principal: str, number: int = 0):
        endpoint = "juju-info" if principal == "nova-compute" else principal
        self.principal = testing.SubordinateRelation(
            endpoint, remote_app_name=principal, remote_unit_data=KEYSTONE
        )
        self.nova_pci = testing.Relation("nova-pci")
        related = (self.principal, self.nova_pci)
        super().__init__(world, f"{principal}/0", related, leader=True, number=number)

    @property
    def payload(self) -> str | None:
        return self.databag(self.principal).get("subordinate_configuration")

    @property
    def published(self) -> tuple[dict, dict]:
        return published_in(self.state, self)

    @property
    def log(self) -> str:
        return "\n".join(self.logged())


@pytest.fixture
def make(
    make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Deployment]:
    def build(principal: str) -> Deployment:
        world = make_world()
        world.nova.install(*([] if principal == "nova-compute" else ["nova-scheduler"]))
        units.find_world(world, monkeypatch)
        return Deployment(world, principal)

    return build


@pytest.fixture
def compute(make: Callable[[str], Deployment]) -> Deployment:
    return make("nova-compute")


@pytest.fixture
def controller(make: Callable[[str], Deployment]) -> Deployment:
    return make("nova-cloud-controller")


@pytest.fixture
def ready(compute: Deployment) -> Deployment:
    compute.run(devices=GPUS)
    compute.world.reboot()
    compute.run()
    return compute


def render(deployment: Deployment) -> None:
    """Let the principal render its nova.conf with what it was sent."""
    lines, filters = ["[DEFAULT]"], "ComputeFilter"
    if deployment.payload:
        content = json.loads(deployment.payload)["nova"]["/etc/nova/nova.conf"]
        lines += [f"{key} = {value}" for key, value in content["sections"]["DEFAULT"]]
        filters += f",{content['additional_neutron_filters']}"
    lines += [f"connection = mysql://nova:{SECRET}@db/nova", "[filter_scheduler]"]
    lines += [f"enabled_filters = {filters}", ""]
    deployment.world.tree.write("etc/nova/nova.conf", "\n".join(lines))


class TestController:
    def test_sends_the_aliases_and_the_filter(self, controller):
        controller.run(devices=GPUS)
        line = (
            '{"device_type": "type-PCI", "name": "gpu", "product_id": "1bb0", "vendor_id": "10de"}'
        )
        assert json.loads(controller.payload or "") == {
            "nova": {
                "/etc/nova/nova.conf": {
                    "sections": {"DEFAULT": [["pci_alias", line]]},
                    "additional_neutron_filters": "PciPassthroughFilter",
                }
            }
        }
        assert controller.status == "active: gpu: published to nova-cloud-controller"

    def test_touches_no_file_and_runs_nothing(self, controller):
        before = controller.world.tree.snapshot("")
        controller.run(devices=GPUS)
        controller.run(devices="nic=8086:1572")
        assert controller.world.tree.snapshot("") == before
        assert controller.world.tools.calls == []

    def test_nothing_changed_nothing_written(self, controller, monkeypatch):
        controller.run(devices=GPUS)
        render(controller)
        writes = []
        monkeypatch.setattr(
            ops.RelationDataContent, "__setitem__", lambda self, *item: writes.append(item)
        )
        payload = controller.payload
        for _ in range(3):
            controller.run()
        assert writes == []
        assert controller.payload == payload

    def test_any_order_of_hooks_gives_the_same_bytes(self, controller, make):
        controller.run(devices="gpu=10de:1bb0, nic=8086:1572")
        other = make("nova-cloud-controller")
        other.run(devices="nic=8086:1572")
        render(other)
        other.run(devices="")
        other.run(devices="nic=8086:1572, gpu=10de:1bb0")
        render(other)
        other.run()
        assert other.payload == controller.payload

    def test_no_alias_withdraws(self, controller):
        controller.run(devices=GPUS)
        controller.run(devices="10de:1bb0")
        assert controller.payload is None
        assert controller.status == "active: no alias to publish"
        controller.run(devices="")
        assert controller.status.startswith("blocked: devices is not set")

    def test_the_principals_databag_is_never_read(self, controller, monkeypatch):
        owners = []
        read = ops.RelationDataContent._load

        def load(self):
            owners.append(self._entity.name)
            return read(self)

        monkeypatch.setattr(ops.RelationDataContent, "_load", load)
        controller.configure(devices=GPUS)
        for event in ("relation_joined", "relation_changed"):
            controller.run(event, controller.principal)
        render(controller)
        controller.act("verify")
        assert controller.payload
        assert set(owners) <= {"pci-passthrough", "pci-passthrough/0"}

    def test_secrets_are_in_no_log_and_no_state(self, controller):
        controller.run(devices=GPUS)
        render(controller)
        controller.run()
        controller.act("plan")
        controller.act("verify")
        assert SECRET not in controller.log
        assert SECRET not in repr(controller.state.stored_states)
        assert SECRET not in (controller.payload or "")

    def test_the_same_alias_elsewhere_is_said_once(self, controller):
        alias = {"name": "gpu", "vendor_id": "10de", "product_id": "1bb0"}
        controller.world.tree.write("etc/nova/nova.conf", f"[pci]\nalias = {json.dumps(alias)}\n")
        controller.run(devices=GPUS)
        assert "pci_alias" not in (controller.payload or "")
        assert "PciPassthroughFilter" in (controller.payload or "")
        said = "alias gpu: /etc/nova/nova.conf [pci] alias has the same one, so it is not set twice"
        assert controller.status == f"active: {said}"
        for _ in range(3):
            controller.run()
        assert controller.log.count(said) == 1

    def test_another_alias_elsewhere_blocks(self, controller):
        controller.run(devices=GPUS)
        alias = {"name": "gpu", "vendor_id": "10de", "product_id": "1eb8"}
        controller.world.tree.write("etc/nova/nova.conf", f"[pci]\nalias = {json.dumps(alias)}\n")
        controller.run()
        assert "pci_alias" not in (controller.payload or "")
        assert controller.status.startswith('blocked: devices: alias gpu is {"device_type"')
        assert '"product_id": "1eb8"' in controller.status

    def test_bad_options_leave_what_was_sent(self, controller):
        controller.run(devices=GPUS)
        payload = controller.payload
        controller.run(devices="gpu=10de:zzzz")
        assert controller.payload == payload
        assert controller.status.startswith('blocked: devices: item 1 "gpu=10de:zzzz"')

    def test_keys_of_a_later_nova(self, controller):
        controller.run(devices="[{alias: gpu, id: '10de:1bb0', live-migratable: true}]")
        assert controller.payload is None
        assert "live-migratable needs Nova 31 (2025.1) or later" in controller.status

    def test_actions(self, controller):
        controller.run(devices=GPUS)
        results = controller.act("plan")
        assert results["table"].startswith("nova-cloud-controller is sent, for its nova.conf:")
        described = results["plan"]["nova"]
        assert described["subordinate-configuration"] == controller.payload
        with pytest.raises(testing.ActionFailed, match="scheduler-filter"):
            controller.act("verify")
        render(controller)
        checks = {each["name"]: each for each in controller.act("verify")["checks"]}
        assert checks["alias gpu"]["seen"] == "in /etc/nova/nova.conf [DEFAULT] pci_alias"
        assert checks["scheduler-filter"]["status"] == "ok"
        with pytest.raises(testing.ActionFailed, match="binds nothing"):
            controller.act("rebind")


class TestNobodyIsRelated:
    @pytest.mark.parametrize("event", ["start", "leader_elected"])
    def test_the_library_is_not_imported(
        self, ready: Deployment, monkeypatch: pytest.MonkeyPatch, event: str
    ):
        def fail(self: publishing.Publisher) -> None:
            raise AssertionError("it was imported")

        monkeypatch.setattr(publishing.Publisher, "_library", property(fail))
        assert ready.run(event).name == "blocked", "so it is seen, where somebody is related"
        ready.relate(ready.principal)
        assert ready.run(event).name == "active"


class TestAHookThatFailsBehindItsEnd:
    """Juju drops what it has told relations, and runs the same hook again."""

    @pytest.mark.parametrize("event", ["config_changed", "update_status"])
    def test_what_it_has_told_nova_is_told_again(self, ready: Deployment, event: str):
        ready.run()
        before = ready.state
        ready.configure(devices=ONE)
        ready.run(event if event == "config_changed" else "start")
        told = ready.published
        assert told != published_in(before, ready)
        for _ in range(2):
            ready.state = dataclasses.replace(before, config=ready.state.config)
            ready.run(event)
            assert ready.published == told

    def test_once_it_is_told_a_hook_with_nothing_new_ends_early(
        self, ready: Deployment, monkeypatch: pytest.MonkeyPatch
    ):
        ready.run(devices=ONE)
        ready.run()
        monkeypatch.setattr(ready.context, "run", None)
        ready.run()
        ready.run("update_status")


class TestRemoval:
    def test_a_controller_unit_undoes_nothing_on_the_host(self, ready):
        """Both roles on one machine: the files belong to the unit beside nova-compute."""
        before = ready.world.tree.snapshot("etc", "var/lib")
        controller = Deployment(ready.world, "nova-cloud-controller", number=1)
        controller.run(devices=GPUS)
        for event in ("stop", "remove"):
            controller.run(event)
        assert ready.world.tree.snapshot("etc", "var/lib") == before

    def test_a_compute_unit_does(self, ready):
        ready.run("stop")
        assert not (ready.world.root / NOVA).exists()


class TestCompute:
    def test_offers_and_publishes_on_nova_pci(self, ready):
        text = ready.world.tree.read(NOVA)
        assert text.count("device_spec = ") == 2
        assert ready.status == "active: gpu: 2 ready"
        app, unit = ready.published
        assert [each["name"] for each in json.loads(app["aliases"])] == ["gpu"]
        assert [each["address"] for each in json.loads(unit["device_specs"])] == [
            "0000:83:00.0",
            "0000:84:00.0",
        ]

    def test_rebind_offers_at_once_what_it_brought_back(self, ready):
        offered, published = ready.world.tree.read(NOVA), ready.published
        ready.world.kernel.fail_probe("0000:83:00.0", "vfio-pci")
        unbind = "sys/bus/pci/drivers/vfio-pci/unbind"
        model.store(ready.world.root, unbind, b"0000:83:00.0")
        ready.run()
        assert "0000:83:00.0" not in ready.world.tree.read(NOVA)
        ready.world.kernel.fail_probe("0000:83:00.0")
        ready.act("rebind", address="")
        assert ready.world.tree.read(NOVA) == offered
        assert ready.published == published
        assert "nova-compute: restarted" in ready.context.action_logs

    def test_nova_pci_has_no_device_before_it_is_ready(self, compute):
        compute.run(devices=GPUS)
        app, unit = compute.published
        assert app["aliases"] != "[]"
        assert unit["device_specs"] == "[]"

    def test_only_the_leader_publishes_aliases(self, compute):
        compute.replace(leader=False)
        compute.run(devices=GPUS)
        assert "aliases" not in compute.published[0]

    def test_aliases_need_no_host_that_can(self, compute):
        compute.world.tree.write("run/systemd/container", "lxc\n")
        compute.run(devices=GPUS)
        assert compute.status.startswith("blocked: this unit is in a container")
        assert compute.published[0]["aliases"] != "[]"

    def test_a_relation_that_comes_later(self, ready):
        ready.relate(ready.principal)
        ready.nova_pci = testing.Relation("nova-pci")
        ready.relate(ready.principal, ready.nova_pci)
        ready.run("relation_created", ready.nova_pci)
        app, unit = ready.published
        assert len(json.loads(app["aliases"])) == 1
        assert len(json.loads(unit["device_specs"])) == 2

    def test_nothing_changed_nothing_written(self, ready, monkeypatch):
        writes = []
        monkeypatch.setattr(
            ops.RelationDataContent, "__setitem__", lambda self, *item: writes.append(item)
        )
        ready.run()
        assert writes == []

    def test_sr_iov_without_type_pf_blocks_with_the_text_to_set(self, compute):
        compute.world.tree.function(
            "0000:06:00.0", "8086:10fb", 0x020000, driver="ixgbe", total_vfs=8
        )
        compute.world.tree.iommu_on()
        compute.run(devices="nic=8086:10fb")
        assert compute.status == (
            "blocked: devices: item 1 nic=8086:10fb: 0000:06:00.0 is SR-IOV capable, so alias nic"
            " (type-PCI) never matches it; write the item as"
            " nic=8086:10fb/PF"
        )
        # Nothing is bound for it, and nothing rebuilt.
        assert compute.world.tree.driver_of("0000:06:00.0") == "ixgbe"
        assert compute.world.tools.calls == []
        compute.run(devices="nic=8086:10fb/PF")
        assert compute.world.tree.driver_of("0000:06:00.0") == "vfio-pci"

    def test_plan_shows_what_will_be_offered(self, compute):
        compute.configure(devices=GPUS)
        results = compute.act("plan")
        assert f"+++ b/{NOVA}" in results["table"]
        assert '+device_spec = {"address": "0000:83:00.0"' in results["table"]
        assert "restart: nova-compute, if it runs" in results["table"]
        described = results["plan"]
        assert [each["address"] for each in described["nova"]["device-specs"]] == [
            "0000:83:00.0",
            "0000:84:00.0",
        ]
        assert described["files"][-1]["path"] == f"/{NOVA}"

    def test_plan_with_nothing_to_change(self, ready):
        assert "nothing to change" in ready.act("plan")["table"]


def test_endpoints_are_as_the_other_sides_have_them():
    declared = yaml.safe_load((ROOT / "metadata.yaml").read_text())["provides"]
    assert declared["nova-cloud-controller"] == {
        "interface": "nova-vmware",
        "scope": "container",
        "optional": True,
    }
    assert declared["nova-pci"] == {"interface": "nova_pci", "optional": True}
