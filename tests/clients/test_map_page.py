import re
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rfserve.clients import map_page
from rfserve.clients.fix import Fix
from rfserve.clients.map_drawing import WIDE
from rfserve.clients.map_frame import Frame
from rfserve.clients.outputs.report import Report

WIDTH, HEIGHT = WIDE.width, WIDE.height
SVG = re.compile(r"<svg.*?</svg>", re.S)


def fix_at(latitude_deg, longitude_deg, sigma_m=300.0):
    return Fix(
        latitude_deg=latitude_deg,
        longitude_deg=longitude_deg,
        sigma_north_m=sigma_m,
        sigma_east_m=sigma_m / 2,
        model="locate",
        model_version="3",
    )


def render(fix, receivers, **given):
    return map_page.render(Report(fix=fix, observations=receivers, made_ns=0, **given))


def drawing(page):
    return ET.fromstring(SVG.search(page)[0])


def numbers(root):
    return [float(n) for e in root.iter() for k, v in e.items() if k != "class" for n in re.findall(r"-?\d+\.?\d*", v)]


@pytest.fixture
def receivers(observe):
    return [
        observe(name='roof <A> & "B"', latitude_deg=45.0, longitude_deg=7.4),
        observe(name="hill", latitude_deg=45.1, longitude_deg=7.6),
        observe(name="car", latitude_deg=45.05, longitude_deg=7.8),
    ]


def test_map_names_receivers_fix_and_truth(receivers):
    labels = [e.text for e in drawing(render(fix_at(45.05, 7.6), receivers, truth=(45.06, 7.61))).iter("text")]
    assert {'roof <A> & "B"', "hill", "car", "fix"} <= set(labels)
    assert any(re.fullmatch(r"true position, 1\.\d+ km off", label) for label in labels)
    assert any(re.fullmatch(r"\d+ k?m", label) for label in labels)
    assert "7.6°" in labels
    assert "45.1°" in labels


def test_map_has_no_true_position_when_none_is_known(receivers):
    assert "true position" not in render(fix_at(45.05, 7.6), receivers)


def test_map_reaches_for_nothing_outside_itself(receivers):
    page = render(fix_at(45.05, 7.6), receivers, note="untrained")
    for outside in ("http:", "https:", "//", "url(", "@import", "<script", "<link", "<img", "src=", "href="):
        assert outside not in page, outside


def test_map_escapes_what_others_wrote(receivers):
    page = render(fix_at(45.05, 7.6), receivers, note="<script>alert(1)</script>")
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_map_is_html_whose_tags_close(receivers):
    open_tags = []

    class Checker(HTMLParser):
        def handle_starttag(self, tag, attrs):
            if tag != "meta":
                open_tags.append(tag)

        def handle_endtag(self, tag):
            assert open_tags.pop() == tag

        def handle_startendtag(self, tag, attrs):
            pass

    Checker().feed(render(fix_at(45.05, 7.6), receivers, note="a note"))
    assert open_tags == []


@settings(max_examples=60, deadline=None)
@given(latitude=st.floats(-89, 89), longitude=st.floats(-180, 180), sigma_m=st.floats(0, 1e6))
def test_map_draws_a_fix_anywhere(latitude, longitude, sigma_m):
    root = drawing(render(fix_at(latitude, longitude, sigma_m), []))
    assert len(list(root.iter("line"))) < 200
    assert all(abs(n) < 1e5 for n in numbers(root))


def test_map_stays_small_when_the_event_spans_the_antimeridian(observe):
    seen = [observe(latitude_deg=-17.0, longitude_deg=179.9), observe(latitude_deg=-17.1, longitude_deg=-179.9)]
    root = drawing(render(fix_at(-17.05, 179.98), seen))
    marks = [e.get("d") for e in root.iter("path") if e.get("class") == "receiver"]
    places = [tuple(map(float, re.findall(r"-?\d+\.?\d*", d)[:2])) for d in marks]
    assert len(places) == 2
    assert places[1][0] - places[0][0] > WIDTH / 2
    assert all(0 < x < WIDTH and 0 < y < HEIGHT for x, y in places)
    labels = {e.text for e in root.iter("text")}
    assert {"179.95°", "-179.95°"} <= labels


def test_frame_shows_every_point_and_keeps_proportions():
    points = [(7.0, 45.0), (8.0, 45.5), (7.2, 45.9)]
    frame = Frame(points, WIDE)
    assert all(0 < x < WIDTH and 0 < y < HEIGHT for x, y in (frame.xy(*p) for p in points))
    (x0, y0), (x1, _), (_, y1) = frame.xy(7.0, 45.0), frame.xy(7.1, 45.0), frame.xy(7.0, 45.1)
    assert (x1 - x0) / (y0 - y1) == pytest.approx(0.703, abs=0.005)
