"""One transmission as several receivers measured its strength."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from rfserve.export.errors import DataError


@dataclass(frozen=True, kw_only=True, eq=False)
class RssEvent:
    """Received signal strengths of one transmission, and where it came from.

    `names` are the n receivers, `rss_db` (n,) what each received, in dB above a reference that nobody knows,
    `receivers_deg` (n, 2) and `transmitter_deg` (2,) latitude and longitude in degrees (WGS 84). `time` is local and as
    the source writes it, its date first. `DataError` for what is not finite, not on Earth or not of one length.
    """

    time: str
    names: tuple[str, ...]
    rss_db: NDArray[np.float64] = field(repr=False)
    receivers_deg: NDArray[np.float64] = field(repr=False)
    transmitter_deg: NDArray[np.float64]

    def __post_init__(self) -> None:
        count = len(self.names)
        shapes = {"rss_db": (count,), "receivers_deg": (count, 2), "transmitter_deg": (2,)}
        for name, shape in shapes.items():
            held = getattr(self, name)
            if held.shape != shape or not np.isfinite(held).all():
                raise DataError(f"event {self.time}: {name} is {held.shape}; expected {shape}, all of it finite")
        if not count:
            raise DataError(f"event {self.time}: no receiver heard it; leave it out")
        for name, held in (("receivers_deg", self.receivers_deg), ("transmitter_deg", self.transmitter_deg)):
            if (np.abs(held) > (90.0, 180.0)).any():
                raise DataError(f"event {self.time}: {name} is not on Earth; expected latitude, longitude in degrees")

    @property
    def day(self) -> str:
        """The date, YYYY-MM-DD."""
        return self.time[:10]

    @property
    def label(self) -> str:
        """What tells it from all others: its time, and the place of the transmitter to a metre."""
        return f"{self.time} {self.transmitter_deg[0]:.5f} {self.transmitter_deg[1]:.5f}"

    def kept(self, which: NDArray[np.intp]) -> "RssEvent":
        """The same event with some of its receivers, in the order of `which`."""
        return replace(
            self,
            names=tuple(self.names[i] for i in which),
            rss_db=self.rss_db[which],
            receivers_deg=self.receivers_deg[which],
        )

    def strongest(self, count: int) -> "RssEvent":
        """The receivers that received most, strongest first, `count` of them at most; the name decides a tie."""
        order = sorted(range(len(self.names)), key=lambda i: (-self.rss_db[i], self.names[i]))
        return self.kept(np.array(order[:count], np.intp))


def truths_deg(events: Sequence[RssEvent]) -> NDArray[np.float64]:
    """Where the transmitters stood, (events, 2) latitude and longitude in degrees."""
    return np.array([e.transmitter_deg for e in events])
