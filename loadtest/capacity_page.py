"""A capacity drawn: latency against load up to the knee, as one HTML page or one SVG that stands alone."""

import html
from pathlib import Path

from rfserve.loadtest import capacity_text, whole_file
from rfserve.loadtest.capacity import Capacity
from rfserve.loadtest.capacity_point import Point
from rfserve.loadtest.capacity_search import HOLDS, INVALID
from rfserve.loadtest.chart import WIDE, Chart, Scale
from rfserve.loadtest.errors import LoadTestError
from rfserve.loadtest.report_style import STYLE, page
from rfserve.loadtest.verdict import PERCENTILES

# Further beyond the knee, what is answered says more of the queue's limits than of the model.
KNEE_TIMES = 1.3
ASIDE = 0.006
LINES = """
.line.p50{stroke:var(--median)} .line.p95{stroke:var(--network)} .line.p99{stroke:var(--due);stroke-width:2.4}
.line.spread{stroke-width:4;stroke-opacity:.35;stroke-linecap:round}
text.p50{fill:var(--median)} text.p95{fill:var(--network)} text.p99{fill:var(--due)}
circle.p50{fill:var(--median)} circle.p95{fill:var(--network)} circle.p99{fill:var(--due)}
circle.fail,text.fail{fill:var(--fail)} .line.fail{stroke:none}
.line.target{stroke:var(--faint);stroke-dasharray:6 4} text.target{fill:var(--faint)}
"""


def write(found: Capacity, file: Path) -> None:
    """The page or, where the file is called so, the SVG; it appears whole or not at all."""
    whole_file.write(file, svg(found) if file.suffix == ".svg" else render(found))


def render(found: Capacity) -> str:
    """The page."""
    title = f"{found.question.model}: {found.question.budget}"
    drawn = chart(found)
    body = (
        f"<h1>{html.escape(title)}</h1><p>{html.escape(found.statement())}</p>"
        + (drawn.both() if drawn is not None else "<p>Nothing was answered.</p>")
        + "<p>Latency from when a request was due, mean of the repetitions; bars reach from the lowest to the highest "
        "of them. Red: the budget did not hold.</p>"
        f"<pre>{html.escape(capacity_text.text(found))}</pre>{_machine(found)}"
    )
    return page(title, body, LINES)


def svg(found: Capacity) -> str:
    """The drawing alone."""
    drawn = chart(found)
    if drawn is None:
        raise LoadTestError(f"{found.question.model}: nothing was answered, so there is nothing to draw")
    size = f'width="{WIDE.width}" height="{WIDE.height}" font-family="system-ui,sans-serif"'
    return (
        drawn.svg(WIDE)
        .replace("<svg ", f'<svg xmlns="http://www.w3.org/2000/svg" {size} ', 1)
        .replace(">", f"><style>{STYLE}{LINES}</style>", 1)
        + "\n"
    )


def chart(found: Capacity) -> Chart | None:
    """Latency against load up to the knee; None when nothing was answered."""
    points = _up_to_the_knee(found)
    if not points:
        return None
    question, budget_ms = found.question, found.question.budget_ms
    shown = {name: [p for p in points if p.has_samples_for(name)] for name in PERCENTILES}
    values = [v for name, of in shown.items() for p in of for v in p.latency_ms[name]]
    unit = f"requests a second to {question.model}, open loop"
    x = Scale.around([p.rate_hz for p in points], unit)
    drawn = Chart("latency against load", x, Scale.around([*values, budget_ms], "ms"))
    for place, (name, of) in enumerate(shown.items()):
        kind = name.removesuffix("_ms")
        for point in of:
            # Beside each other, or they hide one another.
            at = point.rate_hz * (1 + ASIDE * (place - 1)) if x.log else point.rate_hz + ASIDE * (place - 1) * x.high
            drawn.line([(at, v) for v in point.spread_ms(name)], f"{kind} spread")
        if of:
            # From right to left: the label stands at the end, and at the knee there is no room.
            drawn.level([(p.rate_hz, p.mean_ms(name)) for p in reversed(of)], kind, kind)
        for point in of:
            said = capacity_text.row(point, name)
            bad = point.outcome != HOLDS and name == question.figure
            drawn.dots([(point.rate_hz, point.mean_ms(name), said)], "fail" if bad else kind)
    for point in points:
        if point.failures and point.outcome != HOLDS:
            failed = (point.sent - point.answered) / point.sent
            drawn.level([(point.rate_hz, drawn.y.low)], "fail", f"{failed:.1%} failed")
    drawn.level([(x.high, budget_ms), (x.low, budget_ms)], "budget", f"budget: {question.budget}")
    if found.capacity_hz:
        at = found.capacity_hz
        drawn.level([(at, drawn.y.low), (at, drawn.y.high)], "target", f"{at:g}/s")
    return drawn


def _up_to_the_knee(found: Capacity) -> list[Point]:
    above = found.above
    end_hz = KNEE_TIMES * found.capacity_hz if found.capacity_hz else float("inf")
    end_hz = max(end_hz, above.rate_hz) if above is not None else end_hz
    return [p for p in found.points if p.answered and p.outcome != INVALID and p.rate_hz <= end_hz]


def _machine(found: Capacity) -> str:
    machine = found.machine
    if machine is None:
        return ""
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    said = f"{found.started}; {machine.cores} cores, {machine.cpu_model}; {versions}"
    return f"<p>{html.escape(said)}</p>"
