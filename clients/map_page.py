"""A fix on a map: one HTML file with inline drawings, which needs no network and no script."""

import html
from collections.abc import Sequence

from rfserve.clients.geodesy import Point, distance_m
from rfserve.clients.map_drawing import NARROW, WIDE, close_ups, confidences, draw, everything
from rfserve.clients.map_frame import length_text
from rfserve.clients.outputs.report import Report
from rfserve.clients.plain_text import percent, utc_text

STYLE = """
:root{color-scheme:light dark;--text:#1d2733;--faint:#5b6a79;--page:#f4f6f8;--card:#fff;--edge:#d5dce3;
--line:#e4e9ee;--fix:#d6431a;--receiver:#17648d;--truth:#2a7f3f}
@media (prefers-color-scheme:dark){:root{--text:#e6ebf0;--faint:#9aa8b6;--page:#12171d;--card:#1a2129;--edge:#33404d;
--line:#27323d;--fix:#ff7a50;--receiver:#63b3e0;--truth:#67c47e}}
*{box-sizing:border-box} body{margin:0;font:15px/1.45 system-ui,sans-serif;color:var(--text);background:var(--page)}
main{max-width:960px;margin:24px auto;padding:0 20px} h1{font-size:20px;margin:0 0 4px}
h2{font-size:15px;margin:22px 0 6px}
p{margin:4px 0 14px;color:var(--faint)} .note{color:var(--text);font-weight:600}
svg{display:block;width:100%;height:auto;background:var(--card);border:1px solid var(--edge);border-radius:8px}
.narrow{display:none} .grid{stroke:var(--line);stroke-width:1} .axis{fill:var(--faint);font-size:12px}
.axis,.label{paint-order:stroke;stroke:var(--card);stroke-width:3px;stroke-linejoin:round}
.strong{fill:var(--text);font-size:13px} .label{fill:var(--text);font-size:14px}
.ellipse{fill:var(--fix);fill-opacity:.1;stroke:var(--fix);stroke-width:1;stroke-opacity:.55}
.asked{stroke-width:2;stroke-opacity:1} .fix{fill:var(--fix);stroke:var(--card);stroke-width:2}
.receiver{fill:var(--receiver);stroke:var(--card);stroke-width:1}
.truth{stroke:var(--truth);stroke-width:3;fill:none} .error{stroke:var(--truth);stroke-dasharray:5 4;fill:none}
.scale{stroke:var(--text);stroke-width:2;fill:none}
ul{list-style:none;display:flex;flex-wrap:wrap;gap:6px 18px;margin:10px 0 0;padding:0;color:var(--faint);font-size:13px}
li svg{display:inline-block;vertical-align:-3px;width:18px;height:18px;border:0;background:none;margin-right:5px}
.table{overflow-x:auto} table{border-collapse:collapse;width:100%;font-size:13px;font-variant-numeric:tabular-nums}
th,td{text-align:right;padding:4px 8px;border-bottom:1px solid var(--edge);white-space:nowrap}
th:first-child,td:first-child{text-align:left;white-space:normal;overflow-wrap:anywhere}
th{color:var(--faint);font-weight:500}
@media (max-width:600px){main{margin:14px auto;padding:0 12px} .wide{display:none} .narrow{display:block}
h1{font-size:18px} .optional{display:none}}
"""
KEYS = {
    "fix": ('<circle class="fix" cx="9" cy="9" r="6"/>', "fix"),
    "receiver": ('<path class="receiver" d="M9 2l7 13h-14z"/>', "receiver"),
    "truth": ('<path class="truth" d="M1 9h16M9 1v16"/>', "true position"),
    "ellipse": ('<ellipse class="ellipse asked" cx="9" cy="9" rx="8" ry="6"/>', ""),
}


def render(report: Report) -> str:
    """The page: receivers, fix, its ellipses and, when it is known, the true position."""
    fix = report.fix
    shape = fix.ellipse(report.confidence)
    parts = [
        f"<h1>{fix.latitude_deg:.6f}°, {fix.longitude_deg:.6f}°</h1>",
        f"<p>{percent(report.confidence)} ellipse {length_text(shape.semi_north_m)} north, "
        f"{length_text(shape.semi_east_m)} east · {html.escape(fix.model)} version {html.escape(fix.model_version)}"
        + ("" if report.start_ns is None else f" · received {utc_text(report.start_ns)}")
        + "</p>",
        *(f'<p class="note">{html.escape(remark)}</p>' for remark in report.remarks),
        _maps(report, "map of the fix", everything(report)),
        _legend(report),
    ]
    for title, points in close_ups(report):
        parts += [f"<h2>{title}</h2>", _maps(report, title, points)]
    parts.append(_table(report))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><title>rfserve fix</title>'
        f"<style>{STYLE}</style></head><body><main>{''.join(parts)}</main></body></html>\n"
    )


def _maps(report: Report, title: str, points: Sequence[Point]) -> str:
    wide, narrow = (draw(report, points, size, title) for size in (WIDE, NARROW))
    return f'<div class="wide">{wide}</div><div class="narrow">{narrow}</div>'


def _legend(report: Report) -> str:
    shown = ["fix", "receiver", *(["truth"] if report.truth else []), "ellipse"]
    drawn = ", ".join(map(percent, sorted(confidences(report))))
    rows = []
    for key in shown:
        mark, text = KEYS[key]
        words = text or f"ellipses that hold the emitter with {drawn} (asked: {percent(report.confidence)})"
        rows.append(f'<li><svg viewBox="0 0 18 18" aria-hidden="true">{mark}</svg>{words}</li>')
    return f"<ul>{''.join(rows)}</ul>"


def _table(report: Report) -> str:
    place = (report.fix.latitude_deg, report.fix.longitude_deg)
    rows = [
        f"<tr><td>{html.escape(name)}</td>"
        f'<td class="optional">{seen.latitude_deg:.5f}°</td><td class="optional">{seen.longitude_deg:.5f}°</td>'
        f"<td>{length_text(distance_m(place, (seen.latitude_deg, seen.longitude_deg)))}</td></tr>"
        for seen, name in zip(report.observations, report.names, strict=True)
    ]
    return (
        '<h2>Receivers</h2><div class="table"><table><thead><tr><th>name</th><th class="optional">latitude</th>'
        '<th class="optional">longitude</th><th>from the fix</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )
