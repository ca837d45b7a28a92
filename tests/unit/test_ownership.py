"""Which of several units looks after a host."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from harness.constants import MODEL_UUID

import ownership
from passthrough.site import Site
from passthrough.state import record
from passthrough.state.record import Owner

ME = Owner(MODEL_UUID, "pci-passthrough/1", "ceph-osd/0")
OTHER = Owner(MODEL_UUID, "pci-passthrough/0", "nova-compute/0")
ELSEWHERE = "00000000-0000-4000-8000-000000000000"


def put_agent(agents: Path, unit: str, charm: str | None = None, model: str = MODEL_UUID) -> Path:
    folder = agents / f"unit-{unit.replace('/', '-')}"
    (folder / "charm").mkdir(parents=True)
    (folder / "agent.conf").write_text(f"model: model-{model}\n")
    if charm:
        (folder / "charm/metadata.yaml").write_text(f"name: {charm}\n")
    return folder / "charm"


@pytest.fixture
def place(tmp_path: Path) -> ownership.Place:
    return ownership.Place(ME, put_agent(tmp_path, ME.unit))


def refuse(owner: Owner, place: ownership.Place) -> str:
    with pytest.raises(ownership.OwnedError) as caught:
        ownership.check(owner, place)
    assert caught.value.owner == owner
    return str(caught.value)


class TestCheck:
    def test_a_host_that_nobody_looks_after_is_free(self, place):
        ownership.check(None, place)

    def test_the_owner_stays_it(self, place):
        ownership.check(ME, place)
        ownership.check(dataclasses.replace(ME, principal="renamed/0"), place)

    def test_another_unit_is_named_by_its_principal(self, place):
        put_agent(place.agents, OTHER.unit)
        assert refuse(OTHER, place) == "nova-compute/0's unit looks after this host"
        unknown = dataclasses.replace(OTHER, principal="")
        assert refuse(unknown, place) == "pci-passthrough/0 looks after this host"

    def test_an_owner_of_another_model_is_told_apart(self, place):
        put_agent(place.agents, OTHER.unit, model=ELSEWHERE)
        elsewhere = dataclasses.replace(OTHER, model=ELSEWHERE)
        assert refuse(elsewhere, place) == (
            f"nova-compute/0's unit of the model {ELSEWHERE} looks after this host"
        )

    def test_an_owner_without_an_agent_has_left(self, place):
        ownership.check(OTHER, place)

    def test_an_owner_whose_agent_is_of_another_model_now_has_left(self, place):
        put_agent(place.agents, OTHER.unit, model=ELSEWHERE)
        ownership.check(OTHER, place)

    def test_an_agent_whose_model_cannot_be_read_is_still_there(self, place):
        (put_agent(place.agents, OTHER.unit).parent / "agent.conf").unlink()
        refuse(OTHER, place)

    def test_absence_says_nothing_where_ones_own_agent_is_elsewhere(self, tmp_path):
        refuse(OTHER, ownership.Place(ME, tmp_path / "made-up"))

    def test_the_compute_services_unit_takes_the_host(self, place):
        put_agent(place.agents, "nova-compute/0", "nova-compute")
        put_agent(place.agents, "ceph-osd/0", "ceph-osd")
        charm = put_agent(place.agents, OTHER.unit)
        ownership.check(ME, ownership.Place(OTHER, charm))
        refuse(OTHER, place)

    @pytest.mark.parametrize("charm", [None, "ceph-osd", "nova-compute"])
    def test_where_it_cannot_be_told_which_one_that_is_the_first_stays(self, place, charm):
        put_agent(place.agents, OTHER.unit)
        put_agent(place.agents, "nova-compute/0", charm)
        put_agent(place.agents, "ceph-osd/0", charm)
        refuse(OTHER, place)


class TestWaiting:
    def test_who_waits_is_found(self, place):
        owner = ownership.Place(OTHER, put_agent(place.agents, OTHER.unit))
        assert ownership.find_heir("pci-passthrough", owner) is None
        ownership.wait(place)
        assert ownership.find_heir("pci-passthrough", owner) == ME
        assert ownership.find_heir("qat", owner) is None
        assert ownership.find_heir("pci-passthrough", place) is None, "nobody waits for itself"
        ownership.stop_waiting(place)
        assert ownership.find_heir("pci-passthrough", owner) is None

    def test_a_unit_that_leaves_waits_no_more(self, place):
        owner = ownership.Place(OTHER, put_agent(place.agents, OTHER.unit))
        ownership.wait(place)
        ownership.leave(place.charm)
        assert ownership.leaves(place.charm)
        assert ownership.find_heir("pci-passthrough", owner) is None
        ownership.stay(place.charm)
        assert not ownership.leaves(place.charm)
        assert ownership.find_heir("pci-passthrough", owner) == ME

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "[]",
            "{}",
            '{"model": "m", "unit": "../x", "principal": ""}',
            '{"model": "m", "unit": "pci-passthrough/7", "principal": ""}',
            '{"model": "m", "unit": 7, "principal": ""}',
        ],
    )
    def test_a_mark_that_no_unit_left_is_nobodys(self, place, text: str):
        owner = ownership.Place(OTHER, put_agent(place.agents, OTHER.unit))
        ownership.wait(place)
        (mark,) = place.charm.glob(".pci-passthrough-waits")
        mark.write_text(text)
        assert ownership.find_heir("pci-passthrough", owner) is None

    def test_a_unit_whose_principal_is_not_known_can_wait(self, place):
        owner = ownership.Place(OTHER, put_agent(place.agents, OTHER.unit))
        unknown = dataclasses.replace(ME, principal="")
        ownership.wait(ownership.Place(unknown, place.charm))
        assert ownership.find_heir("pci-passthrough", owner) == unknown


def test_a_record_that_cannot_be_read_belongs_to_nobody_else(tmp_path: Path):
    site = Site(tmp_path, "pci-passthrough")
    assert not ownership.belongs_to_another(site, ME)
    with record.open(site) as ledger:
        ledger.put(record.Record({"0000:83:00.0": None}, owner=OTHER))
    assert ownership.belongs_to_another(site, ME)
    assert not ownership.belongs_to_another(site, OTHER)
    (tmp_path / "var/lib/pci-passthrough/pci-passthrough.json").write_text("{")
    assert not ownership.belongs_to_another(site, ME)
