"""What a controller is sent, and which aliases in its nova.conf are our own."""

from __future__ import annotations

import json

import pytest
from harness import made

from passthrough import errors
from passthrough.nova import conf as nova_conf
from passthrough.nova import publication
from passthrough.nova.publication import Memory, Publication
from passthrough.nova.release import Release
from passthrough.reporting import words

CURRENT = Release(29)
GPU = "gpu=10de:1bb0"
OTHER = "gpu=10de:1eb8"
ALIAS = {"name": "gpu", "vendor_id": "10de", "product_id": "1bb0"}
FILTERS = "[filter_scheduler]\nenabled_filters = {}\n"


class Principal:
    """A controller's charm: renders what its subordinates send, and what its operator set.

    As SubordinateConfigContext of charmhelpers merges it and the charm's template prints it.
    """

    def __init__(self, operator: str = ""):
        self.operator = operator
        self.sent: dict[str, str | None] = {}
        self.text = operator

    def render(self) -> None:
        lines = ["[DEFAULT]"]
        filters = ["ComputeFilter"]
        for _, payload in sorted(self.sent.items()):
            if payload:
                content = json.loads(payload)["nova"]["/etc/nova/nova.conf"]
                lines += [f"{key} = {value}" for key, value in content["sections"]["DEFAULT"]]
                filters = ["ComputeFilter", content["additional_neutron_filters"]]
        lines += ["[filter_scheduler]", f"enabled_filters = {','.join(filters)}"]
        self.text = "\n".join(lines) + "\n" + self.operator

    @property
    def config(self) -> nova_conf.Config:
        parsed = nova_conf.parse(self.text)
        return nova_conf.Config(
            tuple(nova_conf.Value("/etc/nova/nova.conf", *parts) for parts in parsed)
        )

    def names(self) -> list[str | None]:
        return [entry.name for entry in self.config.aliases()]


class Unit:
    """A unit beside a controller: its databag and its memory."""

    def __init__(self, principal: Principal, name: str = "pci-passthrough"):
        self.principal, self.name = principal, name
        self.memory = Memory()

    def hook(self, devices: str, release: Release | None = CURRENT) -> Publication:
        published = publication.decide(
            made.wanted(devices),
            release,
            self.principal.config,
            self.principal.sent.get(self.name),
            self.memory,
        )
        self.principal.sent[self.name] = published.payload
        self.memory = published.memory
        return published


@pytest.fixture
def principal() -> Principal:
    return Principal()


@pytest.fixture
def unit(principal: Principal) -> Unit:
    return Unit(principal)


class TestOwnAliases:
    def test_are_published_and_stay_however_often_they_are_rendered(self, unit, principal):
        first = unit.hook(GPU)
        assert [each["name"] for each in first.aliases] == ["gpu"]
        for _ in range(3):
            principal.render()
            again = unit.hook(GPU)
            assert again.payload == first.payload
            assert (again.notes, again.problems) == ((), ())
        assert principal.names() == ["gpu"]

    def test_a_change_before_the_principal_rendered_the_last_one(self, unit, principal):
        unit.hook(GPU)
        principal.render()
        changed = unit.hook(OTHER)
        again = unit.hook(OTHER)
        assert again.payload == changed.payload
        assert (again.notes, again.problems) == ((), ())
        principal.render()
        final = unit.hook(OTHER)
        assert final.payload == changed.payload
        assert final.problems == ()

    def test_two_changes_in_a_row(self, unit, principal):
        unit.hook(GPU)
        principal.render()
        for devices in (OTHER, "nic=8086:10fb", OTHER, GPU):
            assert unit.hook(devices).problems == ()
            assert unit.hook(devices).problems == ()
        principal.render()
        assert unit.hook(GPU).problems == ()
        assert principal.names() == ["gpu"]

    def test_no_alias_any_more(self, unit, principal):
        unit.hook(GPU)
        principal.render()
        assert unit.hook("10de:1bb0").payload is None
        principal.render()
        assert principal.names() == []
        assert unit.hook("").payload is None


