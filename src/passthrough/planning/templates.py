"""Render the files that the charm writes from ``templates/``."""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

TEMPLATES = Path(__file__).resolve().parents[3] / "templates"

_trusted: Mapping[str, str] = {}
_learned: dict[str, str] = {}


def render(template: str, context: Mapping[str, Any], present: str | None = None) -> str:
    """Render one template; a name that ``context`` lacks is an error, never an empty string.

    Args:
        template: the file below ``templates/``.
        context: its values. Their ``repr`` must tell them apart.
        present: what the file to be written holds now. It is given back as it is, without
            rendering, where `trusting` knows that rendering gives just that.
    """
    if present is not None and _trusted.get(template) == _trace(template, context, present):
        _learned[template] = _trusted[template]
        return present
    content = _environment().get_template(template).render(context)
    _learned[template] = _trace(template, context, content)
    return content


@contextlib.contextmanager
def trusting(known: Mapping[str, str]) -> Iterator[None]:
    """Believe what `learned` said in an earlier process, while the block runs.

    For looking, never for writing: then a record that is damaged or made up can hide that a file
    has changed, but cannot bring any content into a file.
    """
    global _trusted
    before, _trusted = _trusted, known
    try:
        yield
    finally:
        _trusted = before


def learned() -> dict[str, str]:
    """What was rendered last from each template, as digests of what went in and what came out."""
    return dict(_learned)


def _trace(template: str, context: Mapping[str, Any], content: str) -> str:
    asked = f"{_version()}\0{template}\0{sorted(context.items())!r}\0{content}"
    return hashlib.sha256(asked.encode("utf-8", "surrogateescape")).hexdigest()


@functools.lru_cache(maxsize=1)
def _version() -> str:
    """A digest of all templates, since they include each other, and of how they are rendered."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for path in sorted(TEMPLATES.iterdir()):
        digest.update(f"{path.name}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


@functools.lru_cache(maxsize=1)
def _environment() -> Any:
    import jinja2  # not needed by a hook that has nothing to render

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - shell and configuration files; every value is a matched token
    )
