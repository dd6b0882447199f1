"""What the report draws of one model in one phase: latency over time and by percentile, and throughput."""

import math
from collections.abc import Sequence

import numpy as np

from rfserve.export.spec.tensor import Array
from rfserve.loadtest.chart import Chart, Points, Scale
from rfserve.loadtest.measurement import Measurement, percentile_ms
from rfserve.loadtest.repetitions import Repetitions
from rfserve.loadtest.verdict import PERCENTILES, Row

DUE, SENT, MEDIAN, BUDGET, TARGET = "due", "sent", "median", "budget", "target"
# Parts of time: as many as can be told apart, and no more than have some samples each.
SLICES, FEWEST_IN_SLICE = 120, 5
GAP_SHARE = 0.04
SLOWEST_SHOWN = 25
CURVE_POINTS = 160
QUANTILES = (0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999)


def latency_over_time(group: Repetitions, rows: Sequence[Row]) -> Chart:
    """The slowest request and the median of each part of time, all repetitions one after the other."""
    slowest, naive, median = [], [], []
    dots = []
    for offset_s, measurement in zip(_offsets_s(group), group, strict=True):
        due_s, latency_ms, sent_ms = measurement.due_s, measurement.latency_s * 1e3, measurement.send_latency_s * 1e3
        parts = _parts(due_s, measurement.duration_s, len(group))
        chosen = [(offset_s + float(due_s[p].mean()), p) for p in parts]
        slowest.append([(at, float(latency_ms[p].max())) for at, p in chosen])
        naive.append([(at, float(sent_ms[p].max())) for at, p in chosen])
        median.append([(at, float(np.median(latency_ms[p]))) for at, p in chosen])
        for i in np.argsort(latency_ms)[::-1][: max(1, SLOWEST_SHOWN // len(group))]:
            said = f"due at {due_s[i]:.2f} s of repetition {number_of(measurement)}: {latency_ms[i]:.2f} ms"
            dots.append((offset_s + float(due_s[i]), float(latency_ms[i]), said))
    drawn = [y for lines in (slowest, naive, median) for line in lines for _, y in line]
    budget = _budget(rows, "p99_ms")
    # A budget far above everything would press the curves to the ground; the table and the percentiles show it.
    is_near = budget is not None and drawn and budget < 4 * max(drawn)
    y = Scale.around([*drawn, budget] if budget is not None and is_near else drawn, "ms")
    chart = Chart("latency over time", _time_scale(group), y)
    for kind, lines in ((DUE, slowest), (SENT, naive), (MEDIAN, median)):
        for line in lines:
            chart.line(line, kind)
    chart.dots(dots, DUE)
    if budget is not None and is_near:
        chart.level([(0.0, budget), (chart.x.high, budget)], BUDGET, f"p99 budget {budget:g} ms")
    return chart


def latency_by_percentile(group: Repetitions, rows: Sequence[Row]) -> Chart:
    """Latency against percentile with as much room for each further nine, and the steps that the budgets allow."""
    since_due = np.concatenate([m.latency_s for m in group])
    since_sent = np.concatenate([m.send_latency_s for m in group])
    # The highest percentile that so many samples say anything of.
    reach = max(2.0, math.log10(max(since_due.size, 1)))
    steps = [(PERCENTILES[r.figure], r.budget) for r in rows if r.figure in PERCENTILES]
    lines = {DUE: _curve(since_due, reach), SENT: _curve(since_sent, reach)}
    values = [y for line in lines.values() for _, y in line]
    y = Scale.around([*values, *(b for _, b in steps)], "ms")
    marks = tuple((-math.log10(1 - q), f"{100 * q:g} %") for q in QUANTILES if -math.log10(1 - q) <= reach + 1e-9)
    chart = Chart(
        "latency by percentile", Scale(low=0.0, high=reach, unit="percentile", marks=((0.0, "0 %"), *marks)), y
    )
    for kind, line in lines.items():
        chart.line(line, kind)
    at = 0.0
    for percentile, budget in sorted(steps):
        end = -math.log10(1 - percentile / 100)
        chart.level([(at, budget), (end, budget)], BUDGET, f"p{percentile:g} {budget:g} ms")
        at = end
    return chart


def throughput_over_time(group: Repetitions) -> Chart:
    """Good answers a second, against what was asked for."""
    lines: list[Points] = []
    for offset_s, measurement in zip(_offsets_s(group), group, strict=True):
        done_s = measurement.done_s[measurement.done_s <= measurement.duration_s]
        count = max(2, min(SLICES // len(group), done_s.size // (2 * FEWEST_IN_SLICE)))
        counts, edges = np.histogram(done_s, bins=count, range=(0.0, measurement.duration_s))
        rates = counts / np.diff(edges)
        lines.append([(offset_s + float(e), float(r)) for i, r in enumerate(rates) for e in (edges[i], edges[i + 1])])
    targets = [m.target_rate_hz for m in group if m.target_rate_hz is not None]
    y = Scale.around([r for line in lines for _, r in line] + targets, "answers a second", zero=True)
    chart = Chart("throughput over time", _time_scale(group), y)
    for line in lines:
        chart.line(line, DUE)
    if targets:
        chart.line([(0.0, targets[0]), (chart.x.high, targets[0])], TARGET)
    return chart


def number_of(measurement: Measurement) -> int:
    """A repetition as people count them: from 1."""
    return measurement.repetition + 1


def _offsets_s(group: Repetitions) -> list[float]:
    """Where each repetition begins on the common axis."""
    offsets, at = [], 0.0
    for measurement in group:
        offsets.append(at)
        at += measurement.duration_s * (1 + GAP_SHARE)
    return offsets


def _time_scale(group: Repetitions) -> Scale:
    offsets = _offsets_s(group)
    end = offsets[-1] + group[-1].duration_s
    if len(group) == 1:
        return Scale(low=0.0, high=end, unit="s")
    marks = tuple((o, f"#{number_of(m)}") for o, m in zip(offsets, group, strict=True))
    return Scale(low=0.0, high=end, unit=f"repetitions of {group[0].duration_s:g} s", marks=marks)


def _parts(due_s: Array, duration_s: float, repetitions: int) -> list[Array]:
    """Indices of the samples of each part of time that has any."""
    count = max(1, min(SLICES // repetitions, due_s.size // FEWEST_IN_SLICE))
    part = np.minimum((due_s / duration_s * count).astype(np.int64), count - 1)
    return [found for n in range(count) if (found := np.flatnonzero(part == n)).size]


def _curve(latency_s: Array, reach: float) -> list[tuple[float, float]]:
    if not latency_s.size:
        return []
    shares = 1 - 10.0 ** -np.linspace(0.0, reach, CURVE_POINTS)
    return [(-math.log10(1 - q), percentile_ms(latency_s, 100 * q)) for q in shares]


def _budget(rows: Sequence[Row], figure: str) -> float | None:
    return next((r.budget for r in rows if r.figure == figure), None)
