"""Juju's table cuts a status at 120 bytes, so its first sentence has to say what is wrong.

The texts are those of docs/reference/statuses.md, which another test holds to the code's own.
"""

from __future__ import annotations

import pathlib
import re

import pytest
from harness import made

from passthrough.host import usage
from passthrough.host.uses import kinds
from passthrough.planning import guards
from passthrough.reporting import words

PAGE = pathlib.Path(__file__).resolve().parents[3] / "docs/reference/statuses.md"
MOST = 110
# As long as an address, which stands for what most of the parts are.
PART = "0000:83:00.0"
# What the page says once for a whole section: its messages stand behind an item and an address.
BEHIND_AN_ITEM = "On a compute host, a device"
ITEM = f"devices: item 1 gpu=10de:1bb0: {PART} "


def messages() -> list[str]:
    """The messages of the page's tables, without the other forms in parentheses that they name."""
    found: list[str] = []
    for section in re.split(r"(?m)^## ", PAGE.read_text(encoding="utf-8")):
        title, _, text = section.partition("\n")
        # The tables behind the first one name options and addresses of their own.
        first = text.partition("\n\nAnd one")[0] if title == BEHIND_AN_ITEM else ""
        for row in re.findall(r"(?m)^\| (.+) \|$", text):
            cells = row.split(" | ")
            message = cells[1] if len(cells) == 3 else cells[0]
            if message not in ("message", "---"):
                message = re.sub(r" \((?:or: |rebuilds ).*\)", "", message)
                found.append(
                    f"{ITEM}{message.removeprefix('…: ').removeprefix('… ')}"
                    if row in first
                    else message
                )
    return found


def first_sentence(message: str) -> str:
    return re.split(r"; |\. ", message.replace("…", PART))[0]


def test_it_fits():
    found = messages()
    assert len(found) > 100
    assert sum(each.startswith(ITEM) for each in found) > 20
    assert [each for each in found if len(first_sentence(each).encode()) > MOST] == []


def test_the_most_common_ones_fit_with_room():
    """What every deployment sees before it is ready, or when a device goes wrong."""
    found = [first_sentence(each) for each in messages()]
    for beginning in (
        "devices is not set",
        "reboot required: the IOMMU",
        "waiting for a principal",
    ):
        (said,) = [each for each in found if each.startswith(beginning)]
        assert len(said.encode()) <= MOST - 20


@pytest.mark.parametrize("kind", kinds.Kind)
def test_so_does_every_guards_fact(kind: kinds.Kind):
    """Of a use that is as long as an address and a count."""
    used = usage.Usage({PART: (kinds.Use(kind, f"{PART} and 12 more"),)})
    for objection in guards.all_objections(made.function(PART), used):
        said = f"{ITEM}{words.objection_fact(objection)}"
        assert len(said.encode()) <= MOST, said


@pytest.mark.parametrize("name", ["instance-0000002a (process 4194304)", "unit nova-compute/12"])
@pytest.mark.parametrize("number", [1, 2, 3, 12])
def test_so_does_a_list_which_is_bounded_and_never_cut(name: str, number: int):
    names = [f"{name}" for _ in range(number)]
    shown = words.some(names)
    assert len(f"reboot when nobody needs the host, and now {shown} do".encode()) <= MOST
    assert shown.startswith(name)
    counted = shown.count(name)
    assert shown.endswith(f" and {number - counted} more") is (counted < number)
