"""Render the files that the charm writes from ``templates/``.

A packed charm has them as Python modules too, in ``compiled/``: Jinja's compiler would take longer
in each hook than all else that the charm does to plan. Python keeps the bytecode of these modules
as it does that of any other. Their folder is named after what they were made of, so that a template
which was changed since is compiled from its source.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from passthrough.state import digest

TEMPLATES = Path(__file__).resolve().parents[3] / "templates"
COMPILED = TEMPLATES.with_name("compiled")
# The version of the form in which a rendering is digested.
_TRACE = 2


class Renderer:
    """Renders templates, and remembers what came of each.

    Args:
        trusted: what `learned` gave in an earlier process. For looking, never for writing: a
            memory that is damaged or made up can hide that a file has changed, but cannot bring
            any content into a file.
    """

    def __init__(self, trusted: Mapping[str, str] | None = None):
        self._trusted = trusted or {}
        self._learned: dict[str, str] = {}

    def render(
        self, template: str, context: Mapping[str, digest.Plain], present: str | None = None
    ) -> str:
        """Render one template; a name that ``context`` lacks is an error, never an empty string.

        Args:
            template: the file below ``templates/``.
            context: its values.
            present: what the file holds now. Where the trusted memory says that rendering gives
                just that, it comes back as it is, and nothing is rendered.
        """
        known = self._trusted.get(template)
        if present is not None and known and known == _trace(template, context, present):
            self._learned[template] = known
            return present
        content = _environment().get_template(template).render(context)
        self._learned[template] = _trace(template, context, content)
        return content

    def learned(self) -> dict[str, str]:
        """Template → digest of what went into its last rendering and what came out."""
        return dict(self._learned)


def _trace(template: str, context: Mapping[str, digest.Plain], content: str) -> str:
    return digest.of(_TRACE, [_version(), template, context, content])


@functools.lru_cache(maxsize=1)
def _version() -> str:
    """A digest of all templates, since they include each other, and of how they are rendered."""
    found = hashlib.sha256(Path(__file__).read_bytes())
    for path in sorted(TEMPLATES.iterdir()):
        found.update(f"{path.name}\0".encode())
        found.update(path.read_bytes())
    return found.hexdigest()


def compile_all() -> None:
    """Compile all templates into `COMPILED`, as the charm is packed."""
    _environment_of(_source()).compile_templates(_folder(), zip=None, ignore_errors=False)


@functools.lru_cache(maxsize=1)
def _environment() -> Any:
    import jinja2  # not needed by a hook that has nothing to render

    folder = _folder()
    return _environment_of(jinja2.ModuleLoader(folder) if folder.is_dir() else _source())


def _folder() -> Path:
    """Where these very templates are as modules of this very Jinja, if they are."""
    import jinja2

    return COMPILED / f"jinja-{jinja2.__version__}-{_version()}"


def _source() -> Any:
    import jinja2

    return jinja2.FileSystemLoader(TEMPLATES)


def _environment_of(loader: Any) -> Any:
    import jinja2

    return jinja2.Environment(
        loader=loader,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - shell and configuration files; every value is a matched token
    )
