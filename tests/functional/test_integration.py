"""The integration tests themselves, against the stand-in's ``juju``: the files that hardware gets.

They run in the environment of `make integration`, as a process that finds a program called juju on
its PATH. So an error in them shows here, and not on the first operator's host.
"""

from __future__ import annotations

import os
import pathlib
import subprocess

import pytest
from harness import hosttree
from harness.standin import JUJU_3, JUJU_4
from harness.standin.command import Command

ROOT = pathlib.Path(__file__).resolve().parents[2]
# The hosts as an operator names them, and whether their IOMMU is on before the charm comes.
WAYS = {
    JUJU_3: ("ssh:ubuntu@a ssh:ubuntu@b", False),
    JUJU_4: ("", True),
}


@pytest.fixture(params=[JUJU_3, JUJU_4])
def manner(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def host(tmp_path: pathlib.Path, manner: str) -> hosttree.HostTree:
    """A compute host; where its IOMMU is off, the card needs a reboot."""
    tree = hosttree.compute_host(tmp_path / "host")
    if WAYS[manner][1]:
        tree.iommu_on()
    return tree


@pytest.fixture(scope="session")
def python() -> pathlib.Path:
    """The Python of `make integration`'s own environment."""
    command = ["scripts/sync-env", ".venv-integration", "requirements/integration.txt"]
    subprocess.run(command, cwd=ROOT, check=True)
    return ROOT / ".venv-integration/bin/python"


def test_they_pass_against_the_stand_in(
    juju: Command, python: pathlib.Path, tmp_path: pathlib.Path, manner: str
):
    programs = tmp_path / "bin"
    with juju.serve(programs) as asked:
        env = {
            **os.environ,
            **asked,
            "PATH": f"{programs}:{os.environ['PATH']}",
            "MACHINES": WAYS[manner][0],
            "CARDS": "10de:1bb0",
            "PCI_PASSTHROUGH_BASE": "ubuntu@22.04",
            # A command here returns when its hooks have run: there is nothing to wait for.
            "PCI_PASSTHROUGH_DELAY": "0.01",
        }
        words = ["-m", "pytest", "-p", "no:cacheprovider", "--exitfirst", "tests/integration"]
        done = subprocess.run(
            [python, *words], cwd=ROOT, env=env, capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stdout + done.stderr
    skipped = 2 if manner == JUJU_4 else 0
    assert (f" {skipped} skipped" in done.stdout) is bool(skipped), "the subordinates alone, on 4.0"
