"""Spec against host: what is claimed, what comes along, and every refusal with its reason."""

from __future__ import annotations

import dataclasses

import pytest
from harness import made
from harness.constants import GPUS, NIC_ID

from passthrough import errors
from passthrough.config import devices
from passthrough.host import pci, usage
from passthrough.host.uses import kinds
from passthrough.planning import claims, viability
from passthrough.reporting import words
from passthrough.state import record


def nics(*addresses: str, **values):
    drivers = {"driver": "i40e", **values}
    return [made.function(each, NIC_ID, made.ETHERNET, **drivers) for each in addresses]


def companions(decision: claims.Outcome) -> dict[str, str | None]:
    return {claim.address: claim.companion_of for claim in decision.claims}


def reasons(decision: claims.Outcome) -> list[str]:
    return [words.refusal(refusal) for refusal in decision.refusals]


def test_the_named_cards_are_claimed_with_their_audio_and_the_third_is_not():
    decision = made.decide(GPUS, *made.gpus("83", "84", "85", group=15))
    assert companions(decision) == {
        "0000:83:00.0": None,
        "0000:83:00.1": "0000:83:00.0",
        "0000:84:00.0": None,
        "0000:84:00.1": "0000:84:00.0",
    }
    assert [claim.item.position for claim in decision.claims] == [1, 1, 2, 2]
    assert decision.refusals == ()


@pytest.mark.parametrize(
    ("devices", "claimed"),
    [
        ("10de:1bb0", ("83:00.0", "84:00.0", "85:00.0")),
        ("10de:1bb0@8[34]:00.0", ("83:00.0", "84:00.0")),
        ("10de:1bb0@83:00.0 10de:1bb0@85:*.*", ("83:00.0", "85:00.0")),
        ("10DE:1BB0@*:85:00.?", ("85:00.0",)),
        ('- {id: 10de:1bb0, address: ["83:00.0", "8[5]:00.0"]}', ("83:00.0", "85:00.0")),
    ],
    ids=["id", "glob", "two-items", "any-domain", "list"],
)
def test_the_address_narrows_the_id(devices: str, claimed: tuple[str, ...]):
    decision = made.decide(devices, *made.gpus("83", "84", "85"))
    primaries = [each for each, primary in companions(decision).items() if primary is None]
    assert primaries == [f"0000:{address}" for address in claimed]
    assert decision.refusals == ()


def test_several_models_stand_behind_one_alias():
    tesla = made.function("0000:86:00.0", "10de:1db6")
    decision = made.decide("gpu=10de:1bb0@83:00.0 gpu=10de:1db6", *made.gpus("83"), tesla)
    assert [(each.address, each.item.alias, each.item.id) for each in decision.claims] == [
        ("0000:83:00.0", "gpu", "10de:1bb0"),
        ("0000:83:00.1", "gpu", "10de:1bb0"),
        ("0000:86:00.0", "gpu", "10de:1db6"),
    ]


def test_claims_are_in_the_order_of_the_addresses_as_numbers():
    addresses = ["10000:01:00.0", "0000:ff:00.0", "0001:00:00.0", "0000:02:00.0"]
    decision = made.decide("10de:1bb0", *[made.function(each) for each in addresses])
    assert decision.addresses == (
        "0000:02:00.0",
        "0000:ff:00.0",
        "0001:00:00.0",
        "10000:01:00.0",
    )


