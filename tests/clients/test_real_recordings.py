"""Real receivers, where the emitter is known. The folder that RFSERVE_RECORDINGS names is read, never copied."""

import hashlib
import itertools
import json
from dataclasses import replace

import numpy as np
import pytest

from rfserve.clients import receivers
from rfserve.clients.alignment import align
from rfserve.clients.cli import main
from rfserve.clients.errors import ClockNotLocked, ClockSkew, EventError, NotSimultaneous, RecordingError
from rfserve.clients.geodesy import distance_m
from rfserve.clients.recording import read_event
from rfserve.clients.request import ensemble, tensors
from rfserve.export.spec import ENSEMBLES

pytestmark = pytest.mark.recordings

LIGHT_M_S = 299_792_458.0


@pytest.fixture(scope="module")
def dcf77(recordings):
    return recordings / "sigmf" / "dcf77-20200813" / "dcf77-20200813.sigmf-collection"


@pytest.fixture(scope="module")
def anthorn(recordings):
    return recordings / "sigmf" / "anthorn-20251207a" / "anthorn-20251207a.sigmf-collection"


def test_every_event_reads_as_its_truth_says(recordings):
    collections = sorted(recordings.glob("sigmf/*/*.sigmf-collection"))
    assert collections
    for path in collections:
        truth = json.loads((path.parent / "truth.json").read_text())
        event = read_event([path])
        assert [r.name for r in event] == [r["id"] for r in truth["receivers"]]
        for recording, expected in zip(event, truth["receivers"], strict=True):
            assert (recording.latitude_deg, recording.longitude_deg) == (expected["lat"], expected["lon"])
            assert recording.clock_locked == expected["gnss_valid"]
            assert recording.center_frequency_hz == truth["center_frequency_hz"]
            power = np.mean(np.abs(recording.observe(0, recording.samples).iq) ** 2)
            assert 10 * np.log10(power) == pytest.approx(expected["rms_dbfs"], abs=0.01)


def test_dcf77_is_one_event_cut_at_the_same_instants(dcf77):
    cut = align(read_event([dcf77]))
    assert [o.iq.size for o in cut] == [16384] * 3
    starts = [o.start_ns for o in cut]
    assert max(starts) == 1_597_301_541_000_051_002
    # Half a sample of 83 µs at most.
    assert max(starts) - min(starts) <= 42_000


