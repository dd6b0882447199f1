"""Receivers that fail beside the others of their event: named, or left out when enough remain."""

import json
import logging
import shutil
import tarfile

import numpy as np
import pytest

from rfserve.clients.alignment import align
from rfserve.clients.cli import main
from rfserve.clients.client import LocalizationClient
from rfserve.clients.errors import (
    ClientError,
    ClockNotLocked,
    ClockSkew,
    DuplicateReceiver,
    NotSimultaneous,
    ObservationError,
    PositionInvalid,
    TooFewReceivers,
    TuningDiffers,
    UnknownReceiver,
)
from rfserve.clients.event import Event, Screen
from rfserve.clients.recording import Recording, read_event
from rfserve.clients.request import Question
from rfserve.clients.stored_samples import Bytes, StoredSamples, encoding_of

START_NS = 1_767_268_800_000_000_000


@pytest.fixture
def record(tmp_path):
    """A receiver's recording of noise, each at a place of its own, except for what is given."""

    def make(number, *, late_s=0.0, samples=8192, **given):
        path = tmp_path / f"{number}-{len(list(tmp_path.iterdir()))}.cf32"
        noise = np.random.default_rng(number).normal(0, 0.1, (samples, 2)).astype("<f4")
        noise[given.pop("bad_sample", samples) :][:1] = np.nan
        noise.tofile(path)
        fine = {
            "name": f"R{number}",
            "stored": StoredSamples.in_one_piece(Bytes.whole(path), encoding_of("cf32_le"), 0, samples),
            "sample_rate_hz": 1e6,
            "center_frequency_hz": 433e6,
            "latitude_deg": 45.0 + number / 100,
            "longitude_deg": 7.5,
            "altitude_m": 0.0,
            "start_ns": START_NS + round(late_s * 1e9),
            "clock_locked": True,
        }
        return Recording(**(fine | given))

    return make


FAILURES = {
    "clock not locked": ({"clock_locked": False}, ClockNotLocked, "no GNSS fix"),
    "no time": ({"start_ns": None}, NotSimultaneous, "no core:datetime"),
    "GPS time": ({"late_s": 18.0}, ClockSkew, r"starts \+18\.000 s from the median"),
    "no overlap": ({"late_s": 5.0}, NotSimultaneous, "share 0 samples"),
    "other frequency": ({"center_frequency_hz": 434e6}, TuningDiffers, "4.34e"),
    "other rate": ({"sample_rate_hz": 2e6}, TuningDiffers, "resample"),
    "swapped coordinates": ({"latitude_deg": 7.5, "longitude_deg": 45.0}, PositionInvalid, "look swapped"),
    "sample not finite": ({"bad_sample": 100}, ObservationError, "1 of 8192 samples are not finite"),
    "id that no network has": ({"receiver_id": 12}, UnknownReceiver, r"got receiver id 12 \(given\); expected 0 to 9"),
    "id of another": ({"receiver_id": 0}, DuplicateReceiver, "have the same receiver id, 0"),
    "given twice": ({"name": "R0", "latitude_deg": 45.0}, DuplicateReceiver, "same name and position"),
}


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("place", [1, 3])
def test_receiver_that_fails_is_named_or_left_out(record, caplog, failure, place):
    given, kind, text = FAILURES[failure]
    recordings = [record(i) for i in range(4)]
    recordings[place] = record(place, **given)
    name = recordings[place].name
    with pytest.raises(kind, match=text) as caught:
        align(recordings)
    assert name in str(caught.value)

    with caplog.at_level(logging.WARNING, "rfserve.clients"):
        event = align(recordings, screen=Screen(minimum_receivers=3))
    (dropped,) = event.dropped
    assert (dropped.place, dropped.name, dropped.kind) == (place, name, kind.__name__)
    assert f"left out {name}: {dropped.reason}" in caplog.messages
    assert [o.name for o in event] == [f"R{i}" for i in range(4) if i != place]
    # The calibration of the others is still theirs.
    assert [o.receiver_id for o in event] == [i for i in range(4) if i != place]

    with pytest.raises(TooFewReceivers, match=rf"3 receivers remain; expected at least 4.*{name} \({kind.__name__}\)"):
        align(recordings, screen=Screen(minimum_receivers=4))


def test_copy_of_a_recording_under_another_name_is_refused_or_left_out(record):
    recordings = [record(i) for i in range(4)]
    recordings[2] = record(0, name="copy")
    with pytest.raises(DuplicateReceiver, match=r"copy \(number 3\) and R0 \(number 1\) have the same position and"):
        align(recordings)
    event = align(recordings, screen=Screen(minimum_receivers=3))
    assert [(d.place, d.name, d.kind) for d in event.dropped] == [(2, "copy", "DuplicateReceiver")]
    assert Question("locate", [event], None).arrays["mask"].sum() == 3


def test_namesakes_are_cut_each_at_its_own_start(record):
    """Recordings that lie in folders of their receivers may all be called the same."""
    recordings = [record(i, name="iq", late_s=(2 - i) / 1000) for i in range(3)]
    event = align(recordings, screen=Screen(minimum_receivers=2))
    assert event.dropped == ()
    assert [o.start_ns - START_NS for o in event] == [2_000_000] * 3


