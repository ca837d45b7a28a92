"""What a compute host offers to Nova: verified claims, cross-checks, what a guest holds."""

from __future__ import annotations

import dataclasses
import json

import pytest
from charms.pci_passthrough.v0 import nova_pci
from harness import made
from harness.constants import GPUS
from harness.madenova import DROP_IN, VFIO, cards, config, decide, facts, written

from passthrough import errors
from passthrough.config import devices
from passthrough.host import pci
from passthrough.nova import facts as nova_facts
from passthrough.nova import lines as nova_lines
from passthrough.nova import offer as nova_offer
from passthrough.nova.release import Release
from passthrough.reporting import words
from passthrough.state import record

PF_ID, VF_ID = "8086:10fb", "8086:10ed"


def said(offer: nova_offer.Offer) -> list[str]:
    return [words.sentence(each) for each in offer.problems]


def offered(offer: nova_offer.Offer) -> list[str]:
    return [each["address"] for each in offer.device_specs]


def pf(address: str = "0000:03:00.0", **values) -> pci.Function:
    return made.function(address, PF_ID, made.ETHERNET, total_vfs=8, group=3, **VFIO, **values)


def vf(number: int, identity: str = VF_ID, **values) -> pci.Function:
    return made.function(
        f"0000:03:10.{number}",
        identity,
        made.ETHERNET,
        physfn="0000:03:00.0",
        group=30 + number,
        **{**VFIO, **values},
    )


class TestVerified:
    def test_each_claim_and_neither_companion_nor_third_card(self):
        offer = decide(GPUS, *cards())
        assert offered(offer) == ["0000:83:00.0", "0000:84:00.0"]
        assert dict(offer.device_specs[0]) == {
            "vendor_id": "10de",
            "product_id": "1bb0",
            "address": "0000:83:00.0",
        }
        assert (offer.problems, offer.notes) == ((), ())
        assert offer.content is not None
        assert offer.content.count("device_spec") == 2
        assert offer.content.count("alias = ") == 1

    def test_not_on_vfio(self):
        first, *rest = cards()
        offer = decide(GPUS, dataclasses.replace(first, driver="nouveau"), *rest)
        assert offered(offer) == ["0000:84:00.0"]

    def test_group_not_viable_through_an_unbound_companion(self):
        display, audio, *rest = cards()
        offer = decide(GPUS, display, dataclasses.replace(audio, driver="snd_hda_intel"), *rest)
        assert offered(offer) == ["0000:84:00.0"]

    def test_iommu_off(self):
        assert offered(decide(GPUS, *made.gpus("83", "84", **VFIO))) == []

    def test_a_harmless_neighbour_does_no_harm(self):
        display, audio, *rest = cards()
        offer = decide(GPUS, display, dataclasses.replace(audio, driver=None), *rest)
        assert offered(offer) == ["0000:83:00.0", "0000:84:00.0"]

    def test_aliases_stand_without_a_device(self):
        offer = decide(GPUS)
        assert offer.device_specs == ()
        assert [each["name"] for each in offer.aliases] == ["gpu"]
        assert offer.content is not None

    def test_a_mistaken_item_brings_no_alias(self):
        offer = decide("gpu=10de:ffff@0000:83:00.0", *cards())
        assert (offer.content, offer.change) == (None, None)
        offer = decide("gpu=10de:ffff@0000:83:00.0, ok=10de:1bb0@0000:84:00.0", *cards())
        assert [each["name"] for each in offer.aliases] == ["ok"]

    def test_but_one_that_is_there_stays(self):
        """The card's group is not viable for a while: its guests can still be moved."""
        first = decide(GPUS, *cards())
        intruder = made.function("0000:83:02.0", "8086:1", 0x020000, group=20, driver="e1000e")
        offer = decide(GPUS, *cards(), intruder, nova_facts=written(first))
        assert offered(offer) == ["0000:84:00.0"]
        assert [each["name"] for each in offer.aliases] == ["gpu"]
        alone = decide("gpu=10de:1bb0@0000:83:00.0", *cards(), intruder, nova_facts=written(first))
        assert [each["name"] for each in alone.aliases] == ["gpu"]

    def test_two_names_have_two_aliases_and_one_device_spec(self):
        offer = decide("gpu|p5000=10de:1bb0", *cards())
        assert offered(offer) == ["0000:83:00.0", "0000:84:00.0", "0000:85:00.0"]
        assert [each["name"] for each in offer.aliases] == ["gpu", "p5000"]
        assert (offer.problems, offer.notes) == ((), ())

    def test_of_two_names_a_mistaken_item_keeps_the_one_that_is_there(self):
        first = decide(GPUS, *cards())
        intruder = made.function("0000:83:02.0", "8086:1", 0x020000, group=20, driver="e1000e")
        item = "gpu|p5000=10de:1bb0@0000:83:00.0"
        offer = decide(item, *cards(), intruder, nova_facts=written(first))
        assert [each["name"] for each in offer.aliases] == ["gpu"]

    def test_an_item_without_alias_is_offered_without(self):
        offer = decide("10de:1bb0@0000:83:00.0", *cards())
        assert offered(offer) == ["0000:83:00.0"]
        assert offer.aliases == ()


