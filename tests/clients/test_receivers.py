import contextlib
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rfserve.clients import receivers
from rfserve.clients.errors import ClientError, PositionInvalid, RecordingError
from rfserve.clients.recording import read_event

CSV = """name,latitude_deg,longitude_deg,altitude_m,receiver_id
roof, 45.07 ,7.69,240,4
hill,45.10,7.60,,0
car,,,,2
"""


@pytest.fixture
def known(tmp_path):
    """Write a receivers file and read it."""

    def make(text, name="receivers.csv"):
        path = tmp_path / name
        path.write_text(text)
        return receivers.read(path)

    return make


def features(*rows):
    made = [
        {"type": "Feature", "geometry": point and {"type": "Point", "coordinates": point}, "properties": properties}
        for point, properties in rows
    ]
    return json.dumps({"type": "FeatureCollection", "features": made})


def test_csv_and_geojson_say_the_same(known):
    text = features(
        ([7.69, 45.07, 240], {"name": "roof", "receiver_id": 4}),
        ([7.60, 45.10], {"name": "hill", "receiver_id": 0}),
        (None, {"name": "car", "receiver_id": 2}),
    )
    assert known(CSV).by_name == known(text, "receivers.geojson").by_name
    roof = known(CSV).find("roof")
    assert (roof.receiver_id, roof.position.latitude_deg, roof.position.altitude_m) == (4, 45.07, 240)


def test_spreadsheets_mark_is_no_part_of_a_name(tmp_path):
    path = tmp_path / "r.csv"
    path.write_bytes(b"\xef\xbb\xbf" + CSV.replace("\n", "\r\n").encode())
    assert set(receivers.read(path).by_name) == {"roof", "hill", "car"}


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("", RecordingError, "got columns none"),
        ("name,lat,lon\nroof,1,2", RecordingError, "got columns name, lat, lon; expected .* name,latitude_deg"),
        ("name,latitude_deg,longitude_deg\n", RecordingError, "names no receiver"),
        ("name,latitude_deg,longitude_deg\nroof,1", RecordingError, "line 2 has not 3 columns"),
        ("name,latitude_deg,longitude_deg\nroof,1,2,3", RecordingError, "line 2 has not 3 columns"),
        ("name,latitude_deg,longitude_deg\nroof,north,2", RecordingError, "line 2: got latitude_deg 'north'"),
        ("name,latitude_deg,longitude_deg\nroof,nan,2", RecordingError, "finite"),
        ("name,latitude_deg,longitude_deg\nroof,1,", RecordingError, "one coordinate of roof"),
        ("name,latitude_deg,longitude_deg\n,1,2", RecordingError, "line 2: got name None"),
        ("name,latitude_deg,longitude_deg\nroof,151.2,-33.9", PositionInvalid, "line 2, roof: .*look swapped"),
        ("name,latitude_deg,longitude_deg\nroof,0,0", PositionInvalid, "no fix"),
        (CSV + "roof,1,2,3,7", RecordingError, "line 5: got roof twice"),
        (CSV + "mast,1,2,3,4", RecordingError, "line 5: got receiver id 4 for mast and roof"),
        (CSV + "mast,1,2,3,", RecordingError, "gives no id to mast"),
        (CSV + "mast,1,2,3,10", RecordingError, "expected an integer, 0 to 9"),
        (CSV + "mast,1,2,3,1.5", RecordingError, "expected an integer, 0 to 9"),
        ("{", RecordingError, "cannot read receivers.csv"),
        ('{"type": "Feature"}', RecordingError, "no FeatureCollection"),
        (features(([1, 2], "none")), RecordingError, "feature 1 has no properties"),
        (features(([1], {"name": "a"})), RecordingError, "feature 1 is no Point"),
        (features(([-33.9, 151.2], {"name": "a"})), PositionInvalid, "feature 1, a: .*swapped"),
        (features(([True, 2], {"name": "a"})), RecordingError, "finite"),
        ('{"type":' * 100_000, RecordingError, "cannot read"),
    ],
)
def test_receivers_file_is_refused_with_the_place_when(known, text, error, message):
    with pytest.raises(error, match=message):
        known(text)


def test_file_gives_ids_and_places_to_an_event(collection, known):
    ends = [r.name for r in read_event([collection])]
    rows = "\n".join(f"{n.removeprefix('synthetic_')},,,{9 - i}" for i, n in enumerate(ends))
    found = read_event([collection], receivers=known(f"name,latitude_deg,longitude_deg,receiver_id\n{rows}"))
    assert [r.receiver_id for r in found] == [9, 8, 7, 6]
    assert found[0].latitude_deg == read_event([collection])[0].latitude_deg
    assert found[0].observe(0, 10).receiver_id == 9


