"""Aligned text for people: tables, wrapped sentences, and colour where a terminal shows it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence

from passthrough import frozen

# Select Graphic Rendition codes (ECMA-48); a terminal's own palette decides the shades.
_COLOURS = {"green": "32", "red": "31", "yellow": "33", "cyan": "36", "faint": "2"}
_GAP = "  "
# A narrower last column tells nothing: rather let the line be too long.
_LEAST = 12


class Style(frozen.Value):
    """How text is laid out: at most ``width`` columns, with ``colour`` or without."""

    width: int = 80
    colour: bool = False

    def paint(self, text: str, colour: str | None) -> str:
        """Wrap ``text`` in the codes of a colour of ``_COLOURS``; None leaves it as it is."""
        if not (self.colour and colour):
            return text
        return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m"


# What goes into an action's results and into a pipe.
PLAIN = Style()


def format_table(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    style: Style = PLAIN,
    colours: Mapping[int, Mapping[str, str]] | None = None,
) -> str:
    """Align ``rows`` below ``header``, two spaces between columns, no trailing blanks.

    Args:
        header: the columns' names.
        rows: one cell a column. The last cell is cut where a line would grow too long.
        style: how wide, and whether in colour.
        colours: per column, the colour of a cell that holds just this text.
    """
    lines = [tuple(header), *(tuple(row) for row in rows)]
    last = len(header) - 1
    widths = [max(len(line[column]) for line in lines) for column in range(last)]
    room = max(style.width - sum(widths) - len(_GAP) * last, _LEAST)
    return "\n".join(_format_line(line, widths, room, style, colours or {}) for line in lines)


def _format_line(
    cells: Sequence[str],
    widths: Sequence[int],
    room: int,
    style: Style,
    colours: Mapping[int, Mapping[str, str]],
) -> str:
    shown = [cell.ljust(width) for cell, width in zip(cells, widths, strict=False)]
    shown.append(cut(cells[-1], room))
    while len(shown) > 1 and not shown[-1].strip():
        shown.pop()
    shown[-1] = shown[-1].rstrip()
    return _GAP.join(
        style.paint(text, colours.get(column, {}).get(cells[column]))
        for column, text in enumerate(shown)
    )


def cut(text: str, width: int) -> str:
    """Shorten ``text`` to ``width`` characters, an ellipsis showing that it was longer."""
    return text if len(text) <= width else f"{text[: width - 1].rstrip()}…"


def wrap(text: str, style: Style = PLAIN, indent: str = "  ") -> str:
    """Break a sentence into lines, all but the first indented; words are never broken."""
    return textwrap.fill(
        text,
        style.width,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def paint_diff(diff: str, style: Style) -> str:
    """Colour the lines of a unified diff as terminals do: red goes, green comes."""
    if not style.colour:
        return diff
    return "\n".join(style.paint(line, _diff_colour(line)) for line in diff.split("\n"))


def _diff_colour(line: str) -> str | None:
    if line.startswith(("---", "+++")):
        return "faint"
    return {"-": "red", "+": "green", "@": "cyan"}.get(line[:1])
