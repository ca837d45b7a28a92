"""Render the files that the charm writes from ``templates/``."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TEMPLATES = Path(__file__).resolve().parents[2] / "templates"


def render(template: str, context: Mapping[str, Any]) -> str:
    """Render one template; a name that ``context`` lacks is an error, never an empty string."""
    return _environment().get_template(template).render(context)


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
