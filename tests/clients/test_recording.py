import contextlib
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sigmf.sigmffile import SigMFFile

from rfserve.clients.errors import ClientError, PositionInvalid, RecordingError
from rfserve.clients.recording import read_event

FLOATS = {"cf32_le": "<f4", "cf32_be": ">f4", "cf64_le": "<f8", "cf64_be": ">f8"}
SIGNED = {"ci8": "i1", "ci16_le": "<i2", "ci16_be": ">i2", "ci32_le": "<i4", "ci32_be": ">i4"}
UNSIGNED = {"cu8": "u1", "cu16_le": "<u2", "cu16_be": ">u2", "cu32_le": "<u4", "cu32_be": ">u4"}


def first_capture(content):
    return content["captures"][0]


def test_collection_stands_for_its_streams_in_order(collection):
    event = read_event([collection])
    truth = json.loads((collection.parent / "truth.json").read_text())
    assert [r.name for r in event] == [r["recording"] for r in truth["receivers"]]
    assert [(r.latitude_deg, r.longitude_deg) for r in event] == [(r["lat"], r["lon"]) for r in truth["receivers"]]
    assert {r.samples for r in event} == {16384}


def test_recording_is_found_by_either_file_and_by_their_stem(collection):
    stem = collection.parent / "synthetic_R2"
    named = [stem, stem.with_suffix(".sigmf-meta"), stem.with_suffix(".sigmf-data")]
    assert {read_event([path])[0].name for path in named} == {"synthetic_R2"}


def test_recording_is_found_when_its_name_holds_dots(collection, tmp_path):
    for suffix in (".sigmf-meta", ".sigmf-data"):
        shutil.copy(collection.parent / f"synthetic_R1{suffix}", tmp_path / f"433.92MHz.v1{suffix}")
    assert read_event([tmp_path / "433.92MHz.v1"])[0].name == "433.92MHz.v1"


@pytest.mark.parametrize("datatype", [*FLOATS, *SIGNED, *UNSIGNED])
def test_samples_are_those_of_the_sigmf_package_when_the_datatype_is(edited, datatype):
    stored = np.dtype((FLOATS | SIGNED | UNSIGNED)[datatype])
    rng = np.random.default_rng(5)
    if stored.kind == "f":
        values = rng.uniform(-1, 1, 4096)
    else:
        values = rng.integers(np.iinfo(stored).min, np.iinfo(stored).max, 4096, endpoint=True)
    meta = edited(lambda c: c["global"].update({"core:datatype": datatype}), values.astype(stored).tobytes())
    ours = read_event([meta])[0].observe(100, 900)
    info = {"core:datatype": datatype, "core:sample_rate": 1e6}
    theirs = SigMFFile(data_file=str(meta.with_suffix(".sigmf-data")), global_info=info).read_samples(100, 900)
    np.testing.assert_allclose(ours.iq, theirs, rtol=0, atol=1e-7)
    assert ours.iq.dtype == np.complex64
    assert np.abs(ours.iq.real).max() <= 1


def test_samples_are_read_from_the_asked_range_only(edited):
    meta = edited()
    recording = read_event([meta])[0]
    whole = recording.observe(0, recording.samples).iq
    # Were anything outside the range read, the file's new length would be noticed.
    data = meta.with_suffix(".sigmf-data")
    data.write_bytes(data.read_bytes()[: 4 * 600])
    np.testing.assert_array_equal(recording.observe(500, 100).iq, whole[500:600])
    with pytest.raises(RecordingError, match="cannot read"):
        recording.observe(500, 101)


@pytest.mark.parametrize(("first", "count"), [(-1, 10), (0, 0), (16380, 5), (16384, 1)])
def test_samples_are_refused_when_the_range_is_not_in_the_recording(collection, first, count):
    with pytest.raises(RecordingError, match="within its 16384"):
        read_event([collection])[0].observe(first, count)


