"""Large IOMMU groups: what is asked and said of one grows as its members do, and no faster."""

from __future__ import annotations

import collections
import json
from pathlib import Path
from typing import Any

import pytest
from harness import made

from bench import busy, crowds
from passthrough.host import pci, usage
from passthrough.host.uses import kinds
from passthrough.planning import claims, guards

GPU, NIC = "10de:1bb0", "8086:1572"


def one_group(number: int, *, claimed: float = 1.0) -> list[pci.Function]:
    """So many functions of one group, a part of them GPUs."""
    found = []
    for at in range(number):
        is_gpu = at < claimed * number
        identity, driver = (GPU, "nouveau") if is_gpu else (NIC, "i40e")
        code = made.DISPLAY if is_gpu else made.ETHERNET
        address = f"{at // 256:04x}:{at % 256:02x}:00.0"
        found.append(made.function(address, identity, code, driver=driver, group=7))
    return found


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> collections.Counter[str]:
    """How often each function was asked for its uses."""
    found: collections.Counter[str] = collections.Counter()
    genuine = usage.Usage.all_of

    def count(self: usage.Usage, address: str) -> Any:
        found[address] += 1
        return genuine(self, address)

    monkeypatch.setattr(usage.Usage, "all_of", count)
    return found


def in_use(address: str) -> usage.Usage:
    return usage.Usage({address: (kinds.Use(kinds.Kind.MOUNT, "/ on sda"),)})


def text_of(outcome: claims.Outcome) -> int:
    return sum(len(each.objection.fact + each.objection.way_out) for each in outcome.refusals)


def test_each_of_a_viable_group_is_asked_as_often_in_a_large_one(asked: collections.Counter[str]):
    often: list[int] = []
    for number in (50, 200):
        asked.clear()
        assert len(made.decide(f"gpu={GPU}", *one_group(number)).claims) == number
        often.append(max(asked.values()))
    assert often[0] == often[1]


def test_who_is_in_the_way_is_named_and_counted_once_for_each_claim():
    small, large = (
        made.decide(f"gpu={GPU}", *one_group(number, claimed=0.5)) for number in (50, 200)
    )
    assert (len(small.refusals), len(large.refusals)) == (25, 100)
    assert large.refusals[0].objection.fact.endswith(" (8086:1572, i40e) and 84 more")
    assert text_of(large) < 5 * text_of(small)


def test_where_one_falls_all_fall_and_each_is_asked_as_often_in_a_large_group(
    asked: collections.Counter[str],
):
    often: list[int] = []
    for number in (50, 200):
        asked.clear()
        functions = one_group(number)
        outcome = made.decide(f"gpu={GPU}", *functions, usage=in_use(functions[0].address))
        assert (len(outcome.claims), len(outcome.refusals)) == (0, number)
        often.append(max(asked.values()))
        rules = collections.Counter(each.rule for each in outcome.refusals)
        assert rules == {"mounted": 1, "group-in-use": number - 1}
    assert often[0] == often[1]


def test_a_group_that_falls_for_its_drivers_names_the_first_of_those_that_fell():
    functions = one_group(40)
    left = guards.Rule.TAKEN
    outcome = made.decide(f"gpu={GPU}", *functions, taken={functions[0].address: "other"})
    facts = [each.objection.fact for each in outcome.refusals if each.rule != left]
    assert len(facts) == 39
    assert facts[0] == f"shares IOMMU group 7 with {functions[0].address} ({GPU}, nouveau)"
    assert facts[-1].endswith(" and 23 more")
    assert facts[-1].count("nouveau") == 16


def test_a_large_group_is_listed_once(tmp_path: Path):
    sizes = []
    for number in (100, 200, 300):
        root = tmp_path / f"{number}"
        crowds.write(root, crowds.Size(functions=number, in_one_group=True))
        rows = busy.show(root)
        sizes.append(len(json.dumps(rows)))
        addresses = [each["address"] for each in rows]
        assert rows[0]["group-members"] == addresses
        assert {each["group-members"] for each in rows[1:]} == {None}
        assert {each["iommu-group"] for each in rows} == {0}
    assert abs((sizes[2] - sizes[1]) - (sizes[1] - sizes[0])) < 0.1 * sizes[0]


def test_a_group_of_ordinary_size_is_listed_with_each_member(tmp_path: Path):
    crowds.write(tmp_path, crowds.Size(functions=64, in_one_group=True))
    rows = busy.show(tmp_path)
    assert {len(each["group-members"]) for each in rows} == {64}
