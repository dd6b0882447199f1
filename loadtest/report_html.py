"""A run and its verdicts as one HTML file that needs no network and no script."""

import html
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rfserve.loadtest import report_charts, whole_file
from rfserve.loadtest.measurement import Run, ServerSplit
from rfserve.loadtest.repetitions import Repetitions, by_phase_and_model, failures
from rfserve.loadtest.report_style import page
from rfserve.loadtest.verdict import FAIL, INVALID, PASS, UNDECIDED, Row, Verdict

FIGURES = {
    "p50_ms": "p50, ms",
    "p95_ms": "p95, ms",
    "p99_ms": "p99, ms",
    "error_rate": "errors, %",
    "throughput_hz": "answers/s",
}
MARKS = {PASS: "✓", FAIL: "✗", INVALID: "!", UNDECIDED: "?"}
# The first of these that any verdict has is the run's.
ORDER = (FAIL, INVALID, UNDECIDED, PASS)
SLOWEST = {
    "due": "slowest, since it was due",
    "sent": "slowest, since it was sent",
    "median": "median, since it was due",
}
CLOSED = "<p>A closed loop asks a slow server for less, and never sees part of the waiting: an open loop does.</p>"
SINCE = {"due": "since it was due", "sent": "since it was sent", "budget": "budget"}


def write(run: Run, verdicts: Sequence[Verdict], file: Path) -> None:
    """The report; it appears whole or not at all."""
    whole_file.write(file, render(run, verdicts))


def render(run: Run, verdicts: Sequence[Verdict]) -> str:
    """The page."""
    groups = by_phase_and_model(run.measurements)
    found = {v.outcome for v in verdicts}
    overall = next((o for o in ORDER if o in found), UNDECIDED)
    parts = [
        f"<h1>{_text(run.name)}: {_outcome(overall)}</h1>",
        f"<p>{_text(run.device)} · {_text(run.url)} · {_text(run.started)}</p>",
        _verdict_table(verdicts),
        "<p>Each figure, its 95 % interval over the repetitions, and its budget. Latencies count from when a request "
        "was due.</p>",
    ]
    for verdict in verdicts:
        group = groups.get((verdict.phase, verdict.model))
        if group is not None:
            parts.append(_section(verdict, group))
    parts += [_machine(run), _plan(run)]
    return page(f"{run.name}: {overall}", "".join(parts))


def _verdict_table(verdicts: Sequence[Verdict]) -> str:
    head = ["phase", "model", "verdict", *FIGURES.values()]
    rows = []
    for verdict in verdicts:
        by_figure = {row.figure: row for row in verdict.rows}
        cells = [_text(verdict.phase), _text(verdict.model), _outcome(verdict.outcome)]
        cells += [_figure(by_figure[name]) if name in by_figure else "-" for name in FIGURES]
        rows.append(cells)
    return _table(head, rows, words=3)


def _figure(row: Row) -> str:
    value, low, high, budget = (_value(row.figure, v) for v in (row.value, row.low, row.high, row.budget))
    interval = f"{low} to {high}" if math.isfinite(row.low) else "no interval"
    side = "≥" if row.figure == "throughput_hz" else "≤"
    mark = "" if row.outcome == PASS else f' <span class="outcome {_class(row.outcome)}">{_mark(row.outcome)}</span>'
    return f"{value}{mark}<small>{interval}</small><small>{side} {budget}</small>"


def _section(verdict: Verdict, group: Repetitions) -> str:
    first = group[0]
    load = f"open loop at {first.target_rate_hz:g}/s" if first.target_rate_hz is not None else "closed loop"
    what = " · ".join(
        part
        for part in (
            f"version {first.version}" if first.version else "",
            first.precision,
            load,
            f"{len(group)} x {first.duration_s:g} s",
            f"{sum(m.sent for m in group)} requests",
        )
        if part
    )
    reasons = "".join(f"<li>{_text(r)}</li>" for r in verdict.reasons)
    return (
        f"<section><h2>{_text(verdict.phase)} · {_text(verdict.model)} {_outcome(verdict.outcome)}</h2>"
        f"<p>{_text(what)}</p>"
        + ("" if first.target_rate_hz is not None else CLOSED)
        + (f'<ul class="reasons">{reasons}</ul>' if reasons else "")
        + (_drawings(verdict, group) if any(m.answered for m in group) else "<p>Nothing was answered.</p>")
        + _failures(group)
        + _server(group)
        + _repetitions(group)
        + "</section>"
    )


def _drawings(verdict: Verdict, group: Repetitions) -> str:
    over_time = report_charts.latency_over_time(group, verdict.rows)
    by_percentile = report_charts.latency_by_percentile(group, verdict.rows)
    throughput = report_charts.throughput_over_time(group)
    rate_hz = group[0].target_rate_hz
    asked = {} if rate_hz is None else {"target": f"asked for {rate_hz:g}/s"}
    answered = _key({"due": "good answers", **asked})
    return (
        f"<h3>Latency over time</h3>{_key(SLOWEST)}{over_time.both()}"
        f"<h3>Latency by percentile</h3>{_key(SINCE)}{by_percentile.both()}"
        f"<h3>Throughput over time</h3>{answered}{throughput.both()}"
    )


