"""A fix as CSV (RFC 4180): a header with units, and one line."""

import csv
import io

from rfserve.clients.geodesy import distance_m
from rfserve.clients.outputs.report import Report
from rfserve.clients.plain_text import utc_text


def render(report: Report) -> str:
    """Header and line."""
    row = columns(report)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(row)
    writer.writerow(row.values())
    return text.getvalue().rstrip("\n")


def columns(report: Report) -> dict[str, str]:
    """The line's fields by the names of their columns; empty where nothing is known."""
    fix = report.fix
    shape = fix.ellipse(report.confidence)
    error_m = ""
    if report.truth is not None:
        error_m = f"{distance_m((fix.latitude_deg, fix.longitude_deg), report.truth):.1f}"
    return {
        "latitude_deg": f"{fix.latitude_deg:.7f}",
        "longitude_deg": f"{fix.longitude_deg:.7f}",
        "sigma_north_m": f"{fix.sigma_north_m:.3f}",
        "sigma_east_m": f"{fix.sigma_east_m:.3f}",
        "confidence": f"{report.confidence:g}",
        "semi_north_m": f"{shape.semi_north_m:.3f}",
        "semi_east_m": f"{shape.semi_east_m:.3f}",
        "error_m": error_m,
        "start_utc": "" if report.start_ns is None else utc_text(report.start_ns, 9),
        "made_utc": utc_text(report.made_ns),
        "receivers": " ".join(report.names),
        "model": fix.model,
        "model_version": fix.model_version,
        "request_id": fix.request_id,
        "round_trip_ms": "" if "round_trip" not in fix.timings_ms else f"{fix.timings_ms['round_trip']:.3f}",
        "dropped": "; ".join(fix.omissions),
        "doubt": fix.doubt,
    }