@pytest.mark.parametrize("start_s", [0.0, 4.0, 9.0])
def test_dcf77_arrives_when_its_distance_says(dcf77, start_s):
    """Time differences of arrival of the phase modulation, from the cuts: one sample (83 µs) wrong would show."""
    cut = align(read_event([dcf77]), start_s=start_s)
    finer = 16
    spectra = [_phase_spectrum(o) for o in cut]
    for (a, first), (b, second) in itertools.combinations(zip(cut, spectra, strict=True), 2):
        correlation = np.fft.irfft(first * np.conj(second), a.iq.size * finer)
        step = int(np.argmax(np.roll(correlation, correlation.size // 2))) - correlation.size // 2
        measured_s = step / finer / a.sample_rate_hz + (a.start_ns - b.start_ns) * 1e-9
        away_m = [distance_m((o.latitude_deg, o.longitude_deg), (50.0152, 9.0112)) for o in (a, b)]
        assert measured_s == pytest.approx((away_m[0] - away_m[1]) / LIGHT_M_S, abs=45e-6), (a.name, b.name)


def _phase_spectrum(observation):
    phase = np.unwrap(np.angle(observation.iq))
    time = np.arange(phase.size)
    spectrum = np.fft.rfft((phase - np.polyval(np.polyfit(time, phase, 1), time)) * np.hanning(phase.size))
    frequency = np.fft.rfftfreq(phase.size, 1 / observation.sample_rate_hz)
    # The modulation's 645 chips a second, inside the receivers' 900 Hz, without the carrier's drift.
    spectrum[(frequency < 30) | (frequency > 350)] = 0
    return spectrum


@pytest.mark.parametrize("model", ENSEMBLES)
def test_dcf77_makes_a_request_for(dcf77, model):
    event = read_event([dcf77])
    spec = ensemble(model)
    made = tensors(spec, [align(event)] if "receivers" in spec.bounds else [align([r]) for r in event])
    spec.check(made)
    assert all(np.isfinite(values).all() for values in made.values())


def test_anthorn_is_refused_because_a_clock_had_no_fix(anthorn):
    with pytest.raises(ClockNotLocked, match="G7UAK"):
        align(read_event([anthorn]))


def test_anthorn_would_be_refused_for_its_times_too(anthorn):
    g4fui, g7uak = read_event([anthorn])
    pair = [g4fui, replace(g7uak, clock_locked=True)]
    with pytest.raises(ClockSkew, match=r"G7UAK starts \+790\.059 s"):
        align(pair)
    with pytest.raises(NotSimultaneous, match="share 0 samples"):
        align(pair, skew_limit_s=1000.0)


def test_receivers_of_different_events_are_refused(dcf77, anthorn):
    with pytest.raises(EventError, match="77500 Hz, G4FUI to 100000 Hz"):
        align([read_event([dcf77])[0], read_event([anthorn])[0]])


def test_one_anthorn_receiver_alone_needs_no_clock(anthorn):
    (only,) = align(read_event([anthorn])[1:])
    assert (only.name, only.iq.size) == ("G7UAK", 16384)


@pytest.fixture
def table(tmp_path):
    """A receivers file that places the recordings whose files do not."""
    path = tmp_path / "receivers.csv"
    path.write_text("name,latitude_deg,longitude_deg\nJO51xl,51.466044,11.977189\nmodes1_first131072,37.3,13.6\n")
    return receivers.read(path)


def test_kiwi_wav_is_the_sigmf_recording_that_was_made_from_it(recordings, dcf77, table):
    (path,) = (recordings / "formats").glob("*.wav")
    with pytest.raises(RecordingError, match="does not say where the receiver stood"):
        read_event([path])
    (wav,) = read_event([path], receivers=table)
    sigmf = next(r for r in read_event([dcf77]) if r.name == "JO51xl")
    assert (wav.name, wav.center_frequency_hz, wav.clock_locked) == ("JO51xl", 77_500, True)
    # The line through its 64 stamps against that through the whole recording's, which leaves 0.06 µs.
    assert wav.sample_rate_hz == pytest.approx(sigmf.sample_rate_hz, abs=2e-4)
    # The first block came before the first fix; the SigMF recording begins at sample 3,275 of the file.
    assert wav.samples == 64 * 512
    cut = wav.observe(3275 - 512, 16_384)
    assert abs(cut.start_ns - sigmf.start_ns) < 200
    np.testing.assert_array_equal(cut.iq, sigmf.observe(0, 16_384).iq)


def test_kiwi_wav_and_sigmf_of_the_others_are_one_event(recordings, dcf77, table):
    (path,) = (recordings / "formats").glob("*.wav")
    others = [r for r in read_event([dcf77]) if r.name != "JO51xl"]
    cut = align([*others, *read_event([path], receivers=table)])
    assert [o.iq.size for o in cut] == [16_384] * 3
    assert max(o.start_ns for o in cut) - min(o.start_ns for o in cut) <= 42_000


def test_rtl_sdr_file_is_read_with_the_notes_beside_it(recordings, table):
    (path,) = (recordings / "formats").glob("*.cu8")
    with pytest.raises(RecordingError, match=r"latitude_deg and longitude_deg are missing; .* receivers file"):
        read_event([path])
    (recording,) = read_event([path], receivers=table)
    assert (recording.samples, recording.sample_rate_hz, recording.center_frequency_hz) == (131_072, 2e6, 1090e6)
    whole = recording.observe(0, 131_072).iq
    assert abs(whole.mean()) < 0.003
    assert np.abs(whole.real).max() <= 1


def test_raw_rtl_sdr_samples_read_when_metadata_says_what_they_are(recordings, tmp_path):
    (raw,) = (recordings / "formats").glob("*.cu8")
    data = tmp_path / "modes1.sigmf-data"
    data.symlink_to(raw)
    place = {"type": "Point", "coordinates": [13.6, 37.3]}
    content = {
        "global": {
            "core:datatype": "cu8",
            "core:sample_rate": 2e6,
            "core:sha512": hashlib.sha512(raw.read_bytes()).hexdigest(),
        },
        "captures": [{"core:sample_start": 0, "core:frequency": 1090e6, "core:geolocation": place}],
    }
    data.with_suffix(".sigmf-meta").write_text(json.dumps(content))
    (recording,) = read_event([data])
    assert recording.samples == 131_072
    whole = recording.observe(0, recording.samples).iq
    # rtl_sdr rests between 127 and 128: half a step of 1/128 below sigmf's middle.
    assert abs(np.median(whole.real)) < 0.02
    assert np.abs(whole).max() > 0.5


def test_command_refuses_anthorn_in_one_line(anthorn, capsys):
    assert main(["locate", str(anthorn)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: G7UAK: the receiver had no GNSS fix")
    assert err.count("\n") == 1


def test_watch_locates_the_event_and_notes_the_one_whose_clock_had_no_fix(recordings, tmp_path, serve, answer):
    state = tmp_path / "fixes.jsonl"
    watch = ["watch", str(recordings / "sigmf"), "--once", "--settle-s", "0.1", "--state", str(state)]
    assert main([*watch, "--url", serve(answer()).url]) == 1
    by_event = {found["event"].split("/")[0]: found for found in map(json.loads, state.read_text().splitlines())}
    assert by_event["dcf77-20200813"]["fix"]["receivers"] == ["HB9ODP", "JO51xl", "pa0rdt"]
    assert by_event["anthorn-20251207a"]["error"] == "ClockNotLocked"


def test_watch_groups_kiwi_wavs_by_the_time_in_their_names(recordings, table, tmp_path, serve, answer):
    state = tmp_path / "fixes.jsonl"
    options = ["--once", "--settle-s", "0.1", "--state", str(state), "--receivers", str(tmp_path / "receivers.csv")]
    group = ["--group", r"^(\d{8}T\d{6}Z)_", "--pattern", "*.wav"]
    assert main(["watch", str(recordings / "formats"), *options, *group, "--url", serve(answer()).url]) == 0
    (found,) = map(json.loads, state.read_text().splitlines())
    assert (found["event"], found["fix"]["receivers"]) == ("20200813T065220Z", ["JO51xl"])


@pytest.mark.parametrize("kind", ["kml", "cot", "csv"])
def test_every_output_holds_the_real_receivers(dcf77, serve, answer, kind, capsys):
    assert main(["locate", str(dcf77), "--url", serve(answer()).url, "--output", kind]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("HB9ODP", "JO51xl", "pa0rdt"))
    assert "2020-08-13T06:52:21.000" in out
