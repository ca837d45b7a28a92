"""Rendering, and what spares it: a record of what was rendered before, and modules."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import jinja2
import pytest

from passthrough.planning import templates

TEMPLATE = "modules-load.conf.j2"
CONTEXT = {"application": "pci-passthrough"}
LEARNING = templates.Renderer()


@pytest.fixture
def rendered(monkeypatch: pytest.MonkeyPatch) -> str:
    """What the template gives; from then on rendering is an error."""
    content = LEARNING.render(TEMPLATE, CONTEXT)

    def fail() -> None:
        raise AssertionError("it was rendered")

    monkeypatch.setattr(templates, "_environment", fail)
    return content


def test_what_is_known_to_be_right_is_not_rendered_again(rendered: str):
    renderer = templates.Renderer(LEARNING.learned())
    assert renderer.render(TEMPLATE, CONTEXT, rendered) == rendered
    assert renderer.learned() == LEARNING.learned()


@pytest.mark.parametrize("context", [{"application": "other"}, {**CONTEXT, "name": "x"}])
def test_another_context_is_rendered(rendered: str, context: dict[str, str]):
    with pytest.raises(AssertionError, match="rendered"):
        templates.Renderer(LEARNING.learned()).render(TEMPLATE, context, rendered)


@pytest.mark.parametrize("present", ["", "# edited\n", None], ids=["empty", "edited", "absent"])
def test_a_file_that_holds_anything_else_is_rendered(rendered: str, present: str | None):
    with pytest.raises(AssertionError, match="rendered"):
        templates.Renderer(LEARNING.learned()).render(TEMPLATE, CONTEXT, present)


def test_a_changed_template_is_rendered(rendered: str, monkeypatch: pytest.MonkeyPatch):
    known = LEARNING.learned()
    monkeypatch.setattr(templates, "_version", lambda: "another")
    with pytest.raises(AssertionError, match="rendered"):
        templates.Renderer(known).render(TEMPLATE, CONTEXT, rendered)


def test_the_version_follows_every_template(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(templates, "TEMPLATES", tmp_path)
    found = set()
    for name, content in (("a.j2", "1"), ("b.j2", "1"), ("b.j2", "2"), ("header.j2", "")):
        (tmp_path / name).write_text(content)
        found.add(templates._version.__wrapped__())
    assert len(found) == 4


@pytest.mark.parametrize("known", [{}, {TEMPLATE: ""}, {TEMPLATE: "0" * 64}, {"x": "y"}])
def test_a_damaged_record_is_no_record(rendered: str, known: dict[str, str]):
    with pytest.raises(AssertionError, match="rendered"):
        templates.Renderer(known).render(TEMPLATE, CONTEXT, rendered)


def test_nothing_is_trusted_that_is_not_given(rendered: str):
    with pytest.raises(AssertionError, match="rendered"):
        templates.Renderer().render(TEMPLATE, CONTEXT, rendered)


@pytest.fixture
def compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the templates, compiled as for a packed charm; yields their sources."""
    sources = tmp_path / "templates"
    shutil.copytree(templates.TEMPLATES, sources)
    monkeypatch.setattr(templates, "TEMPLATES", sources)
    monkeypatch.setattr(templates, "COMPILED", tmp_path / "compiled")
    forget()
    templates.compile_all()
    yield sources
    forget()


def forget() -> None:
    """As in a new process."""
    templates._version.cache_clear()
    templates._environment.cache_clear()


def test_a_packed_charm_compiles_no_template(compiled: Path, monkeypatch: pytest.MonkeyPatch):
    right = LEARNING.render(TEMPLATE, CONTEXT)

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("it was compiled")

    monkeypatch.setattr(jinja2.Environment, "compile", fail)
    forget()
    assert templates.Renderer().render(TEMPLATE, CONTEXT) == right
    assert right.startswith("# ")


def test_every_template_is_compiled(compiled: Path):
    forget()
    environment = templates._environment()
    assert isinstance(environment.loader, jinja2.ModuleLoader)
    names = [path.name for path in compiled.iterdir()]
    assert len(names) > 20
    for name in names:
        assert environment.get_template(name)


def test_a_template_that_was_changed_since_counts_by_its_source(compiled: Path):
    (compiled / TEMPLATE).write_text("changed for {{ application }}\n")
    forget()
    assert templates.Renderer().render(TEMPLATE, CONTEXT) == "changed for pci-passthrough\n"


def test_another_jinja_compiles_by_itself(compiled: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(jinja2, "__version__", "99")
    forget()
    assert isinstance(templates._environment().loader, jinja2.FileSystemLoader)


def test_a_name_that_the_context_lacks_is_an_error_there_too(compiled: Path):
    forget()
    with pytest.raises(jinja2.UndefinedError, match="'application' is undefined"):
        templates.Renderer().render(TEMPLATE, {})
