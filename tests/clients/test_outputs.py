import csv
import json
import math
import subprocess
import sys
from dataclasses import replace
from datetime import datetime, timedelta
from io import BytesIO
from xml.etree import ElementTree as ET

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rfserve.clients import map_page, picture
from rfserve.clients.cli import main
from rfserve.clients.errors import ClientError
from rfserve.clients.event import Dropped
from rfserve.clients.fix import Fix
from rfserve.clients.outputs.registry import OUTPUTS
from rfserve.clients.outputs.report import Report
from rfserve.clients.plain_text import utc_text

KML = "{http://www.opengis.net/kml/2.2}"
MADE_NS = 1_767_268_800_000_000_000


@pytest.fixture
def report(observe):
    """A report that is fine, except for what is given."""

    def make(latitude_deg=45.05, longitude_deg=7.6, request_id="abc", **given):
        fix = Fix(
            latitude_deg=latitude_deg,
            longitude_deg=longitude_deg,
            sigma_north_m=30.0,
            sigma_east_m=20.0,
            model="locate",
            model_version="3",
            request_id=request_id,
            timings_ms={"round_trip": 4.5},
        )
        seen = [
            observe(name="roof", latitude_deg=45.0, longitude_deg=7.4, start_ns=MADE_NS - 1_000_000_001),
            observe(name='<hill> & "co"', latitude_deg=45.1, longitude_deg=7.7),
        ]
        return Report(**({"fix": fix, "observations": seen, "made_ns": MADE_NS} | given))

    return make


def places(root):
    return [
        [tuple(map(float, p.split(","))) for p in element.text.split()] for element in root.iter(f"{KML}coordinates")
    ]


def test_kml_has_the_fix_its_ellipse_the_receivers_and_the_truth(report):
    root = ET.fromstring(OUTPUTS["kml"](report(truth=(45.06, 7.61), note="untrained")))
    named = {mark.findtext(f"{KML}name"): mark for mark in root.iter(f"{KML}Placemark")}
    assert list(named) == ["fix", "95% ellipse", "true position", "roof", '<hill> & "co"']
    assert places(named["fix"]) == [[(7.6, 45.05)]]
    assert places(named["roof"]) == [[(7.4, 45.0)]]
    assert places(named["true position"]) == [[(7.61, 45.06)]]
    (ring,) = places(named["95% ellipse"])
    assert ring[0] == ring[-1]
    assert max(y for _, y in ring) - 45.05 == pytest.approx(30 * math.sqrt(-2 * math.log(0.05)) / 111_132, rel=1e-3)
    assert named["roof"].findtext(f"{KML}TimeStamp/{KML}when") == "2026-01-01T11:59:58.999Z"
    styles = {f"#{s.get('id')}" for s in root.iter(f"{KML}Style")}
    assert {e.text for e in root.iter(f"{KML}styleUrl")} <= styles
    data = {d.get("name"): d.findtext(f"{KML}value") for d in named["fix"].iter(f"{KML}Data")}
    assert (data["sigma_north_m"], data["model_version"]) == ("30.000", "3")


def test_kml_elements_stand_in_the_order_of_the_schema(report):
    """OGC's schema wants a sequence; what belongs where, from its AbstractFeatureType and PlacemarkType."""
    order = [
        "name",
        "description",
        "TimeStamp",
        "styleUrl",
        "Style",
        "ExtendedData",
        "Point",
        "Polygon",
        "MultiGeometry",
    ]
    for longitude in (7.6, 179.9999):
        root = ET.fromstring(OUTPUTS["kml"](report(longitude_deg=longitude)))
        for mark in root.iter(f"{KML}Placemark"):
            tags = [child.tag.removeprefix(KML) for child in mark]
            assert tags == sorted(tags, key=order.index)


def test_kml_cuts_an_ellipse_at_the_antimeridian(report):
    root = ET.fromstring(OUTPUTS["kml"](report(longitude_deg=179.9999)))
    (both,) = root.iter(f"{KML}MultiGeometry")
    rings = places(both)
    assert len(rings) == 2
    assert all(-180 <= x <= 180 for ring in rings for x, _ in ring)


def test_cot_is_an_event_with_the_circle_that_holds_the_ellipse(report):
    event = ET.fromstring(OUTPUTS["cot"](report(note="untrained")))
    assert event.tag == "event"
    assert (event.get("version"), event.get("type"), event.get("how")) == ("2.0", "a-u-G", "m-p")
    point = event.find("point")
    assert (float(point.get("lat")), float(point.get("lon"))) == (45.05, 7.6)
    assert float(point.get("ce")) == pytest.approx(30 * math.sqrt(-2 * math.log(0.05)), abs=0.06)
    assert (point.get("hae"), point.get("le")) == ("9999999.0", "9999999.0")
    made, start, stale = (datetime.fromisoformat(event.get(k)) for k in ("time", "start", "stale"))
    assert (start, made) == (made - timedelta(seconds=1, milliseconds=1), datetime.fromisoformat("2026-01-01T12:00Z"))
    assert stale - made == timedelta(minutes=5)
    shape = event.find("detail/shape/ellipse")
    assert (float(shape.get("major")), shape.get("angle")) == (float(point.get("ce")), "0")
    assert "untrained" in event.findtext("detail/remarks")