class TestDropIn:
    def test_is_to_be_created_for_root_and_nova(self):
        offer = decide(GPUS, *cards())
        assert offer.change is not None
        assert offer.change.old is None
        assert (offer.change.file.path, offer.change.file.mode) == (DROP_IN[1:], 0o640)
        assert not offer.read

    def test_as_it_should_be_is_no_change(self):
        first = decide(GPUS, *cards())
        known = record.Nova(read=nova_offer.fingerprint(first.content))
        offer = decide(GPUS, *cards(), nova_facts=written(first), known=known)
        assert (offer.change, offer.read, offer.deferred) == (None, True, False)

    @pytest.mark.parametrize(
        "spoiled",
        [{"content": "[pci]\n"}, {"mode": 0o644}, {"group": 0}],
        ids=["content", "mode", "group"],
    )
    def test_what_was_spoiled_is_put_right(self, spoiled: dict):
        first = decide(GPUS, *cards())
        present = written(first).present
        assert present is not None
        there = written(first, present=dataclasses.replace(present, **spoiled))
        known = record.Nova(read=nova_offer.fingerprint(first.content))
        offer = decide(GPUS, *cards(), nova_facts=there, known=known)
        assert offer.change is not None
        assert offer.content == first.content

    def test_written_and_not_read_is_still_to_be_read(self):
        first = decide(GPUS, *cards())
        offer = decide(GPUS, *cards(), nova_facts=written(first))
        assert offer.change is None
        assert not offer.read

    def test_nova_not_installed_leaves_no_file_but_the_device_specs(self):
        offer = decide(GPUS, *cards(), nova_facts=nova_facts.Facts())
        assert (offer.content, offer.change, offer.read) == (None, None, True)
        assert offered(offer) == ["0000:83:00.0", "0000:84:00.0"]

    def test_nova_was_purged(self):
        there = written(decide(GPUS, *cards()), release=None)
        offer = decide(GPUS, *cards(), nova_facts=there)
        assert offer.change is not None
        assert offer.change.file.content is None

    def test_without_the_group_nothing_is_written(self):
        offer = decide(GPUS, *cards(), nova_facts=facts(group=None))
        assert offer.change is None
        assert offer.read
        assert said(offer) == ["nova-common is installed, but there is no group nova"]

    def test_no_devices_no_file(self):
        offer = decide("", *cards())
        assert (offer.content, offer.change, offer.read) == (None, None, True)

    def test_the_denied_restart_is_remembered_for_this_content_alone(self):
        first = decide(GPUS, *cards())
        known = record.Nova(deferred=nova_offer.fingerprint(first.content), run="r1")
        assert decide(GPUS, *cards(), nova_facts=written(first), known=known).deferred
        assert not decide("10de:1bb0", *cards(), nova_facts=written(first), known=known).deferred


