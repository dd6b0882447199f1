import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2

from rfserve.clients.errors import InvalidAnswer
from rfserve.clients.event import Dropped
from rfserve.clients.fix import Fix
from rfserve.clients.geodesy import cut_at_antimeridian, metres_per_degree, unwrapped


def make(**given_):
    fine = {"latitude_deg": 45.0, "longitude_deg": 7.5, "sigma_north_m": 30.0, "sigma_east_m": 20.0}
    return Fix(**(fine | {"model": "locate", "model_version": "3"} | given_))


def area(ring):
    """Twice the signed area; above 0 when counter-clockwise."""
    return sum(a[0] * b[1] - b[0] * a[1] for a, b in itertools.pairwise(ring))


@pytest.mark.parametrize("confidence", [0.5, 0.683, 0.95, 0.999])
def test_ellipse_is_the_quantile_of_chi_squared(confidence):
    shape = make().ellipse(confidence)
    assert shape.semi_north_m == pytest.approx(30 * math.sqrt(chi2.ppf(confidence, 2)))
    assert shape.semi_east_m == pytest.approx(20 * math.sqrt(chi2.ppf(confidence, 2)))


def test_ellipse_holds_its_share_of_normal_errors():
    rng = np.random.default_rng(3)
    shape = make().ellipse(0.9)
    north, east = rng.normal(0, 30, 20_000), rng.normal(0, 20, 20_000)
    inside = (north / shape.semi_north_m) ** 2 + (east / shape.semi_east_m) ** 2 < 1
    assert inside.mean() == pytest.approx(0.9, abs=0.01)


@pytest.mark.parametrize("confidence", [0.0, 1.0, float("nan")])
def test_ellipse_is_refused_when_the_confidence_is_none(confidence):
    with pytest.raises(ValueError, match="between 0 and 1"):
        make().ellipse(confidence)


@pytest.mark.parametrize(
    ("latitude", "north_m", "east_m"),
    # Lengths of a degree on WGS 84: 110.574 and 111.320 km at the equator, 111.132 and 78.847 km at 45°.
    [(0, 110_574.3, 111_319.5), (45, 111_131.7, 78_846.8), (60, 111_412.2, 55_800.0)],
)
def test_degree_is_as_long_as_on_the_ellipsoid(latitude, north_m, east_m):
    assert metres_per_degree(latitude) == (pytest.approx(north_m, rel=1e-5), pytest.approx(east_m, rel=1e-5))


def test_ring_is_closed_counter_clockwise_and_as_large_as_the_ellipse():
    fix = make()
    ring = fix.ring(0.95)
    shape = fix.ellipse(0.95)
    north_m, east_m = metres_per_degree(fix.latitude_deg)
    assert ring[0] == ring[-1]
    assert area(ring) > 0
    assert (max(p[1] for p in ring) - 45) * north_m == pytest.approx(shape.semi_north_m)
    assert (max(p[0] for p in ring) - 7.5) * east_m == pytest.approx(shape.semi_east_m)


@given(
    latitude=st.floats(-90, 90),
    longitude=st.floats(-180, 180),
    north_m=st.floats(0, 3e7),
    east_m=st.floats(0, 3e7),
)
def test_geojson_is_valid_wherever_the_fix_is(latitude, longitude, north_m, east_m):
    fix = make(latitude_deg=latitude, longitude_deg=longitude, sigma_north_m=north_m, sigma_east_m=east_m)
    content = json.loads(json.dumps(fix.to_geojson(), allow_nan=False))
    point, ellipse = (f["geometry"] for f in content["features"])
    assert point == {"type": "Point", "coordinates": [longitude, latitude]}
    polygons = ellipse["coordinates"] if ellipse["type"] == "MultiPolygon" else [ellipse["coordinates"]]
    for (ring,) in polygons:
        assert ring[0] == ring[-1]
        assert len(ring) >= 4
        assert area(ring) >= -1e-9
        assert all(-180 <= x <= 180 and -90 <= y <= 90 for x, y in ring)


@pytest.mark.parametrize("longitude", [179.9999, -179.9999])
def test_geojson_cuts_the_ellipse_when_it_crosses_the_antimeridian(longitude):
    fix = make(longitude_deg=longitude)
    geometry = fix.to_geojson()["features"][1]["geometry"]
    assert geometry["type"] == "MultiPolygon"
    rings = [ring for (ring,) in geometry["coordinates"]]
    assert {max(x for x, _ in r) > 0 for r in rings} == {True, False}
    assert sum(area([[x % 360, y] for x, y in r]) for r in rings) == pytest.approx(area(fix.ring()), rel=1e-6)


def test_cut_leaves_a_ring_that_does_not_cross():
    ring = make().ring()
    assert cut_at_antimeridian(ring) == [ring]


@pytest.mark.parametrize(
    ("longitude", "near", "expected"), [(-179, 179, 181), (179, -179, -181), (7, 8, 7), (359, 0, -1)]
)
def test_unwrapped_is_the_same_meridian_nearby(longitude, near, expected):
    assert unwrapped(longitude, near) == expected


@pytest.mark.parametrize(
    ("given_", "text"),
    [
        ({"latitude_deg": float("nan")}, "non-finite"),
        ({"sigma_east_m": float("inf")}, "non-finite"),
        ({"latitude_deg": 90.1}, "place on Earth"),
        ({"longitude_deg": -180.1}, "place on Earth"),
        ({"sigma_north_m": -1.0}, "place on Earth"),
    ],
)
def test_fix_is_refused_when_it_is_no_place_on_earth(given_, text):
    with pytest.raises(InvalidAnswer, match=f"locate version 3 answered .*{text}"):
        make(**given_)


def test_json_holds_every_field():
    dropped = Dropped(place=2, name="R3", kind="ClockNotLocked", reason="no GNSS")
    fix = make(request_id="abc", timings_ms={"round_trip": 1.5}, dropped=(dropped,), receivers=("R1", "R2"))
    assert Fix.from_dict(json.loads(fix.to_json())) == fix
