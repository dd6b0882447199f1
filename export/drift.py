"""How far two sets of a network's answers lie apart: positions in metres, standard deviations in per cent."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rfserve.export.errors import ExportError
from rfserve.export.spec.tensor import Array

OUTPUTS = ("positions", "uncertainties")

# WGS 84: semi-major axis and first eccentricity squared.
WGS84_A_M = 6_378_137.0
WGS84_E2 = 6.694379990141e-3


@dataclass(frozen=True, kw_only=True)
class Drift:
    """The rows (events) that two sets of answers share, and how far each moved.

    `rows` int64 (n,) are the compared rows' numbers in the outputs. `position_m` float64 (n,) is the shift of the
    position. `sigma_percent` float64 (n, 2), north and east, is the signed change of the standard deviation in per cent
    of the reference. A row that is a fix in one set only has moved infinitely far.
    """

    rows: NDArray[np.int64]
    position_m: NDArray[np.float64]
    sigma_percent: NDArray[np.float64]

    @classmethod
    def between(cls, reference: Mapping[str, Array], other: Mapping[str, Array]) -> "Drift":
        """Compare `positions` (n, 2) in degrees and `uncertainties` (n, 2) in metres, row by row.

        Rows that are no fix in both (NaN) are left out. `ExportError` when the outputs are not of that shape, or no row
        is left to compare: nothing measured must not read as no drift.
        """
        before, after = _rows(reference, "reference"), _rows(other, "other")
        if before.shape != after.shape:
            raise ExportError(f"drift: got {len(before)} and {len(after)} rows; expected the same inputs for both")
        fix_before, fix_after = np.isfinite(before).all(axis=1), np.isfinite(after).all(axis=1)
        rows = np.flatnonzero(fix_before | fix_after)
        if not rows.size:
            raise ExportError(f"drift: none of {len(before)} rows is a fix in either; give inputs that can be located")
        comparable = (fix_before & fix_after)[rows]
        with np.errstate(invalid="ignore", divide="ignore"):
            position_m = _shift_m(before[rows, :2], after[rows, :2])
            change = after[rows, 2:] - before[rows, 2:]
            sigma_percent = np.where(change == 0, 0.0, 100 * change / np.abs(before[rows, 2:]))
        return cls(
            rows=rows,
            position_m=np.where(comparable, position_m, np.inf),
            sigma_percent=np.where(comparable[:, None], sigma_percent, np.inf),
        )

    @property
    def position_p50_m(self) -> float:
        """The shift that half of the rows stay within, m."""
        return _quantile(self.position_m, 0.5)

    @property
    def position_p99_m(self) -> float:
        """The shift that 99 of 100 rows stay within, m."""
        return _quantile(self.position_m, 0.99)

    @property
    def position_worst_m(self) -> float:
        """The greatest shift, m."""
        return float(self.position_m.max())

    @property
    def sigma_p50_percent(self) -> float:
        """As `position_p50_m`: the size of the change of the worse of a row's two standard deviations, %."""
        return _quantile(np.abs(self.sigma_percent).max(axis=1), 0.5)

    @property
    def sigma_p99_percent(self) -> float:
        """As `position_p99_m`, of the worse of a row's two standard deviations, %."""
        return _quantile(np.abs(self.sigma_percent).max(axis=1), 0.99)

    @property
    def sigma_worst_percent(self) -> float:
        """The greatest change of a standard deviation, whatever its sign, %."""
        return float(np.abs(self.sigma_percent).max())


def _rows(answers: Mapping[str, Array], which: str) -> NDArray[np.float64]:
    """Latitude, longitude, sigma north and east as float64 (n, 4)."""
    missing = [name for name in OUTPUTS if name not in answers]
    if missing:
        raise ExportError(f"drift: {which} has outputs {sorted(answers)}; expected {', '.join(OUTPUTS)}")
    columns = [np.asarray(answers[name], np.float64) for name in OUTPUTS]
    shapes = [c.shape for c in columns]
    if shapes[0] != shapes[1] or shapes[0][1:] != (2,):
        raise ExportError(f"drift: {which} has shapes {shapes}; expected (rows, 2) twice")
    return np.concatenate(columns, axis=1)


def _shift_m(before: NDArray[np.float64], after: NDArray[np.float64]) -> NDArray[np.float64]:
    """Metres between (n, 2) latitudes and longitudes, by the ellipsoid's radii of curvature halfway.

    Meridian radius a(1 - e²)/(1 - e² sin²φ)^(3/2), radius of the parallel a cos φ/sqrt(1 - e² sin²φ). Good for shifts
    that are small beside the Earth, which is what versions of one network differ by.
    """
    latitude = np.radians((before[:, 0] + after[:, 0]) / 2)
    bulge = 1 - WGS84_E2 * np.sin(latitude) ** 2
    north_m = np.radians(after[:, 0] - before[:, 0]) * WGS84_A_M * (1 - WGS84_E2) / bulge**1.5
    # The short way round: 179.9° and -179.9° are neighbours.
    east_deg = (after[:, 1] - before[:, 1] + 180) % 360 - 180
    east_m = np.radians(east_deg) * WGS84_A_M * np.cos(latitude) / np.sqrt(bulge)
    shift_m: NDArray[np.float64] = np.hypot(north_m, east_m)
    return shift_m


def _quantile(values: NDArray[np.float64], share: float) -> float:
    # An observed value, never one between two: interpolating beside an infinite one gives NaN, which passes any limit.
    return float(np.quantile(values, share, method="higher"))
