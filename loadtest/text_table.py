"""Tables for a terminal, and the numbers in them."""

import math
from collections.abc import Collection, Sequence


def lines(head: Sequence[str], rows: Sequence[Sequence[str]], *, words: Collection[int]) -> list[str]:
    """A line for the head and each row. The columns `words` begin at the left, and numbers end at the right."""
    widths = [max(len(line[i]) for line in (head, *rows)) for i in range(len(head))]
    return [
        "  ".join(
            c.ljust(w) if i in words else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in (head, *rows)
    ]


def number(value: float) -> str:
    """Four digits; a dash for what is not there."""
    return f"{value:.4g}" if math.isfinite(value) else "-"
