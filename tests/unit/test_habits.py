"""What helps contributors says what the project does: hooks, templates, renovate, the changelog.

None of the programs that read these files runs here; each file is held against the place that it
repeats.
"""

from __future__ import annotations

import json
import pathlib
import re
import shlex
from typing import Any

import jsonschema
import pytest
import yaml

# Of an issue form, as far as ours go; GitHub shows a form that breaks one of these to nobody.
FORM = {
    "type": "object",
    "required": ["name", "description", "body"],
    "additionalProperties": False,
    "properties": {
        "name": {"type": "string", "minLength": 1},
        "description": {"type": "string", "minLength": 1},
        "labels": {"type": "array", "items": {"type": "string"}},
        "body": {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/element"}},
    },
    "$defs": {
        "element": {
            "type": "object",
            "required": ["type", "attributes"],
            "additionalProperties": False,
            "properties": {
                "type": {"enum": ["markdown", "input", "textarea", "dropdown", "checkboxes"]},
                "id": {"type": "string", "pattern": "^[A-Za-z0-9_-]+$"},
                "attributes": {"type": "object"},
                "validations": {"type": "object", "properties": {"required": {"type": "boolean"}}},
            },
            "if": {"properties": {"type": {"const": "markdown"}}},
            "then": {"properties": {"attributes": {"required": ["value"]}}},
            "else": {"required": ["id"], "properties": {"attributes": {"required": ["label"]}}},
        }
    },
}


def read(path: pathlib.Path) -> str:
    return path.read_text(encoding="utf-8")


def plain(text: str) -> str:
    """Words without links, marks and line breaks."""
    return " ".join(re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text).replace("`", "").split())


# Hooks of pre-commit


@pytest.fixture
def hooks(charm_root: pathlib.Path) -> list[dict[str, Any]]:
    repositories = yaml.safe_load(read(charm_root / ".pre-commit-config.yaml"))["repos"]
    assert [each["repo"] for each in repositories] == ["local"]
    return repositories[0]["hooks"]


def test_hooks_are_those_that_contributing_names(
    hooks: list[dict[str, Any]], charm_root: pathlib.Path
):
    sentence = re.search(
        r"`pre-commit install` has (.+?) run", read(charm_root / "CONTRIBUTING.md")
    )
    assert sentence
    assert [hook["id"] for hook in hooks] == re.findall(r"`([^`]+)`", sentence[1])


def test_every_hook_is_part_of_make_lint(hooks: list[dict[str, Any]], charm_root: pathlib.Path):
    makefile = read(charm_root / "Makefile")
    recipe = re.search(r"(?m)^lint:.*\n((?:\t.*\n)+)", makefile)
    assert recipe
    for hook in hooks:
        command = shlex.split(hook["entry"])
        words = [word for word in command if not word.startswith("-")]
        assert re.search(rf"(?m)[\t /]{re.escape(' '.join(words))}\b", recipe[1]), hook["id"]


def locked(lock: str) -> dict[str, set[str]]:
    """The versions of each package in the text of a lock."""
    versions: dict[str, set[str]] = {}
    for name, version in re.findall(r"(?m)^([a-z0-9-]+)==(\S+)", lock):
        versions.setdefault(name, set()).add(version)
    return versions


def test_hooks_have_the_versions_of_make_lint(
    hooks: list[dict[str, Any]], charm_root: pathlib.Path
):
    ours: dict[str, set[str]] = {}
    for hook in hooks:
        if hook["language"] != "python":
            assert (charm_root / hook["entry"]).is_file()
            continue
        for requirement in hook["additional_dependencies"]:
            name, version = requirement.partition(";")[0].strip().split("==")
            ours.setdefault(name, set()).add(version)
    theirs = locked(read(charm_root / "requirements" / "dev.txt"))
    assert {"ruff", "codespell", "zizmor"} <= set(ours)
    assert ours == {name: theirs.get(name) for name in ours}