class TestHeld:
    def both(self) -> nova_facts.Facts:
        return written(decide(GPUS, *cards()))

    def test_what_a_guest_holds_stays_although_nobody_asks_for_it(self):
        there = dataclasses.replace(self.both(), held=frozenset(["0000:84:00.0"]))
        offer = decide("gpu=10de:1bb0@0000:83:00.0", *cards(), nova_facts=there)
        assert offered(offer) == ["0000:83:00.0"]
        assert [each["address"] for each in offer.held] == ["0000:84:00.0"]
        assert offer.change is None

    def test_its_tags_stay_and_what_somebody_added_goes(self):
        item = "{alias: gpu, id: '10de:1bb0', address: '84:00.0', traits: [b, a], managed: false}"
        current = facts(release=Release(33))
        there = written(decide(f"[{item}]", *cards(), nova_facts=current))
        text = (there.present.content if there.present else "").replace(
            '"managed": "no"', '"managed": "maybe", "physical_network": "n/t", "x": 1'
        )
        edited = dataclasses.replace(
            there, config=config(text, DROP_IN), held=frozenset(["0000:84:00.0"])
        )
        offer = decide("", *cards(), nova_facts=edited)
        assert [dict(each) for each in offer.held] == [
            {
                "vendor_id": "10de",
                "product_id": "1bb0",
                "address": "0000:84:00.0",
                "traits": "A,B",
            }
        ]
        nova_pci.DeviceSpec(**offer.held[0])

    def test_and_although_nothing_is_asked_for(self):
        there = dataclasses.replace(self.both(), held=frozenset(["0000:84:00.0"]))
        offer = decide("", *cards(), nova_facts=there)
        assert offer.content is not None
        assert '"address": "0000:84:00.0"' in offer.content
        assert '"address": "0000:83:00.0"' not in offer.content
        assert "alias" not in offer.content

    def test_what_nobody_holds_goes(self):
        offer = decide("gpu=10de:1bb0@0000:83:00.0", *cards(), nova_facts=self.both())
        assert offer.held == ()
        assert '"address": "0000:84:00.0"' not in (offer.content or "")

    def test_the_charm_leaves_nothing_behind(self):
        there = dataclasses.replace(self.both(), held=frozenset(["0000:84:00.0"]))
        assert decide("", *cards(), nova_facts=there, leaving=True).content is None

    def test_the_name_of_the_option_follows_the_release(self):
        there = dataclasses.replace(
            self.both(), held=frozenset(["0000:84:00.0"]), release=Release(25)
        )
        offer = decide("", *cards(), nova_facts=there)
        assert (offer.content or "").count("passthrough_whitelist = ") == 1


class TestDeviceType:
    """What an older charm took, which did not choose by type, stays and is told of.

    Nothing new is claimed for an item of a wrong type: tests/unit/planning/test_claims.py.
    """

    OLD = ("0000:03:00.0", "0000:03:10.0", "0000:04:00.0")

    def test_sr_iov_capable_and_alias_without_type_pf(self):
        offer = decide("nic=8086:10fb", pf(), took=self.OLD)
        [problem] = said(offer)
        assert problem == (
            "devices: item 1 nic=8086:10fb: 0000:03:00.0 is SR-IOV capable, so alias nic"
            " (type-PCI) never matches it; write the item as"
            " nic=8086:10fb/PF"
        )
        assert offered(offer) == ["0000:03:00.0"]

    @pytest.mark.parametrize("brackets", ["[%s]", "%s", "[10de:1bb0, %s]", "10de:1bb0 %s"])
    @pytest.mark.parametrize(
        "item",
        [
            "{alias: nic, id: '8086:10fb', address: ['0000:03:00.0', '0000:04:00.?'],"
            " numa-policy: preferred, companions: false, allow-in-use: true}",
            "nic=8086:10fb",
            "nic=8086:10fb@03:00.*",
        ],
    )
    def test_the_text_to_set_mends_it(self, item: str, brackets: str):
        """Pasted alone, or beside other items in the form that these have."""
        [problem] = decide(f"[{item}]", pf(), took=self.OLD).problems
        text = problem.way_out.removeprefix("write the item as ")
        if text.startswith("{") and brackets.startswith("10de"):
            return  # the YAML form, which a list of short items has no place for
        mended = devices.parse(brackets % text).items[-1]
        was = devices.parse(f"[{item}]").items[0]
        assert mended == dataclasses.replace(was, device_type="type-PF", position=mended.position)
        assert decide(brackets % text, pf()).problems == ()

    @pytest.mark.parametrize(
        ("device_type", "function", "right"),
        [
            ("type-PF", pf(), True),
            ("type-PCI", pf(), False),
            ("type-VF", pf(), False),
            ("type-VF", vf(0, PF_ID), True),
            ("type-PCI", vf(0, PF_ID), False),
            ("type-PF", made.function("0000:03:00.0", PF_ID, group=3, **VFIO), False),
        ],
    )
    def test_every_pair(self, device_type: str, function: pci.Function, right: bool):
        devices = f"[{{alias: nic, id: '{PF_ID}', device-type: {device_type}}}]"
        assert (decide(devices, function, took=self.OLD).problems == ()) is right
        # Unless it is there already, it is never offered where Nova would not match it.
        assert bool(offered(decide(devices, function))) is right

    def test_without_alias_there_is_nothing_to_match(self):
        assert decide("8086:10fb", pf()).problems == ()

    def test_said_before_the_device_is_bound(self):
        function = dataclasses.replace(pf(), driver="ixgbe")
        assert len(decide("nic=8086:10fb", function, took=self.OLD).problems) == 1

    def test_once_an_item(self):
        both = (pf(), pf("0000:04:00.0"))
        assert len(decide("nic=8086:10fb", *both, took=self.OLD).problems) == 1


