"""A comparison for people: as text for a terminal, and as Markdown for a page."""

import math
from collections import Counter
from collections.abc import Callable, Mapping

from rfserve.loadtest.change import (
    BAD,
    BETTER,
    ERROR_MARGIN,
    ERRORS,
    FASTER,
    MOST_NOISE,
    SAME,
    UNDECIDED,
    Change,
)
from rfserve.loadtest.comparison import Comparison
from rfserve.loadtest.text_table import lines, number

MARKS = {**dict.fromkeys(BAD, "▲"), FASTER: "▼", BETTER: "▼", SAME: "=", UNDECIDED: "?"}


def as_text(comparison: Comparison) -> str:
    """A table of every figure, the warnings and one closing line."""
    head = ["phase", "model", "figure", "before", "after", "change", "95 % interval", "outcome"]
    said = [
        f"before: {comparison.before}",
        f"after:  {comparison.after}",
        "",
        *lines(head, [_cells(c) for c in comparison.changes], words={0, 1, 2, 7}),
        *(f"warning: {w}" for w in comparison.warnings),
        "",
        *_changed(comparison),
        _summary(comparison),
    ]
    return "\n".join(said) + "\n"


def as_markdown(comparison: Comparison) -> str:
    """The same as Markdown; what comes from the files is escaped."""
    head = ["phase", "model", "figure", "before", "after", "change", "95 % interval", "outcome"]
    rows = [head, ["---", "---", "---", "---:", "---:", "---:", "---:", "---"]]
    for change in comparison.changes:
        cells = [_escaped(c) for c in _cells(change)]
        rows.append([*cells[:7], f"**{cells[7]}**" if change.outcome not in {SAME, UNDECIDED} else cells[7]])
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    warnings = "".join(f"- warning: {_escaped(w)}\n" for w in comparison.warnings)
    heads = f"{_escaped(comparison.before)} → {_escaped(comparison.after)}"
    changed = "".join(f"- {_escaped(line)}\n" for line in _changed(comparison))
    return f"{heads}\n\n{changed}\n{table}\n\n{warnings}{chr(10) if warnings else ''}{_summary(comparison)}\n"


def _cells(change: Change) -> list[str]:
    show = _percent if change.figure == ERRORS else number
    if change.figure == ERRORS:
        moved, ends = _points(change.change), f"{_points(change.low)} to {_points(change.high)}"
    else:
        moved, ends = f"{change.change:.3f} x", f"{change.low:.3f} to {change.high:.3f}"
    known = math.isfinite(change.change)
    outcome = f"{MARKS[change.outcome]} {change.outcome}" + (f": {change.reason}" if change.reason else "")
    return [
        change.phase,
        change.model,
        change.figure,
        show(change.before),
        show(change.after),
        moved if known else "-",
        ends if known else "-",
        outcome,
    ]


def _percent(value: float) -> str:
    return f"{value:.2%}" if math.isfinite(value) else "-"


def _points(value: float) -> str:
    return f"{100 * value:+.2f} points"


def _changed(comparison: Comparison) -> list[str]:
    """A line for each change beyond noise, in words."""
    found = []
    for change in comparison.changed:
        moved = _cells(change)[5].removesuffix(" x")
        by = moved if change.figure == ERRORS else f"x {moved}"
        found.append(f"{change.outcome}: {change.phase} {change.model} {change.figure} {by}")
    return found or ["nothing changed beyond noise"]


def _summary(comparison: Comparison) -> str:
    counts = Counter(c.outcome for c in comparison.changes)
    said = ", ".join(f"{count} {outcome}" for outcome, count in counts.most_common())
    return (
        f"{said}. Same: within {comparison.margin:.0%} ({100 * ERROR_MARGIN:g} points of errors) with 95 % confidence. "
        f"Of all changes told, {MOST_NOISE:.0%} at most are noise."
    )


def _escaped(text: str) -> str:
    # A phase is named by whoever wrote the plan: it must not end a cell, or become a tag or a link.
    for character in "\\|<>[]*_`":
        text = text.replace(character, f"\\{character}")
    return text.replace("\n", " ")


FORMATS: Mapping[str, Callable[[Comparison], str]] = {"text": as_text, "markdown": as_markdown}
