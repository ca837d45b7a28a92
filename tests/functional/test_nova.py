"""What the packed charm tells Nova, judged by the real Nova."""

from __future__ import annotations

import json
import pathlib

import pytest
from functional import nova_client
from harness import hosttree, standin
from harness.constants import GPUS, NOVA, ONE

PRINCIPAL = "nova-compute/0"
BOTH = ["0000:83:00.0", "0000:84:00.0"]
FLAVORS = ("", "gpu:1", "gpu:2", "gpu:3")
GPU_SPEC = {"vendor_id": "10de", "product_id": "1bb0", "dev_type": "type-PCI"}
GPU_ALIAS = {"name": "gpu", "vendor_id": "10de", "product_id": "1bb0"}
NIC = "0000:04:00.0"
# Denies what a file says: the way a paused unit and deferred restarts work.
POLICY = """\
#!/bin/sh
[ ! -e /etc/deny-restarts ] || exit 101
exit 104
"""


@pytest.fixture
def host(tmp_path: pathlib.Path, request: pytest.FixtureRequest) -> hosttree.HostTree:
    """A compute host whose IOMMU is on already, so that devices are bound without a reboot."""
    release = getattr(request, "param", "24.04")
    tree = hosttree.compute_host(tmp_path / "host", ubuntu=release)
    tree.set_command_line("quiet splash intel_iommu=on")
    tree.iommu_on()
    tree.install_nova()
    tree.write("usr/sbin/policy-rc.d", POLICY, mode=0o755)
    return tree


@pytest.fixture
def deploy(agent: standin.Agent, packed_charm: pathlib.Path):
    """Deploy the charm beside nova-compute with these devices; its status."""

    def run(devices: str = GPUS, **options: object) -> str:
        agent.deploy(packed_charm, principal=PRINCIPAL, config={"devices": devices, **options})
        return str(agent.status())

    return run


def restarts(box) -> int:
    return sum(call.args[-2:] == ("nova-compute", "restart") for call in box.calls("invoke-rc.d"))