def test_ids_that_no_network_has_are_left_out_of_what_a_program_made(observe):
    event = [observe(name=f"R{i}", latitude_deg=45.0 + i, receiver_id=r) for i, r in enumerate((0, 12, 1))]
    question = Question("locate", [event], None, minimum_receivers=2)
    assert question.arrays["mask"].sum() == 2
    Question("locate_spectrogram", [[observe(receiver_id=12)]], None)


def test_each_of_several_failures_is_left_out_for_its_own_reason(record):
    recordings = [record(i) for i in range(7)]
    recordings[0] = record(0, clock_locked=False)
    recordings[2] = record(2, late_s=18.0)
    recordings[5] = record(5, bad_sample=7)
    event = align(recordings, screen=Screen(minimum_receivers=3))
    assert [(d.place, d.kind) for d in event.dropped] == [
        (0, "ClockNotLocked"),
        (2, "ClockSkew"),
        (5, "ObservationError"),
    ]
    assert [o.receiver_id for o in event] == [1, 3, 4, 6]


def test_all_that_fail_alike_are_named_at_once(record):
    recordings = [record(0), record(1, clock_locked=False), record(2, clock_locked=False)]
    with pytest.raises(ClockNotLocked, match=r"R1: .*R2: "):
        align(recordings)


def test_nothing_is_left_out_of_an_event_that_is_fine(record):
    event = align([record(i) for i in range(3)], screen=Screen(minimum_receivers=1))
    assert event.dropped == ()
    assert [o.receiver_id for o in event] == [None, None, None]
    assert len(event[1:]) == 2


@pytest.mark.parametrize(("late_s", "fits"), [(0.9, True), (1.1, False), (-1.1, False)])
def test_skew_limit_is_the_one_that_is_given(record, late_s, fits):
    recordings = [record(i, samples=4_000_000, late_s=late_s if i == 2 else 0.0) for i in range(3)]
    if fits:
        assert len(align(recordings, skew_limit_s=1.0)) == 3
    else:
        with pytest.raises(ClockSkew, match="within 1 s"):
            align(recordings, skew_limit_s=1.0)


def test_receivers_at_one_site_are_two_when_their_names_differ(record):
    pair = [record(0), record(1, latitude_deg=45.0)]
    assert len(align(pair)) == 2


def test_far_receivers_are_not_taken_for_swapped(record):
    """A network across continents is none of these."""
    places = [(52.0, 5.0), (40.0, -75.0), (-33.0, 18.0), (5.0, 40.0)]
    recordings = [record(i, latitude_deg=lat, longitude_deg=lon) for i, (lat, lon) in enumerate(places)]
    assert len(align(recordings)) == 4


def test_near_receivers_are_not_taken_for_swapped_where_latitude_and_longitude_are_alike(record):
    pair = [record(0, latitude_deg=45.0, longitude_deg=45.1), record(1, latitude_deg=45.1, longitude_deg=45.0)]
    assert len(align(pair)) == 2


@pytest.mark.parametrize(
    ("ids", "known", "text"),
    [
        ((0, 3, 3), None, r"R2 \(number 3\) and R1 \(number 2\) have the same receiver id, 3"),
        ((1, None, 2), None, "have the same receiver id, 1"),
        ((0, 1, 7), {0, 1, 2}, r"R2: got receiver id 7 \(given\); expected 0 to 2"),
        ((0, 1, None), {0, 1, 5}, r"R2: got receiver id 2 \(its place in the list\); expected 0, 1, 5"),
        ((0, 1, 10), None, r"R2: got receiver id 10 \(given\); expected 0 to 9"),
    ],
)
def test_ids_are_refused_when_the_network_cannot_tell_by_them(observe, ids, known, text):
    event = [observe(name=f"R{i}", latitude_deg=45.0 + i, receiver_id=r) for i, r in enumerate(ids)]
    with pytest.raises((DuplicateReceiver, UnknownReceiver), match=text):
        Question("locate", [event], None, known_receivers=known)


@pytest.mark.parametrize(
    ("given", "kind", "text"),
    [
        ({"center_frequency_hz": 900e6}, TuningDiffers, r"receiver \(number 3\) to 9e\+08 Hz"),
        ({"sample_rate_hz": 2e6}, TuningDiffers, r"receiver \(number 3\) 2e\+06"),
        ({"start_ns": START_NS + 3_600_000_000_000}, ClockSkew, r"receiver \(number 3\) starts \+3600\.000 s"),
        ({"start_ns": START_NS, "clock_locked": False}, ClockNotLocked, r"receiver \(number 3\): .* no GNSS fix"),
    ],
)
def test_observations_that_a_program_made_are_checked_beside_each_other(observe, given, kind, text):
    event = [observe(start_ns=START_NS, latitude_deg=45.0 + i) for i in range(2)]
    bad = observe(**({"latitude_deg": 47.0} | given))
    with pytest.raises(kind, match=text):
        Question("locate", [[*event, bad]], None)
    question = Question("locate", [[*event, bad]], None, minimum_receivers=2)
    assert question.arrays["mask"].sum() == 2


