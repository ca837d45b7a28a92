"""Draw the rooms of src/passthrough from what imports what: docs/explanation/rooms.svg.

usage: rooms.py [--check]      --check writes nothing and fails when the picture is out of date

The layers are those of the contract in pyproject.toml, the modules and the arrows those of the
code. An arrow that others lead around is left out; an import that only types need is none.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import functools
import itertools
import math
import pathlib
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from xml.sax import saxutils

import generated
import grimp
from importlinter import api

ROOT = pathlib.Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "explanation" / "rooms.svg"

WIRING = "src/: the wiring to Juju"
# Rooms whose one purpose is to change the host.
ACTING = ("effects",)

_WIDTH, _MARGIN, _GAP = 900, 20, 36
_PADDING, _LINE, _LETTER = 14, 18, 7.8  # what the widest letters take, in pixels
_COLUMNS = 50  # letters
_CROSSING = 500  # pixels that an arrow may go around for one crossing less
# Of two rows, beyond which trying them all takes minutes.
_MOST_ORDERS = 20_000
_WAY = 24  # what an arrow takes that passes a layer

_VALUES = "plain values: every room may import them, and no arrow shows it"
_LEGEND = {
    "pure": "does not touch the host, but for the readers that the contract names",
    "acting": "changes drivers, files and services of the host",
}

_STYLE = """
.page{fill:#fff}.room{fill:#f1f4f6;stroke:#5b7480}.pure{fill:#dcf0e4;stroke:#3f8a63}
.acting{fill:#fbe9d0;stroke:#b57d21}.wiring{fill:none;stroke:#5b7480;stroke-dasharray:5 4}
text{fill:#1b2a32}.small{fill:#4a5b64}.way{fill:none;stroke:#5b7480;stroke-width:1.5}
.head{fill:#5b7480}
@media (prefers-color-scheme:dark){.page{fill:#14191c}.room{fill:#222c32;stroke:#8aa4b1}
.pure{fill:#17382a;stroke:#5fb088}.acting{fill:#43310f;stroke:#d9a552}.wiring{stroke:#8aa4b1}
text{fill:#e6edf0}.small{fill:#b3c1c8}.way{stroke:#8aa4b1}.head{fill:#8aa4b1}}
"""


@dataclasses.dataclass(frozen=True)
class House:
    """The rooms of the package, as the contract has them and as the code is.

    Attributes:
        layers: the rooms of each layer, from the top; the charm's own modules are the first.
        values: the rooms that hold nothing but values: they import nothing that acts or reads.
        modules: the modules of each room, by their names inside it.
        imports: the rooms that a room imports.
        pure: the rooms that a contract keeps off the host.
    """

    layers: tuple[tuple[str, ...], ...]
    values: tuple[str, ...]
    modules: Mapping[str, tuple[str, ...]]
    imports: Mapping[str, frozenset[str]]
    pure: frozenset[str]


def read() -> House:
    """Read the contracts and the imports of this repository."""
    found = api.read_configuration(str(ROOT / "pyproject.toml"))["contracts_options"]
    contracts = {each["id"]: each for each in found}
    layers = [
        tuple(name.strip() for name in line.split("|")) for line in contracts["layers"]["layers"]
    ]
    if str(ROOT / "src") not in sys.path:
        sys.path.insert(0, str(ROOT / "src"))
    graph = grimp.build_graph("passthrough", exclude_type_checking_imports=True, cache_dir=None)
    modules: dict[str, list[str]] = {}
    imports: dict[str, set[str]] = {}
    for module in sorted(graph.modules - {"passthrough"}):
        room = _room_of(module)
        modules.setdefault(room, []).append(module.removeprefix(f"passthrough.{room}")[1:])
        imported = map(_room_of, graph.find_modules_directly_imported_by(module))
        imports.setdefault(room, set()).update({*imported} - {room, ""})
    modules[WIRING] = sorted(path.stem for path in (ROOT / "src").glob("*.py"))
    imports[WIRING] = set(_imports_of_wiring())
    lowest = next(index for index, layer in enumerate(layers, 1) if "system" in layer)
    return House(
        layers=((WIRING,), *layers[:lowest]),
        values=tuple(name for layer in layers[lowest:] for name in layer),
        modules={room: tuple(filter(None, names)) for room, names in modules.items()},
        imports={room: frozenset(names) for room, names in imports.items()},
        pure=frozenset(map(_room_of, contracts["pure"]["source_modules"])),
    )


def _room_of(module: str) -> str:
    return (*module.split("."), "")[1]


def _imports_of_wiring() -> Iterator[str]:
    """The rooms that the modules beside the package import."""
    for path in (ROOT / "src").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                yield from (_room_of(name) for name in names if name.startswith("passthrough."))


def find_arrows(house: House) -> list[tuple[str, str]]:
    """Who imports whom, without what follows from other arrows and without plain values."""

    @functools.cache
    def reach(room: str) -> frozenset[str]:
        nearest = house.imports[room]
        return nearest.union(*(reach(each) for each in nearest))

    drawn = [room for layer in house.layers for room in layer]
    return [
        (room, other)
        for room in drawn
        for other in drawn
        if other in house.imports[room]
        and not any(other in reach(each) for each in house.imports[room] - {other})
    ]


# The drawing: one row a layer; an arrow passes a layer as a narrow item of its row


@dataclasses.dataclass(eq=False)
class _Item:
    """Something of a row: a room, or the way of an arrow past it, which has no style."""

    row: int
    name: str = ""
    lines: Sequence[str] = ()
    style: str = ""
    x: float = 0  # of its middle
    top: float = 0
    above: list[_Item] = dataclasses.field(default_factory=list)
    below: list[_Item] = dataclasses.field(default_factory=list)

    @property
    def width(self) -> float:
        letters = max(map(len, (self.name, *self.lines)))
        return round(letters * _LETTER + 2 * _PADDING) if self.style else _WAY

    @property
    def height(self) -> float:
        return (len(self.lines) + 1) * _LINE + _PADDING

    def nearest(self, x: float) -> float:
        """Where an arrow from or to ``x`` meets the lower or upper side."""
        half = max(self.width / 2 - 2 * _PADDING, 0)
        return min(max(x, self.x - half), self.x + half)


def draw(house: House) -> str:
    """Draw a house as an SVG that reads on a light and a dark page."""
    rows, ways = _lay_out(house)
    y: float = _MARGIN
    for row in rows:
        height = max(item.height for item in row if item.style)
        for item in row:
            item.top = y
            item.lines = item.lines if item.style else [""] * round(height / _LINE - 1)
        y += height + _GAP
    ground = _Item(len(rows), _VALUES, _wrap(house.values, _COLUMNS), "room", _WIDTH / 2, y)
    height = ground.top + ground.height + 2 * _MARGIN + _LINE
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:g}"'
            ' font-family="sans-serif" font-size="13" role="img">',
            "<!-- Written by `make reference` from what imports what: change the code. -->",
            "<title>The rooms of src/passthrough, each above those that it imports</title>",
            f"<style>{_STYLE}</style>",
            '<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7"'
            ' markerHeight="7" orient="auto"><path class="head" d="M0 0 10 5 0 10z"/></marker>'
            "</defs>",
            f'<rect class="page" width="{_WIDTH}" height="{height:g}"/>',
            *(_path(way) for way in ways),
            *(
                part
                for row in (*rows, [ground])
                for item in row
                if item.style
                for part in _box(item)
            ),
            *_legend(height - _MARGIN),
            "</svg>\n",
        ]
    )


def _lay_out(house: House) -> tuple[list[list[_Item]], list[list[_Item]]]:
    """Place every room: the rows from the top, and the items along each arrow."""
    rows = [
        [_item(house, room, index) for room in layer] for index, layer in enumerate(house.layers)
    ]
    at = {item.name: item for row in rows for item in row}
    ways = []
    for room, other in find_arrows(house):
        upper, lower = at[room], at[other]
        between = [_Item(row) for row in range(upper.row + 1, lower.row)]
        for item in between:
            rows[item.row].append(item)
        way = [upper, *between, lower]
        for start, end in itertools.pairwise(way):
            start.below.append(end)
            end.above.append(start)
        ways.append(way)
    for row in rows:
        _spread(row)
    for _ in range(3):
        for upper, lower in itertools.pairwise(rows):
            _order(upper, lower)
    return rows, ways


def _order(*rows: list[_Item]) -> None:
    """Sort two rows, one below the other, so that arrows are short and do not cross.

    Where they have too many orders to try all, exchanges of two rooms lead to a good one.
    """
    if math.prod(math.factorial(len(row)) for row in rows) > _MOST_ORDERS:
        while _improve(rows):
            pass
        return
    orders = itertools.product(*map(itertools.permutations, rows))
    best = min(orders, key=_disorder)
    for row, order in zip(rows, best, strict=True):
        row[:] = order
        _spread(row)


def _improve(rows: Sequence[list[_Item]]) -> bool:
    """Exchange two rooms of a row where that is for the better; tell whether any were."""
    least = _disorder(rows)
    for row in rows:
        for one, other in itertools.combinations(range(len(row)), 2):
            row[one], row[other] = row[other], row[one]
            found = _disorder(rows)
            if found < least:
                return True
            row[one], row[other] = row[other], row[one]
    _disorder(rows)
    return False


def _disorder(rows: Sequence[Sequence[_Item]]) -> float:
    for row in rows:
        _spread(row)
    items = [item for row in rows for item in row]
    # No set: which of two equal orders comes first must not depend on where Python put an object.
    arrows = dict.fromkeys((item, below) for item in items for below in item.below)
    arrows |= dict.fromkeys((above, item) for item in items for above in item.above)
    crossing = sum(
        (one.x - other.x) * (one_end.x - other_end.x) < 0 and one.row == other.row
        for (one, one_end), (other, other_end) in itertools.combinations(arrows, 2)
    )
    return sum(abs(start.x - end.x) for start, end in arrows) + _CROSSING * crossing


def _spread(row: Sequence[_Item]) -> None:
    """Put the items of a row side by side around the middle of the page."""
    left = (_WIDTH - sum(item.width for item in row) - _GAP * (len(row) - 1)) / 2
    for item in row:
        item.x = left + item.width / 2
        left += item.width + _GAP


def _item(house: House, room: str, row: int) -> _Item:
    style = "pure" if room in house.pure else "acting" if room in ACTING else "room"
    style = "wiring" if room == WIRING else style
    return _Item(row, room, list(_list(house.modules[room])), style)


def _list(modules: Iterable[str]) -> Iterator[str]:
    """The modules of a room in lines; those of a package inside it follow its name."""
    inner: dict[str, list[str]] = {}
    for module in modules:
        package, dot, name = module.partition(".")
        inner.setdefault(package, []).extend([name] if dot else [])
    yield from _wrap([name for name, names in inner.items() if not names], _COLUMNS)
    for package, names in inner.items():
        if names:
            yield from _wrap([f"{package}/", *names], _COLUMNS)


def _wrap(names: Iterable[str], columns: int) -> list[str]:
    return textwrap.wrap("  ".join(names), columns)


def _path(way: Sequence[_Item]) -> str:
    """An arrow, from the lower side of a room to the upper one of another."""
    x = way[0].nearest(way[1].nearest(way[0].x))
    y = way[0].top + way[0].height
    steps = [f"M{x:g} {y:g}"]
    for item in way[1:]:
        to = item.nearest(x)
        middle = (y + item.top) / 2
        steps.append(f"C{x:g} {middle:g} {to:g} {middle:g} {to:g} {item.top:g}")
        x, y = to, item.top + item.height
        if not item.style:
            steps.append(f"V{y:g}")
    return f'<path class="way" marker-end="url(#head)" d="{"".join(steps)}"/>'


def _box(item: _Item) -> Iterator[str]:
    left = item.x - item.width / 2
    yield (
        f'<rect class="{item.style}" x="{left:g}" y="{item.top:g}" width="{item.width:g}"'
        f' height="{item.height:g}" rx="6"/>'
    )
    y = item.top + _LINE + 2
    name = saxutils.escape(item.name)
    yield f'<text x="{left + _PADDING:g}" y="{y:g}" font-weight="bold">{name}</text>'
    for line in item.lines:
        y += _LINE
        yield (
            f'<text class="small" x="{left + _PADDING:g}" y="{y:g}" font-family="monospace"'
            f' font-size="12" xml:space="preserve">{saxutils.escape(line)}</text>'
        )


def _legend(y: float) -> Iterator[str]:
    x: float = _MARGIN
    for style, meaning in _LEGEND.items():
        yield f'<rect class="{style}" x="{x:g}" y="{y - 12:g}" width="18" height="14" rx="3"/>'
        yield f'<text class="small" x="{x + 26:g}" y="{y:g}" font-size="12">{meaning}</text>'
        x += 50 + len(meaning) * 6.5


def find_outdated() -> list[pathlib.Path]:
    """The picture, unless it shows the house as it is."""
    return generated.find_outdated(_written())


def _written() -> dict[pathlib.Path, str]:
    return {PICTURE: draw(read())}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the picture, or check it; see the module's docstring."""
    parser = argparse.ArgumentParser(description="Draw the rooms from what imports what.")
    parser.add_argument("--check", action="store_true")
    if parser.parse_args(arguments).check:
        outdated = find_outdated()
        for path in outdated:
            print(f"{path.relative_to(ROOT)} is out of date: make reference", file=sys.stderr)
        return bool(outdated)
    for path, text in _written().items():
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
