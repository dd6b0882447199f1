"""A fix for Google Earth and GIS: KML 2.2 (OGC 07-147r2)."""

from collections.abc import Sequence
from xml.etree import ElementTree as ET

from rfserve.clients.geodesy import cut_at_antimeridian
from rfserve.clients.outputs.report import Report
from rfserve.clients.outputs.xml_tree import add, document
from rfserve.clients.plain_text import percent, utc_text

NAMESPACE = "http://www.opengis.net/kml/2.2"
# KML writes colours as alpha, blue, green, red.
STYLES = {"fix": "ff2e57e4", "receiver": "ff8d6417", "truth": "ff3f7f2a"}


def render(report: Report) -> str:
    """A document with the fix, its ellipse, the receivers and, where it is known, the true position."""
    root = ET.Element("kml", {"xmlns": NAMESPACE})
    page = add(root, "Document")
    fix = report.fix
    add(page, "name", f"rfserve fix {fix.request_id}".rstrip())
    if report.remarks:
        add(page, "description", "\n".join(report.remarks))
    for name, colour in STYLES.items():
        style = add(page, "Style", id=name)
        add(add(style, "IconStyle"), "color", colour)
        add(add(style, "LineStyle"), "color", colour)
        add(add(style, "PolyStyle"), "color", "40" + colour[2:])
    mark = _placemark(page, "fix", "fix", report.start_ns, _details(report))
    _point(mark, fix.longitude_deg, fix.latitude_deg)
    mark = _placemark(page, f"{percent(report.confidence)} ellipse", "fix", report.start_ns, {})
    rings = cut_at_antimeridian(fix.ring(report.confidence))
    holder = add(mark, "MultiGeometry") if len(rings) > 1 else mark
    for ring in rings:
        _polygon(holder, ring)
    if report.truth is not None:
        _point(_placemark(page, "true position", "truth", None, {}), report.truth[1], report.truth[0])
    folder = add(page, "Folder")
    add(folder, "name", "receivers")
    for seen in report.observations:
        mark = _placemark(folder, seen.name, "receiver", seen.start_ns, {})
        _point(mark, seen.longitude_deg, seen.latitude_deg)
    return document(root)


def _details(report: Report) -> dict[str, str]:
    fix = report.fix
    return {
        "sigma_north_m": f"{fix.sigma_north_m:.3f}",
        "sigma_east_m": f"{fix.sigma_east_m:.3f}",
        "model": fix.model,
        "model_version": fix.model_version,
        "request_id": fix.request_id,
        "receivers": ", ".join(report.names),
        "dropped": "; ".join(fix.omissions),
        "doubt": fix.doubt,
    }


def _placemark(parent: ET.Element, name: str, style: str, at_ns: int | None, details: dict[str, str]) -> ET.Element:
    mark = add(parent, "Placemark")
    add(mark, "name", name)
    if at_ns is not None:
        add(add(mark, "TimeStamp"), "when", utc_text(at_ns))
    add(mark, "styleUrl", f"#{style}")
    if details:
        data = add(mark, "ExtendedData")
        for key, value in details.items():
            add(add(data, "Data", name=key), "value", value)
    return mark


def _point(mark: ET.Element, longitude_deg: float, latitude_deg: float) -> None:
    add(add(mark, "Point"), "coordinates", _coordinates([(longitude_deg, latitude_deg)]))


def _polygon(parent: ET.Element, ring: Sequence[tuple[float, float]]) -> None:
    outer = add(add(parent, "Polygon"), "outerBoundaryIs")
    add(add(outer, "LinearRing"), "coordinates", _coordinates(ring))


def _coordinates(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{longitude:.7f},{latitude:.7f}" for longitude, latitude in points)
