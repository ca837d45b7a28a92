"""Every road on which the packed charm leaves a host, in both manners of Juju's agents."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

import pytest
from harness import hosttree, standin
from harness.constants import GPUS, KEPT, NATIVE, OWNED, READY
from harness.standin import JUJU_3, JUJU_4

PRINCIPAL = "nova-compute/0"
UNIT, SECOND = "pci-passthrough/0", "pci-passthrough/1"
TIE = "pci-passthrough:juju-info"

Road = Callable[[standin.Agent], list[standin.EventRun]]
ROADS: dict[str, Road] = {
    "remove-relation": lambda agent: agent.remove_relation(TIE, "nova-compute"),
    "remove-unit-of-the-principal": lambda agent: agent.remove_unit(PRINCIPAL),
    "remove-application": lambda agent: agent.remove(),
    "remove-application-by-force": lambda agent: agent.remove(force=True),
}
# What a manner leaves open, on the road where it matters.
OPEN = {
    "still-alive-at-departed": (JUJU_3, {"late_death": True}, "remove-relation"),
    "stop-without-tools": (JUJU_4, {"late_stop": True}, "remove-application"),
    "own-relation-first": (JUJU_4, {"own_first": True}, "remove-relation"),
}


@pytest.fixture
def host(tmp_path: pathlib.Path) -> hosttree.HostTree:
    """A compute host whose IOMMU is on, so that everything is bound and given back at once."""
    tree = hosttree.compute_host(tmp_path / "host", ubuntu="24.04")
    tree.iommu_on()
    return tree


@pytest.fixture(params=[JUJU_3, JUJU_4])
def manner(request: pytest.FixtureRequest) -> str:
    """The manner of the agents, which `agent` has."""
    return request.param


class Story:
    """A host before the charm came, and the charm on it."""

    def __init__(self, agent: standin.Agent, host: hosttree.HostTree, packed: pathlib.Path):
        self.agent, self.host = agent, host
        self.before = host.snapshot(*OWNED)
        agent.deploy(packed, principal=PRINCIPAL, config={"devices": GPUS})
        assert str(agent.status(UNIT)) == "active: gpu: 2 ready"
        assert self.drivers() == READY

    def drivers(self) -> dict[str, str | None]:
        return {address: self.host.driver_of(address) for address in READY}

    def check_given_back(self) -> None:
        assert self.drivers() == {**NATIVE, **KEPT}
        assert self.host.snapshot(*OWNED) == self.before


@pytest.fixture
def story(
    agent: standin.Agent, host: hosttree.HostTree, packed_charm: pathlib.Path, manner: str
) -> Story:
    del manner
    return Story(agent, host, packed_charm)


def names(runs: list[standin.EventRun], unit: str = UNIT) -> list[str]:
    return [run.name for run in runs if run.unit == unit]


class TestRoads:
    @pytest.mark.parametrize("road", ROADS.values(), ids=ROADS)
    def test_the_host_is_as_it_was_before(self, story: Story, road: Road, manner: str, box):
        box.forget_calls()
        runs = road(story.agent)
        ended = [name for name in names(runs) if name in ("stop", "remove")]
        forced = road is ROADS["remove-application-by-force"]
        assert ended == ([] if manner == JUJU_4 or forced else ["stop", "remove"])
        assert {run.exit_code for run in runs} == {0}
        story.check_given_back()
        assert story.agent.units() == []
        rebuilds = [call.name for call in box.calls("update-initramfs", "update-grub")]
        assert rebuilds == ["update-initramfs", "update-grub"], "what came later found nothing"

    @pytest.mark.parametrize(("manner", "opened", "road"), OPEN.values(), ids=OPEN)
    def test_whatever_juju_leaves_open(self, story: Story, opened: dict[str, bool], road: str):
        story.agent.adopt(**opened)
        ROADS[road](story.agent)
        story.check_given_back()
        assert story.agent.units() == []

    def test_keep_leaves_it_as_it_was_the_moment_before(self, story: Story):
        story.agent.config({"on-removal": "keep"})
        record = "var/lib/pci-passthrough/pci-passthrough.json"
        before = story.host.snapshot(*OWNED)
        ROADS["remove-relation"](story.agent)
        after = story.host.snapshot(*OWNED)
        assert {**after, record: None} == {**before, record: None}
        assert story.drivers() == READY
        assert '"keep": true' in story.host.read(record)
        assert '"owner": null' in story.host.read(record)


class TestOthers:
    def test_another_units_end_changes_nothing(self, story: Story, manner: str):
        """The unit beside a controller goes; on Juju 4 the one beside nova-compute is told."""
        story.agent.integrate("pci-passthrough:nova-cloud-controller", "nova-cloud-controller")
        before = story.host.snapshot(*OWNED)
        runs = story.agent.remove_relation(
            "pci-passthrough:nova-cloud-controller", "nova-cloud-controller"
        )
        told = names(runs)
        assert ("nova-cloud-controller-relation-broken" in told) or manner == JUJU_3
        assert story.agent.units() == [UNIT]
        assert story.host.snapshot(*OWNED) == before
        assert story.drivers() == READY
        ROADS["remove-relation"](story.agent)
        story.check_given_back()

    def test_a_second_owner_waits_and_gets_the_host_as_it_is(self, story: Story, box):
        story.agent.integrate(TIE, "ceph-osd")
        assert str(story.agent.status(SECOND)) == (
            "blocked: nova-compute/0's unit looks after this host"
        )
        box.forget_calls()
        record = "var/lib/pci-passthrough/pci-passthrough.json"
        before = story.host.snapshot(*OWNED)
        story.agent.remove_relation(TIE, "nova-compute")
        story.agent.hook("update-status", unit=SECOND)
        assert str(story.agent.status(SECOND)) == "active: gpu: 2 ready"
        assert {**story.host.snapshot(*OWNED), record: None} == {**before, record: None}
        assert box.calls("update-initramfs", "update-grub") == []
        story.agent.remove_relation(TIE, "ceph-osd")
        story.check_given_back()


class TestFailures:
    """Nothing that Juju fails to answer stops a unit that leaves."""

    @pytest.mark.parametrize("manner", [JUJU_4])
    @pytest.mark.parametrize("answered", [0, 3])
    def test_hook_tools_that_fail_in_the_middle(self, story: Story, answered: int):
        story.agent.surroundings.tools_fail_after = answered
        runs = ROADS["remove-relation"](story.agent)
        assert {run.exit_code for run in runs} == {0}
        story.check_given_back()

    @pytest.mark.parametrize("manner", [JUJU_3])
    def test_a_state_store_that_cannot_be_read(self, story: Story):
        store = story.agent.unit_directory(UNIT) / "charm/.unit-state.db"
        store.write_bytes(b"no database at all" * 100)
        runs = ROADS["remove-application"](story.agent)
        assert {run.exit_code for run in runs} == {0}
        story.check_given_back()

    @pytest.mark.parametrize("manner", [JUJU_4])
    def test_an_agent_that_is_gone_leaves_a_record_that_names_it(self, story: Story):
        story.agent.vanish(UNIT)
        assert story.drivers() == READY
        assert '"unit": "pci-passthrough/0"' in story.host.read(
            "var/lib/pci-passthrough/pci-passthrough.json"
        )
        assert not (story.agent.directory / "unit-pci-passthrough-0").exists()