class TestComputeHost:
    @pytest.mark.parametrize(
        ("host", "option"),
        [("22.04", "passthrough_whitelist"), ("24.04", "device_spec"), ("26.04", "device_spec")],
        indirect=["host"],
        ids=["yoga", "2024.1", "2026.1"],
    )
    def test_offers_two_cards_and_neither_the_third_nor_companions(
        self, deploy, host, box, nova: nova_client.NovaClient, option: str
    ):
        assert deploy() == "active: gpu: 2 ready"
        text = host.read(NOVA)
        assert text.count(f"\n{option} = ") == 2
        assert text.count("\nalias = ") == 1
        seen = nova.look_at(host, FLAVORS)
        assert seen["aliases"] == {"gpu": ["legacy", [GPU_SPEC]]}
        assert seen["assignable"] == BOTH
        assert seen["passes"] == {"": True, "gpu:1": True, "gpu:2": True, "gpu:3": False}
        assert not seen["report_in_placement"]
        assert restarts(box) == 1

    def test_the_file_is_where_nova_compute_itself_looks(self, deploy, host, box):
        deploy()
        found = (host.root / NOVA).stat()
        assert (found.st_mode & 0o7777, found.st_uid, found.st_gid) == (0o640, 0, 64060)
        with nova_client.NovaClient(box.command_prefix) as inside:
            seen = inside.ask(program="nova-compute", flavors=list(FLAVORS))
        assert seen["assignable"] == BOTH
        assert seen["passes"]["gpu:2"]

    def test_adds_up_with_the_operators_own(self, deploy, host, nova: nova_client.NovaClient):
        qat = {"name": "qat", "vendor_id": "8086", "product_id": "0443", "device_type": "type-PCI"}
        host.write(
            "etc/nova/nova.conf",
            "[DEFAULT]\ndebug = false\n[pci]\n"
            f"alias = {json.dumps(qat)}\n"
            f'passthrough_whitelist = {{"address": "{NIC}", "physical_network": "net"}}\n',
            mode=0o640,
        )
        before = host.read("etc/nova/nova.conf")
        assert deploy() == "active: gpu: 2 ready"
        assert host.read("etc/nova/nova.conf") == before
        seen = nova.look_at(host, FLAVORS)
        assert sorted(seen["aliases"]) == ["gpu", "qat"]
        assert seen["assignable"] == [NIC, *BOTH]
        assert seen["tags"][NIC] == {"physical_network": "net"}
        assert len(seen["options"]["device_spec"]) == 3

    @pytest.mark.parametrize(
        ("host", "text"),
        [
            ("22.04", "gpu|p5000=10de:1bb0@8[34]:00.0"),
            ("26.04", "- {alias: [gpu, p5000], id: 10de:1bb0, address: '8[34]:00.0'}"),
        ],
        indirect=["host"],
        ids=["yoga-short", "2026.1-yaml"],
    )
    def test_an_alias_is_renamed_without_a_gap(
        self, agent, box, deploy, host, nova: nova_client.NovaClient, text: str
    ):
        """Guests of both names share the cards; nothing of the boot changes, no card moves."""
        flavors = ("gpu:2", "p5000:2", "gpu:1,p5000:1", "gpu:2,p5000:1")
        deploy("gpu=10de:1bb0@8[34]:00.0")
        before, rebuilt = host.snapshot("etc/initramfs-tools", "etc/udev", "boot"), box.calls()
        agent.config(devices=text)
        assert str(agent.status()) == "active: gpu|p5000: 2 ready"
        assert host.snapshot("etc/initramfs-tools", "etc/udev", "boot") == before
        assert [call for call in box.calls()[len(rebuilt) :] if "update-" in str(call.args)] == []
        assert host.read(NOVA).count('"address": ') == 2
        seen = nova.look_at(host, flavors)
        assert seen["aliases"] == {name: ["legacy", [GPU_SPEC]] for name in ("gpu", "p5000")}
        assert seen["assignable"] == BOTH
        assert list(seen["passes"].values()) == [True, True, True, False]
        agent.config(devices="p5000=10de:1bb0@8[34]:00.0")
        assert str(agent.status()) == "active: p5000: 2 ready"
        assert sorted(nova.look_at(host)["aliases"]) == ["p5000"]

    def test_an_operators_duplicate_is_found(
        self, agent, deploy, host, nova: nova_client.NovaClient
    ):
        host.write("etc/nova/nova.conf", f"[pci]\nalias = {json.dumps(GPU_ALIAS)}\n")
        assert deploy() == (
            "active: gpu: 2 ready; alias gpu: /etc/nova/nova.conf [pci] alias has the same one, so"
            " it is not set twice"
        )
        seen = nova.look_at(host, FLAVORS)
        assert len(seen["aliases"]["gpu"][1]) == 1
        assert seen["passes"]["gpu:2"]
        assert not seen["passes"]["gpu:3"]
        for _ in range(2):
            agent.hook("update-status")
        said = [line.message for line in agent.log() if "has the same one" in line.message]
        assert len(said) == 1

    def test_an_alias_of_another_meaning_blocks(
        self, agent, deploy, host, nova: nova_client.NovaClient
    ):
        theirs = {**GPU_ALIAS, "device_type": "type-PF"}
        host.write("etc/nova/nova.conf", f"[pci]\nalias = {json.dumps(theirs)}\n")
        status = deploy()
        assert status.startswith('blocked: devices: alias gpu is {"device_type": "type-PCI"')
        assert '{"device_type": "type-PF"' in status
        assert "error" not in nova.look_at(host)
        # What would have become of nova-compute otherwise.
        host.write("etc/nova/nova.conf.d/zz.conf", f"[pci]\nalias = {json.dumps(GPU_ALIAS)}\n")
        assert "PciInvalidAlias" in nova.look_at(host)["error"]

    def test_a_device_that_a_guest_holds_is_not_withdrawn(
        self, agent, box, deploy, host, nova: nova_client.NovaClient
    ):
        deploy()
        group = (host.directory(BOTH[1]) / "iommu_group").resolve().name
        with box.holding(f"/dev/vfio/{group}"):
            agent.config(devices=ONE)
            assert nova.look_at(host)["assignable"] == BOTH
        agent.hook("update-status")
        assert nova.look_at(host)["assignable"] == [BOTH[0]]
        assert host.driver_of(BOTH[1]) == "nouveau"

    def test_a_host_leaves_out_what_its_exceptions_say(
        self, agent, deploy, host, nova: nova_client.NovaClient
    ):
        """One host of a fleet, which has the options that all of them have."""
        deploy()
        name = host.read("proc/sys/kernel/hostname").strip()
        agent.config({"host-exceptions": f"elsewhere=84:00.0, {name}.maas=83:00.0"})
        assert str(agent.status()) == (
            "active: gpu: 1 ready; left out by host-exceptions: 0000:83:00.0"
        )
        assert nova.look_at(host)["assignable"] == BOTH[1:]
        assert host.driver_of(BOTH[0]) == "nouveau"
        listed = agent.action("list-devices", {"match": BOTH[0]}).results["table"]
        assert "is left out on this host by host-exceptions" in listed.replace("\n  ", " ")
        agent.config({"host-exceptions": ""})
        assert str(agent.status()) == "active: gpu: 2 ready"
        assert nova.look_at(host)["assignable"] == BOTH

    def test_a_device_that_is_not_ready_is_not_offered(
        self, agent, deploy, host, nova: nova_client.NovaClient
    ):
        deploy()
        # Its audio function is back on its driver, which nothing can take it from.
        host.iommu_on({"0000:83:00.0": 1, "0000:83:00.1": 1, "0000:84:00.0": 2})
        host.bind("0000:84:00.0", None)
        host.write("sys/bus/pci/devices/0000:84:00.0/vendor", "0x10df\n", mode=0o444)
        uevent = "sys/bus/pci/devices/0000:84:00.0/uevent"
        host.write(uevent, host.read(uevent).replace("10DE", "10DF"), mode=0o644)
        agent.hook("update-status")
        assert nova.look_at(host)["assignable"] == ["0000:83:00.0"]

    def test_removal_leaves_nova_as_it_was(self, agent, box, deploy, host):
        before = host.snapshot("etc/nova")
        deploy()
        assert host.snapshot("etc/nova") != before
        agent.remove()
        assert host.snapshot("etc/nova") == before
        assert (host.root / "etc/nova/nova.conf.d").is_dir()
        assert restarts(box) == 2

    def test_without_nova_nothing_is_written_for_it(self, agent, packed_charm, host):
        host.write("var/lib/dpkg/status", "")
        before = host.snapshot("etc/nova")
        agent.deploy(packed_charm, principal=PRINCIPAL, config={"devices": GPUS})
        assert host.snapshot("etc/nova") == before
        assert str(agent.status()) == "active: gpu: 2 ready"


