"""Real receivers, where the emitter is known. The folder that RFSERVE_RECORDINGS names is read, never copied."""

import hashlib
import itertools
import json
from dataclasses import replace

import numpy as np
import pytest

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
def dcf77(real):
    return real / "sigmf" / "dcf77-20200813" / "dcf77-20200813.sigmf-collection"


@pytest.fixture(scope="module")
def anthorn(real):
    return real / "sigmf" / "anthorn-20251207a" / "anthorn-20251207a.sigmf-collection"


def test_every_event_reads_as_its_truth_says(real):
    collections = sorted(real.glob("sigmf/*/*.sigmf-collection"))
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


@pytest.mark.parametrize("pattern", ["*.wav", "*.cu8"])
def test_other_formats_are_refused_with_what_is_read(real, pattern):
    (path,) = (real / "formats").glob(pattern)
    with pytest.raises(RecordingError, match=r"not SigMF; expected \.sigmf-meta"):
        read_event([path])


def test_raw_rtl_sdr_samples_read_when_metadata_says_what_they_are(real, tmp_path):
    (raw,) = (real / "formats").glob("*.cu8")
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
