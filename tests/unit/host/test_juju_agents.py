"""Juju's agents: what their folders say, and that only those of a real Juju are evidence."""

from __future__ import annotations

import errno
import os
import pathlib

import pytest

from passthrough.host import juju_agents
from passthrough.host.juju_agents import Sight

MODEL, OTHER = "5f1f3a3b-6b5f-4a9b-8b1a-0c1d2e3f4a5b", "00000000-6b5f-4a9b-8b1a-0c1d2e3f4a5b"
UNIT = "pci-passthrough/0"
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


def put_agent(root: pathlib.Path, name: str, model: str | None = MODEL) -> pathlib.Path:
    folder = root / juju_agents.AGENTS / name
    folder.mkdir(parents=True, exist_ok=True)
    if model:
        (folder / "agent.conf").write_text(f"# format 2.0\ntag: {name}\nmodel: model-{model}\n")
    return folder


@pytest.fixture
def root(tmp_path: pathlib.Path) -> pathlib.Path:
    """A machine of the model, whose unit nova-compute/0 is there and pci-passthrough/0 is not."""
    put_agent(tmp_path, "machine-3")
    put_agent(tmp_path, "unit-nova-compute-0")
    return tmp_path


def look(root: pathlib.Path, **values) -> Sight:
    """A look by the owner's record, whose machine agent runs."""
    values = {
        "unit": UNIT,
        "filesystem": juju_agents.find_filesystem(root),
        "is_running": lambda service: service == "jujud-machine-3",
        "application": "pci-passthrough",
        **values,
    }
    return juju_agents.look(root, **values)


def test_the_folder_is_gone_beside_an_agent_that_runs(root):
    assert look(root) is Sight.FOLDER_GONE


def test_the_folder_is_there(root):
    put_agent(root, "unit-pci-passthrough-0")
    assert look(root) is Sight.LIVES


def test_nobody_asks_for_services_beside_a_unit_that_lives(root):
    put_agent(root, "unit-pci-passthrough-0")
    assert look(root, is_running=lambda service: pytest.fail(service)) is Sight.LIVES


@pytest.mark.parametrize("model", [None, "", "nonsense"])
def test_a_folder_whose_model_cannot_be_told_is_no_evidence(root, model):
    put_agent(root, "unit-pci-passthrough-0", model)
    assert look(root) is Sight.LIVES


def test_an_agent_conf_that_cannot_be_read_is_no_evidence(root):
    (put_agent(root, "unit-pci-passthrough-0", None) / "agent.conf").mkdir()
    assert look(root) is Sight.LIVES


def test_a_folder_of_another_model_is_left_over(root):
    put_agent(root, "unit-pci-passthrough-0", OTHER)
    assert look(root) is Sight.OTHER_MODEL


def test_another_unit_of_the_application_looks_after_the_host(root):
    put_agent(root, "unit-pci-passthrough-7")
    assert look(root) is Sight.LIVES


@pytest.mark.parametrize("name", ["unit-pci-passthrough-gpu-0", "unit-other-pci-passthrough-0"])
def test_a_unit_of_another_application_does_not(root, name):
    put_agent(root, name)
    assert look(root) is Sight.FOLDER_GONE


def test_the_machines_agent_is_stopped(root):
    assert look(root, is_running=lambda service: False) is Sight.UNCLEAR


def test_it_is_another_file_system(root):
    assert look(root, filesystem="id 123") is Sight.UNCLEAR
    assert look(root, filesystem="") is Sight.UNCLEAR


def test_the_record_names_no_owner(root):
    assert look(root, unit="") is Sight.UNCLEAR


@pytest.mark.parametrize("names", [["machine-3", "machine-4"], ["unit-nova-compute-0"]])
def test_no_one_agent_is_the_machines(tmp_path, names):
    for name in names:
        put_agent(tmp_path, name)
    assert look(tmp_path) is Sight.UNCLEAR