class TestRestart:
    def test_none_without_a_change(self, agent, box, deploy, host):
        deploy()
        before = (host.root / NOVA).stat()
        box.forget_calls()
        agent.hook("update-status")
        agent.hook("config-changed")
        after = (host.root / NOVA).stat()
        assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
        assert restarts(box) == 0

    def test_none_while_it_is_down(self, agent, box, deploy, host):
        host.service("nova-compute", active=False)
        assert deploy() == "active: gpu: 2 ready"
        host.service("nova-compute", active=True)
        agent.hook("update-status")
        assert restarts(box) == 0

    def test_deferred_by_the_policy_layer(self, agent, box, deploy, host):
        host.write("etc/deny-restarts", "")
        deferred = (
            "active: gpu: 2 ready; nova-compute's restart is deferred: run its restart-services"
            " action"
        )
        assert deploy() == deferred
        agent.hook("update-status")
        assert str(agent.status()) == deferred
        assert restarts(box) == 1
        result = agent.action("verify")
        assert result.failed
        assert "denied its restart" in result.results["table"]
        (host.root / "etc/deny-restarts").unlink()
        box.run(["systemctl", "restart", "nova-compute"])
        agent.hook("update-status")
        assert str(agent.status()) == "active: gpu: 2 ready"
        assert restarts(box) == 1


