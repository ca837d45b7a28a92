"""A line plot with two logarithmic axes, as an SVG that reads on a light and a dark page."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from xml.sax import saxutils

_WIDTH, _HEIGHT = 720, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 96, 200, 16, 52
# Told apart by lightness and by dashes too, for who does not tell colours apart.
_STYLES = (
    ("#1b6ac9", ""),
    ("#4fa3e0", "2 4"),
    ("#c2410c", "8 4"),
    ("#6d7a1f", "12 4 2 4"),
)
_NEAR = 15  # pixels between two labels

Points = Sequence[tuple[float, float]]


def draw(series: Mapping[str, Points], across: str, up: str) -> str:
    """Draw series of points, each with its name at its end.

    Args:
        series: name to points; every coordinate is above 0.
        across: what the horizontal axis shows.
        up: what the vertical axis shows.

    Raises:
        ValueError: for more series than there are styles, or a coordinate that has no logarithm.
    """
    if len(series) > len(_STYLES):
        raise ValueError(f"at most {len(_STYLES)} series can be told apart")
    points = [point for each in series.values() for point in each]
    axes = (
        _Axis([x for x, _ in points], _LEFT, _WIDTH - _RIGHT),
        _Axis([y for _, y in points], _HEIGHT - _BOTTOM, _TOP),
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}"'
        ' font-family="sans-serif" font-size="13">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>',
        *_grid(axes, across, up),
        *_lines(series, axes),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


class _Axis:
    """Maps values to pixels, from the power of ten below the least to that above the greatest."""

    def __init__(self, values: Sequence[float], start: float, end: float):
        self.first = math.floor(math.log10(min(values)))
        self.last = max(math.ceil(math.log10(max(values))), self.first + 1)
        self._start, self._end = start, end

    def at(self, value: float) -> float:
        """The pixel of a value."""
        share = (math.log10(value) - self.first) / (self.last - self.first)
        return round(self._start + share * (self._end - self._start), 1)

    def ticks(self) -> list[float]:
        """Every power of ten."""
        return [10.0**power for power in range(self.first, self.last + 1)]


def _grid(axes: tuple[_Axis, _Axis], across: str, up: str) -> Iterator[str]:
    x_axis, y_axis = axes
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    for tick in x_axis.ticks():
        x = x_axis.at(tick)
        yield f'<path d="M{x} {_TOP}V{bottom}" stroke="#d9d9d9"/>'
        yield _text(x, bottom + 20, f"{tick:,.0f}", "middle")
    for tick in y_axis.ticks():
        y = y_axis.at(tick)
        yield f'<path d="M{_LEFT} {y}H{right}" stroke="#d9d9d9"/>'
        yield _text(_LEFT - 8, y + 4, _short(tick), "end")
    yield _text((_LEFT + right) / 2, _HEIGHT - 8, across, "middle")
    middle = (_TOP + bottom) / 2
    yield (
        f'<text x="16" y="{middle}" text-anchor="middle" fill="#222222"'
        f' transform="rotate(-90 16 {middle})">{saxutils.escape(up)}</text>'
    )


def _lines(series: Mapping[str, Points], axes: tuple[_Axis, _Axis]) -> Iterator[str]:
    x_axis, y_axis = axes
    labels = []
    for (name, points), (colour, dashes) in zip(series.items(), _STYLES, strict=False):
        places = [(x_axis.at(x), y_axis.at(y)) for x, y in points]
        path = "L".join(f"{x} {y}" for x, y in places)
        yield (
            f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2.5"'
            f' stroke-dasharray="{dashes}"/>'
        )
        for x, y in places:
            yield f'<circle cx="{x}" cy="{y}" r="3.5" fill="{colour}"/>'
        labels.append((places[-1][1], places[-1][0], name, colour))
    lowest = -math.inf
    for y, x, name, colour in sorted(labels):
        lowest = max(y, lowest + _NEAR)
        yield _text(x + 10, lowest + 4, name, "start", colour)


def _text(x: float, y: float, text: str, anchor: str, colour: str = "#222222") -> str:
    escaped = saxutils.escape(text)
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" fill="{colour}">{escaped}</text>'


def _short(value: float) -> str:
    for size, unit in ((1e9, " bn"), (1e6, " M")):
        if value >= size:
            return f"{value / size:,.0f}{unit}"
    return f"{value:,.0f}"
