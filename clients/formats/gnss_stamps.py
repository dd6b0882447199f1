"""The GNSS stamps between the blocks of a KiwiSDR recording: exact start, exact rate, and where samples are missing.

A `kiwi` chunk holds the age of the last position fix in seconds (255: none), a dummy, and the GPS time of the week of
the first sample of the `data` chunk after it, as seconds and nanoseconds.
"""

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rfserve.clients.errors import RecordingError
from rfserve.clients.formats.riff import Wav

NO_FIX = 255
WEEK_S = 604_800
GPS_EPOCH_S = 315_964_800  # 1980-01-06 in seconds since 1970
# GPS runs ahead of UTC by the leap seconds since 1980; IERS Bulletin C.
LEAP_SECONDS = ((1_483_228_800, 18), (1_435_708_800, 17), (1_341_100_800, 16), (1_230_768_000, 15), (0, 14))
# A line through the stamps leaves well under a microsecond; the header's rate is good to some ten ppm.
GAP_SAMPLES = 2.0
LEAST_STAMPS = 3


@dataclass(frozen=True, kw_only=True)
class Clock:
    """The longest stretch of blocks without a gap: its rate, and the UTC time of its first sample in ns since 1970."""

    first_block: int
    blocks: int
    start_ns: int
    sample_rate_hz: float


def clock(name: str, wav: Wav, samples: NDArray[np.int64], *, near_ns: int | None) -> Clock | None:
    """What the stamps say; None when there are none, or the receiver had no fix.

    `samples` is int64 (blocks,), how many each data chunk has. A stamp repeats each week: `near_ns`, a time good to
    some hours, tells which; `RecordingError` without it.
    """
    stamps = _stamps(wav, len(samples))
    if not len(stamps):
        return None
    block, second_ns = stamps[:, 0], stamps[:, 1]
    if near_ns is None:
        raise RecordingError(
            f"{name}: its GNSS stamps say the time of the week, not which week; keep the recorder's name "
            "(20200813T065220Z_77500_NAME_iq.wav), or give start_time in a side file"
        )
    begins = np.concatenate([[0], np.cumsum(samples)])[block]
    elapsed_ns = np.diff(second_ns)
    # The week may end within the recording.
    elapsed_ns[elapsed_ns < -WEEK_S * 500_000_000] += WEEK_S * 1_000_000_000
    nominal_ns = 1e9 * np.diff(begins) / wav.form.sample_rate_hz
    late = np.abs(elapsed_ns - nominal_ns) > GAP_SAMPLES * 1e9 / wav.form.sample_rate_hz
    edges = np.concatenate([[0], np.flatnonzero(late) + 1, [len(block)]])
    longest = int(np.argmax(np.diff(edges)))
    first, last = int(edges[longest]), int(edges[longest + 1])
    if last - first < LEAST_STAMPS:
        raise RecordingError(
            f"{name}: its GNSS stamps fit its samples nowhere ({len(block)} stamps, {int(late.sum())} jumps); blocks "
            "are missing: record it again"
        )
    since_ns = np.concatenate([[0], np.cumsum(elapsed_ns[first : last - 1])])
    at = (begins[first:last] - begins[first]).astype(float)
    slope, intercept = np.polyfit(at, since_ns.astype(float), 1)
    begin_block = int(block[first])
    # Of blocks after the last stamp that fits, any may be missing.
    end_block = int(block[last - 1]) + 1
    start_ns = _utc_ns(int(second_ns[first]), near_ns) + round(float(intercept))
    return Clock(
        first_block=begin_block,
        blocks=end_block - begin_block,
        start_ns=start_ns,
        sample_rate_hz=1e9 / float(slope),
    )


def _stamps(wav: Wav, blocks: int) -> NDArray[np.int64]:
    """(block, ns of the week) of every stamp that a fix stands behind."""
    found: list[tuple[int, int]] = []
    for chunk, content, block in wav.notes:
        if chunk != b"kiwi" or len(content) < 10 or block >= blocks:
            continue
        age_s, _, second, nanosecond = struct.unpack_from("<BBII", content)
        # Before the first fix all of it is 0.
        if age_s != NO_FIX and (second or nanosecond) and second < WEEK_S and nanosecond < 1_000_000_000:
            found.append((block, second * 1_000_000_000 + nanosecond))
    return np.array(found, np.int64).reshape(-1, 2)


def _utc_ns(of_week_ns: int, near_ns: int) -> int:
    near_s = near_ns // 1_000_000_000
    ahead_s = next(leap for since, leap in LEAP_SECONDS if near_s >= since or not since)
    week = round((near_s + ahead_s - GPS_EPOCH_S - of_week_ns / 1e9) / WEEK_S)
    return (week * WEEK_S + GPS_EPOCH_S - ahead_s) * 1_000_000_000 + of_week_ns