class TestReleases:
    @pytest.mark.parametrize(
        ("host", "item", "refused"),
        [
            ("22.04", "numa-policy: socket", ""),
            ("22.04", "traits: blue", "traits needs Nova 27 (2023.1) or later"),
            ("22.04", "managed: false", "managed needs Nova 31 (2025.1) or later"),
            ("24.04", "traits: [blue, red], resource-class: gpu", ""),
            ("24.04", "live-migratable: true", "live-migratable needs Nova 31 (2025.1) or later"),
            ("26.04", "live-migratable: true, managed: false", ""),
            ("22.04", "physical-network: physnet1, trusted: true", ""),
            ("24.04", "one-time-use: true", "one-time-use needs Nova 32 (2025.2) or later"),
        ],
        indirect=["host"],
    )
    def test_keys(self, deploy, host, nova: nova_client.NovaClient, item: str, refused: str):
        before = host.snapshot("etc", "boot", "var/lib/pci-passthrough")
        status = deploy(f"[{{alias: gpu, id: '10de:1bb0', address: '0000:8[34]:00.0', {item}}}]")
        if refused:
            assert status.startswith("blocked: devices: item 1 gpu=10de:1bb0@0000:8[34]:00.0: ")
            assert refused in status
            assert host.snapshot("etc", "boot", "var/lib/pci-passthrough") == before
        else:
            assert status == "active: gpu: 2 ready"
            seen = nova.look_at(host, FLAVORS)
            assert seen["assignable"] == BOTH
            assert (seen["passes"]["gpu:2"], seen["passes"]["gpu:3"]) == (True, False)

    @pytest.mark.parametrize("host", ["26.04"], indirect=True)
    def test_values_arrive(self, agent, deploy, host, nova: nova_client.NovaClient):
        """What Nova has of each key, once it has read the drop-in."""
        expected: dict[str, dict[str, str]] = {
            "physical-network: physnet1, trusted: true": {
                "physical_network": "physnet1",
                "trusted": "true",
            },
            "physical-network: dc-1_a.b:c, trusted: false": {
                "physical_network": "dc-1_a.b:c",
                "trusted": "false",
            },
            "live-migratable: true, managed: false": {
                "live_migratable": "true",
                "managed": "false",
            },
            "live-migratable: false, managed: true": {
                "live_migratable": "false",
                "managed": "true",
            },
            "resource-class: gpu, traits: [red, blue]": {
                "resource_class": "GPU",
                "traits": "BLUE,RED",
            },
            "one-time-use: false": {"one_time_use": "false"},
        }
        deploy(GPUS)
        for keys, tags in expected.items():
            agent.config(
                devices=f"[{{alias: gpu, id: '10de:1bb0', address: '8[34]:00.0', {keys}}}]"
            )
            seen = nova.look_at(host, FLAVORS)
            assert seen["tags"] == dict.fromkeys(BOTH, tags), keys
            assert (seen["passes"]["gpu:2"], seen["passes"]["gpu:3"]) == (True, False)
        once = "[{alias: gpu, id: '10de:1bb0', exclude: '85:*.*', one-time-use: true}]"
        agent.config(devices=once)
        assert "set report-in-placement=true" in str(agent.status())
        assert nova.look_at(host)["assignable"] == []
        agent.config({"report-in-placement": True})
        assert str(agent.status()) == "active: gpu: 2 ready"
        assert nova.look_at(host)["tags"] == {each: {"one_time_use": "true"} for each in BOTH}

    @pytest.mark.parametrize("host", ["22.04"], indirect=True)
    def test_report_in_placement_on_yoga(self, deploy):
        status = deploy(**{"report-in-placement": True})
        assert status.startswith("blocked: report-in-placement: needs Nova 26 (Zed) or later")

    def test_report_in_placement(self, agent, deploy, host, nova: nova_client.NovaClient):
        assert deploy(**{"report-in-placement": True}) == "active: gpu: 2 ready"
        assert nova.look_at(host)["report_in_placement"]
        agent.config({"report-in-placement": False})
        assert str(agent.status()).startswith("blocked: report-in-placement: Nova does not start")
        assert nova.look_at(host)["report_in_placement"]


