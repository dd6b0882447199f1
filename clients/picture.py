"""A fix as a PNG picture, drawn by matplotlib (`pip install 'rfserve[png]'`)."""

import importlib.util
import io
import textwrap

from rfserve.clients.errors import ClientError
from rfserve.clients.map_drawing import WIDE, confidences, everything, one_spot, receivers, scale_box
from rfserve.clients.map_frame import Frame
from rfserve.clients.map_labels import place
from rfserve.clients.outputs.report import Report
from rfserve.clients.plain_text import percent

DOTS_PER_INCH = 150
ALIGNMENTS = {"start": "left", "middle": "center", "end": "right"}
# Of a line over the whole picture.
REMARK_LETTERS = 110
FIX, RECEIVER, TRUTH = "#d6431a", "#17648d", "#2a7f3f"


def require(otherwise: str = "write a map with --map") -> None:
    """`ClientError` unless matplotlib is installed; it says what can be done `otherwise`."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ClientError(f"matplotlib is not installed; `pip install 'rfserve[png]'`, or {otherwise}")


def render(report: Report) -> bytes:
    """The picture as a PNG file, 1350 by 900 pixels."""
    require()
    # An extra of its own, and slow to import.
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    frame, fix = Frame(everything(report), WIDE), report.fix
    figure = Figure(figsize=(WIDE.width / 100, WIDE.height / 100), dpi=DOTS_PER_INCH)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDE.width), ylim=(WIDE.height, 0))
    axes.set_axis_off()
    meridians, parallels = frame.grid(columns=8)
    for x, words in meridians:
        axes.axvline(x, color="#e4e9ee", linewidth=0.8, zorder=0)
        axes.text(x + 3, WIDE.height - 6, words, fontsize=7, color="#5b6a79")
    for y, words in parallels:
        axes.axhline(y, color="#e4e9ee", linewidth=0.8, zorder=0)
        axes.text(4, y - 3, words, fontsize=7, color="#5b6a79")
    for confidence in confidences(report):
        outline = frame.outline(fix.ring(confidence), fix.longitude_deg)
        asked = confidence == report.confidence
        words = f"{percent(confidence)} ellipse"
        axes.fill(*zip(*outline, strict=True), color=FIX, alpha=0.1, linewidth=0)
        axes.plot(*zip(*outline, strict=True), color=FIX, linewidth=1.5 if asked else 0.7, label=words)
    marks = [(*frame.xy(fix.longitude_deg, fix.latitude_deg), "fix")]
    axes.plot(*marks[0][:2], "o", color=FIX, markersize=7, zorder=4, label="fix")
    if report.truth is not None:
        marks.append((*frame.xy(report.truth[1], report.truth[0]), "true position"))
        axes.plot(*marks[1][:2], "+", color=TRUTH, markersize=11, markeredgewidth=2, zorder=4, label="true position")
    seen = [(*frame.xy(*at), name) for at, name in zip(receivers(report), report.names, strict=True)]
    axes.plot([m[0] for m in seen], [m[1] for m in seen], "^", color=RECEIVER, markersize=8, zorder=3, label="receiver")
    named = [(*seen[-1][:2], f"{len(seen)} receivers")] if one_spot(report, frame) else seen
    for label in place([*marks, *named], WIDE, [scale_box(frame)]):
        # A name is a name, not a formula.
        axes.text(label.x, label.y, label.text, ha=ALIGNMENTS[label.anchor], fontsize=9, parse_math=False, zorder=5)
    pixels, words = frame.scale(longest_px=WIDE.width / 4)
    axes.plot([WIDE.width - 16 - pixels, WIDE.width - 16], [WIDE.height - 30] * 2, color="#1d2733", linewidth=1.6)
    axes.text(WIDE.width - 16, WIDE.height - 38, words, fontsize=8, ha="right")
    axes.legend(loc="best", fontsize=7, framealpha=0.9)
    for row, line in enumerate(line for remark in report.remarks for line in textwrap.wrap(remark, REMARK_LETTERS)):
        axes.text(10, 20 + 14 * row, line, fontsize=9, fontweight="bold", parse_math=False)
    file = io.BytesIO()
    FigureCanvasAgg(figure).print_png(file)
    return file.getvalue()
