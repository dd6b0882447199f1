"""One receiver's recording, and the recordings of an event from files of any format."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rfserve.clients.errors import ClientError, RecordingError
from rfserve.clients.formats import registry
from rfserve.clients.formats.reading import Reading
from rfserve.clients.formats.sigmf_pair import COLLECTION, META
from rfserve.clients.observation import Observation, check_position
from rfserve.clients.receivers import Receiver, Receivers
from rfserve.clients.stored_samples import StoredSamples


@dataclass(frozen=True, kw_only=True, eq=False)
class Recording:
    """One receiver's recording: a stretch without a gap, and where its samples are.

    `clock_locked` is False when the receiver says so, or its time is only that of a file name or of a computer.
    `start_ns` is the UTC time of sample 0 in ns since 1970, None when nothing says it. `receiver_id` and
    `full_scale_dbm` are those of `Observation`.
    """

    name: str
    stored: StoredSamples
    sample_rate_hz: float
    center_frequency_hz: float
    latitude_deg: float
    longitude_deg: float
    altitude_m: float
    start_ns: int | None
    clock_locked: bool
    receiver_id: int | None = None
    full_scale_dbm: float | None = None

    def __post_init__(self) -> None:
        check_position(self.name, self.latitude_deg, self.longitude_deg)
        if not self.sample_rate_hz > 0:
            raise RecordingError(f"{self.name}: got sample rate {self.sample_rate_hz} Hz; expected above 0")

    @property
    def samples(self) -> int:
        """How many samples it has."""
        return self.stored.count

    def observe(self, first: int, count: int) -> Observation:
        """Samples `first` to `first + count` as an observation, 1.0 = full scale; only they are read from disk."""
        if first < 0 or count < 1 or first + count > self.samples:
            raise RecordingError(
                f"{self.name}: got samples {first} to {first + count}; expected some within its {self.samples}"
            )
        start = None if self.start_ns is None else self.start_ns + round(first / self.sample_rate_hz * 1e9)
        return Observation(
            iq=self.stored.read(first, count),
            sample_rate_hz=self.sample_rate_hz,
            center_frequency_hz=self.center_frequency_hz,
            latitude_deg=self.latitude_deg,
            longitude_deg=self.longitude_deg,
            altitude_m=self.altitude_m,
            start_ns=start,
            receiver_id=self.receiver_id,
            name=self.name,
            full_scale_dbm=self.full_scale_dbm,
            clock_locked=self.clock_locked,
        )


def read_event(
    paths: Sequence[Path],
    *,
    receivers: Receivers | None = None,
    verify_data: bool = True,
    drop: Callable[[int, str, ClientError], None] | None = None,
) -> list[Recording]:
    """The recordings that the paths name: a collection or an archive stands for all of its own, in its order.

    A SigMF recording is named by either of its two files, or by what their names share. `receivers` says where they
    stood and which id each has. Checksums are verified; that reads every sample once, which `verify_data=False` leaves
    out. `RecordingError` (or `PositionInvalid`) says which file is wrong, and how; `drop` (of an `event.Screen`) gets
    the place, name and error of each instead, and the rest is read.
    """
    if not paths:
        raise RecordingError(f"no recording was given; expected a {COLLECTION}, or {META} files")
    found: list[Recording] = []
    taken: list[str] = []
    place = 0

    def failed(name: str, error: ClientError) -> None:
        if drop is None:
            raise error
        drop(place, name, error)

    for source in (s for path in paths for s in registry.sources(path, verify_data=verify_data)):
        try:
            readings = source.read()
        except ClientError as error:
            failed(source.name, error)
            place += 1
            continue
        for reading in readings:
            try:
                receiver = None if receivers is None else receivers.find(reading.name)
                found.append(_placed(reading, receiver))
                taken += [] if receiver is None else [receiver.name]
            except ClientError as error:
                failed(reading.name, error)
            place += 1
    names = [r.name for r in found]
    if drop is None and len(set(names)) != len(names):
        raise RecordingError(f"got the same receiver twice: {', '.join(names)}; give each receiver once")
    if drop is None and len(set(taken)) != len(taken):
        raise RecordingError(f"{', '.join(names)} are recordings of {', '.join(taken)}; give each receiver once")
    return found


def _placed(reading: Reading, receiver: Receiver | None) -> Recording:
    position = reading.position
    receiver_id, full_scale_dbm = reading.receiver_id, reading.full_scale_dbm
    if receiver is not None:
        position = receiver.place(position)
        receiver_id = receiver_id if receiver.receiver_id is None else receiver.receiver_id
        full_scale_dbm = full_scale_dbm if receiver.full_scale_dbm is None else receiver.full_scale_dbm
    if position is None:
        raise RecordingError(f"{reading.name}: {reading.without_position}")
    return Recording(
        name=reading.name,
        stored=reading.stored,
        sample_rate_hz=reading.sample_rate_hz,
        center_frequency_hz=reading.center_frequency_hz,
        latitude_deg=position.latitude_deg,
        longitude_deg=position.longitude_deg,
        altitude_m=position.altitude_m,
        start_ns=reading.start_ns,
        clock_locked=reading.clock_locked,
        receiver_id=receiver_id,
        full_scale_dbm=full_scale_dbm,
    )