def _key(texts: Mapping[str, str]) -> str:
    items = "".join(f'<li><i class="{kind}"></i>{text}</li>' for kind, text in texts.items())
    return f'<ul class="key">{items}</ul>'


def _failures(group: Repetitions) -> str:
    counts = failures(group)
    if not counts:
        return "<h3>Failures</h3><p>None.</p>"
    sent = sum(m.sent for m in group)
    rows = [[_text(reason), str(n), f"{n / sent:.2%}"] for reason, n in counts.most_common()]
    return f"<h3>Failures</h3>{_table(['reason', 'requests', 'of all'], rows)}"


def _server(group: Repetitions) -> str:
    splits = [m.server for m in group if m.server is not None and m.server.requests]
    if not splits:
        note = next((m.server_note for m in group if m.server_note), "its statistics were not read")
        return f"<h3>Where the time goes</h3><p>The server says nothing of it: {_text(note)}</p>"
    named = {
        "queue": ("in the server's queue", _weighted(splits, "queue_ms")),
        "compute": ("in the model", _weighted(splits, "compute_ms")),
        "network": ("wire, client and waiting outside the queue", max(0.0, _weighted(splits, "network_ms"))),
    }
    whole = sum(ms for _, ms in named.values()) or 1.0
    bar = "".join(
        f'<span class="{kind}" style="width:{100 * ms / whole:.2f}%"></span>' for kind, (_, ms) in named.items()
    )
    keys = "".join(f'<li><b class="{kind}"></b>{text}: {_ms(ms)}</li>' for kind, (text, ms) in named.items())
    batch = _weighted(splits, "mean_batch")
    return (
        "<h3>Where the time goes</h3>"
        f'<div class="bar" role="img" aria-label="queue, model, rest">{bar}</div><ul class="key">{keys}</ul>'
        f"<p>Means of a request, from when it was sent; {batch:.2f} rows in a batch on average.</p>"
    )


def _weighted(splits: Sequence[ServerSplit], name: str) -> float:
    requests = sum(s.requests for s in splits)
    return float(sum(getattr(s, name) * s.requests for s in splits)) / requests


def _repetitions(group: Repetitions) -> str:
    head = ["repetition", "sent", "failed", "late", "p50", "p99", "p99 since sent", "worst", "answers", "generator"]
    rows = [
        [
            str(report_charts.number_of(m)),
            str(m.sent),
            str(m.failed),
            str(m.late),
            _ms(m.latency_ms(50)),
            _ms(m.latency_ms(99)),
            _ms(m.send_latency_ms(99)),
            _ms(m.latency_ms(100)),
            f"{m.goodput_hz:.4g}/s",
            f"{m.generator.cpu_share:.0%} of a core<small>{m.generator.processes} on "
            f"{_text(', '.join(m.generator.hosts))}</small>",
        ]
        for m in group
    ]
    return f"<details><summary>Repetitions</summary>{_table(head, rows)}</details>"


def _machine(run: Run) -> str:
    machine = run.machine
    facts = {
        "CPU": f"{machine.cores} cores, {machine.cpu_model}",
        "memory": f"{machine.memory_bytes / 2**30:.1f} GiB",
        "kernel": machine.kernel,
        "Python": machine.python,
        **machine.versions,
    }
    rows = [[_text(name), _text(value)] for name, value in facts.items()]
    return f"<section><h2>Machine</h2><p>Where the load came from.</p>{_table(['', ''], rows, words=2)}</section>"


def _plan(run: Run) -> str:
    plan = _text(json.dumps(run.plan, indent=1, default=str))
    return f"<details><summary>Plan</summary><pre>{plan}</pre></details>"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]], *, words: int = 1) -> str:
    """A table of cells that are HTML already; the first `words` columns hold text, the others numbers."""
    top = "".join(f"<th{_words(i, words)}>{name}</th>" for i, name in enumerate(head))
    body = "".join(
        "<tr>" + "".join(f"<td{_words(i, words)}>{cell}</td>" for i, cell in enumerate(row)) + "</tr>" for row in rows
    )
    return f'<div class="table"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _words(column: int, words: int) -> str:
    return ' class="words"' if column < words else ""


def _outcome(outcome: str) -> str:
    return f'<span class="outcome {_class(outcome)}">{_mark(outcome)} {_text(outcome)}</span>'


def _mark(outcome: str) -> str:
    return MARKS.get(outcome, "?")


def _class(outcome: str) -> str:
    return outcome if outcome in MARKS else UNDECIDED


def _value(figure: str, value: float) -> str:
    if not math.isfinite(value):
        return "-"
    return f"{100 * value:.3g}" if figure == "error_rate" else f"{value:.4g}"


def _ms(value: float) -> str:
    return f"{value:.4g} ms" if math.isfinite(value) else "-"


def _text(value: str) -> str:
    return html.escape(value)
