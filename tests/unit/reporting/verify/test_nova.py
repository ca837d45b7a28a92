"""What verify and plan say of Nova."""

from __future__ import annotations

import dataclasses
import json

import pytest
from harness import made, madenova
from harness.constants import GPUS
from harness.madenova import DROP_IN, cards, decide, facts, written

from passthrough import survey
from passthrough.config import devices as devices_option
from passthrough.nova import facts as nova_facts
from passthrough.nova import lines as nova_lines
from passthrough.nova import offer as nova_offer
from passthrough.nova import publication
from passthrough.nova.release import Release
from passthrough.reporting import nova_text, plan_text
from passthrough.reporting.verify import checklist
from passthrough.reporting.verify import nova as nova_checks
from passthrough.reporting.verify.result import FAIL, OK, UNKNOWN, Check
from passthrough.state import record

SPICE = "[spice]\nenabled = True\n"


def checks(decision: survey.Decision) -> dict[str, Check]:
    return {check.name: check for check in nova_checks.check_compute(decision)}


def settled(devices: str, *functions, text: str = "", **values) -> survey.Decision:
    """A survey whose drop-in was written and read beside a nova.conf with this text."""
    first = decide(devices, *functions, nova_facts=facts(text))
    known = record.Nova(read=nova_offer.fingerprint(first.content))
    there = dataclasses.replace(written(first), **values)
    offer = decide(devices, *functions, nova_facts=there, known=known)
    return madenova.decision(devices, *functions, offer=offer)


class TestCompute:
    def test_all_is_well(self):
        found = checks(settled(GPUS, *cards(), text=SPICE))
        assert {name: check.status for name, check in found.items()} == {
            "nova": OK,
            "nova-file": OK,
            "nova-compute": OK,
            "device_spec 0000:83:00.0": OK,
            "device_spec 0000:84:00.0": OK,
            "alias gpu": OK,
        }
        assert found["nova"].seen == "Nova 29 (2024.1)"
        assert found["device_spec 0000:83:00.0"].seen == f"in {DROP_IN} [pci] device_spec"
        assert found["alias gpu"].seen == f"0000:83:00.0 0000:84:00.0; in {DROP_IN} [pci] alias"

    def test_runs_with_all_the_others(self):
        names = [check.name for check in checklist.verify(settled(GPUS, *cards()))]
        assert "nova-file" in names
        assert "iommu" in names

    def test_nova_is_not_here(self):
        offer = decide(GPUS, *cards(), nova_facts=nova_facts.Facts())
        decision = madenova.decision(GPUS, *cards(), offer=offer)
        assert [check.status for check in nova_checks.check_compute(decision)] == [OK]

    def test_not_written_yet(self):
        decision = madenova.decision(GPUS, *cards(), offer=decide(GPUS, *cards()))
        found = checks(decision)
        assert found["nova-file"].status == FAIL
        assert found["nova-compute"] == Check(
            "nova-compute",
            FAIL,
            f"has not read {DROP_IN}",
            "run the action reconcile, or restart the service",
        )
        assert found["alias gpu"].status == FAIL
        assert found["device_spec 0000:83:00.0"].status == FAIL

    def test_restart_denied(self):
        first = decide(GPUS, *cards())
        known = record.Nova(deferred=nova_offer.fingerprint(first.content), run="r")
        offer = decide(GPUS, *cards(), nova_facts=written(first), known=known)
        found = checks(madenova.decision(GPUS, *cards(), offer=offer))["nova-compute"]
        assert found.status == FAIL
        assert "denied its restart" in found.seen
        assert "restart-services" in found.fix

    def test_a_device_that_is_not_ready(self):
        display, *rest = cards()
        found = checks(settled(GPUS, dataclasses.replace(display, driver="nouveau"), *rest))
        assert found["device_spec 0000:83:00.0"].status == FAIL
        assert found["device_spec 0000:84:00.0"].status == OK
        assert found["alias gpu"].seen.startswith("0000:84:00.0; in ")

    def test_a_guest_holds_what_nobody_claims(self):
        first = decide(GPUS, *cards())
        there = dataclasses.replace(written(first), held=frozenset(["0000:84:00.0"]))
        one = "gpu=10de:1bb0@0000:83:00.0"
        offer = decide(one, *cards(), nova_facts=there)
        found = checks(madenova.decision(one, *cards(), offer=offer))
        assert found["device_spec 0000:84:00.0"].status == OK
        assert "while a guest holds it" in found["device_spec 0000:84:00.0"].seen

    def test_an_alias_without_device_is_normal(self):
        found = checks(settled("gpu=10de:1bb0", text=SPICE))["alias gpu"]
        assert found.status == OK
        assert found.seen.startswith("no device on this host, as is normal in a mixed fleet; in ")

    def test_each_name_of_an_alias_that_is_renamed(self):
        found = checks(settled("gpu|p5000=10de:1bb0", *cards(), text=SPICE))
        behind = f"0000:83:00.0 0000:84:00.0 0000:85:00.0; in {DROP_IN} [pci] alias"
        assert found["alias gpu"] == Check("alias gpu", OK, behind)
        assert found["alias p5000"] == Check("alias p5000", OK, behind)

    def test_an_alias_of_the_operators_shows_its_file(self):
        alias = json.dumps({"name": "gpu", "vendor_id": "10de", "product_id": "1bb0"})
        found = checks(settled(GPUS, *cards(), text=f"[pci]\nalias = {alias}\n"))["alias gpu"]
        assert found.seen.endswith("; in /etc/nova/nova.conf [pci] alias")

    def test_a_companion_that_somebody_offers(self):
        text = '[pci]\npassthrough_whitelist = {"vendor_id": "10de"}\n'
        found = checks(settled(GPUS, *cards(), text=text))
        companion = found["device_spec 0000:83:00.1"]
        assert companion.status == FAIL
        assert "/etc/nova/nova.conf [pci] passthrough_whitelist" in companion.seen
        both = found["device_spec 0000:83:00.0"].seen
        assert both == f"in /etc/nova/nova.conf [pci] passthrough_whitelist, {DROP_IN} [pci]" + (
            " device_spec"
        )

    def test_problems_fail(self):
        pf = made.function("0000:03:00.0", "8086:10fb", total_vfs=8, group=3, driver="vfio-pci")
        offer = decide("nic=8086:10fb", pf, took=[pf.address])
        decided = madenova.decision("nic=8086:10fb", pf, offer=offer)
        found = list(nova_checks.check_compute(decided))
        assert found[0].status == FAIL
        assert found[0].seen.endswith("alias nic (type-PCI) never matches it")
        assert "nic=8086:10fb/PF" in found[0].fix


