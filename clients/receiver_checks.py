"""What can be wrong with a receiver only beside the others of its event; each check gives a failure for each place.

`of_one_event` is all of them, for recordings before they are cut and for observations before they are sent.
"""

import statistics
from collections import Counter
from collections.abc import Collection, Mapping
from functools import partial
from typing import Protocol, TypeVar

import numpy as np

from rfserve.clients.errors import (
    ClientError,
    ClockNotLocked,
    ClockSkew,
    DuplicateReceiver,
    NotSimultaneous,
    PositionInvalid,
    TuningDiffers,
    UnknownReceiver,
)
from rfserve.clients.event import Screen
from rfserve.clients.geodesy import distance_m
from rfserve.clients.observation import UNNAMED, Observation

# Oscillators differ by parts per million. At 100 ppm the last of 16,384 samples is 1.6 samples off; more is another
# setting.
RATE_TOLERANCE = 1e-4
FREQUENCY_TOLERANCE_HZ = 1.0
# A receiver that stamps GPS time is 18 s ahead of UTC, one that stamps local time at least 15 minutes off.
SKEW_LIMIT_S = 10.0
# Receivers of one event stand nearer than this, unless one of them has its coordinates the wrong way round.
FAR_M = 500e3
NEAR_SHARE = 0.1
# Whose ids 0 to 9 are.
NETWORKS = "the networks have"

Failures = dict[int, ClientError]


