"""The outputs by the names that `--output` takes."""

import json
from collections.abc import Callable, Mapping

from rfserve.clients.outputs import cursor_on_target, kml, table, text
from rfserve.clients.outputs.report import Report

OUTPUTS: Mapping[str, Callable[[Report], str]] = {
    "text": text.render,
    "json": lambda report: report.fix.to_json(),
    "geojson": lambda report: json.dumps(report.fix.to_geojson(report.confidence), indent=2),
    "kml": kml.render,
    "cot": cursor_on_target.render,
    "csv": table.render,
}