class TestSrIov:
    PF, VFS = "0000:06:00.0", ["0000:06:10.0", "0000:06:10.2"]
    PF_ID, VF_ID = "8086:10fb", "8086:10ed"

    @pytest.fixture
    def host(self, host: hosttree.HostTree) -> hosttree.HostTree:
        host.function(self.PF, self.PF_ID, 0x020000, driver="ixgbe", total_vfs=4)
        host.iommu_on()
        return host

    def test_type_pf_is_asked_for_with_the_text_that_mends_it(
        self, agent, deploy, host, nova: nova_client.NovaClient
    ):
        status = deploy(f"nic={self.PF_ID}")
        assert status.startswith("blocked: ")
        assert f"{self.PF} is SR-IOV capable" in status
        # Nova would have it, and no flavor ever get it: so it stays with the host.
        assert nova.look_at(host)["assignable"] == []
        assert host.driver_of(self.PF) == "ixgbe"
        agent.config(devices=status.partition("write the item as ")[2])
        assert str(agent.status()) == "active: nic: 1 ready"
        assert nova.look_at(host, ["nic:1"])["passes"]["nic:1"]

    def test_what_refusing_the_type_saves_an_operator_from(
        self, nova: nova_client.NovaClient, tmp_path
    ):
        """The control of the test above: the real Nova takes such a pair, and never matches it."""
        vendor, product = self.PF_ID.split(":")
        alias = {"name": "nic", "vendor_id": vendor, "product_id": product}
        seen = {}
        for kind in ("type-PCI", "type-PF"):
            text = f'[pci]\ndevice_spec = {{"address": "{self.PF}"}}\n'
            text += f"alias = {json.dumps({**alias, 'device_type': kind})}\n"
            (tmp_path / "nova.conf").write_text(text)
            device = {"vendor_id": vendor, "product_id": product, "address": self.PF}
            seen[kind] = nova.ask(
                files=[str(tmp_path / "nova.conf")],
                devices=[{**device, "dev_type": "type-PF"}],
                flavors=["nic:1"],
            )
        assert seen["type-PCI"]["assignable"] == seen["type-PF"]["assignable"] == [self.PF]
        assert [seen[kind]["passes"]["nic:1"] for kind in seen] == [False, True]

    def test_the_short_form_says_the_type(self, agent, deploy, host, nova: nova_client.NovaClient):
        """PF and VFs of one id, as GPUs have them: the item's type tells them apart."""
        host.virtual_functions(self.PF, self.VFS, self.PF_ID, driver="ixgbevf")
        host.iommu_on({self.PF: 20, self.VFS[0]: 21, self.VFS[1]: 22})
        assert deploy(f"nic={self.PF_ID}/VF") == "active: nic: 2 ready"
        seen = nova.look_at(host, ["nic:2", "nic:3"])
        assert seen["aliases"]["nic"][1][0]["dev_type"] == "type-VF"
        assert seen["assignable"] == self.VFS
        assert seen["passes"] == {"nic:2": True, "nic:3": False}
        item = f"[{{alias: nic, id: '{self.PF_ID}', device-type: type-VF, exclude: '06:10.2'}}]"
        agent.config(devices=item)
        assert nova.look_at(host)["assignable"] == self.VFS[:1]

    def test_vfs_that_differ(self, agent, deploy, host, nova: nova_client.NovaClient):
        """One PF's VFs are one provider in Placement, and from Nova 34 migratable or not."""
        host.virtual_functions(self.PF, self.VFS, self.VF_ID, driver="ixgbevf")
        host.iommu_on({self.PF: 20, self.VFS[0]: 21, self.VFS[1]: 22})
        installed = host.read("var/lib/dpkg/status")
        host.write("var/lib/dpkg/status", installed.replace(":29.2.0", ":34.0.0"))
        one, other = "live-migratable: true", "live-migratable: false"

        def items(first: str, second: str) -> str:
            keys = (f"address: '06:10.0', {first}", f"address: '06:10.2', {second}")
            return "".join(
                f"- {{alias: vf, id: '{self.VF_ID}', device-type: type-VF, {each}}}\n"
                for each in keys
            )

        assert deploy(items(one, other)) == "active: vf: 2 ready"
        seen = nova.look_at(host, ["vf:2"])
        assert seen["assignable"] == self.VFS
        migratable = [seen["tags"][each]["live_migratable"] for each in self.VFS]
        assert migratable == ["true", "false"]
        drop_in = host.read(NOVA)
        agent.config({"report-in-placement": True})
        assert "need the same" in str(agent.status())
        assert nova.look_at(host)["assignable"] == []
        # What withholding them saves Nova from.
        taken = host.read(NOVA)
        host.write(NOVA, drop_in.replace("[pci]", "[pci]\nreport_in_placement = true"), mode=0o640)
        assert "PlacementPciMixedTraits" in nova.look_at(host)["error"]
        host.write(NOVA, taken, mode=0o640)
        # What is Neutron's is no part of the provider, so it may differ.
        agent.config(devices=items(one, f"{other}, physical-network: physnet1"))
        assert "need the same" not in str(agent.status())
        assert nova.look_at(host)["assignable"] == self.VFS
        agent.config(devices=items(one, one))
        assert str(agent.status()) == "active: vf: 2 ready"
        assert nova.look_at(host)["assignable"] == self.VFS

    @pytest.mark.parametrize("reported", [False, True])
    def test_a_pf_together_with_its_vfs(
        self, deploy, host, nova: nova_client.NovaClient, reported: bool
    ):
        host.virtual_functions(self.PF, self.VFS, self.VF_ID, driver="ixgbevf")
        host.iommu_on()
        items = (
            f"[{{alias: pf, id: '{self.PF_ID}', device-type: type-PF, allow-in-use: true}},"
            f" {{alias: vf, id: '{self.VF_ID}', device-type: type-VF}}]"
        )
        status = deploy(items, **{"report-in-placement": reported})
        seen = nova.look_at(host, ["pf:1", "vf:2"])
        assert "error" not in seen
        if reported:
            assert "Nova takes a PF or its VFs, not both" in status
            assert seen["assignable"] == []
        else:
            assert status.startswith("active: pf: 1 ready, vf: 2 ready")
            assert seen["assignable"] == [self.PF, *self.VFS]
            assert seen["passes"] == {"pf:1": True, "vf:2": True}

    def test_what_withholding_them_saves_nova_from(self, nova: nova_client.NovaClient, tmp_path):
        """The control of the test above: the real Nova does refuse the pair."""
        text = "[pci]\nreport_in_placement = true\n"
        for address in (self.PF, self.VFS[0]):
            text += f'device_spec = {{"address": "{address}"}}\n'
        (tmp_path / "nova.conf").write_text(text)
        devices = [
            {**dict(zip(("vendor_id", "product_id"), ids.split(":"), strict=True)), **more}
            for ids, more in (
                (self.PF_ID, {"address": self.PF, "dev_type": "type-PF"}),
                (
                    self.VF_ID,
                    {
                        "address": self.VFS[0],
                        "dev_type": "type-VF",
                        "parent_addr": self.PF,
                    },
                ),
            )
        ]
        seen = nova.ask(files=[str(tmp_path / "nova.conf")], devices=devices)
        assert "PlacementPciDependentDevice" in seen["error"]