class TestCompanions:
    def test_all_other_kinds_of_function_of_the_card_come_along(self):
        usb = made.function("0000:83:00.2", "10de:1ad6", 0x0C0330)
        serial = made.function("0000:83:00.3", "10de:1ad7", 0x0C8000)
        decision = made.decide("gpu=10de:1bb0", *made.gpus("83"), usb, serial)
        assert companions(decision) == {
            "0000:83:00.0": None,
            "0000:83:00.1": "0000:83:00.0",
            "0000:83:00.2": "0000:83:00.0",
            "0000:83:00.3": "0000:83:00.0",
        }

    def test_none_comes_where_companions_is_false(self):
        decision = made.decide("- {id: 10de:1bb0, companions: false}", *made.gpus("83"))
        assert decision.addresses == ("0000:83:00.0",)

    def test_a_second_port_of_the_same_id_stays_with_the_host(self):
        decision = made.decide(f"{NIC_ID}@3b:00.0", *nics("0000:3b:00.0", "0000:3b:00.1"))
        assert decision.addresses == ("0000:3b:00.0",)

    def test_a_neighbour_slot_is_no_companion(self):
        other = made.audio("0000:83:01.1")
        decision = made.decide("10de:1bb0", made.function("0000:83:00.0"), other)
        assert decision.addresses == ("0000:83:00.0",)

    def test_a_pci_bridge_on_the_card_is_no_companion(self):
        bridge = made.function("0000:83:00.1", "10b5:8747", made.PCI_BRIDGE)
        decision = made.decide("10de:1bb0", made.function("0000:83:00.0"), bridge)
        assert decision.addresses == ("0000:83:00.0",)
        assert decision.refusals == ()

    def test_a_vf_numbered_into_the_slot_of_its_pf_is_no_companion(self):
        pf = nics("0000:3b:00.0", total_vfs=64)
        vf = made.function("0000:3b:00.2", "8086:154c", made.ETHERNET, physfn="0000:3b:00.0")
        assert made.decide(NIC_ID, *pf, vf).addresses == ("0000:3b:00.0",)
        assert made.decide("8086:154c", *pf, vf).addresses == ("0000:3b:00.2",)

    def test_a_function_with_an_item_of_its_own_is_no_companion(self):
        decision = made.decide("gpu=10de:1bb0 sound=10de:10f0", *made.gpus("83"))
        assert [(each.address, each.item.alias, each.companion_of) for each in decision.claims] == [
            ("0000:83:00.0", "gpu", None),
            ("0000:83:00.1", "sound", None),
        ]


class TestExclude:
    @pytest.mark.parametrize(
        ("exclude", "claimed"),
        [
            ("84:00.0", ("83:00.0", "83:00.1", "85:00.0", "85:00.1")),
            ("[84:00.0, 85:*.*]", ("83:00.0", "83:00.1")),
            ("'*:8[345]:00.1'", ("83:00.0", "84:00.0", "85:00.0")),
            ("99:00.0", tuple(f"{bus}:00.{n}" for bus in ("83", "84", "85") for n in (0, 1))),
        ],
        ids=["card", "globs", "companions", "nothing"],
    )
    def test_leaves_out_what_it_names(self, exclude: str, claimed: tuple[str, ...]):
        item = f"- {{id: 10de:1bb0, exclude: {exclude}}}"
        decision = made.decide(item, *made.gpus("83", "84", "85"))
        assert decision.addresses == tuple(f"0000:{each}" for each in claimed)
        assert decision.refusals == ()

    def test_is_stronger_than_an_address(self):
        item = "- {id: 10de:1bb0, address: [83:00.0, 84:00.0], exclude: 84:00.0}"
        decision = made.decide(item, *made.gpus("83"))
        assert (decision.addresses[:1], decision.refusals) == (("0000:83:00.0",), ())


