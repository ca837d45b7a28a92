"""Rendering, and what spares it: a record of what was rendered before."""

from __future__ import annotations

import pytest

from passthrough.planning import templates

TEMPLATE = "modules-load.conf.j2"
CONTEXT = {"application": "pci-passthrough"}


@pytest.fixture
def rendered(monkeypatch: pytest.MonkeyPatch) -> str:
    """What the template gives; from then on rendering is an error."""
    content = templates.render(TEMPLATE, CONTEXT)

    def fail() -> None:
        raise AssertionError("it was rendered")

    monkeypatch.setattr(templates, "_environment", fail)
    return content


def test_what_is_known_to_be_right_is_not_rendered_again(rendered: str):
    with templates.trusting(templates.learned()):
        assert templates.render(TEMPLATE, CONTEXT, rendered) == rendered


@pytest.mark.parametrize("context", [{"application": "other"}, {**CONTEXT, "name": "x"}])
def test_another_context_is_rendered(rendered: str, context: dict[str, str]):
    with templates.trusting(templates.learned()), pytest.raises(AssertionError, match="rendered"):
        templates.render(TEMPLATE, context, rendered)


@pytest.mark.parametrize("present", ["", "# edited\n", None], ids=["empty", "edited", "absent"])
def test_a_file_that_holds_anything_else_is_rendered(rendered: str, present: str | None):
    with templates.trusting(templates.learned()), pytest.raises(AssertionError, match="rendered"):
        templates.render(TEMPLATE, CONTEXT, present)


def test_a_changed_template_is_rendered(rendered: str, monkeypatch: pytest.MonkeyPatch):
    known = templates.learned()
    monkeypatch.setattr(templates, "_version", lambda: "another")
    with templates.trusting(known), pytest.raises(AssertionError, match="rendered"):
        templates.render(TEMPLATE, CONTEXT, rendered)


def test_the_version_follows_every_template(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(templates, "TEMPLATES", tmp_path)
    found = set()
    for name, content in (("a.j2", "1"), ("b.j2", "1"), ("b.j2", "2"), ("header.j2", "")):
        (tmp_path / name).write_text(content)
        found.add(templates._version.__wrapped__())
    assert len(found) == 4


@pytest.mark.parametrize("known", [{}, {TEMPLATE: ""}, {TEMPLATE: "0" * 64}, {"x": "y"}])
def test_a_damaged_record_is_no_record(rendered: str, known: dict[str, str]):
    with templates.trusting(known), pytest.raises(AssertionError, match="rendered"):
        templates.render(TEMPLATE, CONTEXT, rendered)


def test_nothing_is_trusted_outside_the_block(rendered: str):
    with templates.trusting(templates.learned()):
        pass
    with pytest.raises(AssertionError, match="rendered"):
        templates.render(TEMPLATE, CONTEXT, rendered)