class Placed(Protocol):
    """What recordings and observations have in common."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def latitude_deg(self) -> float: ...  # noqa: D102
    @property
    def longitude_deg(self) -> float: ...  # noqa: D102


class Identified(Placed, Protocol):
    """Whose calibration the network uses: that of the id, or of the place in the event."""

    @property
    def receiver_id(self) -> int | None: ...  # noqa: D102


class Tuned(Identified, Protocol):
    """What a recording says of its time and its tuning."""

    @property
    def center_frequency_hz(self) -> float: ...  # noqa: D102
    @property
    def sample_rate_hz(self) -> float: ...  # noqa: D102
    @property
    def start_ns(self) -> int | None: ...  # noqa: D102
    @property
    def clock_locked(self) -> bool: ...  # noqa: D102


Receiver = TypeVar("Receiver", bound=Tuned)


def of_one_event(
    receivers: Mapping[int, Receiver], screen: Screen, *, skew_limit_s: float = SKEW_LIMIT_S
) -> dict[int, Receiver]:
    """Those that may be located together; `screen` decides what becomes of the others. A single one always may."""
    left = screen.keep(receivers, duplicates(receivers))
    if len(receivers) > 1:
        for check in (clocks, tuning, swapped, partial(skew, limit_s=skew_limit_s)):
            left = screen.keep(left, check(left))
    return left


def stamps(receivers: Mapping[int, Tuned]) -> Failures:
    """`NotSimultaneous` without a time stamp, which observations that were cut elsewhere need not have."""
    return {
        place: NotSimultaneous(
            f"{r.name}: no core:datetime, so no common instant can be found; add it, or leave it out"
        )
        for place, r in receivers.items()
        if r.start_ns is None
    }


def clocks(receivers: Mapping[int, Tuned]) -> Failures:
    """`ClockNotLocked` for a time stamp that its receiver does not vouch for."""
    return {
        place: ClockNotLocked(
            f"{_called(place, r)}: the receiver had no GNSS fix, or its time is a computer's, so its time stamps are "
            "not good to a sample; leave it out"
        )
        for place, r in receivers.items()
        if r.start_ns is not None and not r.clock_locked
    }


def skew(receivers: Mapping[int, Tuned], limit_s: float) -> Failures:
    """`ClockSkew` for a start that is farther than `limit_s` from the median of all."""
    starts = {place: r.start_ns for place, r in receivers.items() if r.start_ns is not None}
    if not starts:
        return {}
    median = statistics.median_low(starts.values())
    found: Failures = {}
    for place, start in starts.items():
        off_s = (start - median) / 1e9
        if abs(off_s) > limit_s:
            found[place] = ClockSkew(
                f"{_called(place, receivers[place])} starts {off_s:+.3f} s from the median of the receivers; expected "
                f"within {limit_s:g} s: is its clock right (GPS time is 18 s ahead of UTC), or is it another event's?"
            )
    return found


def tuning(receivers: Mapping[int, Tuned]) -> Failures:
    """`TuningDiffers` for another centre frequency or sample rate than most have (of two, than the first has)."""
    found: Failures = {}
    settings = Counter((r.center_frequency_hz, r.sample_rate_hz) for r in receivers.values())

    def agreeing(setting: tuple[float, float]) -> int:
        return sum(count for other, count in settings.items() if _agree(setting, other))

    usual = max(settings, key=agreeing)
    at, first = next((p, r) for p, r in receivers.items() if (r.center_frequency_hz, r.sample_rate_hz) == usual)
    one = _called(at, first)
    for place, other in receivers.items():
        if abs(other.center_frequency_hz - first.center_frequency_hz) > FREQUENCY_TOLERANCE_HZ:
            found[place] = TuningDiffers(
                f"{one} is tuned to {first.center_frequency_hz:g} Hz, {_called(place, other)} to "
                f"{other.center_frequency_hz:g} Hz; expected one centre frequency"
            )
        elif not _agree(usual, (other.center_frequency_hz, other.sample_rate_hz)):
            found[place] = TuningDiffers(
                f"{one} has {first.sample_rate_hz:g} samples/s, {_called(place, other)} {other.sample_rate_hz:g}; "
                "expected one rate: resample first"
            )
    return found


def swapped(receivers: Mapping[int, Placed]) -> Failures:
    """`PositionInvalid` for a receiver far from all others that would stand among them the other way round."""
    found: Failures = {}
    for place, r in receivers.items():
        others = [(o.latitude_deg, o.longitude_deg) for p, o in receivers.items() if p != place]
        if not others or abs(r.longitude_deg) > 90:
            continue
        away_m = min(distance_m((r.latitude_deg, r.longitude_deg), o) for o in others)
        turned_m = min(distance_m((r.longitude_deg, r.latitude_deg), o) for o in others)
        if away_m > FAR_M and turned_m < NEAR_SHARE * away_m:
            found[place] = PositionInvalid(
                f"{r.name}: got latitude {r.latitude_deg:g}°, longitude {r.longitude_deg:g}°, {away_m / 1e3:.0f} km "
                f"from the nearest other receiver, but {turned_m / 1e3:.0f} km the other way round: they look swapped "
                "(SigMF writes [longitude, latitude])"
            )
    return found


def duplicates(receivers: Mapping[int, Identified]) -> Failures:
    """`DuplicateReceiver` for one that was given before: the same id, or the same place and name or samples.

    Two receivers may share a site. They cannot share noise.
    """
    found: Failures = {}
    seen: list[tuple[int, Identified]] = []
    for place, r in receivers.items():
        for earlier, other in seen:
            shared = _shared(place, r, earlier, other)
            if shared:
                found[place] = DuplicateReceiver(
                    f"{r.name} (number {place + 1}) and {other.name} (number {earlier + 1}) have the same {shared}; "
                    "give each receiver once"
                )
                break
        seen.append((place, r))
    return found


def unknown(receivers: Mapping[int, Identified], known: Collection[int], whose: str) -> Failures:
    """`UnknownReceiver` for an id, or a place that stands for one, that is not among those that are known."""
    found: Failures = {}
    for place, r in receivers.items():
        receiver_id = place if r.receiver_id is None else r.receiver_id
        if receiver_id not in known:
            origin = "its place in the list" if r.receiver_id is None else "given"
            found[place] = UnknownReceiver(
                f"{r.name}: got receiver id {receiver_id} ({origin}); expected {_listed(known)}, which {whose}"
            )
    return found


def _called(place: int, r: Placed) -> str:
    return f"{r.name} (number {place + 1})" if r.name == UNNAMED else r.name


def _agree(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return abs(one[0] - other[0]) <= FREQUENCY_TOLERANCE_HZ and abs(other[1] / one[1] - 1) <= RATE_TOLERANCE


def _shared(place: int, r: Identified, earlier: int, other: Identified) -> str:
    ids = [p if o.receiver_id is None else o.receiver_id for p, o in ((place, r), (earlier, other))]
    if ids[0] == ids[1]:
        return f"receiver id, {ids[0]}"
    if (r.latitude_deg, r.longitude_deg) != (other.latitude_deg, other.longitude_deg):
        return ""
    if r.name == other.name != UNNAMED:
        return "name and position"
    same = isinstance(r, Observation) and isinstance(other, Observation) and np.array_equal(r.iq, other.iq)
    return "position and samples" if same else ""


def _listed(known: Collection[int]) -> str:
    ordered = sorted(known)
    if ordered == list(range(ordered[0], ordered[-1] + 1)):
        return f"{ordered[0]} to {ordered[-1]}"
    return ", ".join(map(str, ordered))