class TestNothingThere:
    @pytest.mark.parametrize(
        ("devices", "expected"),
        [
            ("gpu=10de:1bb0", ["devices: item 1 gpu=10de:1bb0: no such device on this host"]),
            (
                "gpu=10de:1bb0@8[34]:00.0",
                ["devices: item 1 gpu=10de:1bb0@0000:8[34]:00.0: no such device on this host"],
            ),
            (
                "gpu=10de:1bb0@83:00.0",
                [
                    "devices: item 1 gpu=10de:1bb0@0000:83:00.0: 0000:83:00.0 is not in this host",
                ],
            ),
            (
                "- {id: 10de:1bb0, address: [83:00.0, 84:00.0]}",
                [
                    "devices: item 1 10de:1bb0@0000:83:00.0,0000:84:00.0: 0000:83:00.0 is not in"
                    " this host",
                    "devices: item 1 10de:1bb0@0000:83:00.0,0000:84:00.0: 0000:84:00.0 is not in"
                    " this host",
                ],
            ),
        ],
        ids=["id", "glob", "address", "addresses"],
    )
    def test_is_said_and_blocks_nothing(self, devices: str, expected: list[str]):
        decision = made.decide(devices, *nics("0000:3b:00.0"))
        assert reasons(decision) == expected
        assert {refusal.rule for refusal in decision.refusals} == {"absent"}
        assert decision.claims == ()
        assert decision.blocking == ()

    def test_one_missing_card_does_not_stop_the_other(self):
        decision = made.decide(GPUS, *made.gpus("83"))
        assert decision.addresses == ("0000:83:00.0", "0000:83:00.1")
        assert decision.blocking == ()

    def test_an_empty_host_and_an_empty_spec(self):
        assert made.decide("").claims == ()
        assert made.decide("").refusals == ()
        cards = made.gpus("83")
        assert made.decide("", *cards) == claims.Outcome(host=made.host(*cards))


class TestIdMismatch:
    def test_names_what_is_there_and_what_was_asked(self):
        decision = made.decide("gpu=10de:1bb0@3b:00.0", *nics("0000:3b:00.0"))
        assert reasons(decision) == [
            "devices: item 1 gpu=10de:1bb0@0000:3b:00.0: 0000:3b:00.0 holds 8086:1572, not"
            " 10de:1bb0; correct the id or the address"
        ]
        assert decision.claims == ()
        assert decision.blocking == decision.refusals

    def test_of_one_address_leaves_the_others_of_the_item(self):
        devices = "- {id: 10de:1bb0, address: [83:00.0, 3b:00.0]}"
        decision = made.decide(devices, *made.gpus("83"), *nics("0000:3b:00.0"))
        assert decision.addresses == ("0000:83:00.0", "0000:83:00.1")
        assert [(each.rule, each.address) for each in decision.blocking] == [
            ("id-mismatch", "0000:3b:00.0")
        ]

    def test_is_no_matter_behind_a_glob(self):
        devices = "10de:1bb0@??:00.0"
        decision = made.decide(devices, *made.gpus("83"), *nics("0000:3b:00.0"))
        assert decision.refusals == ()


PF, VFS = "0000:03:00.0", ("0000:03:00.2", "0000:03:00.3")
SHARED = "10de:2bb5"


def sr_iov(*, vfs: int = 2, total: int = 48, slot: str = "0000:03:00") -> list[pci.Function]:
    """A card whose VFs have its own id, as those of NVIDIA's GPUs and of NVMe disks do."""
    card = made.function(f"{slot}.0", SHARED, total_vfs=total)
    return [
        card,
        *(
            made.function(f"{slot}.{number + 2}", SHARED, physfn=card.address)
            for number in range(vfs)
        ),
    ]