def test_observations_need_no_time_and_one_alone_needs_no_lock(observe):
    Question("locate", [[observe(latitude_deg=45.0 + i, clock_locked=False) for i in range(3)]], None)
    Question("locate", [[observe(clock_locked=False, start_ns=START_NS)]], None)


def test_fix_says_who_was_left_out_before_and_by_the_client(serve, answer, observe, record):
    recordings = [record(i) for i in range(5)]
    recordings[1] = record(1, clock_locked=False)
    event = align(recordings, screen=Screen(minimum_receivers=3))
    server = serve(answer())
    given = {"timeout_s": 5.0, "known_receivers": range(4)}
    with LocalizationClient(server.url, **given, minimum_receivers=3) as client:
        fix = client.locate(event)
    assert [(d.place, d.kind) for d in fix.dropped] == [(1, "ClockNotLocked"), (4, "UnknownReceiver")]
    assert [d["name"] for d in json.loads(fix.to_json())["dropped"]] == ["R1", "R4"]
    (sent,) = server.requests
    mask = sent.raw_input_contents[[t.name for t in sent.inputs].index("mask")]
    assert sum(mask) == 3
    with LocalizationClient(server.url, **given) as client, pytest.raises(UnknownReceiver, match="R4"):
        client.locate(event)
    with LocalizationClient(server.url, **given, minimum_receivers=4) as client, pytest.raises(TooFewReceivers):
        client.locate(event)
    assert len(server.requests) == 1


def test_screen_is_refused_when_nobody_need_remain():
    with pytest.raises(ClientError, match="1 or more"):
        Screen(minimum_receivers=0)


def test_event_is_a_sequence(observe):
    event = Event(observations=(observe(name="a"), observe(name="b")))
    assert [o.name for o in event] == ["a", "b"]
    assert (len(event), event[-1].name) == (2, "b")


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("case", ["no data", "no metadata", "data", "place"])
def test_archive_and_the_same_files_leave_out_the_same_receiver(collection, tmp_path, packed, listed, case):
    folder = tmp_path / "event"
    shutil.copytree(collection.parent, folder)
    meta, data = (folder / f"synthetic_R2.sigmf-{kind}" for kind in ("meta", "data"))
    files = {"no data": data, "no metadata": meta, "data": data, "place": meta}
    if case.startswith("no "):
        files[case].unlink()
    elif case == "data":
        data.write_bytes(b"??" + data.read_bytes()[2:])
    else:
        content = json.loads(meta.read_text())
        content["captures"][0]["core:geolocation"]["coordinates"] = [0, 0]
        meta.write_text(json.dumps(content))
    names = [f"synthetic_R{i}" for i in range(1, 5)]
    paths = [folder / collection.name] if listed else [folder / name for name in names]
    if packed:
        paths = [tmp_path / "event.sigmf"]
        with tarfile.open(paths[0], "w") as archive:
            for path in sorted(folder.iterdir()):
                if listed or not path.name.endswith(".sigmf-collection"):
                    archive.add(path, f"event/{path.name}")
    screen = Screen(minimum_receivers=3)
    event = align(read_event(paths, drop=screen.drop), screen=screen)
    assert [(d.place, d.name) for d in event.dropped] == [(1, "synthetic_R2")]
    assert [o.name for o in event] == [names[0], *names[2:]]
    with pytest.raises(ClientError, match="R2"):
        read_event(paths)


def test_archive_that_cannot_be_read_is_left_out_as_one(collection, tmp_path):
    broken = tmp_path / "R1.sigmf"
    broken.write_bytes(b"?")
    screen = Screen(minimum_receivers=2)
    paths = [broken, *(collection.parent / f"synthetic_R{i}" for i in (2, 3))]
    event = align(read_event(paths, drop=screen.drop), screen=screen)
    assert [(d.place, d.name, len(event)) for d in event.dropped] == [(0, "R1", 2)]


def test_locate_leaves_out_a_recording_that_cannot_be_read(serve, answer, edited, capsys):
    meta = edited(data=b"123")
    collection = meta.with_name("synthetic.sigmf-collection")
    url = serve(answer()).url
    assert main(["locate", str(collection), "--url", url]) == 1
    assert main(["locate", str(collection), "--url", url, "--minimum-receivers", "4"]) == 1
    assert "3 receivers remain; expected at least 4" in capsys.readouterr().err
    assert main(["locate", str(collection), "--url", url, "--minimum-receivers", "3", "--output", "json"]) == 0
    out, _ = capsys.readouterr()
    (dropped,) = json.loads(out)["dropped"]
    assert (dropped["place"], dropped["name"], dropped["kind"]) == (0, "synthetic_R1", "RecordingError")
    assert main(["locate", str(collection), "--url", url, "--minimum-receivers", "3"]) == 0
    assert "left out   synthetic_R1: " in capsys.readouterr().out
