"""Recordings of every format against arrays that were written into them, and hostile files."""

import contextlib
import gzip
import io
import json
import shutil
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rfserve.clients.errors import ClientError, PositionInvalid, RecordingError
from rfserve.clients.formats import file_name, registry, riff, sigmf_archive
from rfserve.clients.formats.side_file import EXAMPLE, FIELDS
from rfserve.clients.recording import read_event

PLACE = {"latitude_deg": 45.07, "longitude_deg": 7.69}
TOLD = {"sample_rate_hz": 2e6, "center_frequency_hz": 433.92e6, **PLACE}
RNG = np.random.default_rng(8)


def chunk(name, content):
    return name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


def form(rate=48_000, bits=16, code=1, channels=2):
    return chunk(b"fmt ", struct.pack("<HHIIHH", code, channels, rate, rate * bits // 4, bits // 4, bits))


def wave(*chunks, magic=b"RIFF"):
    body = b"WAVE" + b"".join(chunks)
    return magic + struct.pack("<I", len(body)) + body


@pytest.fixture
def put(tmp_path):
    """Write a recording and, when fields are given, its side file."""

    def make(name, content, side=None):
        path = tmp_path / name
        path.write_bytes(content)
        if side is not None:
            path.with_suffix(".json").write_text(json.dumps(side))
        return path

    return make


def only(path, **options):
    (recording,) = read_event([path], **options)
    return recording


RAW = {
    "cu8": ("u1", lambda v: (v - 127.5) / 127.5),
    "cs8": ("i1", lambda v: v / 128),
    "cs16": ("<i2", lambda v: v / 32768),
    "sc16": ("<i2", lambda v: v / 32768),
    "cf32": ("<f4", lambda v: v),
    "cfile": ("<f4", lambda v: v),
}


@pytest.mark.parametrize("suffix", RAW)
def test_raw_samples_are_what_was_written_when_the_suffix_tells_the_type(put, suffix):
    dtype, scaled = RAW[suffix]
    values = RNG.uniform(-1, 1, (500, 2)) if dtype == "<f4" else RNG.integers(0, 127, (500, 2))
    values = values.astype(dtype)
    recording = only(put(f"a.{suffix}", values.tobytes(), TOLD))
    expected = scaled(values.astype(float))
    found = recording.observe(100, 300).iq
    np.testing.assert_allclose(np.stack([found.real, found.imag], -1), expected[100:400], atol=1e-6)
    assert (recording.samples, recording.sample_rate_hz, recording.latitude_deg) == (500, 2e6, 45.07)


def test_side_file_says_everything_that_an_observation_holds(put):
    side = TOLD | {
        "receiver": "roof",
        "altitude_m": 240,
        "start_time": "2026-01-01T12:00:00.000000005Z",
        "full_scale_dbm": -20,
        "receiver_id": 3,
    }
    seen = only(put("a.cu8", bytes(2000), side)).observe(0, 1000)
    assert (seen.name, seen.altitude_m, seen.full_scale_dbm, seen.receiver_id) == ("roof", 240, -20, 3)
    assert seen.start_ns == 1_767_268_800_000_000_005
    assert seen.clock_locked


@pytest.mark.parametrize("name", ["a.json", "a.cu8.json", "a.toml", "a.cu8.toml"])
def test_side_file_is_found_by_either_name_and_in_either_language(put, tmp_path, name):
    path = put("a.cu8", bytes(2000))
    text = json.dumps(TOLD)
    if name.endswith("toml"):
        text = "\n".join(f"{k} = {v}" for k, v in TOLD.items()) + "\nstart_time = 2026-01-01T13:00:00.25+01:00\n"
    (tmp_path / name).write_text(text)
    recording = only(path)
    assert recording.center_frequency_hz == 433.92e6
    assert recording.start_ns == (1_767_268_800_250_000_000 if name.endswith("toml") else None)


def test_example_of_the_error_can_be_pasted(put, tmp_path):
    path = put("a.cu8", bytes(2000))
    with pytest.raises(RecordingError, match=r"a\.cu8: raw samples do not say") as raised:
        read_event([path])
    text = str(raised.value)
    pasted = text[text.index("{") : text.rindex("}") + 1]
    assert pasted == EXAMPLE
    (tmp_path / "a.json").write_text(pasted)
    assert only(path).name == "roof"


@pytest.mark.parametrize(
    ("side", "text"),
    [
        ({k: v for k, v in TOLD.items() if k != "sample_rate_hz"}, "sample_rate_hz is missing; add it to a.json"),
        (TOLD | {"sample_rate": 1}, "did you mean sample_rate_hz"),
        (TOLD | {"centre_frequency_hz": 1}, "did you mean center_frequency_hz"),
        (TOLD | {"sample_rate_hz": "fast"}, "finite number"),
        (TOLD | {"sample_rate_hz": -1}, "above 0"),
        (TOLD | {"start_time": "noon"}, "expected UTC"),
        (TOLD | {"receiver_id": 1.5}, "integer from 0"),
        (TOLD | {"clock_locked": "yes"}, "true or false"),
        (TOLD | {"receiver": ""}, "expected a text"),
        (TOLD | {"datatype": "rf32"}, "got datatype 'rf32'"),
        (TOLD | {"datatype": "cf32_le"}, "whole samples of 8 bytes"),
        ({k: v for k, v in TOLD.items() if k != "latitude_deg"}, "latitude_deg is missing"),
        ({k: v for k, v in TOLD.items() if k not in PLACE}, "latitude_deg and longitude_deg are missing"),
    ],
)
def test_side_file_is_refused_with_what_to_do_when(put, side, text):
    with pytest.raises(RecordingError, match=text):
        read_event([put("a.cu8", bytes(2002), side)])


def test_side_file_is_refused_when_there_are_two(put, tmp_path):
    path = put("a.cu8", bytes(2000), TOLD)
    (tmp_path / "a.toml").write_text("")
    with pytest.raises(RecordingError, match=r"a\.json and a\.toml; expected one"):
        read_event([path])


def test_place_of_a_side_file_is_checked(put):
    with pytest.raises(PositionInvalid, match="look swapped"):
        read_event([put("a.cu8", bytes(2000), TOLD | {"latitude_deg": 151.2, "longitude_deg": -33.9})])


def test_type_comes_from_the_side_file_when_the_name_tells_nothing(put):
    with pytest.raises(RecordingError, match="got datatype ''"):
        read_event([put("a.bin", bytes(2000), TOLD)])
    assert only(put("a.bin", bytes(2000), TOLD | {"datatype": "cu8 (rtl_sdr)"})).samples == 1000


WAVS = {
    "u8": (8, 1, lambda v: np.round(v * 127 + 128).astype("u1").tobytes(), 2 / 128),
    "i16": (16, 1, lambda v: np.round(v * 32767).astype("<i2").tobytes(), 1e-4),
    "i24": (24, 1, lambda v: np.round(v * (2**23 - 1)).astype("<i4").view("u1").reshape(-1, 4)[:, :3].tobytes(), 1e-6),
    "i32": (32, 1, lambda v: np.round(v * (2**31 - 1)).astype("<i4").tobytes(), 1e-6),
    "f32": (32, 3, lambda v: v.astype("<f4").tobytes(), 1e-7),
    "f64": (64, 3, lambda v: v.astype("<f8").tobytes(), 1e-7),
}


@pytest.mark.parametrize("kind", WAVS)
@pytest.mark.parametrize("extensible", [False, True])
def test_wav_samples_are_what_was_written_when_the_form_is(put, kind, extensible):
    bits, code, stored, near = WAVS[kind]
    values = RNG.uniform(-1, 1, (600, 2))
    head = form(bits=bits, code=code)
    if extensible:
        sub = struct.pack("<HHIH", 22, bits, 3, code) + bytes(14)
        head = chunk(b"fmt ", form(bits=bits, code=0xFFFE)[8:] + sub)
    # An odd chunk before the samples: it is padded.
    path = put("a.wav", wave(head, chunk(b"LIST", b"odd"), chunk(b"data", stored(values))), TOLD)
    found = only(path).observe(50, 500).iq
    np.testing.assert_allclose(np.stack([found.real, found.imag], -1), values[50:550], atol=near)


def test_wav_is_read_past_an_empty_chunk_of_samples(put):
    values = np.arange(2000, dtype="<i2")
    pieces = [chunk(b"data", piece.tobytes()) for piece in (values[:600], values[:0], values[600:])]
    recording = only(put("a.wav", wave(form(), *pieces), TOLD))
    assert recording.samples == 1000
    for first, count in ((0, 1000), (299, 2), (300, 700), (100, 200)):
        found = recording.observe(first, count).iq.view(np.float32) * 32768
        np.testing.assert_array_equal(found, values[2 * first : 2 * (first + count)])


def test_wav_of_rf64_is_read_when_its_sizes_are_in_ds64(put):
    samples = RNG.integers(-99, 99, 2000).astype("<i2").tobytes()
    ds64 = chunk(b"ds64", struct.pack("<QQQI", 0, len(samples), 1000, 0))
    path = put("a.wav", wave(ds64, form(), b"data\xff\xff\xff\xff" + samples, magic=b"RF64"), TOLD)
    assert only(path).samples == 1000


def auxi(frequency_hz=77_500):
    begun = struct.pack("<8H", 2020, 8, 4, 13, 6, 52, 20, 250)
    return chunk(b"auxi", begun + bytes(16) + struct.pack("<9I", frequency_hz, 0, 0, 0, 0, 0, 0, 0, 0))


XML = '<?xml version="1.0"?><SDR-XML-Root><Definition UTCSeconds="1597301540" RadioCenterFreq="77500"/></SDR-XML-Root>'


@pytest.mark.parametrize(
    ("name", "notes", "start_ns"),
    [
        ("a", auxi(), 1_597_301_540_250_000_000),
        ("a", chunk(b"auxi", XML.encode("utf-16")), 1_597_301_540_000_000_000),
        ("SDRSharp_20200813_065220Z_77500Hz_IQ", b"", 1_597_301_540_000_000_000),
        ("HDSDR_20200813_065220Z_77.5kHz_RF", auxi(), 1_597_301_540_250_000_000),
    ],
)
def test_wav_takes_frequency_and_time_from_chunk_or_name_but_its_clock_is_not_trusted(put, name, notes, start_ns):
    path = put(f"{name}.wav", wave(form(), notes, chunk(b"data", bytes(4000))))
    path.with_name(f"{path.name}.json").write_text(json.dumps(PLACE))
    recording = only(path)
    assert (recording.center_frequency_hz, recording.start_ns) == (77_500, start_ns)
    assert not recording.clock_locked
    path.with_name(f"{path.name}.json").write_text(json.dumps(PLACE | {"start_time": "2020-08-13T06:52:20.1Z"}))
    assert only(path).clock_locked
    assert only(path).start_ns == 1_597_301_540_100_000_000


@pytest.mark.parametrize(
    ("stem", "expected"),
    [
        ("20200813T065220Z_77500_JO51xl_iq", (77_500, "2020-08-13T06:52:20+00:00", "JO51xl")),
        ("20200813T065220Z_77500_a_b_iq", (77_500, "2020-08-13T06:52:20+00:00", "a_b")),
        ("HDSDR_20200813_065220Z_78kHz_RF", (78_000, "2020-08-13T06:52:20+00:00", None)),
        ("SDRuno_20200813_065220Z_433920kHz", (433_920_000, "2020-08-13T06:52:20+00:00", None)),
        ("gqrx_20200813_065220_77500_1800000_fc", (77_500, "2020-08-13T06:52:20+00:00", None)),
        ("20201313T065220Z_77500_X_iq", (77_500, None, "X")),
        ("holiday", (None, None, None)),
    ],
)
def test_file_name_tells_what_recorders_put_there(stem, expected):
    found = file_name.fields(stem)
    assert tuple(found.get(k) for k in ("center_frequency_hz", "start_time", "receiver")) == expected


def test_gqrx_recording_needs_only_its_place(put):
    path = put("gqrx_20200813_065220_77500_1800000_fc.raw", bytes(8000), PLACE)
    assert (only(path).sample_rate_hz, only(path).samples) == (1.8e6, 1000)


DATA = chunk(b"data", bytes(4000))
BROKEN_WAVS = {
    "nothing": (b"", "unknown|cannot read"),
    "only a header": (wave(), "no form"),
    "no samples": (wave(form()), "no samples"),
    "empty samples": (wave(form(), chunk(b"data", b"")), "no samples"),
    "mono": (wave(form(channels=1), DATA), "got 1 channels; expected two"),
    "12 bits": (wave(form(bits=12), DATA), "12 bits"),
    "adpcm": (wave(form(code=17), DATA), "format 17"),
    "no rate": (wave(form(rate=0), DATA), "0 Hz"),
    "cut": (wave(form(), DATA)[:-7], "cut short"),
    "huge chunk": (wave(form(), b"junk\xff\xff\xff\x7f", DATA), "cut short"),
    "within a sample": (wave(form(), chunk(b"data", bytes(4002))), "within a sample"),
    "big endian": (b"RIFX" + wave(form(), DATA)[4:], "expected a WAV"),
    "short form": (wave(chunk(b"fmt ", b"\1\0"), DATA), "cannot read"),
}


@pytest.mark.parametrize("case", BROKEN_WAVS)
def test_wav_is_refused_with_the_reason_when(put, case):
    content, text = BROKEN_WAVS[case]
    with pytest.raises(RecordingError, match=text):
        read_event([put("a.wav", content, TOLD)])


def test_wav_is_refused_when_it_is_nothing_but_headers(put, monkeypatch):
    monkeypatch.setattr(riff, "MOST_CHUNKS", 1000)
    with pytest.raises(RecordingError, match="more than 1000 chunks"):
        read_event([put("a.wav", wave(form(), chunk(b"null", b"") * 1001, DATA), TOLD)])


def kiwi(blocks, *, rate=12_001.03, begin_ns=370_358_769_799_718, age=1, header_rate=12_001, unfixed=()):
    """A recording of 512 samples a block that counts them in I; `blocks` are numbers, whose gaps are lost ones.

    Those that are `unfixed` have no fix behind their stamp.
    """
    parts = [form(rate=header_rate)]
    for number in blocks:
        at = (begin_ns + round(number * 512 / rate * 1e9)) % (604_800 * 10**9)
        since = 255 if number in unfixed else age
        parts.append(chunk(b"kiwi", struct.pack("<BBII", since, 0, at // 10**9, at % 10**9)))
        values = np.zeros((512, 2), "<i2")
        values[:, 0] = (number * 512 + np.arange(512)) % 32768
        parts.append(chunk(b"data", values.tobytes()))
    return wave(*parts)


KIWI = "20200813T065220Z_77500_JO51xl_iq.wav"


def first_sample(recording):
    return round(float(recording.observe(0, 1).iq[0].real) * 32768)


def test_kiwi_stamps_give_the_exact_start_and_rate(put):
    recording = only(put(KIWI, kiwi(range(60)), PLACE))
    # 2020-08-13 06:52:20 UTC is 370,358 s of the GPS week, 18 leap seconds later.
    assert recording.start_ns == pytest.approx(1_597_301_540_769_799_718, abs=5)
    assert recording.sample_rate_hz == pytest.approx(12_001.03, abs=1e-5)
    assert (recording.name, recording.samples, recording.clock_locked) == ("JO51xl", 60 * 512, True)
    np.testing.assert_array_equal(recording.observe(500, 600).iq.real * 32768, np.arange(500, 1100))


def test_kiwi_recording_is_its_longest_stretch_when_blocks_were_lost(put):
    recording = only(put(KIWI, kiwi([*range(10), *range(13, 50), *range(60, 70)]), PLACE))
    assert (recording.samples, first_sample(recording)) == (37 * 512, 13 * 512)
    expected = 1_597_301_540_769_799_718 + 13 * 512 / 12_001.03 * 1e9
    assert recording.start_ns == pytest.approx(expected, abs=5)


def test_kiwi_recording_ends_at_its_last_stamp_when_blocks_were_lost_where_none_are(put):
    blocks = [*range(30), *range(40, 60)]
    recording = only(put(KIWI, kiwi(blocks, unfixed=range(20, 45)), PLACE))
    assert (recording.samples, recording.clock_locked) == (20 * 512, True)
    np.testing.assert_array_equal(recording.observe(0, 20 * 512).iq.real * 32768, np.arange(20 * 512))
    # Nothing says what became of the blocks at its end either.
    assert only(put(KIWI, kiwi(blocks, unfixed=range(20, 60)), PLACE)).samples == 20 * 512


def test_kiwi_recording_goes_on_over_blocks_without_a_fix_when_the_next_stamp_fits(put):
    assert only(put(KIWI, kiwi(range(60), unfixed=range(20, 45)), PLACE)).samples == 60 * 512


def test_kiwi_recording_is_read_across_the_end_of_the_week(put):
    # 2020-08-15 is a Saturday; the GPS week ends 18 s before UTC's Sunday.
    name = "20200815T235941Z_77500_X_iq.wav"
    recording = only(put(name, kiwi(range(60), begin_ns=604_799_000_000_000), PLACE))
    assert recording.samples == 60 * 512
    assert recording.start_ns == pytest.approx(1_597_535_981_000_000_000, abs=5)


def test_kiwi_stamps_mean_nothing_when_the_receiver_had_no_fix(put):
    recording = only(put(KIWI, kiwi(range(60), age=255), PLACE))
    assert (recording.clock_locked, recording.sample_rate_hz) == (False, 12_001)
    assert recording.start_ns == 1_597_301_540_000_000_000


def test_kiwi_recording_is_refused_when_nothing_says_its_week(put):
    content = kiwi(range(60))
    with pytest.raises(RecordingError, match="not which week"):
        read_event([put("a.wav", content, TOLD)])
    side = TOLD | {"start_time": "2020-08-13T09:00:00Z"}
    assert only(put("b.wav", content, side)).start_ns == pytest.approx(1_597_301_540_769_799_718, abs=5)


def test_kiwi_recording_is_refused_when_its_stamps_fit_nowhere(put):
    with pytest.raises(RecordingError, match="blocks are missing"):
        read_event([put(KIWI, kiwi(range(0, 120, 2)), PLACE)])


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_wav_is_read_or_refused_whatever_was_changed_in_it(put, data):
    content = bytearray(kiwi(range(6)) if data.draw(st.booleans()) else wave(form(), auxi(), DATA))
    # Headers matter more than samples.
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.one_of(st.integers(0, 120), st.integers(0, len(content) - 1)))
        content[min(place, len(content) - 1)] = data.draw(st.sampled_from([0, 1, 2, 127, 128, 255]))
    cut = data.draw(st.integers(0, len(content)))
    path = put(data.draw(st.sampled_from([KIWI, "a.wav"])), bytes(content[:cut] if cut % 3 == 0 else content), TOLD)
    with contextlib.suppress(ClientError):
        recording = only(path)
        recording.observe(0, 1)
        recording.observe(recording.samples - 1, 1)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=300), suffix=st.sampled_from([s for f in registry.FORMATS for s in f.suffixes]))
def test_any_bytes_of_any_name_are_read_or_refused(put, content, suffix):
    head = b"RIFF\0\0\0\0WAVE" if len(content) % 2 else b""
    with contextlib.suppress(ClientError):
        read_event([put(f"a{suffix}", head + content)])


@pytest.fixture
def archive(collection, tmp_path):
    """Pack the synthetic event, after a change of the (name, content) list, as a suffix says."""

    def make(suffix=".sigmf", change=lambda members: members):
        files = sorted(p for p in collection.parent.iterdir() if p.suffix.startswith(".sigmf"))
        members = change([(f"event/{p.name}", p.read_bytes()) for p in files])
        path = tmp_path / f"event{suffix}"
        if suffix.endswith("zip"):
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
                for name, content in members:
                    packed.writestr(name, content)
        else:
            with tarfile.open(path, {"gz": "w:gz", "xz": "w:xz", "bz2": "w:bz2"}.get(suffix[7:], "w")) as packed:
                for name, content in members:
                    info = tarfile.TarInfo(name)
                    info.size = len(content)
                    packed.addfile(info, io.BytesIO(content))
        return path

    return make


@pytest.mark.parametrize("suffix", sigmf_archive.SUFFIXES)
def test_archive_is_the_collection_that_it_holds(archive, collection, suffix):
    inside, beside = read_event([archive(suffix)]), read_event([collection])
    assert [r.name for r in inside] == [r.name for r in beside]
    for a, b in zip(inside, beside, strict=True):
        np.testing.assert_array_equal(a.observe(3000, 500).iq, b.observe(3000, 500).iq)


def test_plain_archive_stays_on_disk(archive):
    assert all(r.stored.content.held is None for r in read_event([archive()]))


def test_archive_of_the_sigmf_package_is_read(collection, tmp_path):
    from sigmf import sigmffile

    path = sigmffile.fromfile(collection.parent / "synthetic_R1").archive(tmp_path / "one")
    assert only(Path(path)).samples == 16384


def without(suffix):
    return lambda members: [m for m in members if not m[0].endswith(suffix)]


def renamed(name):
    return lambda members: [(name, content) if i == 1 else (n, content) for i, (n, content) in enumerate(members)]


def edited_meta(members):
    return [(n, c.replace(b"R1, made", b"R1: made")) for n, c in members]


def unlisted(members):
    return without(".sigmf-collection")(members)


BROKEN_ARCHIVES = {
    "no data": (without("R2.sigmf-data"), "without event/synthetic_R2.sigmf-data"),
    "no meta": (without("R2.sigmf-meta"), "lists synthetic_R2, which it holds 0 times"),
    "no meta, unlisted": (
        lambda m: without("R2.sigmf-meta")(unlisted(m)),
        "holds event/synthetic_R2.sigmf-data without event/synthetic_R2.sigmf-meta",
    ),
    "nothing": (lambda _: [("readme", b"")], "holds no .sigmf-meta"),
    "traversal": (renamed("../../x.sigmf-data"), "leads outside"),
    "absolute": (renamed("/tmp/x.sigmf-data"), "leads outside"),
    "twice": (lambda m: [*m, m[-1]], "twice"),
    "two collections": (lambda m: [*m, ("b.sigmf-collection", m[0][1])], "2 collections"),
    "edited": (edited_meta, "SHA-512"),
    "too many": (lambda m: [*m, *((f"{i}", b"") for i in range(10_001))], "more than 10000 members"),
}


@pytest.mark.parametrize("case", BROKEN_ARCHIVES)
@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
@pytest.mark.parametrize("suffix", [".sigmf", ".sigmf.zip"])
def test_archive_is_refused_with_the_reason_when(archive, case, suffix):
    change, text = BROKEN_ARCHIVES[case]
    with pytest.raises(RecordingError, match=text):
        read_event([archive(suffix, change)])


@pytest.mark.parametrize("suffix", [".sigmf.gz", ".sigmf.zip"])
def test_archive_is_refused_when_it_unpacks_to_too_much(archive, monkeypatch, suffix):
    path = archive(suffix, lambda m: [*m, ("bomb.sigmf-data", bytes(8 << 20))])
    assert path.stat().st_size < 1 << 20
    monkeypatch.setattr(sigmf_archive, "MOST_UNPACKED_BYTES", 4 << 20)
    with pytest.raises(RecordingError, match="unpacks to more than 4 MiB"):
        read_event([path])


def test_archive_is_refused_when_its_size_is_a_lie(archive):
    path = archive()
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    with pytest.raises(RecordingError, match=r"whole|ends after|without|holds"):
        read_event([path])


DAMAGES = {
    "a byte of a header": lambda content, at: content[: at + 5] + b"?" + content[at + 6 :],
    "a header of zeros": lambda content, at: content[:at] + bytes(512) + content[at + 512 :],
    "cut before a header": lambda content, at: content[:at],
    "cut within a header": lambda content, at: content[: at + 100],
}


@pytest.mark.parametrize("case", DAMAGES)
@pytest.mark.parametrize("suffix", [".sigmf", ".sigmf.gz"])
def test_archive_is_refused_when_it_is_damaged_between_its_members(put, archive, case, suffix):
    path = archive(change=unlisted)
    with tarfile.open(path) as packed:
        at = packed.getmember("event/synthetic_R3.sigmf-data").offset
    content = DAMAGES[case](path.read_bytes(), at)
    with pytest.raises(RecordingError, match=f"at byte {at} .*is it whole"):
        read_event([put(f"b{suffix}", gzip.compress(content) if suffix.endswith("gz") else content)])


@pytest.mark.parametrize("suffix", [".sigmf", ".sigmf.zip"])
def test_archive_that_was_made_on_a_mac_is_read(archive, suffix):
    def with_shadows(members):
        """What macOS puts beside each file: in a tar, and in a zip."""
        parts = [(n.rpartition("/"), c) for n, c in members]
        beside = [(f"{folder}/._{name}", b"\0\5\x16\7") for (folder, _, name), _ in parts]
        return [*members, *beside, *((f"__MACOSX/{name}", content) for name, content in beside)]

    assert len(read_event([archive(suffix, with_shadows)])) == 4
    assert len(read_event([archive(suffix, lambda m: with_shadows(unlisted(m)))])) == 4


def test_tar_is_no_zip_when_its_first_name_begins_with_pk(archive):
    path = archive(change=lambda m: [(n.replace("event/", "PKW/"), c) for n, c in m])
    assert len(read_event([path])) == 4


def test_archive_is_refused_when_it_claims_a_huge_header(tmp_path):
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 1 << 32
    path = tmp_path / "a.sigmf"
    path.write_bytes(info.tobuf() + bytes(4096))
    with pytest.raises(RecordingError, match="header of 4294967296 bytes"):
        read_event([path])


def test_links_in_an_archive_lead_nowhere(tmp_path):
    path = tmp_path / "a.sigmf"
    with tarfile.open(path, "w") as packed:
        info = tarfile.TarInfo("x.sigmf-meta")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        packed.addfile(info)
    with pytest.raises(RecordingError, match="holds no"):
        read_event([path])


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), suffix=st.sampled_from([".sigmf", ".sigmf.gz", ".sigmf.zip"]))
def test_archive_is_read_or_refused_whatever_was_changed_in_it(put, archive, data, suffix):
    content = bytearray(archive(suffix, lambda m: m[1:3]).read_bytes())
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.integers(0, min(len(content) - 1, 3000)))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ClientError):
        read_event([put(f"b{suffix}", bytes(content))])


