"""A capacity as text: the answer, and a row for each rate."""

from rfserve.loadtest.capacity import Capacity
from rfserve.loadtest.capacity_point import Point
from rfserve.loadtest.text_table import lines, number
from rfserve.loadtest.verdict import PERCENTILES

HEAD = ("rate/s", "p50 ms", "p95 ms", "p99 ms", "repetitions", "95 % interval", "answers/s", "failed", "generator", "")


def text(found: Capacity) -> str:
    """The table and the answer."""
    question = found.question
    version = f" version {found.version}" if found.version else ""
    title = (
        f"{question.model}{version}{f' {found.precision}' if found.precision else ''} on {question.device} at "
        f"{found.url or '-'}: {question.budget}, {question.error_rate:.2%} failing, {question.repetitions} repetitions"
    )
    return "\n".join(
        [
            title,
            *lines(HEAD, [_row(p, question.figure) for p in found.points], words={len(HEAD) - 1}),
            found.statement(),
        ]
    )


def row(point: Point, figure: str) -> str:
    """One rate in a line, for who watches."""
    low, high = point.spread_ms(figure)
    reasons = f": {'; '.join(point.reasons)}" if point.reasons else ""
    return (
        f"{point.rate_hz:g}/s {point.outcome}: {figure.removesuffix('_ms')} {number(point.mean_ms(figure))} ms "
        f"({number(low)} to {number(high)}){reasons}"
    )


def _row(point: Point, figure: str) -> list[str]:
    spread, decided = point.spread_ms(figure), point.interval_ms(figure)
    return [
        f"{point.rate_hz:g}",
        *(number(point.mean_ms(name)) if point.has_samples_for(name) else "-" for name in PERCENTILES),
        f"{number(spread[0])} to {number(spread[1])}",
        f"{number(decided[0])} to {number(decided[1])}",
        number(sum(point.goodput_hz) / len(point.goodput_hz)),
        f"{(point.sent - point.answered) / point.sent:.2%}" if point.sent else "-",
        f"{point.cpu_share:.0%}",
        point.outcome,
    ]