def test_cot_is_the_same_mark_when_the_request_is_the_same(report):
    uids = [
        ET.fromstring(OUTPUTS["cot"](report(**given))).get("uid")
        for given in (
            {},
            {"made_ns": MADE_NS + 5},
            {"request_id": "d"},
            {"request_id": ""},
            {"request_id": "", "note": "x"},
        )
    ]
    assert uids[0] == uids[1] == "rfserve.abc"
    assert uids[3] == uids[4]
    assert len(set(uids)) == 3


def test_cot_does_not_begin_after_it_was_made(report):
    event = ET.fromstring(OUTPUTS["cot"](report(made_ns=MADE_NS - 10**13)))
    assert event.get("start") == event.get("time")


def test_csv_has_a_line_under_a_header_with_units(report):
    (row,) = csv.DictReader(OUTPUTS["csv"](report(truth=(45.06, 7.6))).splitlines())
    assert (row["latitude_deg"], row["longitude_deg"]) == ("45.0500000", "7.6000000")
    assert (row["sigma_east_m"], row["semi_east_m"], row["confidence"]) == ("20.000", "48.955", "0.95")
    assert float(row["error_m"]) == pytest.approx(1112, abs=2)
    assert row["start_utc"] == "2026-01-01T11:59:58.999999999Z"
    assert row["receivers"] == 'roof <hill> & "co"'
    assert row["round_trip_ms"] == "4.500"


OUTPUTS_AND_MAP = OUTPUTS | {"map": map_page.render}


@pytest.mark.parametrize("kind", OUTPUTS_AND_MAP)
def test_every_output_says_who_was_left_out_and_what_makes_the_fix_doubtful(report, kind):
    fine = report()
    dropped = Dropped(place=1, name="tower", kind="ClockSkew", reason="its clock is wrong")
    fix = replace(fine.fix, dropped=(dropped,), doubt="sigma is too wide")
    found = OUTPUTS_AND_MAP[kind](report(fix=fix))
    for words in ("tower", "its clock is wrong", "sigma is too wide"):
        assert words in found
        assert words not in OUTPUTS_AND_MAP[kind](fine)


@pytest.mark.parametrize("kind", ["kml", "csv"])
def test_list_of_who_was_left_out_is_one_line_whatever_a_receiver_is_called(report, kind):
    dropped = Dropped(place=1, name="high\ntower", kind="ClockSkew", reason="its\tclock is wrong")
    assert "high tower: its clock is wrong" in OUTPUTS[kind](report(fix=replace(report().fix, dropped=(dropped,))))


@pytest.fixture
def url(serve, answer):
    return serve(answer()).url


@pytest.mark.parametrize("kind", OUTPUTS_AND_MAP)
def test_every_output_says_when_and_by_whom_the_emitter_was_heard(kind, url, collection, tmp_path, capsys):
    options = ["--url", url, "--map", str(tmp_path / "map")]
    assert main(["locate", str(collection), *options, *([] if kind == "map" else ["--output", kind])]) == 0
    found = (tmp_path / "map").read_text() if kind == "map" else capsys.readouterr().out
    start = "2026-01-01T12:00:00"
    assert start in found
    assert all(f"synthetic_R{i}" in found for i in (1, 2, 3, 4))


def test_picture_shows_what_makes_the_fix_doubtful(report):
    from matplotlib.image import imread

    fine = report()
    pictures = [fine, report(fix=replace(fine.fix, doubt="sigma is too wide " * 10))]
    top = [imread(BytesIO(picture.render(r)))[15:60, 10:1000] for r in pictures]
    assert (top[0] != top[1]).any(axis=(1, 2)).sum() > 15


def test_names_cannot_steer_a_terminal(report, observe):
    made = report(observations=[observe(name="a\x1b[31m\nb\r\u2028 c")])
    assert made.names == ["a [31m b c"]
    assert "\x1b" not in OUTPUTS["text"](made) + OUTPUTS["csv"](made)


def test_json_outputs_are_those_of_the_fix(report):
    made = report()
    assert json.loads(OUTPUTS["json"](made))["request_id"] == "abc"
    assert json.loads(OUTPUTS["geojson"](made)) == json.loads(json.dumps(made.fix.to_geojson(0.95)))


