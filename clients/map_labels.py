"""Where the labels of marks go, so that none covers another label or a mark."""

from collections.abc import Sequence
from dataclasses import dataclass

from rfserve.clients.map_frame import Size

FONT_PX = 14
# Wide letters of a sans-serif face are 0.6 of its size.
PX_PER_LETTER = 0.58 * FONT_PX
LONGEST = 28
MARK_PX = 9


@dataclass(frozen=True, kw_only=True)
class Box:
    """A rectangle in pixels."""

    left: float
    top: float
    right: float
    bottom: float

    def covers(self, other: "Box") -> bool:
        """Whether the two share any place."""
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )


@dataclass(frozen=True, kw_only=True)
class Label:
    """A text whose base line is at (x, y): its start, middle or end, as SVG's text-anchor says."""

    x: float
    y: float
    text: str
    anchor: str


def shortened(text: str) -> str:
    """At most `LONGEST` letters."""
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def place(marks: Sequence[tuple[float, float, str]], size: Size, reserved: Sequence[Box] = ()) -> list[Label]:
    """A label for each (x, y, text) that finds room beside its mark.

    Earlier ones choose first, later ones may go without. Nothing goes into `reserved`.
    """
    taken = [*(_around(x, y) for x, y, _ in marks), *reserved]
    found = []
    for own, (x, y, text) in enumerate(marks):
        short = shortened(text)
        width = len(short) * PX_PER_LETTER
        for at, base, anchor in _candidates(x, y):
            left = at - width * {"start": 0.0, "middle": 0.5, "end": 1.0}[anchor]
            box = Box(left=left, top=base - FONT_PX, right=left + width, bottom=base + 4)
            inside = box.left >= 2 and box.right <= size.width - 2 and box.top >= 2 and box.bottom <= size.height - 22
            if inside and not any(box.covers(b) for i, b in enumerate(taken) if i != own):
                taken.append(box)
                found.append(Label(x=at, y=base, text=short, anchor=anchor))
                break
    return found


def _around(x: float, y: float) -> Box:
    return Box(left=x - MARK_PX, top=y - MARK_PX, right=x + MARK_PX, bottom=y + MARK_PX)


def _candidates(x: float, y: float) -> list[tuple[float, float, str]]:
    right, left = (x + MARK_PX + 3, "start"), (x - MARK_PX - 3, "end")
    level, above, below = y + 5, y - MARK_PX - 4, y + MARK_PX + FONT_PX
    beside = [(at, base, anchor) for base in (level, above, below) for at, anchor in (right, left)]
    return [*beside[:2], (x, above, "middle"), (x, below, "middle"), *beside[2:]]
