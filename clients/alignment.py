"""The same instants from every receiver of an event."""

import math
from collections.abc import Mapping, Sequence

from rfserve.clients import receiver_checks
from rfserve.clients.errors import ClientError, EventError, NotSimultaneous
from rfserve.clients.event import Event, Screen
from rfserve.clients.observation import Observation
from rfserve.clients.receiver_checks import SKEW_LIMIT_S
from rfserve.clients.recording import Recording
from rfserve.export.spec import Axis
from rfserve.export.spec.models.iq_features import RAW_RECEIVERS, RAW_SAMPLES


def align(
    recordings: Sequence[Recording],
    *,
    start_s: float = 0.0,
    samples: Axis = RAW_SAMPLES,
    skew_limit_s: float = SKEW_LIMIT_S,
    screen: Screen | None = None,
) -> Event:
    """Cut the same instants, to the nearest sample, from every recording.

    The cut begins `start_s` after the last recording began and has `samples.served` samples, or as many as all of them
    have, at least `samples.minimum`. What is left of half a sample at most stands in each observation's `start_ns`;
    nothing is interpolated. A single recording needs neither time nor lock.

    `ClockNotLocked`, `ClockSkew` (a start farther than `skew_limit_s` from the median), `NotSimultaneous`,
    `TuningDiffers`, `UnknownReceiver`, `DuplicateReceiver`, `PositionInvalid` or `EventError` name the receivers that
    do not belong to one event. A `screen` with a minimum leaves them out instead, and the event says so.
    """
    if not recordings:
        raise EventError("got no recording; expected at least one")
    screen = screen or Screen()
    if len(recordings) > RAW_RECEIVERS.maximum:
        raise EventError(
            f"got {len(recordings)} receivers; the networks take up to {RAW_RECEIVERS.maximum}: choose some"
        )
    require_limits(start_s, skew_limit_s)
    given = dict(zip(screen.places(len(recordings)), recordings, strict=True))
    if len(recordings) == 1:
        screen.require(1)
        ((place, only),) = given.items()
        return screen.event({place: _cut(only, round(start_s * only.sample_rate_hz), samples)})
    left = screen.keep(given, receiver_checks.unknown(given, range(RAW_RECEIVERS.maximum), receiver_checks.NETWORKS))
    left = screen.keep(left, receiver_checks.stamps(left))
    left = receiver_checks.of_one_event(left, screen, skew_limit_s=skew_limit_s)
    shared = _Shared(left, start_s)
    while shared.samples < samples.minimum:
        if not screen.is_tolerant or len(left) == 1:
            raise shared.too_short(samples.minimum)
        # Whoever is left out for it, the others should share as much as they can.
        worst = max(left, key=lambda p: _Shared({q: r for q, r in left.items() if q != p}, start_s).samples)
        left = screen.keep(left, {worst: shared.too_short(samples.minimum)})
        shared = _Shared(left, start_s)
    count = min(samples.served, shared.samples)
    seen: dict[int, Observation] = {}
    failures: dict[int, ClientError] = {}
    for place, recording in left.items():
        try:
            seen[place] = recording.observe(shared.firsts[place], count)
        except ClientError as error:
            failures[place] = error
    screen.keep(left, failures)
    # What shares its samples can be told only now.
    return screen.event(screen.keep(seen, receiver_checks.duplicates(seen)))


def require_limits(start_s: float, skew_limit_s: float) -> None:
    """`EventError` for what `align` can cut no event with."""
    if not (math.isfinite(start_s) and start_s >= 0):
        raise EventError(f"got a start of {start_s} s; expected 0 or more")
    if not skew_limit_s > 0:
        raise EventError(f"got a skew limit of {skew_limit_s} s; expected above 0")


class _Shared:
    """The instants that recordings share from `start_s` after the last one began."""

    def __init__(self, recordings: Mapping[int, Recording], start_s: float) -> None:
        self._start_s = start_s
        # Names need not differ: those that do not are left out one by one.
        self._spans = [
            (r.name, r.start_ns, r.start_ns + round(r.samples / r.sample_rate_hz * 1e9))
            for r in recordings.values()
            if r.start_ns is not None
        ]
        begin = max(start for _, start, _ in self._spans) + round(start_s * 1e9)
        self.firsts = {
            place: round((begin - r.start_ns) / 1e9 * r.sample_rate_hz)
            for place, r in recordings.items()
            if r.start_ns is not None
        }
        end = min(end for _, _, end in self._spans)
        # Rounding may place the last sample of one recording just beyond its end.
        left = min(r.samples - self.firsts[place] for place, r in recordings.items())
        self.samples = min(left, *(round((end - begin) / 1e9 * r.sample_rate_hz) for r in recordings.values()))

    def too_short(self, minimum: int) -> NotSimultaneous:
        """The error when that is too little."""
        spans = ", ".join(f"{name} {_span(start, end)}" for name, start, end in self._spans)
        return NotSimultaneous(
            f"the recordings share {max(self.samples, 0)} samples from {self._start_s:g} s on; expected at least "
            f"{minimum} at the same instants ({spans})"
        )


def _cut(recording: Recording, first: int, samples: Axis) -> Observation:
    left = recording.samples - first
    if left < samples.minimum:
        raise EventError(
            f"{recording.name} has {max(left, 0)} samples from there on; expected at least {samples.minimum}"
        )
    return recording.observe(first, min(samples.served, left))


def _span(start_ns: int, end_ns: int) -> str:
    return f"{start_ns / 1e9:.3f} to {end_ns / 1e9:.3f} s UTC"
