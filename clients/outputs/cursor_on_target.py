"""A fix as a Cursor on Target event (MITRE's base schema 2.0), which TAK shows on its map.

`type` is `a-u-G`: an atom (a thing, not a message about one) of unknown affiliation on the ground; a fix has no
altitude and does not say whose the emitter is. `how` is `m-p`, machine and passive: nothing was sent to find it. `ce`
is the longer semi-axis of the ellipse, so that the circle holds the emitter with at least the ellipse's confidence;
`hae` and `le` are 9999999, the schema's word for unknown. `uid` is that of the request: the same request is the
same mark.
"""

import hashlib
from xml.etree import ElementTree as ET

from rfserve.clients.outputs.report import Report
from rfserve.clients.outputs.xml_tree import add, document
from rfserve.clients.plain_text import percent, utc_text

TYPE = "a-u-G"
HOW = "m-p"
UNKNOWN = "9999999.0"
STALE_AFTER_S = 300


def render(report: Report) -> str:
    """One event, valid from the first sample on, stale five minutes after it was made."""
    fix = report.fix
    shape = fix.ellipse(report.confidence)
    longer_m, shorter_m = sorted((shape.semi_north_m, shape.semi_east_m), reverse=True)
    root = ET.Element(
        "event",
        {
            "version": "2.0",
            "uid": _uid(report),
            "type": TYPE,
            "how": HOW,
            "time": utc_text(report.made_ns),
            # A receiver's clock may run ahead of this one, and an event must not begin after it was made.
            "start": utc_text(min(report.start_ns or report.made_ns, report.made_ns)),
            "stale": utc_text(report.made_ns + STALE_AFTER_S * 1_000_000_000),
        },
    )
    add(
        root,
        "point",
        lat=f"{fix.latitude_deg:.7f}",
        lon=f"{fix.longitude_deg:.7f}",
        hae=UNKNOWN,
        ce=f"{longer_m:.1f}",
        le=UNKNOWN,
    )
    detail = add(root, "detail")
    add(detail, "contact", callsign=f"RF {fix.model}")
    add(detail, "precisionlocation", geopointsrc="CALC", altsrc="???")
    # The angle is the longer axis's bearing from north.
    angle = "0" if shape.semi_north_m >= shape.semi_east_m else "90"
    add(add(detail, "shape"), "ellipse", major=f"{longer_m:.1f}", minor=f"{shorter_m:.1f}", angle=angle)
    text = f"{percent(report.confidence)} ellipse; receivers {', '.join(report.names)}; version {fix.model_version}"
    add(detail, "remarks", "; ".join([text, *report.remarks]))
    return document(root)


def _uid(report: Report) -> str:
    fix = report.fix
    if fix.request_id:
        return f"rfserve.{fix.request_id}"
    parts = (fix.latitude_deg, fix.longitude_deg, fix.model, fix.model_version, report.start_ns)
    return f"rfserve.{hashlib.sha256(repr(parts).encode()).hexdigest()[:32]}"
