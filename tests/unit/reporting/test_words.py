"""One sentence of each problem and refusal; what is put into it stays whole, whatever it holds."""

from __future__ import annotations

import json

import pytest
from harness import made, uses
from harness.world import World

from passthrough import problem
from passthrough.host import pci
from passthrough.problem import Kind
from passthrough.reporting import inventory, plan_text, status, words

DISK, SIBLING = "0000:05:00.0", "0000:05:00.1"
# A mount point that holds both joints, as a hostile or a careless administrator may name one.
PLACE = "/srv/a; b: c"
HOLDS = f'holds a mounted file system: "{PLACE}" on sdz'
WAY_OUT = "; free it, or set allow-in-use: true on the item"


class TestSentence:
    @pytest.mark.parametrize(
        ("parts", "sentence", "fact", "way_out"),
        [
            ({}, "is wrong", "is wrong", ""),
            ({"way_out": "mend it"}, "is wrong; mend it", "is wrong", "mend it"),
            ({"cause": "it broke"}, "is wrong: it broke", "is wrong", "it broke"),
            (
                {"cause": "it broke", "way_out": "mend it"},
                "is wrong: it broke; mend it",
                "is wrong",
                "it broke; mend it",
            ),
            (
                {"where": ("devices", "item 1 x"), "subject": "alias a", "way_out": "mend it"},
                "devices: item 1 x: alias a is wrong; mend it",
                "devices: item 1 x: alias a is wrong",
                "mend it",
            ),
        ],
    )
    def test_joins_the_parts_that_are_there(
        self, parts: dict, sentence: str, fact: str, way_out: str
    ):
        found = problem.Problem(Kind.ALIAS_DIFFERS, "is wrong", **parts)
        assert words.sentence(found) == sentence
        assert words.fact(found) == fact
        assert words.way_out(found) == way_out

    def test_of_grub_without_a_cause_is_explained_by_its_way_out(self):
        found = problem.Problem(Kind.GRUB_LACKS_OPTIONS, "boots 'a; b: c'", "run update-grub")
        assert words.sentence(found) == "boots 'a; b: c'; run update-grub"
        assert (words.fact(found), words.way_out(found)) == ("boots 'a; b: c'", "run update-grub")

    @pytest.mark.parametrize("kind", [Kind.ON_ANOTHER_DRIVER, Kind.EXPECTATION_UNMET])
    def test_of_a_driver_has_its_cause_as_an_aside(self, kind: Kind):
        found = problem.Problem(kind, "is on nouveau", cause="a guest holds it", subject=DISK)
        assert words.sentence(found) == f"{DISK} is on nouveau (a guest holds it)"
        assert words.sentence(problem.Problem(kind, "is on nouveau")) == "is on nouveau"


class TestAMountPointIsToldWhole:
    """`"/srv/a; b: c"`: quoted as it is, and cut at none of our joints."""

    @pytest.fixture
    def host(self, world: World) -> World:
        """A disk with that mount point, and another function of its IOMMU group."""
        for address, identity, class_code in (
            (DISK, "144d:a808", made.STORAGE),
            (SIBLING, "1000:0097", made.ETHERNET),
        ):
            world.tree.function(address, identity, class_code, driver="nvme")
        world.tree.iommu_on({DISK: 50, SIBLING: 50})
        uses.disk(world.tree, DISK, "sdz", "8:240")
        uses.mount(world.tree, "8:240", PLACE.replace(" ", "\\040"), "/dev/sdz")
        return world

    def test_by_list_devices(self, host: World):
        rows = {row["address"]: row for row in inventory.describe(host.root, pci.read(host.root))}
        assert rows[DISK]["reason"] == f"{HOLDS}{WAY_OUT}"
        assert rows[SIBLING]["reason"] == (
            f"with its companion {DISK}: it {HOLDS}{WAY_OUT}; set companions: false to leave it out"
        )

    def test_by_a_refusal_and_its_status(self, host: World):
        decision = host.decide(f"144d:a808@{DISK}")
        said = f"devices: item 1 144d:a808@{DISK}: {DISK} {HOLDS}{WAY_OUT}"
        assert [words.refusal(each) for each in decision.refusals] == [said]
        assert status.summarize(decision) == status.Status(status.Kind.BLOCKED, said)

    def test_by_the_refusal_of_a_sibling(self, host: World):
        decision = host.decide(f"[{{id: '1000:0097', address: '{SIBLING}', companions: false}}]")
        (refusal,) = decision.refusals
        assert words.refusal(refusal).endswith(
            f"{SIBLING} shares IOMMU group 50 with {DISK}, which {HOLDS}; free that, or move the"
            " card to a slot with a group of its own"
        )

    def test_by_what_allow_in_use_sets_aside(self, host: World):
        decision = host.decide(f"[{{id: 144d:a808, address: '{DISK}', allow-in-use: true}}]")
        described = plan_text.describe_plan(decision)
        (claim,) = (each for each in described["claims"] if each["address"] == DISK)
        assert claim["overridden"] == [HOLDS]
        assert f"though it {HOLDS}" in " ".join(plan_text.plan_text(decision).split())
        assert json.loads(json.dumps(described)) == described
