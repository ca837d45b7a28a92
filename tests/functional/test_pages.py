"""What the pages have a reader type into ``juju`` is typed, in both manners, hooks and all.

The rules for the same lines, without hooks, are tested in tests/unit/test_juju_lines.py.
"""

from __future__ import annotations

import pathlib
import re
import shlex

import pytest
from harness import hosttree
from harness.standin import JUJU_3, JUJU_4, pages
from harness.standin.command import Command

ROOT = pathlib.Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
LAST = ROOT / "docs/how-to/remove.md"
BASE = "ubuntu@22.04"
# What a page takes for granted, by the name of the application that it says: the charm, its base.
GRANTED = {
    "nova-compute": ("nova-compute", BASE),
    "nova-cloud-controller": ("nova-cloud-controller", BASE),
    "nova-compute-b": ("nova-compute", BASE),
    "nova-compute-noble": ("nova-compute", "ubuntu@24.04"),
    "nrpe": ("nrpe", BASE),
    "opentelemetry-collector": ("opentelemetry-collector", BASE),
    "prometheus-k8s": ("prometheus-k8s", BASE),
}
_DEPLOYS = re.compile(r"juju deploy (?:pci-passthrough|\./build/pci-passthrough\.charm)(?: --|$)")
# What is the made-up host's, and not Juju's: a check is red, a program (virsh) is not installed.
HOSTS = ("the following task failed", "exit status 127")
_UNIT = re.compile(r"\bnova-compute/(\d+)")


def begins(page: pathlib.Path) -> bool:
    """Whether a page deploys the charm itself."""
    return any(_DEPLOYS.match(line) for line in pages.lines_of(page))


SHOWN = [page for page in pages.all_of(ROOT) if any(pages.lines_of(page))]
OWN = [page for page in SHOWN if begins(page) and page != README]
# Those that bring more units come last, so that fewer hooks follow: nrpe, other hosts, other bases.
MORE = ("monitor", "relations", "mixed-fleet", "reboot-when-idle")
LATER = sorted(
    (page for page in SHOWN if page not in (*OWN, README, LAST)),
    key=lambda page: (MORE.index(page.stem) + 1 if page.stem in MORE else 0, page.name),
)


@pytest.fixture
def host(tmp_path: pathlib.Path) -> hosttree.HostTree:
    """A compute host with its IOMMU off, as the README begins."""
    return hosttree.compute_host(tmp_path / "host")


@pytest.fixture(params=[JUJU_3, JUJU_4])
def manner(request: pytest.FixtureRequest) -> str:
    return request.param


class Reader:
    """Somebody who types what pages say, into a model where all that they take for granted is."""

    def __init__(self, juju: Command, place: pathlib.Path):
        self.juju, self.place = juju, place
        for name in ("build", "overlays"):
            (place / name).symlink_to(ROOT / name)

    def type(self, *wanted: pathlib.Path) -> None:
        for page in wanted:
            lines = list(pages.lines_of(page))
            self.grant(" ".join(lines))
            for name, text in pages.files_of(page):
                (self.place / name).write_text(text)
            for line in lines:
                code, _, errors = self.juju("juju", shlex.split(line)[1:])
                assert code == 0 or any(each in errors for each in HOSTS), f"{line}: {errors}"
                self.check_no_hook_failed(line)

    def grant(self, text: str) -> None:
        for name, (charm, base) in GRANTED.items():
            if re.search(rf"\b{name}\b(?!-)", text) and name not in self.juju.applications:
                self.juju.line(f"juju deploy {charm} {name} --base {base}")
                if name == "nrpe":
                    ends = (f"{each}:nrpe-external-master" for each in ("nrpe", "nova-compute"))
                    self.juju.line(f"juju integrate {' '.join(ends)}")
        for number in sorted({int(each) for each in _UNIT.findall(text)}):
            if f"nova-compute/{number}" not in self.juju.agent.units():
                self.juju.agent.add_unit("nova-compute", self.juju.add_machine(BASE), number)

    def check_no_hook_failed(self, line: str) -> None:
        model = self.juju.agent.model()
        failed = {name: unit.error for name, unit in model.units.items() if unit.error}
        assert failed == {}, line


@pytest.fixture
def reader(juju: Command, tmp_path: pathlib.Path) -> Reader:
    juju.agent.adopt(chain=2)
    return Reader(juju, tmp_path / "client")


def test_the_readmes_deploy_block_as_it_stands_there_and_every_page_after_it(reader: Reader):
    reader.type(README)
    agent = reader.juju.agent
    said = re.search(r"pci-passthrough/0  (\w+)  (.*)", README.read_text(encoding="utf-8"))
    assert said
    assert str(agent.status("pci-passthrough/0")) == f"{said[1]}: {said[2]}"
    controller = str(agent.status("pci-passthrough/1"))
    assert controller == "active: gpu: published to nova-cloud-controller"
    reader.juju.line("juju ssh nova-compute/0 sudo reboot")
    assert str(agent.status("pci-passthrough/0")) == "active: gpu: 3 ready"

    reader.type(*LATER, LAST)
    assert agent.units("pci-passthrough") == []


@pytest.mark.parametrize("page", OWN, ids=lambda page: page.stem)
def test_a_page_that_begins_itself(reader: Reader, page: pathlib.Path):
    reader.type(page)
    assert reader.juju.agent.units("pci-passthrough")


def test_no_page_is_left_out():
    assert {README, LAST} <= set(SHOWN)
    assert {page.stem for page in OWN} >= {"deploy", "first-gpu", "leave-cloudinit-userdata"}
    assert len(SHOWN) == len(OWN) + len(LATER) + 2 > 12