class TestDeviceType:
    """The type is part of the claim."""

    @pytest.mark.parametrize(
        ("item", "expected"),
        [
            ("%s/PF", (PF,)),
            ("%s/VF", VFS),
            ("%s", (PF,)),
            ("%s@03:00.2", VFS[:1]),
            ("%s/VF@03:00.3", VFS[1:]),
            ("%s@03:00.*", (PF,)),
            ("%s@03:00.[23]", VFS),
            ("%s/pf", (PF,)),
            ("gpu=%s/PF", (PF,)),
            ("gpu=%s/VF", VFS),
            ("[{id: '%s', device-type: type-VF}]", VFS),
        ],
    )
    def test_of_one_id_an_item_claims_one(self, item: str, expected: tuple[str, ...]):
        decision = made.decide(item % SHARED, *sr_iov())
        assert (decision.addresses, decision.refusals) == (expected, ())

    def test_a_pf_and_its_vfs_are_two_items(self):
        decision = made.decide(f"pf={SHARED}/PF@04:00.0, vf={SHARED}/VF@03:*.*", *self.two_cards())
        assert {claim.address: claim.item.alias for claim in decision.claims} == {
            **dict.fromkeys(VFS, "vf"),
            "0000:04:00.0": "pf",
        }

    def two_cards(self) -> list[pci.Function]:
        return [*sr_iov(), *sr_iov(vfs=0, slot="0000:04:00")]

    def test_without_a_type_vfs_are_claimed_where_they_alone_bear_the_id(self):
        vfs = [
            made.function(each, "8086:154c", made.ETHERNET, physfn="0000:3b:00.0")
            for each in ("0000:3b:02.0", "0000:3b:02.1")
        ]
        card = made.function("0000:3b:00.0", NIC_ID, made.ETHERNET, total_vfs=64)
        assert made.decide("8086:154c", card, *vfs).addresses == ("0000:3b:02.0", "0000:3b:02.1")
        assert made.decide("vf=8086:154c/VF", card, *vfs).addresses == tuple(
            each.address for each in vfs
        )

    @pytest.mark.parametrize(
        ("item", "address", "said"),
        [
            (
                "gpu=10de:2bb5",
                PF,
                "is SR-IOV capable, so alias gpu (type-PCI) never"
                " matches it; write the item as gpu=10de:2bb5/PF",
            ),
            (
                "gpu=10de:2bb5@03:00.2",
                VFS[0],
                "is a VF, so alias gpu (type-PCI)"
                " never matches it; write the item as gpu=10de:2bb5/VF@0000:03:00.2",
            ),
            (
                "gpu=10de:2bb5/PCI",
                PF,
                "is SR-IOV capable, so alias gpu (type-PCI) never"
                " matches it; write the item as gpu=10de:2bb5/PF",
            ),
            (
                "10de:2bb5/PCI",
                PF,
                "is type-PF, and the item is for type-PCI; write 10de:2bb5/PF@0000:03:00.0",
            ),
            (
                "- {alias: gpu, id: 10de:2bb5, numa-policy: required}",
                PF,
                "is SR-IOV capable, so alias gpu (type-PCI) never"
                ' matches it; write the item as {"alias": "gpu", "id": "10de:2bb5",'
                ' "device-type": "type-PF", "numa-policy": "required"}',
            ),
        ],
        ids=["pf", "vf", "pci", "no-alias", "mapping"],
    )
    def test_nothing_is_claimed_that_the_alias_never_matches(self, item, address, said):
        decision = made.decide(item, *sr_iov())
        assert decision.claims == ()
        assert [(each.rule, each.address) for each in decision.blocking][:1] == [
            ("device-type", address)
        ]
        assert reasons(decision)[0].endswith(f": {address} {said}")
        pasted = said.partition("write ")[2].removeprefix("the item as ")
        assert address in made.decide(pasted, *sr_iov()).addresses

    def test_a_card_without_sr_iov_is_no_pf(self):
        """The firmware's settings may have turned SR-IOV off."""
        card = made.function(PF, SHARED)
        decision = made.decide("gpu=10de:2bb5/PF", card)
        assert decision.claims == ()
        assert "has no SR-IOV, so alias gpu (type-PF) never matches it" in reasons(decision)[0]
        # Where others of the id have it, the item is for those.
        both = made.decide("gpu=10de:2bb5/PF", card, *sr_iov(vfs=0, slot="0000:04:00"))
        assert (both.addresses, both.refusals) == (("0000:04:00.0",), ())

    @pytest.mark.parametrize(
        ("total", "said"),
        [
            (48, "0000:03:00.0 has no VF yet (48 can be made)"),
            (0, "0000:03:00.0 has no SR-IOV, so it has no VF"),
        ],
    )
    def test_vfs_that_are_not_there_block_nothing(self, total: int, said: str):
        decision = made.decide("vf=10de:2bb5/VF", *sr_iov(vfs=0, total=total))
        assert (decision.claims, decision.blocking) == ((), ())
        assert reasons(decision) == [f"devices: item 1 vf=10de:2bb5/VF: {said}"]

    def test_an_address_of_another_type_is_refused(self):
        item = "- {alias: gpu, id: 10de:2bb5, device-type: type-PF, address: [03:00.0, 03:00.2]}"
        decision = made.decide(item, *sr_iov())
        assert decision.addresses == (PF,)
        assert [(each.rule, each.address) for each in decision.blocking] == [
            ("device-type", VFS[0])
        ]

    def test_what_the_record_has_stays_and_brings_no_pf_along(self):
        """VFs that were all there was of their id, and then a card that has it came."""
        known = record.Record(taken=dict.fromkeys(VFS, "nvidia"))
        decision = made.decide(SHARED, *sr_iov(), known=known)
        assert decision.addresses == VFS
        more = [*sr_iov(), *sr_iov(vfs=1, slot="0000:04:00")]
        assert made.decide(SHARED, *more, known=known).addresses == (*VFS, "0000:04:00.0")

    def test_with_a_type_only_what_an_older_charm_took_stays(self):
        taken = dict.fromkeys(VFS, "nvidia")
        inherited = record.Record(taken=taken, inherited=frozenset(taken))
        for item in (f"gpu={SHARED}/PF", f"{SHARED}/PF"):
            assert made.decide(item, *sr_iov(), known=inherited).addresses == VFS
            # An operator who changes the type means it.
            changed = made.decide(item, *sr_iov(), known=record.Record(taken=taken))
            assert changed.addresses == (PF,)

    def test_the_record_keeps_no_more_than_it_needs_of_older_rules(self):
        taken = dict.fromkeys((*VFS, "0000:04:00.0"), "nvidia")
        known = record.Record(taken=taken, inherited=frozenset(taken))
        wanted = made.wanted(f"{SHARED}/PF")
        cards = [
            dataclasses.replace(each, group=number) for number, each in enumerate(self.two_cards())
        ]
        planned = made.decision(wanted, *cards, machine=made.IOMMU_ON, record=known).plan
        assert planned.release == ()
        assert planned.record.inherited == frozenset(VFS)


