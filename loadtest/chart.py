"""Line charts as inline SVG: two sizes of each, of which a style sheet shows the one that fits the page."""

import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Points = Sequence[tuple[float, float]]

LEFT, RIGHT, TOP, BOTTOM = 54, 14, 22, 38
# A logarithmic axis pays when what matters spans more than this.
LOG_FROM = 12.0


@dataclass(frozen=True, kw_only=True)
class Size:
    """Of a drawing, in the units that its letters are 13 of."""

    width: int
    height: int


WIDE, NARROW = Size(width=880, height=280), Size(width=390, height=270)


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Values to shares of an axis, with the values that are written at it."""

    low: float
    high: float
    log: bool = False
    unit: str = ""
    marks: tuple[tuple[float, str], ...] = ()

    @classmethod
    def around(cls, values: Iterable[float], unit: str, *, zero: bool = False) -> "Scale":
        """One that holds all values: from 0 when they are of one size or `zero`, else logarithmic."""
        finite = [v for v in values if math.isfinite(v)]
        above = [v for v in finite if v > 0]
        if not above:
            return cls(low=0.0, high=1.0, unit=unit)
        if zero or max(above) / min(above) < LOG_FROM:
            return cls(low=0.0, high=max(above) * 1.06, unit=unit)
        return cls(low=min(above) / 1.3, high=max(above) * 1.3, log=True, unit=unit)

    def at(self, value: float) -> float:
        """0 at the low end, 1 at the high one; values beyond are drawn at the end."""
        if self.log:
            value, low, high = math.log(max(value, self.low)), math.log(self.low), math.log(self.high)
        else:
            low, high = self.low, self.high
        return min(1.0, max(0.0, (value - low) / (high - low)))

    def ticks(self, most: int) -> list[tuple[float, str]]:
        """What is written at the axis."""
        if self.marks:
            return list(self.marks)
        if not self.log:
            return [(v, _number(v)) for v in _steps(self.low, self.high, most)]
        exponents = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for digits in ((1, 2, 5), (1, 3), (1,)):
            found = [d * 10.0**e for e in exponents for d in digits if self.low <= d * 10.0**e <= self.high]
            if len(found) <= most:
                break
        return [(v, _number(v)) for v in found]


class Chart:
    """Shapes between two axes. Labels are escaped; `kind` is a class of the style sheet."""

    def __init__(self, title: str, x: Scale, y: Scale) -> None:
        self.title, self.x, self.y = title, x, y
        self._shapes: list[tuple[str, Points, str, str]] = []

    def line(self, points: Points, kind: str) -> None:
        """A line through the points."""
        if points:
            self._shapes.append(("line", points, kind, ""))

    def dots(self, points: Sequence[tuple[float, float, str]], kind: str) -> None:
        """Marks, each with a text for who points at it."""
        for x, y, text in points:
            self._shapes.append(("dot", [(x, y)], kind, text))

    def level(self, points: Points, kind: str, label: str) -> None:
        """A line with a label at its end."""
        self._shapes.append(("level", points, kind, label))

    def svg(self, size: Size) -> str:
        """The drawing in one size."""
        shapes = self._axes(size)
        labels: list[tuple[float, float, str, str]] = []
        for form, points, kind, text in self._shapes:
            places = [self._place(x, y, size) for x, y in points]
            if form == "dot":
                ((x, y),) = places
                told = f"<title>{html.escape(text)}</title>"
                shapes.append(f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="2.5">{told}</circle>')
                continue
            path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
            shapes.append(f'<path class="line {kind}" d="{path}"/>')
            if form == "level":
                labels.append((*places[-1], kind, text))
        shapes += _placed(labels, size)
        return (
            f'<svg viewBox="0 0 {size.width} {size.height}" role="img" aria-label="{html.escape(self.title)}">'
            f"{''.join(shapes)}</svg>"
        )

    def both(self) -> str:
        """Both sizes."""
        return f'<div class="wide">{self.svg(WIDE)}</div><div class="narrow">{self.svg(NARROW)}</div>'

    def _place(self, x: float, y: float, size: Size) -> tuple[float, float]:
        across, up = size.width - LEFT - RIGHT, size.height - TOP - BOTTOM
        return LEFT + across * self.x.at(x), TOP + up * (1 - self.y.at(y))

    def _axes(self, size: Size) -> list[str]:
        right, base = size.width - RIGHT, size.height - BOTTOM
        shapes = []
        for value, text in self.y.ticks(6):
            _, y = self._place(self.x.low, value, size)
            shapes.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{right}"/>')
            shapes.append(f'<text class="axis" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
        last = -math.inf
        for value, text in self.x.ticks(8 if size.width > 500 else 5):
            x, _ = self._place(value, self.y.low, size)
            shapes.append(f'<path class="grid" d="M{x:.1f} {TOP}V{base}"/>')
            if x - last > 7.5 * len(text) + 8:
                anchor = "end" if x > right - 8 else "middle"
                shapes.append(f'<text class="axis" x="{x:.1f}" y="{base + 17}" text-anchor="{anchor}">{text}</text>')
                last = x
        shapes.append(f'<text class="axis" x="4" y="13">{html.escape(self.y.unit)}</text>')
        unit = html.escape(self.x.unit)
        shapes.append(f'<text class="axis" x="{right}" y="{size.height - 6}" text-anchor="end">{unit}</text>')
        return shapes


def _placed(labels: Iterable[tuple[float, float, str, str]], size: Size) -> list[str]:
    """Labels above the ends of their lines, moved up where they would lie on each other."""
    shapes: list[str] = []
    taken: list[tuple[float, float, float]] = []
    for x, y, kind, text in sorted(labels, key=lambda label: -label[1]):
        wide = 7.3 * len(text)
        end = min(size.width - RIGHT, max(x, LEFT + wide))
        place = y - 5
        for left, right, other in taken:
            if end - wide < right and left < end and abs(place - other) < 14:
                place = other - 14
        place = max(place, 13)
        taken.append((end - wide, end, place))
        shapes.append(
            f'<text class="label {kind}" x="{end:.1f}" y="{place:.1f}" text-anchor="end">{html.escape(text)}</text>'
        )
    return shapes


def _steps(low: float, high: float, most: int) -> list[float]:
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(d * power for d in (1, 2, 5, 10) if d * power >= raw)
    return [step * n for n in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _number(value: float) -> str:
    return f"{value:.6g}"