# Templates


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("bug.yml", {"happened", "revision", "ubuntu", "kernel", "options", "verify"}),
        ("feature.yml", {"task", "today"}),
    ],
)
def test_form_is_one_and_asks_for_what_we_need(
    name: str, asked: set[str], charm_root: pathlib.Path
):
    form = yaml.safe_load(read(charm_root / ".github" / "ISSUE_TEMPLATE" / name))
    jsonschema.Draft202012Validator.check_schema(FORM)
    jsonschema.validate(form, FORM)
    fields = [element for element in form["body"] if element["type"] != "markdown"]
    names = [field["id"] for field in fields]
    assert len(names) == len(set(names))
    assert asked <= {
        field["id"] for field in fields if field.get("validations") == {"required": True}
    }


@pytest.mark.parametrize("action", ["list-devices", "verify"])
def test_a_bug_comes_with_what_an_action_says(action: str, charm_root: pathlib.Path):
    assert action in yaml.safe_load(read(charm_root / "actions.yaml"))
    form = yaml.safe_load(read(charm_root / ".github" / "ISSUE_TEMPLATE" / "bug.yml"))
    (field,) = [element for element in form["body"] if element.get("id") == action]
    assert f"`juju run pci-passthrough/0 {action}`" in field["attributes"]["description"]


def test_every_form_is_tested(charm_root: pathlib.Path):
    names = {path.name for path in (charm_root / ".github" / "ISSUE_TEMPLATE").iterdir()}
    assert names == {"bug.yml", "feature.yml", "config.yml"}


def test_blank_issues_are_off(charm_root: pathlib.Path):
    config = yaml.safe_load(read(charm_root / ".github" / "ISSUE_TEMPLATE" / "config.yml"))
    assert config == {"blank_issues_enabled": False}


def bullets(text: str, mark: str) -> list[str]:
    """The points of a list, whose lines after the first are indented."""
    found = re.findall(rf"(?m)^{re.escape(mark)} (.+(?:\n +.+)*)", text)
    return [plain(each) for each in found]


def test_pull_requests_have_the_list_of_contributing(charm_root: pathlib.Path):
    text = read(charm_root / "CONTRIBUTING.md")
    section = text[text.index("## Before you open a pull request") :].split("\n## ")[0]
    template = read(charm_root / ".github" / "PULL_REQUEST_TEMPLATE.md")
    assert bullets(section, "-")
    assert bullets(template, "- [ ]") == bullets(section, "-")


# Renovate


@pytest.fixture
def renovate(charm_root: pathlib.Path) -> dict[str, Any]:
    return json.loads(read(charm_root / "renovate.json"))


def test_renovate_comes_once_a_week(renovate: dict[str, Any]):
    assert "schedule:weekly" in renovate["extends"]


def test_renovate_sees_every_lock(renovate: dict[str, Any], charm_root: pathlib.Path):
    patterns = [each.strip("/") for each in renovate["pip_requirements"]["managerFilePatterns"]]
    locks = [f"requirements/{path.name}" for path in (charm_root / "requirements").glob("*.txt")]
    assert locks
    unseen = [lock for lock in locks if not any(re.search(each, lock) for each in patterns)]
    assert unseen == []


@pytest.mark.parametrize(
    ("manager", "pattern"),
    [
        ("pep621", "pyproject.toml"),
        ("pip_requirements", "requirements/*.txt"),
        ("pre-commit", ".pre-commit-config.yaml"),
        ("gomod", "requirements/*/go.mod"),
        ("terraform", "terraform/terraform.tf"),
        ("github-actions", ".github/workflows/*.yaml"),
    ],
)
def test_every_manager_of_renovate_has_files(
    manager: str, pattern: str, renovate: dict[str, Any], charm_root: pathlib.Path
):
    assert manager in renovate["enabledManagers"]
    assert list(charm_root.glob(pattern))


def test_renovate_groups_what_has_to_agree(renovate: dict[str, Any]):
    """The hooks' versions are the locks', and the locks' follow pyproject.toml."""
    (managers,) = [
        set(rule["matchManagers"])
        for rule in renovate["packageRules"]
        if rule.get("groupName") == "Python packages"
    ]
    assert managers == {"pep621", "pip_requirements", "pre-commit"}