def test_a_device_under_two_items_changes_nothing_at_all():
    with pytest.raises(errors.OptionError) as caught:
        made.decide("a=10de:1bb0, b=10de:1bb0@84:00.0", *made.gpus("83", "84"))
    assert str(caught.value) == (
        "devices: item 2 b=10de:1bb0@0000:84:00.0: 0000:84:00.0 is claimed by item 1"
        " (a=10de:1bb0) too; narrow one of them by address"
    )


class TestGuards:
    @pytest.mark.parametrize(
        ("class_code", "rule", "reason"),
        [
            (made.PCI_BRIDGE, "pci-bridge", "is a PCI bridge, which no guest can have"),
            (
                made.HOST_BRIDGE,
                "host-controller",
                "is a bridge or host controller that the machine itself needs",
            ),
            (
                0x060100,
                "host-controller",
                "is a bridge or host controller that the machine itself needs",
            ),
        ],
        ids=["pci-bridge", "host-bridge", "isa-bridge"],
    )
    def test_refuse_with_a_reason(self, class_code: int, rule: str, reason: str):
        decision = made.decide("8086:1901", made.function("0000:00:01.0", "8086:1901", class_code))
        assert decision.claims == ()
        assert [(each.rule, each.blocking) for each in decision.refusals] == [(rule, True)]
        assert reasons(decision) == [f"devices: item 1 8086:1901: 0000:00:01.0 {reason}"]

    @pytest.mark.parametrize(
        ("class_code", "claimed"),
        [(made.PCI_BRIDGE, 0), (0x068000, 1)],
        ids=["pci-bridge", "other"],
    )
    def test_allow_in_use_overrides_what_can_be(self, class_code: int, claimed: int):
        item = "- {id: 8086:1901, allow-in-use: true}"
        decision = made.decide(item, made.function("0000:00:01.0", "8086:1901", class_code))
        assert len(decision.claims) == claimed
        assert len(decision.blocking) == 1 - claimed

    def test_on_a_companion_refuse_the_card_and_show_the_way_out(self):
        sound = made.function("0000:00:1f.3", "8086:a348", made.AUDIO)
        lpc = made.function("0000:00:1f.0", "8086:a306", 0x060100)
        decision = made.decide("8086:a348", sound, lpc)
        assert decision.claims == ()
        assert reasons(decision) == [
            "devices: item 1 8086:a348: 0000:00:1f.3 with its companion 0000:00:1f.0: it is a"
            " bridge or host controller that the machine itself needs; set companions: false to"
            " leave it out"
        ]
        left_out = made.decide("- {id: 8086:a348, companions: false}", sound, lpc)
        assert left_out.addresses == ("0000:00:1f.3",)

    def test_a_companion_of_two_items_stays_with_the_one_that_is_not_refused(self):
        twins = [made.function(f"0000:83:00.{number}") for number in (0, 1)]
        wanted = "a=10de:1bb0@83:00.0, b=10de:1bb0@83:00.1"
        decision = made.decide(
            wanted, *twins, made.audio("0000:83:00.2"), taken={"0000:83:00.0": "other"}
        )
        assert companions(decision) == {"0000:83:00.1": None, "0000:83:00.2": "0000:83:00.1"}
        assert [each.rule for each in decision.refusals] == ["taken"]

    @pytest.mark.parametrize("group", [None, 10], ids=["own-groups", "one-group"])
    def test_what_is_refused_comes_back_as_nobodys_companion(self, group: int | None):
        """Least of all through another item's allow-in-use."""
        disk = made.function("0000:05:00.0", "8086:aaaa", made.STORAGE, driver="ahci", group=group)
        sound = made.audio("0000:05:00.1", driver="snd_hda_intel", group=group)
        used = usage.Usage({disk.address: (kinds.Use(kinds.Kind.MOUNT, "/ on sda"),)})
        items = "[{id: 8086:aaaa}, {id: 10de:10f0, allow-in-use: true}]"
        decision = made.decide(items, disk, sound, usage=used)
        assert disk.address not in decision.addresses
        assert next(each.rule for each in decision.refusals) == "mounted"

    def test_a_companion_that_cannot_be_had_refuses_every_item_it_accompanies(self):
        card = [*made.gpus("83"), made.function("0000:83:00.2", "10de:1ad8", 0x0C0330)]
        wanted = "gpu=10de:1bb0, usb=10de:1ad8"
        decision = made.decide(wanted, *card, taken={"0000:83:00.1": "sounds"})
        assert decision.claims == ()
        assert [(each.item.alias, each.rule) for each in decision.refusals] == [
            ("gpu", "taken"),
            ("usb", "taken"),
        ]


