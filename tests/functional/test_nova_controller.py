"""What the packed charm sends to controllers, rendered and judged by the real Nova."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import pytest
from functional import nova_client
from harness import hosttree, standin

CONTROLLER = "nova-cloud-controller"
UNIT = f"{CONTROLLER}/0"
NOVA_CONF = "etc/nova/nova.conf"
DEVICES = "gpu=10de:1bb0, nic=8086:10d3"
REQUIRER = pathlib.Path(__file__).parents[1] / "requirer_charm"
SECRET = "hunter2"  # noqa: S105 - what must be seen nowhere
KEYSTONE = {
    "service_host": "10.0.0.9",
    "service_username": "nova",
    "service_password": SECRET,
    "admin_token": SECRET,
}
ALIAS = {"name": "gpu", "vendor_id": "10de", "product_id": "1bb0", "device_type": "type-PCI"}
# What a compute host with three cards and a NIC offers when two of the cards are verified.
CARDS = [
    {"vendor_id": "10de", "product_id": "1bb0", "address": address, "dev_type": "type-PCI"}
    for address in ("0000:83:00.0", "0000:84:00.0", "0000:85:00.0")
]
OFFERED = "".join(f'device_spec = {{"address": "{card["address"]}"}}\n' for card in CARDS[:2])


@pytest.fixture
def host(tmp_path: pathlib.Path) -> hosttree.HostTree:
    """A controller's machine: Nova without nova-compute."""
    tree = hosttree.compute_host(tmp_path / "host", ubuntu="24.04")
    tree.install_nova("nova-api-os-compute", "nova-scheduler")
    return tree


class Principal:
    """nova-cloud-controller: renders what its subordinates sent into nova.conf.

    It merges as charmhelpers' SubordinateConfigContext does (the pairs of a section add up, any
    other key is taken from the last) and prints the section DEFAULT alone, as the charm's template.
    """

    def __init__(self, agent: standin.Agent, host: hosttree.HostTree):
        self.agent, self.host = agent, host
        self.options: list[tuple[str, str]] = []
        self.pci = ""

    def payload(self, app: str = "pci-passthrough") -> str | None:
        data = self.agent.relation_data(CONTROLLER, f"{app}/0", app=app)
        return data.get("subordinate_configuration")

    def render(self, *apps: str) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        context: dict[str, Any] = {}
        for app in apps or ("pci-passthrough",):
            sent = json.loads(self.payload(app) or "{}")
            content = sent.get("nova", {}).get("/etc/nova/nova.conf", {})
            for section, pairs in content.get("sections", {}).items():
                sections.setdefault(section, []).extend(pairs)
            context.update({key: content[key] for key in content if key != "sections"})
        lines = ["[DEFAULT]", "debug = False"]
        lines += [f"{key} = {value}" for key, value in sections.get("DEFAULT", [])]
        filters = "ComputeFilter,SameHostFilter"
        if "additional_neutron_filters" in context:
            filters += f",{context['additional_neutron_filters']}"
        lines += ["[filter_scheduler]", f"enabled_filters = {filters}"]
        lines += ["[keystone_authtoken]", f"password = {SECRET}", "[pci]", self.pci]
        self.host.write(NOVA_CONF, "\n".join(lines) + "\n", mode=0o640)


@pytest.fixture
def principal(agent: standin.Agent, host: hosttree.HostTree) -> Principal:
    return Principal(agent, host)


@pytest.fixture
def deploy(agent: standin.Agent, packed_charm: pathlib.Path):
    def run(devices: str = DEVICES, app: str | None = None) -> str:
        agent.deploy(
            packed_charm, app=app, principal=UNIT, endpoint=CONTROLLER, config={"devices": devices}
        )
        name = app or "pci-passthrough"
        agent.set_remote_data(CONTROLLER, UNIT, KEYSTONE, app=name)
        return str(agent.status(f"{name}/0"))

    return run


