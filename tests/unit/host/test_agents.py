"""The folders of Juju's agents."""

from __future__ import annotations

from pathlib import Path

import pytest

from passthrough.host import agents

CONF = """\
# format 2.0
tag: unit-nova-compute-0
datadir: /var/lib/juju
controller: controller-0a0c0a0c-6b5f-4a9b-8b1a-0c1d2e3f4a5b
model: model-5f1f3a3b-6b5f-4a9b-8b1a-0c1d2e3f4a5b
apiaddresses:
- 10.0.0.1:17070
"""
COMPUTE = "name: nova-compute\nprovides:\n  compute: {interface: nova-compute}\n"


def put(place: Path, name: str, text: str) -> None:
    path = place / "unit-nova-compute-0" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode("utf-8", "surrogateescape"))


def test_the_units_of_an_application_are_told_from_those_of_longer_names(tmp_path: Path):
    for name in ("gpu-10", "gpu-2", "gpu-big-0", "gpu-x", "gpux-1", "nova-compute-0"):
        (tmp_path / f"unit-{name}").mkdir()
    assert agents.units_of(tmp_path, "gpu") == ("gpu/2", "gpu/10")
    assert agents.units_of(tmp_path, "gpu-big") == ("gpu-big/0",)
    assert agents.units_of(tmp_path / "nowhere", "gpu") == ()


def test_the_model_stands_in_agent_conf(tmp_path: Path):
    put(tmp_path, "agent.conf", CONF)
    assert agents.model_of(tmp_path, "nova-compute/0") == "5f1f3a3b-6b5f-4a9b-8b1a-0c1d2e3f4a5b"


@pytest.mark.parametrize("text", ["", "model: other\n", "\udcff"])
def test_a_model_that_cannot_be_read_is_not_known(tmp_path: Path, text: str):
    assert agents.model_of(tmp_path, "nova-compute/0") is None
    put(tmp_path, "agent.conf", text)
    assert agents.model_of(tmp_path, "nova-compute/0") is None


@pytest.mark.parametrize(
    ("text", "compute", "controller", "subordinate"),
    [
        (COMPUTE, True, False, False),
        ("name: ceph-osd\n", False, False, False),
        ("name: nova-cloud-controller\n", False, True, False),
        ("name: mine\nrequires:\n  x: {interface: nova-vmware}\n", False, True, False),
        ("name: nrpe\nsubordinate: true\n", False, False, True),
        (
            "name: nova-vmware\nsubordinate: true\nprovides:\n  x: {interface: nova-vmware}\n",
            False,
            False,
            True,
        ),
    ],
    ids=["compute", "ceph", "controller", "another-controller", "nrpe", "vmware"],
)
def test_a_charm_says_what_it_is(
    tmp_path: Path, text: str, compute: bool, controller: bool, subordinate: bool
):
    put(tmp_path, "charm/metadata.yaml", text)
    charm = agents.charm_of(tmp_path, "nova-compute/0")
    assert charm
    assert (charm.is_compute, charm.is_controller, charm.subordinate) == (
        compute,
        controller,
        subordinate,
    )


@pytest.mark.parametrize(
    "text",
    ["", "[]", "name", "{", "subordinate: true", "name: x\nprovides: [1]", "\udcff",
     "name: x\nprovides: {y: {}}"],
)  # fmt: skip
def test_a_charm_that_cannot_be_read_is_not_known(tmp_path: Path, text: str):
    assert agents.charm_of(tmp_path, "nova-compute/0") is None
    put(tmp_path, "charm/metadata.yaml", text)
    assert agents.charm_of(tmp_path, "nova-compute/0") is None