class TestGroups:
    def test_with_a_stranger_on_a_driver_is_not_viable(self):
        cards = made.gpus("83", group=15)
        (stranger,) = nics("0000:3b:00.0", group=15)
        decision = made.decide("gpu=10de:1bb0", *cards, stranger)
        assert decision.claims == ()
        assert [(each.rule, each.address, each.blocking) for each in decision.refusals] == [
            ("group-not-viable", "0000:83:00.0", True)
        ]
        assert reasons(decision) == [
            "devices: item 1 gpu=10de:1bb0: 0000:83:00.0 shares IOMMU group 15 with 0000:3b:00.0"
            " (8086:1572, i40e); claim them too, or move the card to a slot with a group of its own"
        ]

    def test_without_the_companion_is_not_viable(self):
        cards = made.gpus("83", group=15)
        decision = made.decide("- {id: 10de:1bb0, companions: false}", *cards)
        assert reasons(decision) == [
            "devices: item 1 10de:1bb0: 0000:83:00.0 shares IOMMU group 15 with 0000:83:00.1"
            " (10de:10f0, snd_hda_intel); claim them too, or move the card to a slot with a group"
            " of its own"
        ]

    @pytest.mark.parametrize(
        "stranger",
        [
            made.function(
                "0000:80:01.0", "8086:2030", made.PCI_BRIDGE, driver="pcieport", group=15
            ),
            made.function("0000:3b:00.0", NIC_ID, made.ETHERNET, driver=None, group=15),
            made.function("0000:3b:00.0", NIC_ID, made.ETHERNET, driver="pci-stub", group=15),
            made.function("0000:3b:00.0", NIC_ID, made.ETHERNET, driver="vfio-pci", group=15),
            made.function("0000:3b:00.0", NIC_ID, made.ETHERNET, driver="mlx5_vfio_pci", group=15),
            made.function("0000:3b:00.0", NIC_ID, made.ETHERNET, driver="i40e", group=16),
            made.function("0000:3b:00.0", NIC_ID, made.ETHERNET, driver="i40e", group=None),
        ],
        ids=["bridge", "driverless", "pci-stub", "vfio-pci", "vfio-variant", "other", "none"],
    )
    def test_stay_viable_with(self, stranger):
        decision = made.decide("gpu=10de:1bb0", *made.gpus("83", group=15), stranger)
        assert decision.addresses == ("0000:83:00.0", "0000:83:00.1")

    def test_are_viable_when_all_of_them_is_claimed(self):
        cards = [*made.gpus("83", group=15), *nics("0000:3b:00.0", "0000:3b:00.1", group=15)]
        assert len(made.decide(f"10de:1bb0 {NIC_ID}", *cards).claims) == 4

    def test_fall_as_a_whole_with_one_refused_member(self):
        """83 and 84 share a group: once 84 cannot be had, 83 cannot be either."""
        shared = [*made.gpus("83", group=15), *made.gpus("84", group=15)]
        decision = made.decide(GPUS, *shared, taken={"0000:84:00.0": "other"})
        assert decision.claims == ()
        assert [(each.address, each.rule) for each in decision.refusals] == [
            ("0000:83:00.0", "group-not-viable"),
            ("0000:84:00.0", "taken"),
        ]

    def test_are_not_known_while_the_iommu_is_off(self):
        cards = [*made.gpus("83"), *nics("0000:3b:00.0")]
        assert made.decide("10de:1bb0", *cards).addresses == ("0000:83:00.0", "0000:83:00.1")