class TestConsole:
    @pytest.mark.parametrize(
        ("text", "hint"),
        [
            ("", True),
            ("[vnc]\nenabled = True\n", True),
            (SPICE, False),
            ("[spice]\nenabled = False\n", True),
        ],
    )
    def test_for_displays(self, text: str, hint: bool):
        found = checks(settled(GPUS, *cards(), text=text))
        assert ("console" in found) is hint
        if hint:
            assert found["console"].status == UNKNOWN
            assert "console-access-protocol=spice" in found["console"].fix

    def test_not_for_others(self):
        nic = made.function("0000:03:00.0", "8086:10d3", made.ETHERNET, group=3, driver="vfio-pci")
        assert "console" not in checks(settled("nic=8086:10d3", nic))


class TestController:
    def publish(self, devices: str, text: str) -> tuple[Check, ...]:
        published = publication.decide(
            made.wanted(devices), Release(29), madenova.config(text), None, publication.Memory()
        )
        return nova_checks.check_controller(
            published, nova_lines.aliases(devices_option.parse(devices))
        )

    def test_before_and_after_rendering(self):
        found = {each.name: each for each in self.publish(GPUS, "")}
        assert found["alias gpu"].status == UNKNOWN
        assert found["scheduler-filter"].status == FAIL
        assert "is not in enabled_filters, which is not set" in found["scheduler-filter"].seen

    def test_the_filter_is_named_where_it_is_missing(self):
        text = "[filter_scheduler]\nenabled_filters = ComputeFilter\n"
        found = {each.name: each for each in self.publish(GPUS, text)}
        assert found["scheduler-filter"].seen == (
            "PciPassthroughFilter is not in /etc/nova/nova.conf [filter_scheduler] enabled_filters"
        )

    def test_no_alias_needs_no_filter(self):
        assert [each.name for each in self.publish("10de:1bb0", "")] == ["nova"]

    def test_a_conflict_fails(self):
        alias = json.dumps({"name": "gpu", "vendor_id": "10de", "product_id": "1eb8"})
        found = self.publish(GPUS, f"[pci]\nalias = {alias}\n")
        assert (found[0].name, found[0].status) == ("nova", FAIL)


class TestPlan:
    def test_the_diff_and_the_restart(self):
        offer = decide(GPUS, *cards())
        decision = madenova.decision(GPUS, *cards(), offer=offer)
        text = plan_text.plan_text(decision)
        assert f"+++ b{DROP_IN}" in text
        assert "restart: nova-compute, if it runs and the policy layer agrees" in text
        described = plan_text.describe_plan(decision)
        assert described["nova"]["release"] == "29 (2024.1)"
        assert described["nova"]["restart"] is True
        json.dumps(described)

    def test_nothing_to_say_of_nova(self):
        assert nova_text.offer_steps(settled(GPUS, *cards()).nova_planned) == []

    def test_problems_and_notes_are_in_it(self):
        text = '[pci]\npassthrough_whitelist = {"vendor_id": "10de"}\n'
        steps = nova_text.offer_steps(settled(GPUS, *cards(), text=text).nova_planned)
        assert len(steps) == 1
        assert steps[0].startswith("note: 0000:83:00.0 0000:84:00.0 is offered to Nova by ")

    def test_nothing_to_publish(self):
        assert nova_text.publication_text(publication.Publication()) == "nothing to publish"