class TestActions:
    def test_plan_shows_what_would_be_offered(self, agent, packed_charm):
        agent.deploy(packed_charm, principal=PRINCIPAL)
        programs = {"format": "json"}
        before = agent.action("plan", programs)
        assert json.loads(before.results["plan"])["nova"]["device-specs"] == []
        agent.config(devices=GPUS)
        plan = agent.action("plan", programs).results
        specs = json.loads(plan["plan"])["nova"]["device-specs"]
        assert [each["address"] for each in specs] == BOTH
        assert agent.action("plan").results["table"].endswith("nothing to change")

    def test_verify_shows_nova_and_hints_at_spice(self, agent, deploy, host):
        deploy()
        result = agent.action("verify", {"format": "json"})
        checks = {each["name"]: each for each in json.loads(result.results["checks"])}
        assert checks["nova"]["seen"] == "Nova 29 (2024.1)"
        assert checks["device_spec 0000:83:00.0"]["seen"] == f"in /{NOVA} [pci] device_spec"
        assert checks["alias gpu"]["seen"] == f"{' '.join(BOTH)}; in /{NOVA} [pci] alias"
        assert checks["console"]["status"] == "unknown"
        assert "console-access-protocol=spice" in checks["console"]["fix"]
        about_nova = ("nova", "device_spec", "alias")
        failed = [name for name in checks if checks[name]["status"] == "fail"]
        assert not [name for name in failed if name.startswith(about_nova)]
        host.write("etc/nova/nova.conf", "[spice]\nenabled = True\n")
        checks = json.loads(agent.action("verify", {"format": "json"}).results["checks"])
        assert "console" not in [each["name"] for each in checks]
