"""A fix on a map: one HTML file with an inline drawing, which needs no network and no script."""

import html
import math
from collections.abc import Sequence

from rfserve.clients.fix import Fix
from rfserve.clients.geodesy import unwrapped
from rfserve.clients.observation import Observation

WIDTH, HEIGHT, MARGIN = 900, 640, 60
METRES_PER_DEGREE = 111_195.0  # of a great circle on the mean sphere
GRID_STEPS = (
    0.00002,
    0.00005,
    0.0001,
    0.0002,
    0.0005,
    0.001,
    0.002,
    0.005,
    0.01,
    0.02,
    0.05,
    0.1,
    0.2,
    0.5,
    1,
    2,
    5,
    10,
    20,
    45,
)

STYLE = """
body{margin:0;font:15px/1.45 system-ui,sans-serif;color:#1d2733;background:#f4f6f8}
main{max-width:960px;margin:24px auto;padding:0 20px}
h1{font-size:20px;margin:0 0 4px} p{margin:4px 0 14px;color:#51606f}
svg{width:100%;height:auto;background:#fff;border:1px solid #d5dce3;border-radius:8px}
.grid{stroke:#e4e9ee;stroke-width:1} .axis{fill:#7b8896;font-size:11px}
.ellipse{fill:#e4572e22;stroke:#e4572e;stroke-width:1.5} .fix{fill:#e4572e}
.receiver{fill:#17648d} .label{fill:#1d2733;font-size:12px;paint-order:stroke;stroke:#fff;stroke-width:3px}
.truth{stroke:#2a7f3f;stroke-width:2.5;fill:none} .scale{stroke:#1d2733;stroke-width:2}
"""


class Frame:
    """Degrees to pixels, with a degree of longitude as much shorter as it is on the ground."""

    def __init__(self, points: Sequence[tuple[float, float]]) -> None:
        longitudes, latitudes = [unwrapped(p[0], points[0][0]) for p in points], [p[1] for p in points]
        self.longitude = (min(longitudes) + max(longitudes)) / 2
        self.latitude = (min(latitudes) + max(latitudes)) / 2
        self.shrink = max(math.cos(math.radians(self.latitude)), 0.05)
        wide = max((max(longitudes) - min(longitudes)) * self.shrink, 1e-4)
        high = max(max(latitudes) - min(latitudes), 1e-4)
        self.pixels_per_degree = min((WIDTH - 2 * MARGIN) / wide, (HEIGHT - 2 * MARGIN) / high)

    def xy(self, longitude: float, latitude: float) -> tuple[float, float]:
        """Pixel coordinates."""
        x = WIDTH / 2 + (unwrapped(longitude, self.longitude) - self.longitude) * self.shrink * self.pixels_per_degree
        return x, HEIGHT / 2 - (latitude - self.latitude) * self.pixels_per_degree

    def spans(self) -> tuple[float, float, float, float]:
        """West, east, south, north of the drawing."""
        half_x = WIDTH / 2 / self.pixels_per_degree / self.shrink
        half_y = HEIGHT / 2 / self.pixels_per_degree
        return self.longitude - half_x, self.longitude + half_x, self.latitude - half_y, self.latitude + half_y


def render(
    fix: Fix,
    observations: Sequence[Observation],
    *,
    confidence: float = 0.95,
    truth: tuple[float, float] | None = None,
    note: str = "",
) -> str:
    """The page: receivers, fix, its ellipse and, when given as (latitude, longitude), the true position."""
    ring = fix.ring(confidence)
    places = [(fix.longitude_deg, fix.latitude_deg), *ring, *((o.longitude_deg, o.latitude_deg) for o in observations)]
    if truth:
        places.append((truth[1], truth[0]))
    frame = Frame(places)
    shapes = [*_grid(frame), _polygon(frame, ring), *(_receiver(frame, o) for o in observations)]
    if truth:
        x, y = frame.xy(truth[1], truth[0])
        shapes.append(f'<path class="truth" d="M{x - 7:.1f} {y:.1f}h14M{x:.1f} {y - 7:.1f}v14"/>')
        # Away from the fix's label: a good fix is near.
        shapes.append(f'<text class="label" text-anchor="end" x="{x - 9:.1f}" y="{y + 17:.1f}">true position</text>')
    x, y = frame.xy(fix.longitude_deg, fix.latitude_deg)
    shapes += [f'<circle class="fix" cx="{x:.1f}" cy="{y:.1f}" r="6"/>', _label(x, y, "fix"), *_scale_bar(frame)]
    shape = fix.ellipse(confidence)
    text = (
        f"{fix.latitude_deg:.6f}°, {fix.longitude_deg:.6f}° · {confidence:.0%} ellipse "
        f"{shape.semi_north_m:.0f} m north, {shape.semi_east_m:.0f} m east · {fix.model} version {fix.model_version}"
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width"><title>rfserve fix</title>'
        f"<style>{STYLE}</style></head><body><main><h1>Fix</h1><p>{html.escape(text)}</p>"
        + (f"<p><strong>{html.escape(note)}</strong></p>" if note else "")
        + f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="map of the fix">{"".join(shapes)}</svg>'
        "</main></body></html>\n"
    )


def _label(x: float, y: float, text: str) -> str:
    return f'<text class="label" x="{x + 9:.1f}" y="{y - 7:.1f}">{html.escape(text)}</text>'


def _receiver(frame: Frame, observation: Observation) -> str:
    x, y = frame.xy(observation.longitude_deg, observation.latitude_deg)
    mark = f'<path class="receiver" d="M{x:.1f} {y - 8:.1f}l7 13h-14z"/>'
    return mark + _label(x, y, observation.name)


def _polygon(frame: Frame, ring: Sequence[tuple[float, float]]) -> str:
    points = " ".join("{:.1f},{:.1f}".format(*frame.xy(*p)) for p in ring)
    return f'<polygon class="ellipse" points="{points}"/>'


def _grid(frame: Frame) -> list[str]:
    west, east, south, north = frame.spans()
    step = next((s for s in GRID_STEPS if (east - west) / s <= 8), GRID_STEPS[-1])
    digits = max(0, -math.floor(math.log10(step)))
    shapes = []
    for i in range(math.ceil(west / step), math.floor(east / step) + 1):
        x = (i * step - west) / (east - west) * WIDTH
        shapes.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{HEIGHT}"/>')
        shapes.append(
            f'<text class="axis" x="{x + 3:.1f}" y="{HEIGHT - 6}">{unwrapped(i * step, 0):.{digits}f}°</text>'
        )
    for i in range(math.ceil(south / step), math.floor(north / step) + 1):
        _, y = frame.xy(frame.longitude, i * step)
        shapes.append(f'<line class="grid" x1="0" x2="{WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>')
        shapes.append(f'<text class="axis" x="4" y="{y - 3:.1f}">{i * step:.{digits}f}°</text>')
    return shapes


def _scale_bar(frame: Frame) -> list[str]:
    metres_per_pixel = METRES_PER_DEGREE / frame.pixels_per_degree
    longest = 200 * metres_per_pixel
    power = 10 ** math.floor(math.log10(longest))
    metres = max(m for m in (power, 2 * power, 5 * power) if m <= longest)
    x, y = WIDTH - 30, HEIGHT - 30
    text = f"{metres / 1000:g} km" if metres >= 1000 else f"{metres:g} m"
    return [
        f'<line class="scale" x1="{x - metres / metres_per_pixel:.1f}" x2="{x}" y1="{y}" y2="{y}"/>',
        f'<text class="axis" text-anchor="end" x="{x}" y="{y - 6}">{text}</text>',
    ]
