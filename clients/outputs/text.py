"""A fix for people to read."""

from rfserve.clients.geodesy import distance_m
from rfserve.clients.outputs.report import Report
from rfserve.clients.plain_text import percent, utc_text


def render(report: Report) -> str:
    """Some lines of text."""
    fix = report.fix
    shape = fix.ellipse(report.confidence)
    timings = ", ".join(f"{k} {v:.1f} ms" for k, v in fix.timings_ms.items())
    lines = [
        f"fix        {fix.latitude_deg:.6f}°, {fix.longitude_deg:.6f}°  (WGS 84 latitude, longitude)",
        f"sigma      {fix.sigma_north_m:.1f} m north, {fix.sigma_east_m:.1f} m east",
        f"ellipse    {shape.semi_north_m:.1f} m north, {shape.semi_east_m:.1f} m east at {percent(report.confidence)}",
        f"receivers  {', '.join(report.names)}",
        *([] if report.start_ns is None else [f"received   {utc_text(report.start_ns)}"]),
        *(f"{what:<10} {why}" for what, why in fix.caveats),
        f"model      {fix.model} version {fix.model_version}",
        f"took       {timings}",
    ]
    if report.truth is not None:
        away_m = distance_m((fix.latitude_deg, fix.longitude_deg), report.truth)
        lines.append(f"error      {away_m:.0f} m from {report.truth[0]:.6f}°, {report.truth[1]:.6f}°")
    return "\n".join(lines)