def test_the_machines_model_cannot_be_told(tmp_path):
    put_agent(tmp_path, "machine-3", None)
    assert look(tmp_path) is Sight.UNCLEAR


class TestNoAgent:
    @pytest.mark.parametrize("made", [".", "var/lib/juju", "var/lib/juju/agents"])
    def test_no_folder_and_no_service(self, tmp_path, made):
        (tmp_path / made).mkdir(parents=True, exist_ok=True)
        assert look(tmp_path) is Sight.NO_AGENT
        assert look(tmp_path, unit="") is Sight.NO_AGENT

    def test_what_is_no_agent_does_not_count(self, tmp_path):
        (tmp_path / juju_agents.AGENTS / "lost+found").mkdir(parents=True)
        assert look(tmp_path) is Sight.NO_AGENT

    @pytest.mark.parametrize("folder", ["etc/systemd/system", "lib/systemd/system"])
    def test_a_service_is_left_so_its_folder_is_only_not_mounted(self, tmp_path, folder):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "jujud-machine-3.service").touch()
        assert look(tmp_path) is Sight.UNCLEAR

    def test_a_folder_that_cannot_be_read_is_not_gone(self, root, monkeypatch):
        def fail(path):
            raise OSError(errno.EIO, "Input/output error", os.fspath(path))

        monkeypatch.setattr(os, "listdir", fail)
        assert look(root) is Sight.UNCLEAR


class TestFilesystem:
    def test_it_has_a_name_while_it_is_there(self, root):
        assert juju_agents.find_filesystem(root)
        assert juju_agents.find_filesystem(root / "nowhere") == ""

    def test_one_without_an_id_is_named_by_its_device(self, root, monkeypatch):
        class Nameless:
            f_fsid = 0

        monkeypatch.setattr(os, "statvfs", lambda path: Nameless)
        assert juju_agents.find_filesystem(root) == f"device {root.stat().st_dev:x}"


# What a folder says


def put_file(place: pathlib.Path, name: str, text: str) -> None:
    path = place / "unit-nova-compute-0" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode("utf-8", "surrogateescape"))


def test_the_units_of_an_application_are_told_from_those_of_longer_names(tmp_path: pathlib.Path):
    for name in ("gpu-10", "gpu-2", "gpu-big-0", "gpu-x", "gpux-1", "nova-compute-0"):
        (tmp_path / f"unit-{name}").mkdir()
    assert juju_agents.units_of(tmp_path, "gpu") == ("gpu/2", "gpu/10")
    assert juju_agents.units_of(tmp_path, "gpu-big") == ("gpu-big/0",)
    assert juju_agents.units_of(tmp_path / "nowhere", "gpu") == ()


def test_the_model_stands_in_agent_conf(tmp_path: pathlib.Path):
    put_file(tmp_path, "agent.conf", CONF)
    assert juju_agents.model_of(tmp_path, "nova-compute/0") == MODEL


@pytest.mark.parametrize("text", ["", "model: other\n", "\udcff"])
def test_a_model_that_cannot_be_read_is_not_known(tmp_path: pathlib.Path, text: str):
    assert juju_agents.model_of(tmp_path, "nova-compute/0") is None
    put_file(tmp_path, "agent.conf", text)
    assert juju_agents.model_of(tmp_path, "nova-compute/0") is None


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
    tmp_path: pathlib.Path, text: str, compute: bool, controller: bool, subordinate: bool
):
    put_file(tmp_path, "charm/metadata.yaml", text)
    charm = juju_agents.charm_of(tmp_path, "nova-compute/0")
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
def test_a_charm_that_cannot_be_read_is_not_known(tmp_path: pathlib.Path, text: str):
    assert juju_agents.charm_of(tmp_path, "nova-compute/0") is None
    put_file(tmp_path, "charm/metadata.yaml", text)
    assert juju_agents.charm_of(tmp_path, "nova-compute/0") is None