def test_start_moves_by_the_samples_left_out(edited):
    meta = edited(lambda c: first_capture(c).update({"core:datetime": "2020-08-13T06:52:21.000035812Z"}))
    recording = read_event([meta])[0]
    assert recording.start_ns == 1_597_301_541_000_035_812
    assert recording.observe(250, 10).start_ns == 1_597_301_541_000_285_812


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T00:00:01.5Z", 1_500_000_000),
        ("1970-01-01T00:00:01.000000001Z", 1_000_000_001),
        ("1970-01-01T00:00:01.0000000019999Z", 1_000_000_001),
        ("1970-01-01T00:00:01+00:00", 1_000_000_000),
    ],
)
def test_time_is_read_to_the_nanosecond(edited, text, ns):
    assert read_event([edited(lambda c: first_capture(c).update({"core:datetime": text}))])[0].start_ns == ns


def test_recording_ends_where_its_second_capture_starts(edited):
    def retune(content):
        content["captures"].append({"core:sample_start": 4000, "core:frequency": 868e6})

    assert read_event([edited(retune)])[0].samples == 4000


def test_recording_begins_where_its_capture_starts(edited, collection):
    meta = edited(lambda c: first_capture(c).update({"core:sample_start": 100}))
    recording = read_event([meta])[0]
    plain = read_event([collection.parent / "synthetic_R1"])[0]
    assert recording.samples == plain.samples - 100
    np.testing.assert_array_equal(recording.observe(0, 50).iq, plain.observe(100, 50).iq)


def test_sample_starts_count_from_the_offset_of_the_file(edited):
    def shift(content):
        content["global"]["core:offset"] = 1000
        first_capture(content)["core:sample_start"] = 1000

    assert read_event([edited(shift)])[0].samples == 16384


def test_altitude_and_position_come_from_global_when_the_capture_has_none(edited):
    def move(content):
        content["global"]["core:geolocation"] = {"type": "Point", "coordinates": [8.0, 46.0, 1234.0]}
        del first_capture(content)["core:geolocation"]

    recording = read_event([edited(move)])[0]
    assert (recording.latitude_deg, recording.longitude_deg, recording.altitude_m) == (46.0, 8.0, 1234.0)


@pytest.mark.parametrize("place", ["global", "capture"])
def test_clock_is_unlocked_when_the_receiver_says_so(edited, place):
    def unlock(content):
        (content["global"] if place == "global" else first_capture(content))["kiwi:gnss_valid"] = False

    assert not read_event([edited(unlock)])[0].clock_locked


