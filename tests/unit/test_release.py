"""From a branch to Charmhub: the channel, the workflow's matrix, the bill of materials."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
import zipfile

import pytest
import sbom
import yaml

METADATA = "venv/lib/python3.12/site-packages/{}.dist-info/METADATA"


@pytest.mark.parametrize(
    ("branch", "channel"),
    [("main", "latest/edge"), ("track/2025.1", "2025.1/edge"), ("track/1", "1/edge")],
)
def test_a_branch_has_its_channel(charm_root: pathlib.Path, branch: str, channel: str):
    done = subprocess.run(
        [charm_root / "scripts/channel", branch], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{channel}\n"


@pytest.mark.parametrize(
    "branch", ["", "feature/x", "track/", "track/a/b", "track/-x", "track/a b"]
)
def test_no_other_branch_is_published(charm_root: pathlib.Path, branch: str):
    done = subprocess.run(
        [charm_root / "scripts/channel", branch], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: {branch}: ")


def test_every_platform_of_the_charm_is_published(charm_root: pathlib.Path):
    workflow = yaml.safe_load((charm_root / ".github/workflows/publish.yaml").read_text())
    matrix = workflow["jobs"]["publish"]["strategy"]["matrix"]
    published = {
        f"ubuntu@{base}:{machine['architecture']}"
        for base in matrix["base"]
        for machine in matrix["machine"]
    }
    recipe = yaml.safe_load((charm_root / "charmcraft.yaml").read_text())
    assert published == set(recipe["platforms"])


@pytest.fixture
def charm(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "made-up.charm"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.yaml", "# x\nname: made-up\nsummary: name: other\n")
        archive.writestr(METADATA.format("ops-3.9.0"), "Name: ops\nVersion: 3.9.0\nLicense: A\n\nx")
        archive.writestr(
            METADATA.format("PyYAML-6.0.3"),
            "Name: PyYAML_x\nVersion: 6.0.3\nLicense-Expression: MIT\nLicense: a\n b\n",
        )
        archive.writestr(METADATA.format("plain-1"), "Name: plain\nVersion: 1\nLicense: a\n b\n")
        archive.writestr("src/METADATA", "Name: none\nVersion: 0\n")
    return path


def test_the_bill_names_every_package_once(charm: pathlib.Path):
    found = sbom.describe(charm)
    assert found["metadata"]["component"]["name"] == "made-up"
    assert [each["purl"] for each in found["components"]] == [
        "pkg:pypi/ops@3.9.0",
        "pkg:pypi/plain@1",
        "pkg:pypi/pyyaml-x@6.0.3",
    ]
    assert [each.get("licenses") for each in found["components"]] == [
        [{"license": {"name": "A"}}],
        None,
        [{"expression": "MIT"}],
    ]
    references = [each["bom-ref"] for each in found["components"]]
    assert found["dependencies"] == [{"ref": "charm:made-up", "dependsOn": references}]


def test_the_same_charm_gives_the_same_bytes(charm: pathlib.Path):
    command = [sys.executable, sbom.__file__, charm]
    first, second = (subprocess.check_output(command) for _ in range(2))
    assert first == second
    assert json.loads(first) == sbom.describe(charm)


@pytest.mark.parametrize("content", [None, {}, {"metadata.yaml": "name: x\n"}])
def test_what_is_no_charm_is_said(tmp_path: pathlib.Path, content: dict[str, str] | None):
    path = tmp_path / "x.charm"
    if content is None:
        path.write_text("no archive")
    else:
        with zipfile.ZipFile(path, "w") as archive:
            for name, text in content.items():
                archive.writestr(name, text)
    done = subprocess.run(
        [sys.executable, sbom.__file__, path], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
