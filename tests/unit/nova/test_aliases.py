"""Aliases of the same name from elsewhere."""

import json

import pytest

from passthrough.config import devices as devices_option
from passthrough.nova import aliases as nova_aliases
from passthrough.nova import conf as nova_conf
from passthrough.nova import lines as nova_lines
from passthrough.reporting import words

GPU = {"name": "gpu", "vendor_id": "10de", "product_id": "1bb0"}
ELSEWHERE = "/etc/nova/nova.conf [pci] alias"


def entry(alias: dict, section: str = "pci") -> nova_conf.Entry:
    key = "alias" if section == "pci" else "pci_alias"
    value = nova_conf.Value("/etc/nova/nova.conf", section, key, json.dumps(alias))
    return nova_conf.Entry(value, alias)


def share(devices: str, *theirs: dict, in_placement: bool = False) -> nova_aliases.Sharing:
    wanted = nova_lines.aliases(devices_option.parse(devices))
    return nova_aliases.share(wanted, [entry(each) for each in theirs], in_placement)


def names(sharing: nova_aliases.Sharing) -> list[str]:
    return [each["name"] for each in sharing.published]


class TestShare:
    def test_nobody_else(self):
        sharing = share("gpu=10de:1bb0, nic=8086:10fb", {**GPU, "name": "other"})
        assert (names(sharing), sharing.notes, sharing.problems) == (["gpu", "nic"], (), ())

    @pytest.mark.parametrize(
        "theirs",
        [
            GPU,
            {**GPU, "device_type": "type-PCI"},
            {**GPU, "vendor_id": "10DE", "numa_policy": "legacy", "capability_type": "pci"},
            {**GPU, "name": " gpu "},
        ],
        ids=str,
    )
    def test_the_same_is_noted_and_not_set_twice(self, theirs: dict):
        sharing = share("gpu=10de:1bb0, nic=8086:10fb", theirs)
        assert names(sharing) == ["nic"]
        assert sharing.notes == (
            f"alias gpu: {ELSEWHERE} has the same one, so it is not set twice",
        )
        assert sharing.problems == ()

    @pytest.mark.parametrize(
        "theirs",
        [
            {**GPU, "product_id": "1eb8"},
            {**GPU, "device_type": "type-PF"},
            {**GPU, "numa_policy": "required"},
            {**GPU, "traits": "BLUE"},
            {"name": "gpu", "resource_class": "GPU"},
            {"name": "gpu"},
        ],
        ids=str,
    )
    def test_another_is_a_problem_that_names_both(self, theirs: dict):
        sharing = share("gpu=10de:1bb0, nic=8086:10fb", theirs)
        assert names(sharing) == ["nic"]
        assert sharing.notes == ()
        [problem] = map(words.sentence, sharing.problems)
        assert problem.startswith('devices: alias gpu is {"device_type": "type-PCI"')
        assert f"in {ELSEWHERE}; rename one of them" in problem

    def test_models_are_compared_as_a_set(self):
        one, other = GPU, {**GPU, "product_id": "1eb8"}
        both = "gpu=10de:1bb0, gpu=10de:1eb8"
        assert names(share(both, other, one)) == []
        assert share(both, other, one).problems == ()
        assert len(share(both, one).problems) == 1
        assert len(share("gpu=10de:1bb0", one, other).problems) == 1

    def test_placement_wants_one_model_an_alias(self):
        sharing = share("gpu=10de:1bb0, gpu=10de:1eb8, nic=8086:10fb", in_placement=True)
        assert names(sharing) == ["nic"]
        [problem] = map(words.sentence, sharing.problems)
        assert problem.startswith("devices: alias gpu has 2 models, and with pci_in_placement")

    def test_hostile_values_are_compared_too(self):
        sharing = share("gpu=10de:1bb0", {**GPU, "device_type": ["x"], "live_migratable": 1})
        assert len(sharing.problems) == 1


class TestMeaning:
    def test_live_migratable_and_names_for_placement(self):
        one = nova_aliases.meaning({**GPU, "live_migratable": "yes", "traits": "CUSTOM_B,a"})
        other = nova_aliases.meaning({**GPU, "live_migratable": "True", "traits": "A, B"})
        assert one == other


class TestForeign:
    def test_one_for_each_of_ours_in_the_section_that_we_are_sent_to(self):
        found = [entry(GPU), entry(GPU, "default"), entry(GPU, "default")]
        rest = nova_aliases.foreign(found, [GPU])
        assert [each.value.section for each in rest] == ["pci", "default"]

    def test_ours_by_meaning_not_by_spelling(self):
        found = [entry({**GPU, "device_type": "type-PCI"}, "default")]
        assert nova_aliases.foreign(found, [GPU]) == ()
