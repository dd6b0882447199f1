"""What a file says about one receiver, before anything else is known."""

from collections.abc import Callable
from dataclasses import dataclass

from rfserve.clients.observation import check_position
from rfserve.clients.stored_samples import StoredSamples


@dataclass(frozen=True, kw_only=True)
class Position:
    """Where a receiver stands (WGS 84); the altitude is 0 when it is not known."""

    latitude_deg: float
    longitude_deg: float
    altitude_m: float = 0.0

    @property
    def is_unknown(self) -> bool:
        """Whether it is the 0, 0 of a receiver without a fix."""
        return self.latitude_deg == 0 and self.longitude_deg == 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Reading:
    """One recording as its files describe it.

    `position` is None when they do not say it; `without_position` then says what to do about that. That of a receiver
    without a fix is let pass: a receivers file may know better. The rest is as in `Recording`.
    """

    name: str
    stored: StoredSamples
    sample_rate_hz: float
    center_frequency_hz: float
    position: Position | None
    without_position: str
    start_ns: int | None
    clock_locked: bool
    receiver_id: int | None = None
    full_scale_dbm: float | None = None

    def __post_init__(self) -> None:
        if self.position is not None and not self.position.is_unknown:
            check_position(self.name, self.position.latitude_deg, self.position.longitude_deg)


@dataclass(frozen=True, kw_only=True)
class Source:
    """Something that can be read by itself, and what it is called until that is done."""

    name: str
    read: Callable[[], list[Reading]]
