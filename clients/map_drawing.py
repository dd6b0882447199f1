"""The drawing of a map: receivers, fix, ellipses and the true position as inline SVG."""

import html
from collections.abc import Sequence

from rfserve.clients.geodesy import Point, distance_m
from rfserve.clients.map_frame import Frame, Size, length_text
from rfserve.clients.map_labels import Box, place
from rfserve.clients.outputs.report import Report
from rfserve.clients.plain_text import percent

WIDE = Size(width=900, height=600, margin=64)
NARROW = Size(width=420, height=520, margin=48)
FURTHER_CONFIDENCES = (0.5, 0.99)
# Receivers closer together than this are one spot to the eye.
ONE_SPOT_PX = 60.0


def confidences(report: Report) -> list[float]:
    """Those of the ellipses that are drawn, the largest first."""
    return sorted({*FURTHER_CONFIDENCES, report.confidence}, reverse=True)


def everything(report: Report) -> list[Point]:
    """What a map has to show, as (longitude, latitude)."""
    fix = report.fix
    points = [(fix.longitude_deg, fix.latitude_deg), *fix.ring(confidences(report)[0]), *receivers(report)]
    return points if report.truth is None else [*points, (report.truth[1], report.truth[0])]


def receivers(report: Report) -> list[Point]:
    """Where the receivers stand, as (longitude, latitude)."""
    return [(o.longitude_deg, o.latitude_deg) for o in report.observations]


def close_ups(report: Report) -> list[tuple[str, list[Point]]]:
    """What the whole map shows as one spot: titles, and the (longitude, latitude) that a map of its own shows."""
    frame, fix = Frame(everything(report), WIDE), report.fix
    found = []
    ring = fix.ring(confidences(report)[0])
    outline = frame.outline(ring, fix.longitude_deg)
    if _extent(outline) < ONE_SPOT_PX:
        points = [(fix.longitude_deg, fix.latitude_deg), *ring]
        if report.truth is not None:
            place = (report.truth[1], report.truth[0])
            near = _extent([*outline, frame.xy(*place)]) < ONE_SPOT_PX
            points += [place] if near else []
        found.append(("The fix, closer", points))
    if one_spot(report, frame):
        found.append(("The receivers, closer", receivers(report)))
    return found


def one_spot(report: Report, frame: Frame) -> bool:
    """Whether there are several receivers, and all look as one there."""
    places = [frame.xy(*p) for p in receivers(report)]
    return len(places) > 1 and _extent(places) < ONE_SPOT_PX


def _extent(places: Sequence[Point]) -> float:
    return max(max(p[i] for p in places) - min(p[i] for p in places) for i in (0, 1))


def draw(report: Report, points: Sequence[Point], size: Size, title: str) -> str:
    """An `svg` element that shows at least the points; marks outside of it are left out."""
    frame = Frame(points, size)
    fix = report.fix
    shapes = [*_grid(frame)]
    for confidence in confidences(report):
        outline = frame.outline(fix.ring(confidence), fix.longitude_deg)
        text = " ".join(f"{x:.1f},{y:.1f}" for x, y in outline)
        asked = " asked" if confidence == report.confidence else ""
        shapes.append(f'<polygon class="ellipse{asked}" points="{text}"><title>{percent(confidence)}</title></polygon>')
    x, y = frame.xy(fix.longitude_deg, fix.latitude_deg)
    marks = [(x, y, "fix")]
    if report.truth is not None:
        far_x, far_y = frame.xy(report.truth[1], report.truth[0])
        away = length_text(distance_m((fix.latitude_deg, fix.longitude_deg), report.truth))
        shapes.append(f'<path class="error" d="M{x:.1f} {y:.1f}L{far_x:.1f} {far_y:.1f}"/>')
        shapes.append(f'<path class="truth" d="M{far_x - 8:.1f} {far_y:.1f}h16M{far_x:.1f} {far_y - 8:.1f}v16"/>')
        marks.append((far_x, far_y, f"true position, {away} off"))
    together = one_spot(report, frame)
    for seen, name in zip(receivers(report), report.names, strict=True):
        at = frame.xy(*seen)
        shapes.append(
            f'<path class="receiver" d="M{at[0]:.1f} {at[1] - 8:.1f}l7 13h-14z">'
            f"<title>{html.escape(name)}</title></path>"
        )
        if not together:
            marks.append((*at, name))
    if together:
        marks.append((*at, f"{len(report.observations)} receivers"))
    shapes.append(f'<circle class="fix" cx="{x:.1f}" cy="{y:.1f}" r="6"><title>fix</title></circle>')
    inside = [m for m in marks if 0 <= m[0] <= size.width and 0 <= m[1] <= size.height]
    shapes += [
        f'<text class="label" x="{p.x:.1f}" y="{p.y:.1f}" text-anchor="{p.anchor}">{html.escape(p.text)}</text>'
        for p in place(inside, size, [scale_box(frame)])
    ]
    shapes += _scale_bar(frame)
    return (
        f'<svg viewBox="0 0 {size.width} {size.height}" role="img" aria-label="{html.escape(title)}">'
        f"{''.join(shapes)}</svg>"
    )


def _grid(frame: Frame) -> list[str]:
    width, height = frame.size.width, frame.size.height
    meridians, parallels = frame.grid(columns=width // 110)
    shapes = []
    for x, text in meridians:
        shapes.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{height}"/>')
        # Clear of the parallels' labels on the left, and of the right edge.
        if 44 < x < width - 60:
            shapes.append(f'<text class="axis" x="{x + 3:.1f}" y="{height - 6}">{text}</text>')
    for y, text in parallels:
        shapes.append(f'<line class="grid" x1="0" x2="{width}" y1="{y:.1f}" y2="{y:.1f}"/>')
        if 16 < y < height - 24:
            shapes.append(f'<text class="axis" x="4" y="{y - 3:.1f}">{text}</text>')
    return shapes


def scale_box(frame: Frame) -> Box:
    """Where the scale bar is."""
    pixels, _ = frame.scale(longest_px=frame.size.width / 4)
    right, base = frame.size.width - 16, frame.size.height - 30
    return Box(left=right - pixels - 4, top=base - 24, right=frame.size.width, bottom=base + 8)


def _scale_bar(frame: Frame) -> list[str]:
    pixels, text = frame.scale(longest_px=frame.size.width / 4)
    x, y = frame.size.width - 16, frame.size.height - 30
    return [
        f'<path class="scale" d="M{x - pixels:.1f} {y - 4}v8M{x - pixels:.1f} {y}H{x}M{x} {y - 4}v8"/>',
        f'<text class="axis strong" text-anchor="end" x="{x}" y="{y - 8}">{text}</text>',
    ]
