import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rfserve.clients.alignment import align
from rfserve.clients.errors import ClockNotLocked, EventError, NotSimultaneous
from rfserve.clients.recording import Recording, read_event
from rfserve.clients.stored_samples import Bytes, StoredSamples, encoding_of
from rfserve.export.spec.models.iq_features import RAW_RECEIVERS, RAW_SAMPLES

RATE_HZ = 1e6
START_NS = 1_767_268_800_000_000_000


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    """A recording whose real parts count microseconds of UTC since START_NS, modulo 2**15."""
    folder = tmp_path_factory.mktemp("ramp")

    def make(name="R1", *, late_ns=0, samples=20_000, **given_):
        path = folder / f"{name}-{late_ns}-{samples}.sigmf-data"
        ramp = (np.arange(samples) + round(late_ns / 1000)) % 2**15
        np.stack([ramp, np.zeros(samples)], -1).astype("<i2").tofile(path)
        fine = {
            "name": name,
            "stored": StoredSamples.in_one_piece(Bytes.whole(path), encoding_of("ci16_le"), 0, samples),
            "sample_rate_hz": RATE_HZ,
            "center_frequency_hz": 433e6,
            "latitude_deg": 45.0 + int(name.removeprefix("R")) / 100,
            "longitude_deg": 7.5,
            "altitude_m": 0.0,
            "start_ns": START_NS + late_ns,
            "clock_locked": True,
        }
        return Recording(**(fine | given_))

    return make


def instants(observation):
    """The microseconds that the ramp counts."""
    return np.round(observation.iq.real * 2**15).astype(int)


def test_align_cuts_the_same_instants_when_recordings_start_apart(record):
    cut = align([record("R1"), record("R2", late_ns=2_500_000), record("R3", late_ns=700_000)])
    for observation in cut:
        np.testing.assert_array_equal(instants(observation), 2500 + np.arange(RAW_SAMPLES.served))
        assert observation.start_ns == START_NS + 2_500_000


@settings(max_examples=60, deadline=None)
@given(late_ns=st.lists(st.integers(0, 2_000_000), min_size=2, max_size=4), start_us=st.integers(0, 1500))
def test_align_is_within_half_a_sample_whatever_the_starts(record, late_ns, start_us):
    cut = align([record(f"R{i}", late_ns=n) for i, n in enumerate(late_ns)], start_s=start_us / 1e6)
    begin = START_NS + max(late_ns) + 1000 * start_us
    assert len({o.iq.size for o in cut}) == 1
    for observation in cut:
        assert abs(observation.start_ns - begin) <= 501
        assert instants(observation)[0] == pytest.approx((begin - START_NS) / 1000, abs=1)


def test_align_keeps_the_rest_of_a_sample_in_the_start(record):
    first, second = align([record("R1"), record("R2", late_ns=300)])
    assert first.start_ns == START_NS
    assert second.start_ns == START_NS + 300


def test_align_takes_what_is_common_when_recordings_are_short(record):
    cut = align([record("R1", samples=5000), record("R2", late_ns=1_000_000, samples=5000)])
    assert [o.iq.size for o in cut] == [4000, 4000]


def test_align_begins_later_when_asked(record):
    cut = align([record("R1"), record("R2", late_ns=1_000_000)], start_s=0.002)
    assert {instants(o)[0] for o in cut} == {3000}


def test_align_refuses_when_the_overlap_is_shorter_than_the_minimum(record):
    samples = 5000
    late_us = samples - RAW_SAMPLES.minimum
    pair = [record("R1", samples=samples), record("R2", late_ns=1000 * late_us, samples=samples)]
    assert {o.iq.size for o in align(pair)} == {RAW_SAMPLES.minimum}
    pair[1] = record("R2", late_ns=1000 * (late_us + 1), samples=samples)
    with pytest.raises(NotSimultaneous, match="share 1023 samples"):
        align(pair)


def test_align_refuses_when_no_instant_is_common(record):
    with pytest.raises(NotSimultaneous, match="share 0 samples"):
        align([record("R1"), record("R2", late_ns=10**9)])


def test_align_refuses_when_a_clock_has_no_fix_and_names_it(record):
    with pytest.raises(ClockNotLocked, match=r"^R2: "):
        align([record("R1"), record("R2", clock_locked=False)])


def test_align_refuses_when_a_start_is_unknown(record):
    with pytest.raises(NotSimultaneous, match=r"^R2: no core:datetime"):
        align([record("R1"), record("R2", start_ns=None)])


def test_align_needs_neither_time_nor_lock_when_there_is_one_receiver(record):
    (only,) = align([record("R1", clock_locked=False, start_ns=None)], start_s=0.001)
    assert instants(only)[0] == 1000


def test_align_refuses_when_the_only_recording_is_too_short(record):
    with pytest.raises(EventError, match="has 999 samples"):
        align([record("R1", samples=999)])
    with pytest.raises(EventError, match="has 0 samples"):
        align([record("R1")], start_s=5.0)


@pytest.mark.parametrize(("rate_hz", "fits"), [(RATE_HZ * (1 + 9e-5), True), (RATE_HZ * (1 + 2e-4), False)])
def test_align_refuses_when_rates_differ_by_more_than_oscillators_do(record, rate_hz, fits):
    pair = [record("R1"), record("R2", sample_rate_hz=rate_hz)]
    if fits:
        assert len(align(pair)) == 2
    else:
        with pytest.raises(EventError, match="resample"):
            align(pair)


def test_align_refuses_when_centre_frequencies_differ(record):
    with pytest.raises(EventError, match="one centre frequency"):
        align([record("R1"), record("R2", center_frequency_hz=434e6)])


def test_align_refuses_more_receivers_than_the_networks_take(record):
    many = [record(f"R{i}") for i in range(RAW_RECEIVERS.maximum + 1)]
    assert len(align(many[:-1])) == RAW_RECEIVERS.maximum
    with pytest.raises(EventError, match="up to 10"):
        align(many)


@pytest.mark.parametrize("start_s", [-0.1, float("nan"), float("inf")])
def test_align_refuses_a_start_that_is_none(record, start_s):
    with pytest.raises(EventError, match="expected 0 or more"):
        align([record("R1")], start_s=start_s)


def test_align_refuses_when_nothing_is_given():
    with pytest.raises(EventError, match="at least one"):
        align([])


def test_synthetic_event_aligns_whole(collection):
    cut = align(read_event([collection]))
    assert {o.start_ns for o in cut} == {START_NS}
    assert [o.name for o in cut] == [
        r["recording"] for r in json.loads((collection.parent / "truth.json").read_text())["receivers"]
    ]
