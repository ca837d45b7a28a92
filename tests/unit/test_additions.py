"""Whoever adds a guard, a key of Nova's or a check by CONTRIBUTING's list is told what is missing.

test_docs.py names the page that lacks it; here stand the other places.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
from typing import Any

import pytest
import yaml
from charms.pci_passthrough.v0 import nova_pci

from passthrough.config import devices
from passthrough.host import generators
from passthrough.host.uses import kinds
from passthrough.nova import release
from passthrough.planning import guards

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
UNIT = REPOSITORY / "tests/unit"


def read(path: pathlib.Path) -> str:
    return path.read_text(encoding="utf-8")


def says(pattern: str, *paths: pathlib.Path) -> bool:
    return any(re.search(pattern, read(path)) for path in paths)


CHECKS = re.findall(r"(?m)^## (.+)$", read(REPOSITORY / "docs/how-to/verify-is-red.md"))


@pytest.mark.parametrize("guard", guards.GUARDS, ids=lambda guard: guard.name)
def test_a_guard_has_a_test_that_names_it(guard: guards.Guard):
    assert says(f'"{guard.name}"', *(UNIT / "planning").glob("test_*.py"))


@pytest.mark.parametrize("kind", kinds.Kind, ids=str)
def test_a_kind_of_use_has_a_test_that_finds_it(kind: kinds.Kind):
    assert says(rf'"{kind}[:"]', *(UNIT / "host").rglob("test_*.py"))


def each_generator(test):
    ids = [generator.name for generator in generators.GENERATORS]
    return pytest.mark.parametrize("generator", generators.GENERATORS, ids=ids)(test)


@each_generator
def test_a_generators_files_have_their_templates(generator: generators.Generator):
    templates = REPOSITORY / "templates"
    assert [file.path for file in generator.files if not (templates / file.template).exists()] == []


@each_generator
def test_a_generator_is_found_on_a_host_that_has_no_other(generator: generators.Generator):
    from unit.host import test_generators

    assert (generator,) in [found for _, _, found in test_generators.HOSTS.values()]


@each_generator
def test_a_generator_has_its_golden_files_and_a_machine_in_the_lab(generator: generators.Generator):
    assert (REPOSITORY / "tests/functional/golden" / generator.name).is_dir()
    assert says(f'"{generator.name}"', REPOSITORY / "tests/lab/images.py")


def keys(test):
    ids = [f"{key.option} in {key.where}" for key in release.KEYS]
    return pytest.mark.parametrize("key", release.KEYS, ids=ids)(test)


@keys
def test_a_key_of_novas_has_a_test_of_the_release_that_takes_it(key: release.Key):
    needed = re.escape(release.name_of(key.since))
    assert says(rf"{key.option}( \w+)? needs Nova {needed}", UNIT / "nova/test_release.py")


@keys
def test_the_library_carries_a_key_of_novas_to_other_controllers(key: release.Key):
    kind = nova_pci.Alias if key.where == release.ALIAS else nova_pci.DeviceSpec
    assert key.name in [field.name for field in dataclasses.fields(kind)]


@keys
def test_the_real_nova_is_asked_about_a_key_of_its_own(key: release.Key):
    assert says(f'"{key.option}": ', REPOSITORY / "tests/functional/test_nova_properties.py")


@pytest.mark.parametrize("key", devices.KEYS)
def test_the_option_says_which_keys_an_item_has(key: str):
    config = yaml.safe_load(read(REPOSITORY / "config.yaml"))
    assert re.search(rf"\b{key}\b", config["options"]["devices"]["description"])


@pytest.mark.parametrize("check", CHECKS)
def test_a_check_has_a_test_that_names_it(check: str):
    assert says(rf'"{check}[ "]', *(UNIT / "reporting/verify").glob("test_*.py"))


def test_an_item_that_a_way_out_writes_has_every_key_of_the_option():
    given: dict[str, Any] = {
        field: "x" for field, _ in devices.KEYS.values() if field not in ("id", "addresses")
    }
    item = devices.Item(1, "10de", "1bb0", ("0000:83:00.0",), **given)
    assert list(json.loads(devices.text_of(item))) == list(devices.KEYS)


# The list itself


def section() -> str:
    text = read(REPOSITORY / "CONTRIBUTING.md")
    return text.split("\n## To add one more\n")[1].split("\n## ")[0]


def test_the_list_names_files_that_are_there():
    named = set(re.findall(r"`((?:[\w.-]+/)+[\w.-]*)`", section()))
    assert named
    assert [name for name in sorted(named) if not (REPOSITORY / name).exists()] == []


def test_the_list_names_tables_and_tests_that_are_there():
    """``NAME` in `FILE``: the file has it."""
    pairs = re.findall(r"`(\w+)` (?:in|of) `((?:[\w.-]+/)+[\w.-]+)`", section())
    assert pairs
    missing = [(name, path) for name, path in pairs if not says(rf"\b{name}\b", REPOSITORY / path)]
    assert missing == []
