import re
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rfserve.clients import map_page
from rfserve.clients.fix import Fix
from rfserve.clients.map_drawing import NARROW, WIDE
from rfserve.clients.map_frame import Frame, length_text
from rfserve.clients.map_labels import FONT_PX, PX_PER_LETTER, place
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


def drawings(page):
    return [ET.fromstring(found[0]) for found in SVG.finditer(page) if "role=" in found[0]]


def test_map_has_a_drawing_for_wide_and_one_for_narrow_screens(receivers):
    wide, narrow = drawings(render(fix_at(45.05, 7.6, 3000.0), receivers))
    assert [d.get("viewBox") for d in (wide, narrow)] == [f"0 0 {s.width} {s.height}" for s in (WIDE, NARROW)]


def test_map_draws_an_ellipse_for_each_confidence_the_largest_below(receivers):
    shapes = list(drawing(render(fix_at(45.05, 7.6), receivers, confidence=0.8)).iter("polygon"))
    tops = [min(float(p.split(",")[1]) for p in s.get("points").split()) for s in shapes]
    assert tops == sorted(tops)
    assert [s[0].text for s in shapes] == ["99%", "80%", "50%"]
    assert [s.get("class") for s in shapes].index("ellipse asked") == 1


def test_map_comes_closer_to_what_is_one_spot_on_it(observe):
    near = [observe(name=f"R{i}", latitude_deg=45 + i / 100, longitude_deg=7.5) for i in range(4)]
    far = render(fix_at(12, -40, 300.0), near)
    assert "The fix, closer" in far
    assert "The receivers, closer" in far
    whole, _, fix, _, seen, _ = drawings(far)
    assert "4 receivers" in {e.text for e in whole.iter("text")}
    assert {"R0", "R1", "R2", "R3"} <= {e.text for e in seen.iter("text")}
    assert len(list(fix.iter("polygon"))) == 3
    page = render(fix_at(45.02, 7.52), near)
    assert "closer" not in page


def test_map_lists_every_receiver_even_one_without_room_for_its_label(observe):
    seen = [observe(name=f"mast number {i}", latitude_deg=45 + i / 1e6, longitude_deg=7.5) for i in range(9)]
    seen.append(observe(name="away", latitude_deg=45.5, longitude_deg=7.5))
    page = render(fix_at(45.2, 7.6), seen)
    labels = [e.text for e in drawing(page).iter("text")]
    assert sum(str(text).startswith("mast") for text in labels) < 9
    assert all(f"<td>mast number {i}</td>" in page for i in range(9))


@given(
    marks=st.lists(st.tuples(st.floats(0, 900), st.floats(0, 600), st.text(min_size=1, max_size=40)), max_size=12),
)
def test_labels_cover_no_mark_and_no_other_label(marks):
    boxes = []
    for label in place(marks, WIDE):
        wide = len(label.text) * PX_PER_LETTER
        left = label.x - wide * {"start": 0, "middle": 0.5, "end": 1}[label.anchor]
        boxes.append((left, label.y - FONT_PX, left + wide, label.y + 4))
    for i, (left, top, right, bottom) in enumerate(boxes):
        assert 0 <= left < right <= WIDTH
        assert 0 <= top < bottom <= HEIGHT
        for other in boxes[i + 1 :]:
            assert right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top
        covered = [m for m in marks if left < m[0] - 1 < m[0] + 1 < right and top < m[1] - 1 < m[1] + 1 < bottom]
        assert not covered


@pytest.mark.parametrize(
    ("metres", "text"),
    [(0.5, "0.5 m"), (734.3, "734 m"), (999.6, "1 km"), (7343, "7.34 km"), (438_900, "439 km"), (1.224e6, "1,224 km")],
)
def test_length_is_as_people_say_it(metres, text):
    assert length_text(metres) == text
