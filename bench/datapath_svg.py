"""Charts as SVG: bars and lines, and no more than the figures of the data path need."""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape

_INK, _SOFT, _FAINT = "#1f2933", "#5f6b7a", "#e4e8ee"


@dataclass
class Drawing:
    """An SVG of a size, put together from the top left."""

    width: float
    height: float
    _parts: list[str] = field(default_factory=list)

    def text(
        self, x: float, y: float, words: str, *, size: float = 12, colour: str = _INK, anchor: str = "start",
        bold: bool = False,
    ) -> None:  # fmt: skip
        """Write words; y is their base line."""
        weight = ' font-weight="600"' if bold else ""
        self._parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size:g}" fill="{colour}"'
            f' text-anchor="{anchor}"{weight}>{escape(words)}</text>'
        )

    def soft(self, x: float, y: float, words: str, *, size: float = 11, anchor: str = "start") -> None:
        """Write words that stay in the background."""
        self.text(x, y, words, size=size, colour=_SOFT, anchor=anchor)

    def box(self, x: float, y: float, width: float, height: float, colour: str) -> None:
        """Fill a rectangle."""
        self._parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 1):.1f}" height="{height:.1f}" rx="2"'
            f' fill="{colour}"/>'
        )

    def line(
        self, points: list[tuple[float, float]], colour: str = _FAINT, *, width: float = 1, dashes: str = ""
    ) -> None:
        """Draw a line through points."""
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
        self._parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width:g}"'
            f' stroke-linejoin="round" stroke-linecap="round"{dashed}/>'
        )

    def svg(self) -> str:
        """Give the file, on a light sheet, so that it reads on a dark page too."""
        size = f"{self.width:g} {self.height:g}"
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}" width="{self.width:g}"'
            f' height="{self.height:g}" font-family="Helvetica, Arial, DejaVu Sans, sans-serif">\n'
            f'<rect width="{self.width:g}" height="{self.height:g}" rx="8" fill="#ffffff"/>\n'
            + "\n".join(self._parts)
            + "\n</svg>\n"
        )


@dataclass(frozen=True)
class Bar:
    """A bar, with what is written beside it."""

    name: str
    value: float
    label: str
    colour: str


def bars(to: Drawing, at: tuple[float, float], width: float, title: str, all_of: list[Bar]) -> None:
    """Draw bars below each other, scaled to the longest; 20 high each."""
    x, y = at
    to.text(x, y, title, size=12.5, bold=True)
    names, labels = 52, 84
    longest = max((bar.value for bar in all_of), default=0) or 1
    for number, bar in enumerate(all_of):
        top = y + 10 + 20 * number
        to.soft(x + names - 6, top + 11.5, bar.name, anchor="end")
        length = (width - names - labels) * bar.value / longest
        to.box(x + names, top, length, 15, bar.colour)
        to.soft(x + names + length + 6, top + 11.5, bar.label)


@dataclass(frozen=True)
class Curve:
    """A value for each second, from the first."""

    colour: str
    values: tuple[float, ...]
    dashes: str = ""


def curves(
    to: Drawing,
    at: tuple[float, float],
    size: tuple[float, float],
    title: str,
    all_of: list[Curve],
    *,
    marks: list[tuple[float, str]] = (),
) -> None:
    """Draw IOPS over seconds, from 0 up; a mark is a second with words."""
    (x, y), (width, height) = at, size
    to.text(x, y, title, size=12.5, bold=True)
    left, top, right, bottom = x + 44, y + (26 if marks else 14), x + width, y + height - 18
    most = _round_up(max((max(curve.values) for curve in all_of), default=1))
    span = max((len(curve.values) for curve in all_of), default=2)

    def place(second: float, value: float) -> tuple[float, float]:
        return left + (right - left) * second / span, bottom - (bottom - top) * value / most

    for step in range(5):
        height_of = place(0, most * step / 4)[1]
        to.line([(left, height_of), (right, height_of)])
        to.soft(left - 6, height_of + 3.5, _short(most * step / 4), anchor="end", size=10)
    every = 5 if span > 12 else 2
    for second in range(0, span + 1, every):
        to.soft(place(second, 0)[0], bottom + 14, f"{second} s", anchor="middle", size=10)
    for number, (second, words) in enumerate(marks):
        at_x = place(second, 0)[0]
        to.line([(at_x, top), (at_x, bottom)], _SOFT, dashes="3 3")
        # Above the chart, the first to the left of its line: they may be close to each other.
        to.soft(
            at_x + (-4 if number == 0 else 4), top - 3, words, size=10, anchor="start" if number else "end"
        )
    for curve in all_of:
        # A second's value stands in the middle of that second.
        points = [place(number + 0.5, value) for number, value in enumerate(curve.values)]
        to.line(points, curve.colour, width=2.2, dashes=curve.dashes)


def _round_up(value: float) -> float:
    """Give the next 1, 1.2, 1.6, 2, 2.4 … that is above a value by enough to leave air."""
    power = 10 ** (len(str(int(value))) - 1)
    steps = (1.2, 1.6, 2, 2.4, 3.2, 4, 5, 6, 8, 10, 12)
    return next(step * power for step in steps if step * power >= value * 1.08)


def _short(value: float) -> str:
    return f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"