class TestOthersAliases:
    def test_the_same_in_the_operators_option(self):
        principal = Principal(f"[pci]\nalias = {json.dumps(ALIAS)}\n")
        unit = Unit(principal)
        for _ in range(3):
            published = unit.hook(f"{GPU}, nic=8086:10fb")
            assert [each["name"] for each in published.aliases] == ["nic"]
            assert len(published.notes) == 1
            principal.render()
        assert sorted(map(str, principal.names())) == ["gpu", "nic"]

    def test_the_filter_is_sent_all_the_same(self):
        principal = Principal(f"[pci]\nalias = {json.dumps(ALIAS)}\n")
        unit = Unit(principal)
        unit.hook(GPU)
        principal.render()
        assert publication.has_filter(principal.config)
        assert unit.hook(GPU).payload == principal.sent[unit.name]

    def test_set_by_the_operator_later_is_not_published_twice_and_does_not_flap(
        self, unit, principal
    ):
        unit.hook(GPU)
        principal.render()
        principal.operator = f"[pci]\nalias = {json.dumps(ALIAS)}\n"
        principal.render()
        for _ in range(4):
            assert unit.hook(GPU).aliases == ()
            principal.render()
        assert principal.names() == ["gpu"]

    def test_unset_by_the_operator_again_comes_back(self, unit, principal):
        principal.operator = f"[pci]\nalias = {json.dumps(ALIAS)}\n"
        principal.render()
        assert unit.hook(GPU).aliases == ()
        principal.operator = ""
        principal.render()
        assert len(unit.hook(GPU).aliases) == 1

    def test_another_of_the_same_name_blocks_and_keeps_ours_out(self, unit, principal):
        unit.hook(GPU)
        principal.render()
        theirs = json.dumps({**ALIAS, "product_id": "1eb8"})
        principal.operator = f"[pci]\nalias = {theirs}\n"
        principal.render()
        for _ in range(3):
            published = unit.hook(GPU)
            assert published.aliases == ()
            [problem] = map(words.sentence, published.problems)
            assert '"product_id": "1bb0"' in problem
            assert '"product_id": "1eb8"' in problem
            assert "/etc/nova/nova.conf [pci] alias" in problem
            principal.render()

    def test_two_applications_add_up_and_one_leaves(self, principal):
        gpu, nic = Unit(principal, "gpu"), Unit(principal, "nic")
        gpu.hook(GPU)
        nic.hook("nic=8086:10fb")
        principal.render()
        assert principal.names() == ["gpu", "nic"]
        assert gpu.hook(GPU).notes == nic.hook("nic=8086:10fb").notes == ()
        del principal.sent["gpu"]
        principal.render()
        assert principal.names() == ["nic"]
        assert nic.hook("nic=8086:10fb").payload == principal.sent["nic"]

    def test_two_applications_with_one_alias_settle(self, principal):
        units = [Unit(principal, "a"), Unit(principal, "b")]
        for unit in units:
            unit.hook(GPU)
        principal.render()
        assert principal.names() == ["gpu", "gpu"]
        for _ in range(3):
            for unit in units:
                unit.hook(GPU)
                principal.render()
        assert principal.names() == ["gpu"]
        settled = dict(principal.sent)
        for unit in units:
            unit.hook(GPU)
        assert principal.sent == settled

    def test_the_one_that_is_left_takes_over(self, principal):
        first, second = Unit(principal, "a"), Unit(principal, "b")
        first.hook(GPU)
        principal.render()
        assert second.hook(GPU).aliases == ()
        del principal.sent["a"]
        principal.render()
        assert len(second.hook(GPU).aliases) == 1

    def test_models_behind_one_alias_and_pci_in_placement(self, principal):
        principal.operator = "[filter_scheduler]\npci_in_placement = true\n"
        principal.render()
        published = Unit(principal).hook(f"{GPU}, {OTHER}")
        assert published.aliases == ()
        assert "pci_in_placement" in words.sentence(published.problems[0])


class TestRelease:
    def test_keys_of_an_alias_are_checked(self, unit):
        devices = "[{alias: gpu, id: '10de:1bb0', traits: blue}]"
        with pytest.raises(errors.OptionError, match=r"traits needs Nova 27"):
            unit.hook(devices, Release(25))
        assert unit.hook(devices, Release(27)).payload is not None

    def test_keys_of_a_device_spec_are_the_compute_hosts_matter(self, unit):
        assert unit.hook("[{alias: gpu, id: '10de:1bb0', managed: true}]", Release(25)).payload

    def test_without_nova_common_only_the_plainest_alias_is_sent(self, unit):
        assert unit.hook(GPU, None).payload
        with pytest.raises(errors.OptionError, match="this unit has no nova-common"):
            unit.hook("[{alias: gpu, id: '10de:1bb0', traits: blue}]", None)


class TestFilter:
    @pytest.mark.parametrize(
        ("filters", "has"),
        [
            ("ComputeFilter,PciPassthroughFilter", True),
            ("ComputeFilter, PciPassthroughFilter ,SameHostFilter", True),
            ("nova.scheduler.filters.pci_passthrough_filter.PciPassthroughFilter", True),
            ("ComputeFilter", False),
            ("NotPciPassthroughFilter", False),
            ("", False),
        ],
    )
    def test_is_found(self, filters: str, has: bool):
        config = Principal(FILTERS.format(filters)).config
        assert publication.has_filter(config) is has

    def test_not_set_at_all(self):
        assert not publication.has_filter(nova_conf.Config())

    @pytest.mark.parametrize(
        ("item", "filters"),
        [
            ("{alias: gpu, id: '10de:1bb0', numa-policy: required}", "%s,NUMATopologyFilter"),
            ("{alias: gpu, id: '10de:1bb0'}", "%s"),
            ("{id: '10de:1bb0', numa-policy: required}, gpu=10de:1bb1", "%s"),
        ],
    )
    def test_a_numa_policy_needs_another_filter(self, item: str, filters: str):
        wanted = made.wanted(f"[{item}]")
        published = publication.decide(
            wanted, Release(34), nova_conf.Config(), None, publication.Memory()
        )
        assert published.payload is not None
        sent = json.loads(published.payload)["nova"]["/etc/nova/nova.conf"]
        expected = filters % "PciPassthroughFilter"
        assert sent["additional_neutron_filters"] == expected
        assert published.filters == tuple(expected.split(","))
