"""The same instants from every receiver of an event."""

import math
from collections.abc import Sequence

from rfserve.clients.errors import ClockNotLocked, EventError, NotSimultaneous
from rfserve.clients.observation import Observation
from rfserve.clients.recording import Recording
from rfserve.export.spec import Axis
from rfserve.export.spec.models.iq_features import RAW_RECEIVERS, RAW_SAMPLES

# Oscillators differ by parts per million. At 100 ppm the last of 16,384 samples is 1.6 samples off; more is another
# setting.
RATE_TOLERANCE = 1e-4
FREQUENCY_TOLERANCE_HZ = 1.0


def align(recordings: Sequence[Recording], *, start_s: float = 0.0, samples: Axis = RAW_SAMPLES) -> list[Observation]:
    """Cut the same instants, to the nearest sample, from every recording.

    The cut begins `start_s` after the last recording began and has `samples.served` samples, or as many as all of them
    have, at least `samples.minimum`. What is left of half a sample at most stands in each observation's `start_ns`;
    nothing is interpolated. `ClockNotLocked`, `NotSimultaneous` or `EventError` when they are not one event. A single
    recording needs neither time nor lock.
    """
    if not recordings:
        raise EventError("got no recording; expected at least one")
    if len(recordings) > RAW_RECEIVERS.maximum:
        raise EventError(
            f"got {len(recordings)} receivers; the networks take up to {RAW_RECEIVERS.maximum}: choose some"
        )
    if not (math.isfinite(start_s) and start_s >= 0):
        raise EventError(f"got a start of {start_s} s; expected 0 or more")
    if len(recordings) == 1:
        return [_cut(recordings[0], round(start_s * recordings[0].sample_rate_hz), samples)]
    _require_one_event(recordings)
    starts = [r.start_ns for r in recordings if r.start_ns is not None]
    ends = [s + round(r.samples / r.sample_rate_hz * 1e9) for s, r in zip(starts, recordings, strict=True)]
    begin = max(starts) + round(start_s * 1e9)
    shortest = min(round((end - begin) / 1e9 * r.sample_rate_hz) for end, r in zip(ends, recordings, strict=True))
    if shortest < samples.minimum:
        spans = ", ".join(f"{r.name} {_span(s, e)}" for r, s, e in zip(recordings, starts, ends, strict=True))
        raise NotSimultaneous(
            f"the recordings share {max(shortest, 0)} samples from {start_s:g} s on; expected at least "
            f"{samples.minimum} at the same instants ({spans})"
        )
    firsts = [round((begin - s) / 1e9 * r.sample_rate_hz) for s, r in zip(starts, recordings, strict=True)]
    # Rounding may place the last sample of one recording just beyond its end.
    left = min(r.samples - f for r, f in zip(recordings, firsts, strict=True))
    count = min(samples.served, shortest, left)
    return [r.observe(f, count) for r, f in zip(recordings, firsts, strict=True)]


def _cut(recording: Recording, first: int, samples: Axis) -> Observation:
    left = recording.samples - first
    if left < samples.minimum:
        raise EventError(
            f"{recording.name} has {max(left, 0)} samples from there on; expected at least {samples.minimum}"
        )
    return recording.observe(first, min(samples.served, left))


def _require_one_event(recordings: Sequence[Recording]) -> None:
    untimed = [r.name for r in recordings if r.start_ns is None]
    if untimed:
        raise NotSimultaneous(f"{', '.join(untimed)}: no core:datetime, so no common instant can be found; add it")
    unlocked = [r.name for r in recordings if not r.clock_locked]
    if unlocked:
        raise ClockNotLocked(
            f"{', '.join(unlocked)}: the receiver had no GNSS fix, or its time is a computer's, so its time stamps "
            "are not good to a sample; leave it out"
        )
    first = recordings[0]
    for other in recordings[1:]:
        if abs(other.center_frequency_hz - first.center_frequency_hz) > FREQUENCY_TOLERANCE_HZ:
            raise EventError(
                f"{first.name} is tuned to {first.center_frequency_hz:g} Hz, {other.name} to "
                f"{other.center_frequency_hz:g} Hz; expected one centre frequency"
            )
        if abs(other.sample_rate_hz / first.sample_rate_hz - 1) > RATE_TOLERANCE:
            raise EventError(
                f"{first.name} has {first.sample_rate_hz:g} samples/s, {other.name} {other.sample_rate_hz:g}; expected "
                "one rate: resample first"
            )


def _span(start_ns: int, end_ns: int) -> str:
    return f"{start_ns / 1e9:.3f} to {end_ns / 1e9:.3f} s UTC"
