"""Text for people: aligned, within its columns, and coloured only where it is asked for."""

from __future__ import annotations

import re

import hypothesis
import pytest
from hypothesis import strategies

from passthrough.reporting import tables

COLOUR = tables.Style(colour=True)
CODES = re.compile(r"\x1b\[\d+m")
CELLS = strategies.text(strategies.characters(categories=("L", "N", "P")), max_size=12)


def test_columns_are_aligned_and_lines_have_no_trailing_blanks():
    rows = [("0000:83:00.0", "ok", "vfio-pci"), ("x", "", ""), ("", "", "alone")]
    assert tables.format_table(("NAME", "RESULT", "SEEN"), rows) == (
        "NAME          RESULT  SEEN\n0000:83:00.0  ok      vfio-pci\nx\n                      alone"
    )


def test_a_long_last_cell_is_cut_to_the_width():
    text = tables.format_table(("A", "B"), [("one", "x" * 200)], tables.Style(width=20))
    assert text.splitlines()[1] == "one  " + "x" * 14 + "…"
    assert len(text.splitlines()[1]) == 20


def test_a_last_column_keeps_a_few_letters_whatever_stands_before_it():
    text = tables.format_table(("A", "B"), [("x" * 100, "y" * 100)])
    assert text.endswith("y" * 11 + "…")


def test_an_empty_table_is_its_header():
    assert tables.format_table(("A", "B"), []) == "A  B"
    assert tables.format_table(("", ""), [("", "")]) == "\n"


def test_colour_does_not_move_a_column():
    colours = {0: {"ok": "green", "fail": "red"}}
    rows = [("ok", "1"), ("fail", "2"), ("okay", "3")]
    painted = tables.format_table(("R", "N"), rows, COLOUR, colours)
    assert CODES.sub("", painted) == tables.format_table(("R", "N"), rows)
    assert "\x1b[32mok  \x1b[0m" in painted
    assert "\x1b[31mfail\x1b[0m" in painted
    assert "\nokay  3" in painted, "only a cell that is just this"
    assert "\x1b" not in tables.format_table(("R", "N"), rows, tables.PLAIN, colours)


@hypothesis.given(
    rows=strategies.lists(strategies.tuples(CELLS, CELLS, strategies.text("ab c", max_size=300))),
    width=strategies.integers(min_value=60, max_value=200),
)
def test_no_line_is_wider_than_asked_for(rows: list[tuple[str, str, str]], width: int):
    text = tables.format_table(("ONE", "TWO", "THREE"), rows, tables.Style(width=width))
    assert max(map(len, text.splitlines())) <= width
    assert len(text.split("\n")) == len(rows) + 1


@pytest.mark.parametrize(
    ("text", "width", "shown"),
    [("abc", 3, "abc"), ("abcd", 3, "ab…"), ("a bcd", 3, "a…"), ("", 3, "")],
)
def test_cut(text: str, width: int, shown: str):
    assert tables.cut(text, width) == shown


def test_wrapping_breaks_no_path_and_no_option():
    text = "run juju config pci-passthrough devices=10de:1bb0@0000:83:00.0 " + "x" * 90
    wrapped = tables.wrap(text, tables.Style(width=40), indent="    ")
    assert " ".join(wrapped.split()) == text
    assert all(line.startswith("    ") for line in wrapped.splitlines()[1:])


def test_a_diff_is_coloured_as_terminals_do():
    diff = "--- a/x\n+++ b/x\n@@ -1 +1 @@\n-old\n+new\n same"
    painted = tables.paint_diff(diff, COLOUR)
    assert CODES.sub("", painted) == diff
    assert [line.split("m")[0] for line in painted.split("\n")] == [
        "\x1b[2",
        "\x1b[2",
        "\x1b[36",
        "\x1b[31",
        "\x1b[32",
        " sa",
    ]
    assert tables.paint_diff(diff, tables.PLAIN) == diff