def test_file_says_where_a_receiver_stood_when_its_recording_does_not(edited, known):
    meta = edited(lambda c: c["captures"][0].pop("core:geolocation"))
    with pytest.raises(RecordingError, match=r"no core:geolocation; .*--receivers"):
        read_event([meta])
    table = known("name,latitude_deg,longitude_deg,altitude_m,full_scale_dbm\nR1,45.5,7.5,100,-13")
    (found,) = read_event([meta], receivers=table)
    assert (found.latitude_deg, found.longitude_deg, found.altitude_m, found.full_scale_dbm) == (45.5, 7.5, 100, -13)


def test_file_says_where_a_receiver_stood_when_its_recording_is_that_of_one_without_a_fix(edited, known):
    meta = edited(lambda c: c["captures"][0]["core:geolocation"].update(coordinates=[0.0, 0.0, 77.0]))
    for table in (None, known("name,latitude_deg,longitude_deg\nR1,,")):
        with pytest.raises(PositionInvalid, match="synthetic_R1: got latitude 0°, longitude 0°"):
            read_event([meta], receivers=table)
    (found,) = read_event([meta], receivers=known("name,latitude_deg,longitude_deg\nR1,45.5,7.5"))
    assert (found.latitude_deg, found.longitude_deg, found.altitude_m) == (45.5, 7.5, 0)


def test_file_leaves_what_it_does_not_say_to_the_recording(known, tmp_path):
    path = tmp_path / "R1.cu8"
    path.write_bytes(bytes(2000))
    told = {"sample_rate_hz": 1e6, "center_frequency_hz": 1e8, "receiver_id": 7, "altitude_m": 240}
    path.with_suffix(".json").write_text(json.dumps(told | {"latitude_deg": 45.07, "longitude_deg": 7.69}))
    (found,) = read_event([path], receivers=known("name,latitude_deg,longitude_deg\nR1,45.08,7.69"))
    assert (found.receiver_id, found.latitude_deg, found.altitude_m) == (7, 45.08, 240)
    stated = "name,latitude_deg,longitude_deg,altitude_m,receiver_id\nR1,45.08,7.69,0,2"
    (found,) = read_event([path], receivers=known(stated))
    assert (found.receiver_id, found.altitude_m) == (2, 0)


def test_event_is_refused_when_the_file_does_not_know_a_receiver(collection, known):
    with pytest.raises(RecordingError, match=r"synthetic_R1: no such receiver in receivers\.csv, which has roof"):
        read_event([collection], receivers=known(CSV))


def test_event_is_refused_when_the_file_places_a_receiver_elsewhere(collection, known):
    only = read_event([collection])[0]
    near = f"name,latitude_deg,longitude_deg\n{only.name},{only.latitude_deg + 0.01:.2f},{only.longitude_deg:.2f}"
    path = collection.parent / f"{only.name}.sigmf-meta"
    assert len(read_event([path], receivers=known(near))) == 1
    with pytest.raises(RecordingError, match="km from where its recording does"):
        read_event([path], receivers=known(near.replace(",7.", ",8.")))


def test_event_is_refused_when_two_recordings_are_of_one_receiver(known, tmp_path):
    paths = [tmp_path / "first_R1.cu8", tmp_path / "second_R1.cu8"]
    for path in paths:
        path.write_bytes(bytes(2000))
        path.with_suffix(".json").write_text('{"sample_rate_hz": 1e6, "center_frequency_hz": 1e8}')
    table = known("name,latitude_deg,longitude_deg\nR1,45.07,7.69")
    assert len(read_event(paths[:1], receivers=table)) == 1
    with pytest.raises(RecordingError, match="are recordings of R1, R1"):
        read_event(paths, receivers=table)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(field=st.sampled_from([*receivers.COLUMNS, "properties", "geometry", "coordinates", "type"]), value=JSON)
def test_receivers_file_is_read_or_refused_whatever_a_field_holds(known, field, value):
    content = json.loads(features(([7.69, 45.07, 240], {"name": "roof", "receiver_id": 4})))
    feature = content["features"][0]
    for holder in (content, feature, feature["geometry"], feature["properties"]):
        if field in holder or (field in receivers.COLUMNS and holder is feature["properties"]):
            holder[field] = value
            break
    with contextlib.suppress(ClientError):
        known(json.dumps(content), "receivers.geojson")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=60), headed=st.booleans())
def test_receivers_file_is_read_or_refused_whatever_it_is(known, text, headed):
    with contextlib.suppress(ClientError):
        known(("name,latitude_deg,longitude_deg\n" if headed else "") + text.encode(errors="replace").decode())
