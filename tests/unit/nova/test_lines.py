"""Aliases, device_specs, the drop-in and the payload: the text, byte for byte."""

import json

import pytest
from harness import made
from hypothesis import given
from hypothesis import strategies as st

from passthrough.config import devices
from passthrough.config import devices as devices_option
from passthrough.nova import lines as nova_lines
from passthrough.nova.release import Release
from passthrough.planning import templates

GPU = "gpu=10de:1bb0@0000:83:00.0"


def aliases(devices: str) -> list[dict[str, str]]:
    return [dict(each) for each in nova_lines.aliases(devices_option.parse(devices))]


class TestAliases:
    def test_one_per_alias_and_model(self):
        assert aliases(f"{GPU}, gpu=10de:1bb0@0000:84:00.0") == [
            {
                "name": "gpu",
                "vendor_id": "10de",
                "product_id": "1bb0",
                "device_type": "type-PCI",
            }
        ]

    def test_several_models_behind_one_name(self):
        found = aliases("gpu=10de:1eb8, gpu=10de:1bb0, nic=8086:10fb")
        assert [(each["name"], each["product_id"]) for each in found] == [
            ("gpu", "1bb0"),
            ("gpu", "1eb8"),
            ("nic", "10fb"),
        ]

    def test_one_for_each_name_of_an_alias_that_is_renamed(self):
        first, second = aliases("gpu|p5000=10de:1bb0")
        assert (first.pop("name"), second.pop("name")) == ("gpu", "p5000")
        assert first == second
        assert aliases("gpu|p5000=10de:1bb0") == aliases("p5000|gpu=10de:1bb0")

    def test_an_item_without_alias_has_none(self):
        assert aliases("10de:1bb0") == []

    def test_every_key(self):
        assert aliases(
            "[{alias: nic, id: '8086:10fb', device-type: type-PF, numa-policy: socket,"
            " resource-class: nic, traits: [b, a], live-migratable: true, managed: false}]"
        ) == [
            {
                "name": "nic",
                "vendor_id": "8086",
                "product_id": "10fb",
                "device_type": "type-PF",
                "numa_policy": "socket",
                "resource_class": "NIC",
                "traits": "A,B",
                "live_migratable": "yes",
            }
        ]

    @given(st.permutations(["gpu=10de:1bb0", "gpu=10de:1eb8", "b=10de:1eb9", "nic=8086:10fb"]))
    def test_the_order_of_items_changes_no_byte(self, items: list[str]):
        wanted = devices.parse(",".join(items))
        expected = nova_lines.subordinate_configuration(
            nova_lines.aliases(devices.parse(",".join(sorted(items))))
        )
        assert nova_lines.subordinate_configuration(nova_lines.aliases(wanted)) == expected


class TestDeviceSpec:
    def test_names_exactly_one_function(self):
        item = devices.parse(
            "[{id: '10de:1bb0', address: '0000:8[34]:00.0', managed: no}]".replace("no}", "false}")
        ).items[0]
        assert nova_lines.device_spec(made.function("0000:83:00.0"), item) == {
            "vendor_id": "10de",
            "product_id": "1bb0",
            "address": "0000:83:00.0",
            "managed": "no",
        }

    @pytest.mark.parametrize(
        ("address", "can"),
        [("0000:83:00.0", True), ("ffff:83:00.0", True), ("10000:01:00.0", False)],
    )
    def test_can_address(self, address: str, can: bool):
        assert nova_lines.can_address(address) is can


class TestDropIn:
    SPECS = ({"address": "0000:83:00.0", "product_id": "1bb0", "vendor_id": "10de"},)

    def text(self, release: int, report_in_placement: bool = False) -> str | None:
        offered = nova_lines.aliases(devices.parse(GPU))
        drop_in = nova_lines.DropIn(
            "pci-passthrough", Release(release), self.SPECS, offered, report_in_placement
        )
        return drop_in.render(templates.Renderer())

    def test_content(self):
        assert self.text(29) == (
            "# Written by the Juju charm pci-passthrough (application pci-passthrough).\n"
            "# Edits are overwritten; change the charm's options instead: juju config"
            " pci-passthrough\n"
            "[pci]\n"
            'device_spec = {"address": "0000:83:00.0", "product_id": "1bb0", "vendor_id": "10de"}\n'
            'alias = {"device_type": "type-PCI", "name": "gpu", "product_id": "1bb0",'
            ' "vendor_id": "10de"}\n'
        )

    @pytest.mark.parametrize(
        ("release", "option"),
        [(25, "passthrough_whitelist"), (26, "device_spec"), (33, "device_spec")],
    )
    def test_the_option_of_the_release(self, release: int, option: str):
        assert f"\n{option} = {{" in (self.text(release) or "")

    def test_report_in_placement_says_that_it_stays(self):
        text = self.text(29, report_in_placement=True) or ""
        assert text.endswith("\nreport_in_placement = true\n")
        assert "# Nova does not start again without it once it was on.\n" in text

    def test_nothing_to_say_is_no_file(self):
        drop_in = nova_lines.DropIn("app", Release(29), (), (), False)
        assert drop_in.render(templates.Renderer()) is None

    def test_path(self):
        assert nova_lines.path_of("pci-passthrough") == "etc/nova/nova.conf.d/pci-passthrough.conf"
        assert nova_lines.path_of("qat") == "etc/nova/nova.conf.d/pci-passthrough-qat.conf"


class TestPayload:
    def test_is_what_the_principal_merges(self):
        payload = nova_lines.subordinate_configuration(
            nova_lines.aliases(devices.parse("gpu=10de:1bb0"))
        )
        line = (
            '{"device_type": "type-PCI", "name": "gpu", "product_id": "1bb0", "vendor_id": "10de"}'
        )
        assert json.loads(payload) == {
            "nova": {
                "/etc/nova/nova.conf": {
                    "sections": {"DEFAULT": [["pci_alias", line]]},
                    "additional_neutron_filters": "PciPassthroughFilter",
                }
            }
        }
        assert nova_lines.published_aliases(payload) == (line,)

    def test_the_filter_alone(self):
        payload = nova_lines.subordinate_configuration(())
        content = json.loads(payload)["nova"]["/etc/nova/nova.conf"]
        # An empty section still makes the principal take the context for complete.
        assert content["sections"] == {"DEFAULT": []}
        assert content["additional_neutron_filters"] == "PciPassthroughFilter"
        assert nova_lines.published_aliases(payload) == nova_lines.published_aliases(None) == ()

    @pytest.mark.parametrize("text", ["", "no json", "[]", '{"nova": {}}', '{"nova": null}'])
    def test_what_another_revision_sent_has_no_lines(self, text: str):
        assert nova_lines.published_aliases(text) == ()
