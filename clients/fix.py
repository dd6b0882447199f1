"""A fix: where the emitter is, how sure that is, and who says so."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from rfserve.clients.errors import InvalidAnswer
from rfserve.clients.event import Dropped
from rfserve.clients.geodesy import cut_at_antimeridian, metres_per_degree
from rfserve.clients.plain_text import one_line

RING_POINTS = 72


@dataclass(frozen=True, kw_only=True)
class Ellipse:
    """An error ellipse with its axes to the north and to the east, in metres, at a confidence."""

    semi_north_m: float
    semi_east_m: float
    confidence: float


@dataclass(frozen=True, kw_only=True)
class Fix:
    """A position in degrees (WGS 84) and its standard deviations in metres.

    The server answers in FP32: latitude and longitude come in steps of 0.4 m to 0.8 m (and up to 1.7 m beyond 128° of
    longitude). `timings_ms` holds how long each part took. `receivers` are those that it was made from, `start_utc` is
    when they took the first sample (RFC 3339, empty when no recording says), `dropped` the receivers that were left
    out, and why, `doubt` why the fix should not be trusted, empty when nothing says so.
    `InvalidAnswer` when it is not a place on Earth.
    """

    latitude_deg: float
    longitude_deg: float
    sigma_north_m: float
    sigma_east_m: float
    model: str
    model_version: str
    request_id: str = ""
    timings_ms: dict[str, float] = field(default_factory=dict)
    receivers: tuple[str, ...] = ()
    start_utc: str = ""
    dropped: tuple[Dropped, ...] = ()
    doubt: str = ""

    def __post_init__(self) -> None:
        numbers = (self.latitude_deg, self.longitude_deg, self.sigma_north_m, self.sigma_east_m)
        if not all(math.isfinite(n) for n in numbers):
            raise InvalidAnswer(
                f"{self.model} version {self.model_version} answered {numbers}: the row held non-finite "
                "numbers, no active receiver or a receiver id out of range"
            )
        if abs(self.latitude_deg) > 90 or abs(self.longitude_deg) > 180 or min(numbers[2:]) < 0:
            raise InvalidAnswer(
                f"{self.model} version {self.model_version} answered latitude {numbers[0]:g}°, longitude "
                f"{numbers[1]:g}°, sigma {numbers[2]:g} m and {numbers[3]:g} m; expected a place on Earth: was the "
                "checkpoint exported with its scaling?"
            )

    def ellipse(self, confidence: float = 0.95) -> Ellipse:
        """The ellipse that holds the emitter with this probability, if the errors are normal and independent.

        Both semi-axes are sigma times sqrt(-2 ln(1 - confidence)), the chi-squared quantile of two degrees of freedom.
        """
        if not 0 < confidence < 1:
            raise ValueError(f"confidence: got {confidence}; expected between 0 and 1")
        factor = math.sqrt(-2 * math.log(1 - confidence))
        return Ellipse(
            semi_north_m=factor * self.sigma_north_m, semi_east_m=factor * self.sigma_east_m, confidence=confidence
        )

    def ring(self, confidence: float = 0.95) -> list[tuple[float, float]]:
        """The ellipse as (longitude, latitude) points, counter-clockwise and closed.

        Metres become degrees by the ellipsoid's radii of curvature at the fix, which holds for ellipses up to some
        hundred kilometres; larger ones end at the poles and after half a turn. Longitudes may pass ±180.
        """
        shape = self.ellipse(confidence)
        north_m, east_m = metres_per_degree(self.latitude_deg)
        points = []
        for step in range(RING_POINTS):
            angle = 2 * math.pi * step / RING_POINTS
            north = shape.semi_north_m * math.sin(angle) / north_m
            east = min(shape.semi_east_m / east_m, 180.0) * math.cos(angle)
            points.append((self.longitude_deg + east, max(-90.0, min(90.0, self.latitude_deg + north))))
        return [*points, points[0]]

    def to_geojson(self, confidence: float = 0.95) -> dict[str, Any]:
        """A FeatureCollection (RFC 7946): the fix as a Point, its ellipse as a Polygon.

        An ellipse across the antimeridian is a MultiPolygon of two, as the RFC asks.
        """
        properties = self.to_dict()
        rings = [[[list(p) for p in ring]] for ring in cut_at_antimeridian(self.ring(confidence))]
        ellipse: dict[str, Any] = {"type": "Polygon", "coordinates": rings[0]}
        if len(rings) > 1:
            ellipse = {"type": "MultiPolygon", "coordinates": rings}
        features = [
            {
                "type": "Feature",
                "geometry": {"type": "Point", "coordinates": [self.longitude_deg, self.latitude_deg]},
                "properties": properties,
            },
            {
                "type": "Feature",
                "geometry": ellipse,
                "properties": {"confidence": confidence},
            },
        ]
        return {"type": "FeatureCollection", "features": features}

    @property
    def omissions(self) -> list[str]:
        """Each receiver that was left out, and why, on one line."""
        return [one_line(f"{d.name}: {d.reason}") for d in self.dropped]

    @property
    def caveats(self) -> list[tuple[str, str]]:
        """What whoever uses the fix has to know: `left out` with receiver and reason, `doubtful` with the reason."""
        left_out = [("left out", text) for text in self.omissions]
        return [*left_out, *([("doubtful", one_line(self.doubt))] if self.doubt else [])]

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Fix":
        """What `to_dict` made into that."""
        lists = {"receivers": tuple(content["receivers"]), "dropped": tuple(Dropped(**d) for d in content["dropped"])}
        return cls(**{**content, **lists})

    def to_json(self) -> str:
        """One JSON object."""
        return json.dumps(self.to_dict(), indent=2)
