"""The lines of the pages that begin with juju, by the rules of both Jujus.

Endpoints, bases, options, actions and parameters: what a reader pastes is not refused.
"""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterator

import pytest
import yaml
from harness.standin import JUJU_3, JUJU_4, charmdir, pages
from harness.standin.errors import StandinError
from harness.standin.juju import Juju
from harness.standin.pages import lines_of

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGES = pages.all_of(ROOT)
_INLINE = re.compile(r"`(juju (?:integrate|remove-relation|deploy|refresh) [^`]*)`")
_DEPLOYS = re.compile(r"juju deploy (?:pci-passthrough|\./build/pci-passthrough\.charm)(?: --|$)")
# What a page quotes to say that Juju refuses it.
REFUSED = {"juju integrate pci-passthrough nova-cloud-controller"}


def inline_of(page: pathlib.Path) -> Iterator[str]:
    for found in _INLINE.findall(pages.without_blocks(page)):
        command = " ".join(found.split())
        if command not in REFUSED and "…" not in command and len(command.split()) > 2:
            yield command


@pytest.fixture(scope="module")
def declarations() -> dict[str, object]:
    return {
        name: yaml.safe_load((ROOT / f"{name}.yaml").read_text())
        for name in ("metadata", "config", "actions")
    }


@pytest.fixture(params=[JUJU_3, JUJU_4])
def juju(request: pytest.FixtureRequest, declarations: dict[str, object]) -> Juju:
    platforms = yaml.safe_load((ROOT / "charmcraft.yaml").read_text())["platforms"]
    bases = sorted({name.rpartition(":")[0] for name in platforms})
    return Juju(request.param, declarations, bases)


def with_pages() -> list[pathlib.Path]:
    return [page for page in PAGES if [*lines_of(page), *inline_of(page)]]


def name_of(page: pathlib.Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", with_pages(), ids=name_of)
def test_juju_takes_every_line_of_a_page(juju: Juju, page: pathlib.Path):
    lines = list(lines_of(page))
    if not any(_DEPLOYS.match(line) for line in lines):
        juju.run("juju deploy pci-passthrough --base ubuntu@22.04")
    for line in lines:
        juju.run(line)
    for line in inline_of(page):
        if not line.startswith("juju deploy"):
            juju.run(line)


def test_the_pages_are_seen():
    seen = {name_of(page) for page in with_pages()}
    assert {"README.md", "docs/tutorial/first-gpu.md", "docs/how-to/deploy.md"} <= seen
    assert sum(len(list(lines_of(page))) for page in PAGES) > 30


def test_the_readmes_deploy_block_is_the_first_and_whole():
    assert list(lines_of(ROOT / "README.md"))[:3] == [
        "juju deploy pci-passthrough --base ubuntu@22.04 --config devices='gpu=10de:1bb0'",
        "juju integrate pci-passthrough:juju-info nova-compute:juju-info",
        "juju integrate pci-passthrough:nova-cloud-controller nova-cloud-controller:nova-vmware",
    ]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_no_line_reads_options_from_a_file(page: pathlib.Path):
    assert not re.search(r"juju config [^\n`]*--file", page.read_text(encoding="utf-8"))


REFUSALS = {
    "ambiguous-controller": (
        "juju integrate pci-passthrough nova-cloud-controller",
        (JUJU_4,),
        "ambiguous",
    ),
    "ambiguous-nrpe": ("juju integrate pci-passthrough nrpe", (JUJU_4,), "ambiguous relation"),
    "no-such-endpoint": (
        "juju integrate pci-passthrough:juju-info nova-compute:pci",
        (JUJU_3, JUJU_4),
        'has no "pci" relation',
    ),
    "no-pair": (
        "juju integrate pci-passthrough:nova-cloud-controller nova-compute:juju-info",
        (JUJU_3, JUJU_4),
        "no relations found",
    ),
    "another-base": (
        "juju integrate pci-passthrough:juju-info nova-compute-noble:juju-info",
        (JUJU_3, JUJU_4),
        "bases must match",
    ),
    "no-such-base": (
        "juju deploy pci-passthrough more --base ubuntu@20.04",
        (JUJU_3, JUJU_4),
        "not supported",
    ),
    "option": ("juju config pci-passthrough device=x", (JUJU_3, JUJU_4), "unknown option"),
    "kind": ("juju config pci-passthrough iommu-passthrough=x", (JUJU_3, JUJU_4), "expected"),
    "file": ("juju config pci-passthrough --file x.yaml", (JUJU_4,), "not implemented"),
    "action": ("juju run pci-passthrough/0 show", (JUJU_3, JUJU_4), "not defined"),
    "parameter": ("juju run pci-passthrough/0 plan x=1", (JUJU_3, JUJU_4), "not allowed"),
    "yaml": ("juju run pci-passthrough/0 list-devices match='*'", (JUJU_3, JUJU_4), "alias"),
    "number": ("juju run pci-passthrough/0 list-devices match=8086", (JUJU_3, JUJU_4), "string"),
    "flag": ("juju deploy pci-passthrough more --bases x", (JUJU_3, JUJU_4), "unrecognized"),
}


@pytest.mark.parametrize(("line", "manners", "words"), REFUSALS.values(), ids=REFUSALS)
def test_the_rules_refuse_what_juju_refuses(
    juju: Juju, line: str, manners: tuple[str, ...], words: str
):
    juju.run("juju deploy pci-passthrough --base ubuntu@22.04")
    if juju.manner not in manners:
        juju.run(line)
        return
    with pytest.raises(StandinError, match=words):
        juju.run(line)


def test_without_a_base_juju_takes_the_newest(juju: Juju):
    juju.run("juju deploy pci-passthrough")
    with pytest.raises(StandinError, match="bases must match"):
        juju.run("juju integrate pci-passthrough:juju-info nova-compute:juju-info")
    juju.run("juju integrate pci-passthrough:juju-info nova-compute-noble:juju-info")


def test_a_parameter_that_yaml_cannot_read_goes_as_a_string(juju: Juju):
    juju.run("juju deploy pci-passthrough --base ubuntu@22.04")
    juju.run("juju run pci-passthrough/0 list-devices match='*' --string-args")


def test_the_charm_says_which_juju_it_needs(declarations: dict[str, dict[str, object]]):
    assert declarations["metadata"]["assumes"] == ["juju >= 3.6"]
    assert "juju-info" in charmdir.endpoints(declarations)
