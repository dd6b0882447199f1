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


def captures_at(starts, late_ns=0, **given):
    """A change that repeats the first capture at these samples, the times of the others `late_ns` late."""

    def change(content):
        first = first_capture(content)
        content["global"]["core:sample_rate"] = 2e6
        first["core:datetime"] = "2026-01-01T12:00:00.000000000Z"
        for start in starts:
            time = {"core:datetime": f"2026-01-01T12:00:00.{500 * start + late_ns:09}Z"}
            content["captures"].append({**first, "core:sample_start": start, **time, **given})

    return change


def test_captures_that_go_on_where_the_one_before_ends_are_one_recording(edited, collection):
    recording = read_event([edited(captures_at([4000, 8000], late_ns=249))])[0]
    plain = read_event([collection.parent / "synthetic_R1"])[0]
    np.testing.assert_array_equal(recording.observe(0, 16384).iq, plain.observe(0, 16384).iq)


@pytest.mark.parametrize(
    ("given", "late_ns"),
    [
        ({}, 251),
        ({}, -251),
        ({"core:datetime": None}, 0),
        ({"core:frequency": 868e6}, 0),
        ({"core:geolocation": {"type": "Point", "coordinates": [7.5, 45.5]}}, 0),
        ({"kiwi:gnss_valid": False}, 0),
    ],
)
def test_recording_ends_at_a_capture_that_does_not_go_on(edited, given, late_ns):
    assert read_event([edited(captures_at([4000, 8000], late_ns, **given))])[0].samples == 4000


def test_recording_ends_at_the_first_of_many_captures_that_does_not_go_on(edited):
    def change(content):
        captures_at([4000])(content)
        captures_at([8000], **{"core:frequency": 868e6})(content)

    assert read_event([edited(change)])[0].samples == 8000


def test_capture_that_begins_at_the_end_of_the_data_is_none(edited):
    def change(content):
        content["captures"].append({"core:sample_start": 16384, "core:frequency": 868e6})

    assert read_event([edited(change)])[0].samples == 16384


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
    "annotations": (lambda c: c.update(annotations=5), "annotations 5; expected a list"),
    "annotations not in a list": (lambda c: c.update(annotations={"core:sample_start": 0}), "expected a list"),
    "capture after the end": (lambda c: c["captures"].append({"core:sample_start": 16385}), "cut short"),
    "capture at the end": (lambda c: first_capture(c).update({"core:sample_start": 16384}), "cut short"),
    "continuing captures reversed": (
        lambda c: (captures_at([4000])(c), c["captures"].reverse()),
        "in order",
    ),
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


@pytest.mark.parametrize("name", ["../elsewhere", "/etc/passwd", "", 7, None, "a" * 300, "a" * 245, "é" * 125])
def test_collection_is_refused_when_a_stream_leads_elsewhere(tmp_path, name):
    path = tmp_path / "bad.sigmf-collection"
    path.write_text(json.dumps({"collection": {"core:streams": [{"name": name, "hash": "0"}]}}))
    with pytest.raises(RecordingError, match="expected the name of a recording beside it"):
        read_event([path])


@pytest.fixture
def rewritten(collection, tmp_path):
    """A copy of the collection, each of its streams changed."""

    def make(change):
        path = shutil.copytree(collection.parent, tmp_path / "rewritten") / collection.name
        content = json.loads(path.read_text())
        content["collection"]["core:streams"] = [change(s) for s in content["collection"]["core:streams"]]
        path.write_text(json.dumps(content))
        return path

    return make


@pytest.mark.parametrize(
    "change",
    [lambda s: [s["name"], s["hash"]], lambda s: [s["name"], s["hash"], 7], lambda s: s | {"hash": s["hash"].upper()}],
    ids=["tuples", "longer tuples", "capital letters"],
)
def test_collection_is_read_in_every_form_of_the_standard(collection, rewritten, change):
    path = rewritten(change)
    assert [r.name for r in read_event([path])] == [r.name for r in read_event([collection])]
    meta = path.with_name("synthetic_R1.sigmf-meta")
    meta.write_text(meta.read_text() + " ")
    with pytest.raises(RecordingError, match=r"synthetic_R1\.sigmf-meta: its SHA-512"):
        read_event([path])


@pytest.mark.parametrize("entry", [[], ["synthetic_R1"], [7, "0"], [["synthetic_R1"], "0"], "synthetic_R1"])
def test_collection_is_refused_when_a_stream_is_no_name_and_hash(rewritten, entry):
    with pytest.raises(RecordingError):
        read_event([rewritten(lambda _: entry)])


def test_hash_of_the_data_may_be_in_capital_letters(edited):
    meta = edited(lambda c: c["global"].update({"core:sha512": c["global"]["core:sha512"].upper()}))
    assert read_event([meta])[0].samples == 16384


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
    [
        "datatype",
        "sample_rate",
        "num_channels",
        "offset",
        "geolocation",
        "datetime",
        "frequency",
        "sample_start",
        "annotations",
        "captures",
    ]
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(field=FIELDS, value=JSON, place=st.sampled_from(["first", "second", "everywhere"]))
def test_recording_is_read_or_refused_whatever_a_field_holds(collection, tmp_path, field, value, place):
    content = json.loads((collection.parent / "synthetic_R1.sigmf-meta").read_text())
    # The second capture goes on where the first one ends.
    captures_at([500])(content)
    if field in content:
        content[field] = value
    else:
        content["captures"][1 if place == "second" else 0][f"core:{field}"] = value
    if place == "everywhere":
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