class TestDomain:
    def test_nova_would_not_start_with_a_larger_domain(self):
        vmd = made.function("10000:01:00.0", "144d:a808", made.STORAGE, group=4, **VFIO)
        offer = decide("ssd=144d:a808", vmd)
        assert offer.device_specs == ()
        [problem] = said(offer)
        assert "10000:01:00.0: Nova takes no PCI domain above ffff" in problem


class TestPlacement:
    PF_ITEM = f"{{alias: pf, id: '{PF_ID}', device-type: type-PF}}"
    VF_ITEM = f"{{alias: vf, id: '{VF_ID}', device-type: type-VF}}"

    def test_is_written_with_its_warning(self):
        offer = decide(GPUS, *cards(), report_in_placement=True)
        assert "report_in_placement = true\n" in (offer.content or "")

    def test_cannot_be_turned_off_again(self):
        on = decide(GPUS, *cards(), report_in_placement=True)
        offer = decide(GPUS, *cards(), nova_facts=written(on))
        assert offer.content == on.content
        [problem] = said(offer)
        assert problem.startswith("report-in-placement: Nova does not start without it")

    def test_outlives_the_charm(self):
        on = decide(GPUS, *cards(), report_in_placement=True)
        offer = decide("", *cards(), nova_facts=written(on), leaving=True)
        assert (offer.content or "").endswith("report_in_placement = true\n")
        assert "device_spec" not in (offer.content or "")
        assert offer.problems == ()

    @pytest.mark.parametrize("by", ["option", "nova.conf"])
    def test_a_pf_together_with_its_vfs(self, by: str):
        text = "[pci]\nreport_in_placement = true\n" if by == "nova.conf" else ""
        offer = decide(
            f"[{self.PF_ITEM}, {self.VF_ITEM}]",
            *(pf(), vf(0)),
            nova_facts=facts(text),
            report_in_placement=by == "option",
        )
        assert offer.device_specs == ()
        assert len(offer.problems) == 2
        assert all("Nova takes a PF or its VFs, not both" in each for each in said(offer))

    def test_without_placement_nova_copes_with_both(self):
        offer = decide(f"[{self.PF_ITEM}, {self.VF_ITEM}]", pf(), vf(0))
        assert offered(offer) == ["0000:03:00.0", "0000:03:10.0"]
        assert offer.problems == ()

    def test_a_pf_whose_vfs_have_its_id_offers_them_too(self):
        items = f"[{{alias: pf, id: '{PF_ID}', address: '03:00.0', device-type: type-PF}}]"
        strange = vf(0, PF_ID, driver="ixgbevf")
        assert decide(items, pf(), strange).problems == ()
        offer = decide(items, pf(), strange, report_in_placement=True)
        assert offer.device_specs == ()
        assert "(0000:03:10.0)" in said(offer)[0]

    @pytest.mark.parametrize(("of_pf", "of_vf"), [(False, True), (True, False), (True, True)])
    def test_what_is_neutrons_is_no_part_of_placement(self, of_pf: bool, of_vf: bool):
        """Nova reports no device with a physical network, and so refuses none beside others."""
        network = ", physical-network: physnet1"
        items = (
            f"{{id: '{PF_ID}', device-type: type-PF{network if of_pf else ''}}}",
            f"{{id: '{VF_ID}', device-type: type-VF{network if of_vf else ''}}}",
        )
        offer = decide(f"[{', '.join(items)}]", pf(), vf(0), report_in_placement=True)
        assert offered(offer) == ["0000:03:00.0", "0000:03:10.0"]
        assert offer.problems == ()

    @pytest.mark.parametrize(("major", "withheld"), [(33, 0), (34, 2)])
    def test_live_migratable_vfs_of_one_pf_have_to_agree(self, major: int, withheld: int):
        """From Nova 34 on that is a trait."""
        items = [
            f"{{id: '{VF_ID}', address: '03:10.{number}', live-migratable: {value}}}"
            for number, value in enumerate(("true", "false"))
        ]
        offer = decide(
            f"[{', '.join(items)}]",
            *(vf(0), vf(1)),
            nova_facts=facts(release=Release(major)),
            report_in_placement=True,
        )
        assert len(offer.problems) == withheld
        assert all(
            "need the same resource-class, traits and live-migratable" in each
            for each in said(offer)
        )

    @pytest.mark.parametrize(
        ("function", "value", "reported", "offers"),
        [
            (pf(), "true", True, True),
            (pf(), "true", False, False),
            (pf(), "false", False, True),
            (vf(0), "true", True, False),
            (vf(0), "false", True, False),
        ],
    )
    def test_one_time_use(self, function: pci.Function, value: str, reported: bool, offers: bool):
        offer = decide(
            f"[{{id: '{function.id}', one-time-use: {value}}}]",
            function,
            nova_facts=facts(release=Release(34)),
            report_in_placement=reported,
        )
        assert bool(offered(offer)) is offers
        assert bool(offer.problems) is not offers
        if offers:
            assert offer.device_specs[0]["one_time_use"] == {"true": "yes", "false": "no"}[value]

    @pytest.mark.parametrize(("count", "notes"), [(8, 0), (9, 1)])
    def test_more_than_eight_devices_of_a_class_are_noted(self, count: int, notes: int):
        many = [
            made.function(f"0000:{0x40 + number:02x}:00.0", group=number, **VFIO)
            for number in range(count)
        ]
        offer = decide("10de:1bb0", *many, report_in_placement=True)
        assert len(offer.notes) == notes
        assert all(
            "9 devices are of the resource class CUSTOM_PCI_10DE_1BB0" in each
            for each in offer.notes
        )
        assert decide("10de:1bb0", *many).notes == ()
        neutrons = "[{id: '10de:1bb0', physical-network: physnet1}]"
        assert decide(neutrons, *many, report_in_placement=True).notes == ()

    def test_vfs_of_one_pf_need_the_same_tags(self):
        items = [
            f"{{id: '{VF_ID}', address: '03:10.{number}', resource-class: {name}}}"
            for number, name in enumerate(["A", "A", "B"])
        ]
        vfs = [vf(number) for number in range(3)]
        assert len(decide(f"[{', '.join(items)}]", *vfs).device_specs) == 3
        offer = decide(f"[{', '.join(items)}]", *vfs, report_in_placement=True)
        assert offer.device_specs == ()
        assert len(offer.problems) == 3
        same = decide(f"[{', '.join(items[:2])}]", *vfs, report_in_placement=True)
        assert len(same.device_specs) == 2