def look_at(nova: nova_client.NovaClient, host: hosttree.HostTree, *flavors: str) -> dict[str, Any]:
    """What the scheduler makes of its nova.conf, for a host that offers two cards."""
    compute = host.root.parent / "compute.conf"
    compute.write_text(f"[pci]\n{OFFERED}")
    files = [str(host.root / NOVA_CONF), str(compute)]
    return nova.ask(files=files, devices=CARDS, flavors=list(flavors))


class TestPayload:
    def test_the_real_nova_schedules_by_it(
        self, deploy, principal: Principal, host, nova: nova_client.NovaClient
    ):
        assert deploy() == "active: gpu, nic: published to nova-cloud-controller"
        principal.render()
        seen = look_at(nova, host, "", "gpu:2", "gpu:3", "nic:1")
        assert sorted(seen["aliases"]) == ["gpu", "nic"]
        assert seen["enabled_filters"] == [
            "ComputeFilter",
            "SameHostFilter",
            "PciPassthroughFilter",
        ]
        assert seen["passes"] == {"": True, "gpu:2": True, "gpu:3": False, "nic:1": False}

    def test_both_names_of_an_alias_that_is_renamed(
        self, agent, deploy, principal: Principal, host, nova: nova_client.NovaClient
    ):
        """The flavors of both find the cards, until the old name goes."""
        deploy("gpu=10de:1bb0")
        principal.render()
        agent.config(devices="gpu|p5000=10de:1bb0")
        assert str(agent.status()) == "active: gpu, p5000: published to nova-cloud-controller"
        principal.render()
        agent.hook("update-status")
        seen = look_at(nova, host, "gpu:2", "p5000:2", "gpu:1,p5000:1", "gpu:2,p5000:1")
        assert list(seen["passes"].values()) == [True, True, True, False]
        agent.config(devices="p5000=10de:1bb0")
        principal.render()
        assert str(agent.status()) == "active: p5000: published to nova-cloud-controller"
        assert sorted(look_at(nova, host)["aliases"]) == ["p5000"]

    def test_same_bytes_in_any_order_of_hooks_and_no_write_for_nothing(
        self, agent, deploy, principal: Principal
    ):
        deploy()
        first = principal.payload()
        principal.render()
        writes = len(agent.calls("relation-set"))
        for hook in ("update-status", "config-changed", "start", "upgrade-charm"):
            agent.hook(hook)
        agent.hook("relation-changed", relation=CONTROLLER)
        assert len(agent.calls("relation-set")) == writes
        agent.config(devices="nic=8086:10d3")
        agent.config(devices="nic=8086:10d3 gpu=10de:1bb0")
        assert principal.payload() == first

    def test_touches_no_file_and_runs_nothing(self, agent, box, deploy, host):
        before = host.snapshot("etc", "boot", "var", "usr")
        deploy()
        agent.hook("update-status")
        agent.remove()
        assert host.snapshot("etc", "boot", "var", "usr") == before
        assert box.calls() == []

    def test_no_credential_is_read_logged_or_stored(
        self, agent, deploy, principal: Principal, host
    ):
        deploy()
        principal.render()
        agent.hook("update-status")
        agent.action("verify")
        agent.action("plan")
        read = [call.args for call in agent.calls("relation-get")]
        assert read
        assert not [args for args in read if UNIT in args or CONTROLLER in args]
        for path in agent.directory.rglob("*"):
            # model.json is the stand-in's own idea of the controller.
            if path.is_file() and path.name != "model.json":
                assert SECRET.encode() not in path.read_bytes(), path
        assert not [line for line in agent.log() if SECRET in line.message]

    def test_two_applications_add_up_and_one_leaves(
        self, agent, deploy, principal: Principal, host, nova: nova_client.NovaClient
    ):
        deploy("gpu=10de:1bb0", app="gpu")
        deploy("nic=8086:10d3", app="nic")
        principal.render("gpu", "nic")
        for app in ("gpu", "nic"):
            agent.hook("update-status", unit=f"{app}/0")
            assert str(agent.status(f"{app}/0")).startswith(f"active: {app}: published")
        seen = look_at(nova, host, "gpu:2", "gpu:1,nic:1")
        assert sorted(seen["aliases"]) == ["gpu", "nic"]
        agent.remove("gpu")
        principal.render("nic")
        agent.hook("update-status", unit="nic/0")
        principal.render("nic")
        assert sorted(look_at(nova, host)["aliases"]) == ["nic"]


