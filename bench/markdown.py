"""Parts of Markdown pages that programs write, between marks that people leave alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def fill(text: str, name: str, content: str) -> str:
    """Put ``content`` between the marks of that name, in the place of what is there.

    Raises:
        ValueError: when the page has no such marks.
    """
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"the page has no marks {begin} and {end}")
    return f"{before}{begin}\n\n{content.strip()}\n\n{end}{after}"


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table; columns whose head begins with ``>`` are aligned to the right."""
    rule = ["---:" if each.startswith(">") else "---" for each in head]
    lines = [
        [each.lstrip(">") for each in head],
        rule,
        *([str(each) for each in row] for row in rows),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
