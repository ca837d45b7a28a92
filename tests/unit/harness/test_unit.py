"""A unit of the unit tests sees what the charm declares."""

from __future__ import annotations

import pytest
import yaml
from harness.unit import DECLARED, JSON_IS_YAML, Unit


@pytest.mark.parametrize("part", DECLARED)
def test_ops_reads_from_json_what_the_yaml_files_say(part: str):
    assert yaml.safe_load(JSON_IS_YAML.safe_dump(DECLARED[part])) == DECLARED[part]


def test_the_charm_has_its_endpoints_and_actions(unit: Unit):
    with unit.context(unit.context.on.install(), unit.state) as manager:
        meta = manager.charm.meta
        assert set(meta.requires) == set(DECLARED["meta"]["requires"])
        assert set(meta.provides) == set(DECLARED["meta"]["provides"])
        assert set(meta.actions) == set(DECLARED["actions"])
        described = {name: action.description for name, action in meta.actions.items()}
        assert described == {
            name: action["description"] for name, action in DECLARED["actions"].items()
        }