def test_file_is_refused_with_all_formats_when_it_is_none_of_them(put):
    with pytest.raises(RecordingError, match=r"unknown format.*\.sigmf-collection.*\.wav.*\.cu8"):
        read_event([put("a.txt", b"text")])


@pytest.mark.parametrize("suffix", ["", ".sigmf-meta", ".sigmf-collection", ".sigmf", ".wav", ".cu8"])
def test_name_that_no_file_can_have_is_refused(tmp_path, suffix):
    with pytest.raises(RecordingError, match=r"no such file|no a+\.sigmf-meta"):
        read_event([tmp_path / f"{'a' * 300}{suffix}"])


def test_recording_is_read_when_its_name_is_too_long_for_one_of_its_side_files(put):
    assert only(put("a" * 250 + ".cu8", bytes(2000), TOLD)).samples == 1000


@pytest.mark.parametrize("name", [".", "..", "/", "event", "event.wav", "event.sigmf-meta", "event.sigmf"])
def test_folder_is_refused_with_what_takes_one(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Path(name).mkdir(exist_ok=True)
    with pytest.raises(RecordingError, match=r"is a folder; name .*`rfserve-client batch`"):
        read_event([Path(name)])


def test_recording_is_found_by_its_stem_beside_a_folder_of_that_name(collection, tmp_path):
    for suffix in (".sigmf-meta", ".sigmf-data"):
        shutil.copy(collection.parent / f"synthetic_R1{suffix}", tmp_path)
    (tmp_path / "synthetic_R1").mkdir()
    assert only(tmp_path / "synthetic_R1").samples == 16384


def test_header_says_more_than_the_name(put):
    assert only(put("a.iq", wave(form(), DATA), TOLD)).samples == 1000


def test_receivers_of_an_event_may_have_different_formats(put, collection, tmp_path):
    for suffix in (".sigmf-meta", ".sigmf-data"):
        shutil.copy(collection.parent / f"synthetic_R1{suffix}", tmp_path)
    paths = [
        tmp_path / "synthetic_R1.sigmf-meta",
        put("b.cu8", bytes(2000), TOLD),
        put("c.wav", wave(form(), DATA), TOLD),
    ]
    assert [r.name for r in read_event(paths)] == ["synthetic_R1", "b", "c"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(field=st.sampled_from(FIELDS), value=JSON, wav=st.booleans())
def test_recording_is_read_or_refused_whatever_its_side_file_holds(put, field, value, wav):
    side = TOLD | {"start_time": "2020-08-13T06:52:20Z", field: value}
    path = put(KIWI, kiwi(range(6)), side) if wav else put("a.cu8", bytes(2000), side)
    with contextlib.suppress(ClientError):
        only(path).observe(0, 1)


@pytest.mark.parametrize(
    "text", ["start_time = 0001-01-01T00:00:00+14:00", "start_time = 2020-01-01T00:00:00", "a = 1" * 9]
)
def test_side_file_in_toml_is_refused_when_it_has_no_time_of_this_world(put, text):
    path = put("a.cu8", bytes(2000))
    path.with_suffix(".toml").write_text("\n".join(f"{k} = {v}" for k, v in TOLD.items()) + "\n" + text)
    with pytest.raises(RecordingError):
        read_event([path])


def test_date_of_toml_that_would_lose_its_nanoseconds_is_refused(put):
    path = put("a.cu8", bytes(2000))
    told = "\n".join(f"{k} = {v}" for k, v in TOLD.items())
    finer, kept = "2026-01-01T12:00:00.123456789Z", "2026-01-01T12:00:00.123456000Z"
    path.with_suffix(".toml").write_text(f"{told}\nstart_time = {finer} # of its GNSS")
    with pytest.raises(RecordingError, match=f'write "{finer}"'):
        read_event([path])
    for text, nanoseconds in ((f'"{finer}"', 123_456_789), (kept, 123_456_000)):
        path.with_suffix(".toml").write_text(f"{told}\nstart_time = {text}")
        assert only(path).start_ns % 1_000_000_000 == nanoseconds


def test_stamps_of_any_century_are_read_or_refused(put):
    for year in ("0001", "1600", "1981", "9999"):
        with contextlib.suppress(ClientError):
            only(put(f"{year}0813T065220Z_77500_X_iq.wav", kiwi(range(6)), PLACE))