# The changelog


def test_changelog_begins_with_what_is_not_released(charm_root: pathlib.Path):
    titles = re.findall(r"(?m)^## (.+)$", read(charm_root / "CHANGELOG.md"))
    assert titles[0] == "Unreleased"
    assert all(re.fullmatch(r"[0-9a-f]{7}, \d{4}-\d{2}-\d{2}", title) for title in titles[1:])
    dates = [title.split()[1] for title in titles[1:]]
    assert dates
    assert dates == sorted(dates, reverse=True)


def test_changelog_says_how_to_upgrade_and_keeps_to_the_known_kinds(charm_root: pathlib.Path):
    sections = read(charm_root / "CHANGELOG.md").split("\n## ")[1:]
    kinds = {"Upgrading", "Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    for section in sections:
        named = re.findall(r"(?m)^### (.+)$", section)
        assert set(named) <= kinds
        assert len(named) == len(set(named))
    assert re.findall(r"(?m)^### (.+)$", sections[0])[0] == "Upgrading"


# Decision records


RECORDS = sorted((pathlib.Path(__file__).resolve().parents[2] / "docs" / "adr").glob("0*.md"))


def test_index_of_decisions_is_what_the_records_say(charm_root: pathlib.Path):
    rows = []
    for number, path in enumerate(RECORDS, 1):
        assert path.name.startswith(f"{number:04d}-")
        text = read(path)
        heading = re.match(rf"# {number}\. (.+)\n\n", text)
        date = re.search(r"(?m)^- Date: (\d{4}-\d{2}-\d{2})(?:; .+)?$", text)
        status = re.search(r"(?m)^- Status: (proposed|accepted|superseded by \d+)$", text)
        assert heading, path.name
        assert date, path.name
        assert status, path.name
        rows.append(f"| {number} | [{heading[1]}]({path.name}) | {date[1]} | {status[1]} |")
    index = read(charm_root / "docs" / "adr" / "index.md")
    table = index[index.index("<!-- checked: decisions -->") :].split("\n\n")[0]
    assert rows
    assert table.splitlines()[3:] == rows


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_record_has_the_sections_of_the_template(path: pathlib.Path):
    template = re.search(r"(?s)```markdown\n(.+?)```", read(path.parent / "index.md"))
    assert template
    wanted = re.findall(r"(?m)^## (.+)$", template[1])
    assert wanted
    assert re.findall(r"(?m)^## (.+)$", read(path)) == wanted


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_record_and_the_page_for_operators_lead_to_each_other(path: pathlib.Path):
    explained = re.search(r"(?m)^- Explained in: (?:\[.+\]\(([^#)]+)[^)]*\)|none)$", read(path))
    assert explained
    if explained[1]:
        page = read(path.parent / explained[1])
        assert f"adr/{path.name})" in page


# Where things are


def named_paths(text: str) -> list[str]:
    """The files and folders in backticks, from the top of the checkout or from the package."""
    return re.findall(r"`((?:src|tests|docs|scripts|bin|lib|[a-z_]+)/[\w./-]*)`", text)


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "STYLE.md"])
def test_named_files_are_there(name: str, charm_root: pathlib.Path):
    named = named_paths(read(charm_root / name))
    assert len(named) >= 10
    places = (charm_root, charm_root / "src" / "passthrough")
    lost = [path for path in named if not any((place / path).exists() for place in places)]
    assert lost == []


def test_named_tables_are_in_their_files(charm_root: pathlib.Path):
    """What CONTRIBUTING says to add a row to, such as `ROWS` in `tests/lab/matrix.py`."""
    named = re.findall(r"`(_?[A-Z]+)` in `([\w./-]+)`", read(charm_root / "CONTRIBUTING.md"))
    assert len(named) >= 4
    places = (charm_root, charm_root / "src" / "passthrough")
    for table, path in named:
        (file,) = [place / path for place in places if (place / path).is_file()]
        assert re.search(rf"(?m)^{table}\b.* = ", read(file)), f"{table} in {path}"