class TestElsewhere:
    def test_the_same_is_published_once(
        self, agent, deploy, principal: Principal, host, nova: nova_client.NovaClient
    ):
        deploy()
        principal.pci = f"alias = {json.dumps(ALIAS)}"
        for _ in range(3):
            principal.render()
            agent.hook("update-status")
        assert len(look_at(nova, host)["aliases"]["gpu"][1]) == 1
        assert str(agent.status()) == (
            "active: nic: published to nova-cloud-controller; alias gpu: /etc/nova/nova.conf [pci]"
            " alias has the same one, so it is not set twice"
        )
        assert len([each for each in agent.log() if "has the same one" in each.message]) == 1

    def test_another_is_named_and_nova_api_lives(
        self, agent, deploy, principal: Principal, host, nova: nova_client.NovaClient
    ):
        deploy()
        principal.pci = f"alias = {json.dumps({**ALIAS, 'device_type': 'type-PF'})}"
        principal.render()
        assert "Device type mismatch" in look_at(nova, host)["error"]
        agent.hook("update-status")
        principal.render()
        seen = look_at(nova, host)
        assert seen["aliases"]["gpu"][1][0]["dev_type"] == "type-PF"
        status = str(agent.status())
        assert status.startswith('blocked: devices: alias gpu is {"device_type": "type-PCI"')
        assert "/etc/nova/nova.conf [pci] alias; rename one of them" in status


class TestVerify:
    def test_before_and_after_the_principal_rendered(self, agent, deploy, principal: Principal):
        deploy()
        result = agent.action("verify")
        assert result.failed
        assert result.message.endswith("checks failed: scheduler-filter")
        principal.render()
        result = agent.action("verify", {"format": "json"})
        assert not result.failed
        checks = {each["name"]: each["seen"] for each in json.loads(result.results["checks"])}
        assert checks["nova"] == "Nova 29 (2024.1)"
        assert checks["alias gpu"] == "in /etc/nova/nova.conf [DEFAULT] pci_alias"
        assert checks["scheduler-filter"].startswith("PciPassthroughFilter in /etc/nova/nova.conf")


class TestNovaPci:
    def test_a_controller_of_another_kind_learns_aliases_and_devices(
        self, agent, box, packed_charm, host, tmp_path, nova: nova_client.NovaClient
    ):
        host.iommu_on()
        host.set_command_line("quiet splash intel_iommu=on")
        agent.deploy(
            packed_charm,
            principal="nova-compute/0",
            config={"devices": "gpu=10de:1bb0@0000:8[34]:00.0"},
        )
        charm = agent.unit_directory("pci-passthrough/0") / "charm"
        # The requirer is not packed: it has the library and ops from the provider's charm.
        packages = next(charm.glob("venv/lib/python3*/site-packages"))
        agent.surroundings.env["PYTHONPATH"] = f"{charm / 'lib'}:{packages}"
        agent.deploy(REQUIRER, app="controller")
        agent.integrate("pci-passthrough:nova-pci", "controller:nova-pci")
        assert str(agent.status("controller/0")) == "active: 1 aliases, 2 devices"
        written = agent.unit_directory("controller/0") / "charm/nova.conf"
        seen = nova.ask(files=[str(written)], devices=[])
        assert sorted(seen["aliases"]) == ["gpu"]
        assert seen["enabled_filters"] == ["PciPassthroughFilter"]
        agent.config(app="pci-passthrough", devices="gpu=10de:1bb0@0000:83:00.0")
        assert str(agent.status("controller/0")) == "active: 1 aliases, 1 devices"
        agent.remove_relation("pci-passthrough:nova-pci", "controller")
        assert str(agent.status("controller/0")) == "active: 0 aliases, 0 devices"
