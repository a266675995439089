"""Charts as SVG text: points and lines over two axes, and rows with intervals. No script, nothing fetched."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 940, 74, 16, 12, 34
THIN = 4  # and so many to each side of its middle, where its interval is narrower
SEEN = 30  # pixels that a band has at least, though its value came with the last evaluation
ROW = 26  # pixels of one row of a forest
LABEL = 250  # pixels left of a forest's axis
BESIDE = 270  # and right of it

Told = Callable[[float], str]  # how a value of an axis is written


@dataclass(frozen=True)
class Axis:
    """A linear map from values to pixels; what lies outside is drawn at the edge."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        inside = min(max(value, self.low), self.high)
        return self.start + (inside - self.low) / (self.high - self.low) * (self.end - self.start)


@dataclass(frozen=True)
class Point:
    x: float
    y: float | None  # None is drawn as a tick at the foot: there is no value
    style: str  # a class of the page's style sheet
    title: str  # shown where the pointer rests


@dataclass(frozen=True)
class Line:
    points: Sequence[tuple[float, float]]
    style: str
    title: str
    steps: bool = False  # each value holds until the next one


@dataclass(frozen=True)
class Band:
    """A value that holds from `since` on, with its interval."""

    since: float
    low: float
    middle: float
    high: float
    style: str
    title: str


@dataclass(frozen=True)
class Row:
    """One line of a forest: a mean with its interval, and the values behind it."""

    label: str
    low: float
    middle: float
    high: float
    style: str
    beside: str
    values: Sequence[tuple[float, str]] = ()  # with a title each


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round values within [low, high], about so many: steps of 1, 2 or 5 times a power of ten."""
    if not high > low:
        return [low]
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def span(values: Sequence[float], floor: float | None = None) -> tuple[float, float]:
    """The range to show: 0 and all values, a little air, nothing below `floor`."""
    low, high = min([0.0, *values]), max([0.0, *values])
    if floor is not None:
        low = max(low, floor)
    air = 0.06 * (high - low) or 1.0
    return low - air, high + air


def plot(
    points: Sequence[Point],
    lines: Sequence[Line] = (),
    bands: Sequence[Band] = (),
    *,
    x_end: float,
    y_range: tuple[float, float],
    x_label: str,
    y_told: Told,
    height: int = 320,
) -> str:
    """Points, lines and bands over x from 0 to `x_end`; a point without a value is a tick at the foot."""
    x = Axis(0.0, max(x_end, 1.0), LEFT, WIDTH - RIGHT)
    y = Axis(*y_range, height - BOTTOM, TOP)
    foot = height - BOTTOM
    parts = [
        f'<path class="grid" d="M{LEFT} {y.at(v):.1f}H{WIDTH - RIGHT}"/>'
        f'<text class="tick" x="{LEFT - 8}" y="{y.at(v) + 4:.1f}" text-anchor="end">{escape(y_told(v))}</text>'
        for v in ticks(*y_range)
    ]
    parts += [
        f'<text class="tick" x="{x.at(v):.1f}" y="{foot + 18}" text-anchor="middle">{v:g}</text>'
        for v in ticks(0, x.high, 8)
    ]
    parts.append(f'<text class="tick" x="{WIDTH - RIGHT}" y="{height - 2}" text-anchor="end">{escape(x_label)}</text>')
    if y.low < 0 < y.high:
        parts.append(f'<path class="zero" d="M{LEFT} {y.at(0):.1f}H{WIDTH - RIGHT}"/>')
    for line in lines:
        parts.append(f'<path class="line {line.style}" d="{_path(line, x, y)}">{_title(line.title)}</path>')
    for band in bands:
        left, top, bottom = min(x.at(band.since), WIDTH - RIGHT - SEEN), y.at(band.high), y.at(band.low)
        top, bottom = min(top, y.at(band.middle) - THIN), max(bottom, y.at(band.middle) + THIN)
        parts.append(
            f'<g class="{band.style}">{_title(band.title)}'
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{WIDTH - RIGHT - left:.1f}" height="{bottom - top:.1f}"/>'
            f'<path d="M{left:.1f} {y.at(band.middle):.1f}H{WIDTH - RIGHT}"/></g>'
        )
    for point in points:
        if point.y is None:
            mark = f'<path class="{point.style}" d="M{x.at(point.x):.1f} {foot - 7}v7">'
            parts.append(f"{mark}{_title(point.title)}</path>")
        else:
            inside = "" if y.low <= point.y <= y.high else " outside"
            where = f'cx="{x.at(point.x):.1f}" cy="{y.at(point.y):.1f}"'
            parts.append(f'<circle class="{point.style}{inside}" {where} r="3.5">{_title(point.title)}</circle>')
    return _svg(height, parts)


def forest(rows: Sequence[Row], told: Told) -> str:
    """One row an estimate, on a common axis with 0 marked; intervals that leave the axis end at its edge."""
    inner = [value for row in rows for value in (row.middle, *(v for v, _ in row.values))]
    reach = 1.6 * max((abs(value) for value in inner), default=0.0) or 1.0
    ends = [max(-reach, min(reach, end)) for row in rows for end in (row.low, row.high)]
    axis = Axis(*span([*inner, *ends]), LABEL, WIDTH - BESIDE)
    foot = ROW * len(rows) + 8
    parts = [
        f'<path class="grid" d="M{axis.at(v):.1f} 0V{foot}"/>'
        f'<text class="tick" x="{axis.at(v):.1f}" y="{foot + 16}" text-anchor="middle">{escape(told(v))}</text>'
        for v in ticks(axis.low, axis.high)
    ]
    parts.append(f'<path class="zero" d="M{axis.at(0):.1f} 0V{foot}"/>')
    for number, row in enumerate(rows):
        middle = ROW * number + ROW / 2 + 2
        left, right = _cut(row.label, 36), _cut(row.beside, 40)
        mean = f'cx="{axis.at(row.middle):.1f}" cy="{middle}" r="5"'
        parts.append(
            f'<g class="{row.style}"><text x="0" y="{middle + 4}">{escape(left)}{_title(row.label)}</text>'
            f'<path d="M{axis.at(row.low):.1f} {middle}H{axis.at(row.high):.1f}"/>'
            + "".join(
                f'<circle class="value" cx="{axis.at(value):.1f}" cy="{middle}" r="2.5">{_title(title)}</circle>'
                for value, title in row.values
            )
            + f'<circle class="mean" {mean}>{_title(told(row.middle))}</circle>'
            f'<text x="{WIDTH - BESIDE + 12}" y="{middle + 4}">{escape(right)}{_title(row.beside)}</text></g>'
        )
    return _svg(foot + 24, parts)


def _path(line: Line, x: Axis, y: Axis) -> str:
    found: list[str] = []
    for number, (a, b) in enumerate(line.points):
        if number and line.steps:
            found.append(f"H{x.at(a):.1f}V{y.at(b):.1f}")
        else:
            found.append(f"{'L' if number else 'M'}{x.at(a):.1f} {y.at(b):.1f}")
    return "".join(found)


def _svg(height: int, parts: Sequence[str]) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img">\n' + "\n".join(parts) + "\n</svg>"


def _title(text: str) -> str:
    return f"<title>{escape(text)}</title>" if text else ""


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