class TestRelease:
    def test_yoga_has_the_old_name(self):
        offer = decide(GPUS, *cards(), nova_facts=facts(release=Release(25)))
        assert (offer.content or "").count("\npassthrough_whitelist = ") == 2
        assert "device_spec" not in (offer.content or "")

    @pytest.mark.parametrize("present", [True, False])
    def test_a_key_that_nova_does_not_know_is_refused(self, present: bool):
        devices = "[{alias: gpu, id: '10de:1bb0', traits: blue}]"
        functions = cards() if present else []
        with pytest.raises(errors.OptionError, match=r"traits needs Nova 27 \(2023.1\) or later"):
            decide(devices, *functions, nova_facts=facts(release=Release(25)))

    def test_so_is_report_in_placement(self):
        with pytest.raises(errors.OptionError, match=r"report-in-placement: needs Nova 26 \(Zed\)"):
            decide("", nova_facts=facts(release=Release(25)), report_in_placement=True)

    def test_without_nova_on_the_host_nothing_is_refused(self):
        devices = "[{alias: gpu, id: '10de:1bb0', traits: blue}]"
        offer = decide(devices, *cards(), nova_facts=nova_facts.Facts())
        assert offer.device_specs[0]["traits"] == "BLUE"


class TestKeys:
    def test_of_a_network(self):
        offer = decide(
            f"[{{id: '{VF_ID}', physical-network: physnet1, trusted: true}}]",
            *(vf(0),),
            nova_facts=facts(release=Release(34)),
        )
        assert dict(offer.device_specs[0]) == {
            "vendor_id": "8086",
            "product_id": "10ed",
            "address": "0000:03:10.0",
            "physical_network": "physnet1",
            "trusted": "true",
        }
        nova_pci.DeviceSpec(**offer.device_specs[0])


