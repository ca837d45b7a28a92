"""The published JSON Schema holds of what the command line and the actions really give."""

from __future__ import annotations

import copy
import json
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jsonschema
import pytest
from harness import hosttree, uses
from harness import unit as units
from harness.constants import GPUS
from harness.unit import Unit
from harness.world import World
from ops import testing

from passthrough import cli
from passthrough.reporting import schema

PAGES = pathlib.Path(__file__).resolve().parents[2] / "docs/reference"
PUBLISHED = json.loads((PAGES / "output.schema.json").read_text(encoding="utf-8"))
Check = Callable[[str, Any], None]


def objects(part: Any) -> Iterator[dict[str, Any]]:
    """Every schema of an object within a schema."""
    if isinstance(part, dict):
        if part.get("type") == "object" and "properties" in part:
            yield part
        for each in part.values():
            yield from objects(each)
    elif isinstance(part, list):
        for each in part:
            yield from objects(each)


def closed() -> dict[str, Any]:
    """The published schema, as it would be if no field could come without it."""
    found = copy.deepcopy(PUBLISHED)
    for each in objects(found):
        each["additionalProperties"] = False
    return found


@pytest.fixture
def check() -> Check:
    """Hold a value against one definition of the schema, which is to name each of its fields."""

    def call(name: str, value: Any) -> None:
        jsonschema.validate(value, PUBLISHED)
        only = {**closed(), "anyOf": [{"$ref": f"#/$defs/{name}"}]}
        jsonschema.Draft202012Validator(only).validate(value)

    return call


@pytest.fixture
def give(tree: hosttree.HostTree, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """The JSON that the command line prints for `tree`."""

    def call(*arguments: str) -> Any:
        cli.main(["--root", os.fspath(tree.root), "--json", *arguments])
        return json.loads(capsys.readouterr().out)

    return call


def test_it_is_a_schema_with_the_number_of_the_code():
    jsonschema.Draft202012Validator.check_schema(PUBLISHED)
    numbers = [each["properties"].get("schema") for each in objects(PUBLISHED)]
    assert [each for each in numbers if each] == [{"const": schema.NUMBER}] * 4


def test_it_requires_every_field():
    for each in objects(PUBLISHED):
        assert each["required"] == list(each["properties"])


def test_of_a_host_that_nothing_was_done_to(give, check: Check, tree: hosttree.HostTree):
    tree.write("etc/modprobe.d/vfio.conf", "options vfio-pci ids=10de:1bb0\nblacklist nouveau\n")
    uses.node(tree, "0000:84:00.0", "drm/card1", "226:1", "/dev/dri/card1")
    uses.process(tree, 812, "/usr/bin/Xorg", "/dev/dri/card1")
    check("list", give("list"))
    plan = give("plan", "--devices", f"{GPUS}, x=8086:1572@0000:18:00.0, y=1234:5678")
    assert plan["refusals"]
    assert plan["leftovers"]
    assert plan["files"]
    check("plan", plan)
    check("verify", give("verify", "--devices", GPUS))


def test_of_a_host_that_is_ready(give, check: Check, ready: World):
    check("list", give("list"))
    check("plan", give("plan", "--devices", GPUS))
    given_back = give("plan", "--devices", "")
    assert given_back["release"]
    check("plan", given_back)
    check("verify", give("verify", "--devices", GPUS))


def test_of_a_guest_that_holds_what_is_given_back(give, check: Check, ready: World):
    ready.kernel.hold("0000:83:00.0")
    plan = give("plan", "--devices", "")
    assert plan["pending"]
    check("plan", plan)


def test_of_the_actions(ready_unit: Unit, check: Check):
    for action, part, name in (
        ("list-devices", "devices", "list"),
        ("plan", "plan", "plan"),
        ("verify", "checks", "verify"),
    ):
        check(name, ready_unit.act(action)[part])


def test_of_a_controller(
    make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch, check: Check
):
    world = make_world()
    world.nova.install("nova-scheduler")
    units.find_world(world, monkeypatch)
    principal = testing.SubordinateRelation(
        "nova-cloud-controller", remote_app_name="nova-cloud-controller"
    )
    controller = Unit(world, "nova-cloud-controller/0", (principal,), leader=True)
    controller.run(devices=GPUS)
    check("controller-plan", controller.act("plan")["plan"])
    _, results = controller.act_in_vain("verify", format="json")
    check("verify", json.loads(results["checks"]))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda row: row.pop("driver"),
        lambda row: row.update(schema=2),
        lambda row: row.update(claimable="yes"),
        lambda row: row.update(address="83:00.0"),
    ],
    ids=["gone", "number", "kind", "form"],
)
def test_it_refuses_what_is_none_of_it(give, check: Check, spoil):
    rows = give("list")
    spoil(rows[0])
    with pytest.raises(jsonschema.ValidationError):
        check("list", rows)