@settings(max_examples=60, deadline=None)
@given(
    name=st.text(st.characters()),
    note=st.text(st.characters()),
    latitude=st.floats(-90, 90),
    longitude=st.floats(-180, 180),
    sigma_m=st.floats(0, 1e7),
)
@example(name="Z\udcfcrich", note="\ud800", latitude=1.0, longitude=1.0, sigma_m=1.0)
def test_every_output_is_well_formed_whatever_others_wrote(name, note, latitude, longitude, sigma_m):
    import numpy as np

    from rfserve.clients.observation import Observation

    seen = Observation(
        iq=np.ones(1, np.complex64),
        sample_rate_hz=1.0,
        center_frequency_hz=1.0,
        latitude_deg=1.0,
        longitude_deg=1.0,
        name=name,
    )
    fix = Fix(
        latitude_deg=latitude,
        longitude_deg=longitude,
        sigma_north_m=sigma_m,
        sigma_east_m=sigma_m,
        model="locate",
        model_version="3",
    )
    made = Report(fix=fix, observations=[seen], note=note)
    for kind in ("kml", "cot"):
        ET.fromstring(OUTPUTS[kind](made).encode("utf-8", errors="surrogatepass"))
    assert len(list(csv.reader(OUTPUTS["csv"](made).splitlines(keepends=True)))) == 2
    for text in (map_page.render(made), *(render(made) for render in OUTPUTS.values())):
        text.encode()
    for x, y in places(ET.fromstring(OUTPUTS["kml"](made)))[0]:
        assert (x, y) == (pytest.approx(longitude, abs=1e-7), pytest.approx(latitude, abs=1e-7))


@pytest.mark.parametrize(
    ("share", "text"), [(0.95, "95%"), (0.997, "99.7%"), (0.9545, "95.45%"), (0.9999999, "99.99999%")]
)
def test_confidence_is_told_with_all_of_its_digits(share, text, report):
    made = report(confidence=share)
    for kind in ("text", "kml", "cot"):
        assert text in OUTPUTS[kind](made), kind
    assert f"<p>{text} ellipse" in map_page.render(made)


@pytest.mark.parametrize(("digits", "text"), [(3, "1970-01-01T00:00:01.999Z"), (9, "1970-01-01T00:00:01.999999999Z")])
def test_time_is_cut_not_rounded(digits, text):
    assert utc_text(1_999_999_999, digits) == text


def test_picture_is_a_png_that_shows_fix_receivers_and_truth(report, observe):
    from matplotlib.image import imread

    seen = [observe(name="$not a formula"), observe(name="Z\udcfcrich", latitude_deg=45.1)]
    content = picture.render(report(truth=(45.08, 7.5), note="$not a \udcfcformula", observations=seen))
    pixels = imread(BytesIO(content))
    assert pixels.shape[:2] == (900, 1350)
    for colour in (picture.FIX, picture.RECEIVER, picture.TRUTH):
        wanted = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        near = (abs(pixels[..., :3] - wanted) < 0.02).all(-1)
        assert near.sum() > 50, colour


def test_picture_says_what_to_install_when_matplotlib_is_missing(monkeypatch):
    monkeypatch.setattr(picture.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ClientError, match=r"pip install 'rfserve\[png\]'"):
        picture.require()


def test_nothing_loads_matplotlib_before_a_picture_is_asked_for():
    script = "import sys, rfserve.clients.cli; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


@pytest.mark.parametrize("kind", OUTPUTS)
def test_locate_prints_each_output(kind, serve, answer, collection, capsys):
    assert main(["locate", str(collection), "--url", serve(answer()).url, "--output", kind]) == 0
    out = capsys.readouterr().out
    assert "45.09999" in out
    if kind in {"kml", "cot"}:
        ET.fromstring(out.encode())


def test_locate_takes_a_receivers_file_and_draws_a_picture(serve, answer, collection, tmp_path, capsys):
    import numpy as np

    server = serve(answer())
    table = tmp_path / "r.csv"
    table.write_text("name,latitude_deg,longitude_deg,receiver_id\nR4,,,0\nR3,,,1\nR2,,,2\nR1,,,9\n")
    options = ["--receivers", str(table), "--png", str(tmp_path / "fix.png")]
    assert main(["locate", str(collection), "--url", server.url, *options]) == 0
    assert (tmp_path / "fix.png").read_bytes().startswith(b"\x89PNG")
    assert "picture: " in capsys.readouterr().err
    (sent,) = server.requests
    place = [tensor.name for tensor in sent.inputs].index("receiver_ids")
    assert np.frombuffer(sent.raw_input_contents[place], np.int64)[:4].tolist() == [9, 2, 1, 0]


def test_tensors_takes_a_receivers_file(collection, tmp_path):
    import numpy as np

    table, out = tmp_path / "r.csv", tmp_path / "out.npz"
    table.write_text("name,latitude_deg,longitude_deg,receiver_id\nR4,,,0\nR3,,,1\nR2,,,2\nR1,,,9\n")
    assert main(["tensors", str(collection), "--receivers", str(table), "--output", str(out)]) == 0
    with np.load(out) as arrays:
        assert arrays["receiver_ids"][0, :4].tolist() == [9, 2, 1, 0]