class TestElsewhere:
    def alias(self, **values: str) -> str:
        alias = {"name": "gpu", "vendor_id": "10de", "product_id": "1bb0", **values}
        return f"[pci]\nalias = {json.dumps(alias)}\n"

    def test_the_same_alias_is_noted_and_left_out(self):
        offer = decide(GPUS, *cards(), nova_facts=facts(self.alias()))
        assert "alias = " not in (offer.content or "")
        assert offered(offer) == ["0000:83:00.0", "0000:84:00.0"]
        assert offer.problems == ()
        assert "/etc/nova/nova.conf [pci] alias has the same one" in offer.notes[0]

    def test_another_alias_blocks(self):
        offer = decide(GPUS, *cards(), nova_facts=facts(self.alias(product_id="1eb8")))
        assert "alias = " not in (offer.content or "")
        assert len(offer.problems) == 1

    def test_our_own_drop_in_is_not_elsewhere(self):
        first = decide(GPUS, *cards())
        again = decide(GPUS, *cards(), nova_facts=written(first))
        assert again.content == first.content
        assert (again.notes, again.problems) == ((), ())

    def test_a_whitelist_of_the_same_device_is_noted(self):
        spec_text = '{"vendor_id": "10de", "product_id": "1bb0"}'
        offer = decide(
            GPUS, *cards(), nova_facts=facts(f"[pci]\npassthrough_whitelist = {spec_text}\n")
        )
        assert offer.notes == (
            "0000:83:00.0 0000:84:00.0 is offered to Nova by /etc/nova/nova.conf [pci]"
            ' passthrough_whitelist {"product_id": "1bb0", "vendor_id": "10de"} too',
        )
        assert offer.problems == ()

    def test_one_that_says_something_else_of_it_blocks(self):
        spec_text = '{"address": "0000:83:00.0", "physical_network": "net"}'
        offer = decide(GPUS, *cards(), nova_facts=facts(f"[pci]\ndevice_spec = {spec_text}\n"))
        [problem] = said(offer)
        assert problem.startswith("0000:83:00.0 is offered to Nova by /etc/nova/nova.conf [pci]")
        assert "pci-passthrough-whitelist" in problem

    def test_one_of_another_device_is_nobodys_business(self):
        offer = decide(
            GPUS, *cards(), nova_facts=facts('[pci]\ndevice_spec = {"address": "0000:85:00.0"}\n')
        )
        assert (offer.notes, offer.problems) == ((), ())


class TestMissing:
    """Nova lists what libvirt has, so the device_spec of what is missing offers nothing."""

    GONE = "0000:84:00.0"

    def missing(self, there: nova_facts.Facts) -> nova_facts.Facts:
        (item,) = devices.parse(f"gpu=10de:1bb0@{self.GONE}").items
        return dataclasses.replace(
            there, missing={self.GONE: nova_lines.missing_device_spec(self.GONE, item)}
        )

    def test_what_is_listed_stays_as_it_is(self):
        there = self.missing(written(decide(GPUS, *cards())))
        offer = decide(GPUS, *made.gpus("83", group=41, **VFIO), nova_facts=there)
        assert offered(offer) == ["0000:83:00.0"]
        assert [each["address"] for each in offer.held] == [self.GONE]
        assert offer.change is None

    def test_what_is_not_listed_does_not_come(self):
        offer = decide(GPUS, *made.gpus("83", group=41, **VFIO), nova_facts=self.missing(facts()))
        assert offer.held == ()

    def test_another_charms_nova_is_told_the_same_as_before(self):
        none = facts(release=None)
        before = decide(GPUS, *cards(), nova_facts=none)
        offer = decide(GPUS, *made.gpus("83", group=41, **VFIO), nova_facts=self.missing(none))
        assert (*offer.device_specs, *offer.held) == before.device_specs