REFUSED = {
    "datatype real": (lambda c: c["global"].update({"core:datatype": "rf32_le"}), "complex samples"),
    "datatype none": (lambda c: c["global"].pop("core:datatype"), "complex samples"),
    "channels": (lambda c: c["global"].update({"core:num_channels": 2}), "2 channels"),
    "header bytes": (lambda c: first_capture(c).update({"core:header_bytes": 64}), "conforming"),
    "no rate": (lambda c: c["global"].pop("core:sample_rate"), "core:sample_rate is missing"),
    "rate text": (lambda c: c["global"].update({"core:sample_rate": "fast"}), "finite number"),
    "rate negative": (lambda c: c["global"].update({"core:sample_rate": -1.0}), "expected above 0"),
    "no frequency": (lambda c: first_capture(c).pop("core:frequency"), "core:frequency is missing"),
    "no place": (lambda c: first_capture(c).pop("core:geolocation"), "no core:geolocation"),
    "place text": (lambda c: first_capture(c).update({"core:geolocation": "Turin"}), "GeoJSON Point"),
    "place short": (lambda c: first_capture(c)["core:geolocation"].update(coordinates=[7.0]), "GeoJSON Point"),
    "place words": (lambda c: first_capture(c)["core:geolocation"].update(coordinates=["a", 1]), "finite number"),
    "time": (lambda c: first_capture(c).update({"core:datetime": "2026-13-41T00:00:00Z"}), "expected UTC"),
    "time local": (lambda c: first_capture(c).update({"core:datetime": "2026-01-01T00:00:00+02:00"}), "expected UTC"),
    "no capture": (lambda c: c.update(captures=[]), "no capture"),
    "hash": (lambda c: c["global"].update({"core:sha512": "0" * 128}), "SHA-512"),
    "annotation": (lambda c: c.update(annotations=[{"core:sample_start": 0, "core:sample_count": 16385}]), "cut short"),
    "captures reversed": (
        lambda c: c["captures"].insert(0, {**first_capture(c), "core:sample_start": 9}),
        "in order",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_recording_is_refused_with_the_reason_when(edited, case):
    change, text = REFUSED[case]
    with pytest.raises(RecordingError, match=text):
        read_event([edited(change)])


def test_recording_is_refused_when_its_coordinates_are_swapped(edited):
    meta = edited(lambda c: first_capture(c)["core:geolocation"].update(coordinates=[-33.9, 151.2]))
    with pytest.raises(PositionInvalid, match="look swapped"):
        read_event([meta])


def test_recording_is_refused_when_its_data_ends_within_a_sample(edited):
    with pytest.raises(RecordingError, match="250 samples and 1 bytes"):
        read_event([edited(data=bytes(1001))])


def test_recording_is_refused_when_its_data_was_changed(edited):
    meta = edited()
    data = meta.with_suffix(".sigmf-data")
    data.write_bytes(data.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(RecordingError, match=r"synthetic_R1\.sigmf-data: its SHA-512"):
        read_event([meta])
    assert read_event([meta], verify_data=False)[0].samples == 16384


def test_recording_is_refused_when_a_file_of_the_pair_is_missing(edited):
    meta = edited()
    meta.with_suffix(".sigmf-data").unlink()
    with pytest.raises(RecordingError, match=r"no synthetic_R1\.sigmf-data .* pair of files"):
        read_event([meta])


def test_event_is_refused_when_a_receiver_comes_twice(collection):
    with pytest.raises(RecordingError, match="twice"):
        read_event([collection, collection.parent / "synthetic_R1"])


def test_event_is_refused_when_nothing_is_named():
    with pytest.raises(RecordingError, match="no recording was given"):
        read_event([])


def test_collection_is_refused_when_a_stream_was_changed(edited):
    collection = edited(lambda c: c["global"].update({"core:comment": "moved"})).with_name("synthetic.sigmf-collection")
    with pytest.raises(RecordingError, match=r"synthetic_R1\.sigmf-meta: its SHA-512"):
        read_event([collection])


def test_collection_is_refused_when_a_stream_is_missing(edited):
    meta = edited()
    meta.unlink()
    with pytest.raises(RecordingError, match="lists synthetic_R1"):
        read_event([meta.with_name("synthetic.sigmf-collection")])


@pytest.mark.parametrize("name", ["../elsewhere", "/etc/passwd", "", 7, None])
def test_collection_is_refused_when_a_stream_leads_elsewhere(tmp_path, name):
    path = tmp_path / "bad.sigmf-collection"
    path.write_text(json.dumps({"collection": {"core:streams": [{"name": name, "hash": "0"}]}}))
    with pytest.raises(RecordingError, match="beside it"):
        read_event([path])


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b"\xff\xfe", b'{"collection": {"core:streams": []}}', b"[" * 10**6]
)
@pytest.mark.parametrize("suffix", [".sigmf-collection", ".sigmf-meta"])
def test_file_is_refused_when_it_is_not_sigmf(tmp_path, suffix, content):
    path = tmp_path / f"bad{suffix}"
    path.write_bytes(content)
    path.with_suffix(".sigmf-data").write_bytes(bytes(64))
    with pytest.raises(RecordingError):
        read_event([path])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
FIELDS = st.sampled_from(
    ["datatype", "sample_rate", "num_channels", "offset", "geolocation", "datetime", "frequency", "sample_start"]
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(field=FIELDS, value=JSON, everywhere=st.booleans())
def test_recording_is_read_or_refused_whatever_a_field_holds(collection, tmp_path, field, value, everywhere):
    content = json.loads((collection.parent / "synthetic_R1.sigmf-meta").read_text())
    content["captures"][0][f"core:{field}"] = value
    if everywhere:
        content["global"][f"core:{field}"] = value
    meta = tmp_path / "any.sigmf-meta"
    meta.write_text(json.dumps(content))
    data = meta.with_suffix(".sigmf-data")
    if not data.exists():
        shutil.copy(collection.parent / "synthetic_R1.sigmf-data", data)
    with contextlib.suppress(ClientError):
        read_event([meta])[0].observe(0, 1)


def test_collection_lists_the_hashes_of_its_streams(collection):
    for stream in json.loads(collection.read_text())["collection"]["core:streams"]:
        meta: Path = collection.parent / f"{stream['name']}.sigmf-meta"
        assert hashlib.sha512(meta.read_bytes()).hexdigest() == stream["hash"]