class TestTwoApplications:
    def test_the_second_is_refused_what_the_first_has(self):
        decision = made.decide(GPUS, *made.gpus("83", "84"), taken={"0000:83:00.0": "gpus"})
        assert decision.addresses == ("0000:84:00.0", "0000:84:00.1")
        assert reasons(decision) == [
            "devices: item 1 gpu=10de:1bb0@0000:83:00.0: 0000:83:00.0 is claimed by the"
            " application gpus already"
        ]
        assert decision.blocking == decision.refusals

    def test_a_companion_of_the_first_stops_the_second(self):
        decision = made.decide("sound=10de:10f0", *made.gpus("83"), taken={"0000:83:00.1": "gpus"})
        assert reasons(decision) == [
            "devices: item 1 sound=10de:10f0: 0000:83:00.1 is claimed by the application gpus"
            " already"
        ]

    def test_a_card_whose_companion_is_taken_is_left_whole(self):
        decision = made.decide("gpu=10de:1bb0", *made.gpus("83"), taken={"0000:83:00.1": "sounds"})
        assert decision.claims == ()
        assert reasons(decision) == [
            "devices: item 1 gpu=10de:1bb0: 0000:83:00.0 with its companion 0000:83:00.1: it is"
            " claimed by the application sounds already; set companions: false to leave it out"
        ]


def test_mixed_refusals_are_ordered_by_item_and_leave_the_rest_claimed():
    bridge = made.function("0000:00:01.0", "8086:1901", made.PCI_BRIDGE)
    decision = made.decide(
        "8086:1901, x=1234:1111, gpu=10de:1bb0@83:00.0, gpu=10de:1bb0@3b:00.0",
        bridge,
        *made.gpus("83", group=15),
        *nics("0000:3b:00.0", group=16),
    )
    assert decision.addresses == ("0000:83:00.0", "0000:83:00.1")
    assert [(each.item.position, each.rule, each.blocking) for each in decision.refusals] == [
        (1, "pci-bridge", True),
        (2, "absent", False),
        (4, "id-mismatch", True),
    ]


def test_refusals_of_one_item_are_ordered_by_address():
    devices = "- {id: 10de:1bb0, address: [3b:00.1, 99:00.0, 3b:00.0]}"
    decision = made.decide(devices, *nics("0000:3b:00.0", "0000:3b:00.1"))
    assert [(each.address, each.rule) for each in decision.refusals] == [
        ("0000:3b:00.0", "id-mismatch"),
        ("0000:3b:00.1", "id-mismatch"),
        ("0000:99:00.0", "absent"),
    ]


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("0000:83:00.0", None),
        ("0000:83:00.1", None),
        ("0000:00:01.0", "is a PCI bridge, which no guest can have"),
        (
            "0000:3b:00.0",
            "shares IOMMU group 20 with 0000:3c:00.0 (8086:1572, i40e); claim them too, or move"
            " the card to a slot with a group of its own",
        ),
    ],
    ids=["claimable", "audio", "bridge", "group"],
)
def test_explain_unclaimable(address: str, reason: str | None):
    host = made.host(
        made.function("0000:00:01.0", "8086:1901", made.PCI_BRIDGE),
        *made.gpus("83", group=15),
        *nics("0000:3b:00.0", "0000:3c:00.0", group=20),
    )
    objection = viability.object_to_card(host.functions[address], host)
    assert (objection and words.reason(objection, address)) == reason


def test_explain_unclaimable_says_what_an_item_would_be_told():
    """One function alone, its companion, its group, its VFs: as `decide` refuses `ID@ADDRESS`."""
    host = made.host(
        made.function("0000:00:00.0", "8086:2020", made.HOST_BRIDGE),
        made.function("0000:00:01.0", "8086:1901", made.PCI_BRIDGE, group=15),
        *made.gpus("83", "84", "85", group=15),
        *nics("0000:3b:00.0", "0000:3b:00.1", group=20),
        *nics("0000:3c:00.0", total_vfs=8, num_vfs=1, group=21),
        *nics("0000:3c:00.1", physfn="0000:3c:00.0", driver="vfio-pci", group=22),
    )
    used = usage.Usage(
        {
            "0000:84:00.1": (kinds.Use(kinds.Kind.MOUNT, "/ on sda"),),
            "0000:3b:00.1": (kinds.Use(kinds.Kind.ROUTE, "ens1 has the default route"),),
        }
    )
    told = {}
    for address, function in host.functions.items():
        decision = claims.decide(devices.parse(f"{function.id}@{address}"), host, usage=used)
        refused = [words.reason(each.objection, address) for each in decision.refusals]
        told[address] = refused[0] if refused else None
        objection = viability.object_to_card(function, host, used)
        assert (objection and words.reason(objection, address)) == told[address]
    assert [address for address, reason in told.items() if reason is None] == [
        "0000:3c:00.1",
        "0000:83:00.0",
        "0000:83:00.1",
        "0000:85:00.0",
        "0000:85:00.1",
    ]
    assert told["0000:84:00.0"].startswith("with its companion 0000:84:00.1: it holds a mounted")
