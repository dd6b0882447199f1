"""Metres and per cent between two sets of answers."""

import numpy as np
import pytest

from rfserve.export.drift import Drift
from rfserve.export.errors import ExportError


def answers(*rows: tuple[float, float, float, float]) -> dict[str, np.ndarray]:
    table = np.asarray(rows, float).reshape(-1, 4)
    return {"positions": table[:, :2], "uncertainties": table[:, 2:]}


@pytest.mark.parametrize(
    ("before", "after", "metres"),
    [
        # A degree of latitude and of longitude at 45°, by NIMA TR8350.2.
        ((44.5, 7, 1, 1), (45.5, 7, 1, 1), 111_132),
        ((45, 7, 1, 1), (45, 8, 1, 1), 78_847),
        ((0, 0, 1, 1), (0, 1, 1, 1), 111_319),
        ((60, 0, 1, 1), (60.001, 0.001, 1, 1), np.hypot(111.412, 55.800)),
        ((0, 179.9995, 1, 1), (0, -179.9995, 1, 1), 111.319),
        ((45, 7, 1, 1), (45, 7, 1, 1), 0),
    ],
)
def test_shift_is_in_metres_at_the_latitude(before, after, metres):
    assert Drift.between(answers(before), answers(after)).position_m == pytest.approx([metres], rel=1e-4)


def test_sigma_changes_in_per_cent_of_the_reference():
    drift = Drift.between(answers((45, 7, 20, 40), (45, 7, 0, 10)), answers((45, 7, 21, 30), (45, 7, 0, 10)))
    np.testing.assert_allclose(drift.sigma_percent, [[5, -25], [0, 0]])
    assert drift.sigma_worst_percent == pytest.approx(25)
    assert drift.sigma_p50_percent == pytest.approx(25)


def test_p99_is_an_observed_shift_and_leaves_one_in_a_hundred_out():
    before = answers(*[(45, 7, 10, 10)] * 201)
    after = answers(*[(45 + 1e-5 * i, 7, 10 + 0.01 * i, 10) for i in range(201)])
    drift = Drift.between(before, after)
    assert drift.position_p99_m == drift.position_m[198]
    assert drift.position_p50_m == drift.position_m[100]
    assert drift.position_worst_m == drift.position_m[200]
    assert drift.sigma_p99_percent == pytest.approx(19.8)


NO_FIX = (np.nan, np.nan, np.nan, np.nan)


def test_row_without_a_fix_in_both_is_left_out_and_in_one_is_infinite():
    before = answers(NO_FIX, (45, 7, 1, 1), NO_FIX, (45, 7, 1, 1))
    after = answers(NO_FIX, (45, 7, 1, 1), (45, 7, 1, 1), (45, 7, np.nan, 1))
    drift = Drift.between(before, after)
    assert drift.rows.tolist() == [1, 2, 3]
    assert drift.position_m.tolist() == [0, np.inf, np.inf]
    assert drift.position_p99_m == drift.position_worst_m == drift.sigma_p99_percent == np.inf
    assert drift.sigma_percent.tolist() == [[0, 0], [np.inf, np.inf], [np.inf, np.inf]]


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (answers(NO_FIX), answers(NO_FIX), "none of 1 rows is a fix"),
        (answers(), answers(), "none of 0 rows"),
        (answers(NO_FIX), answers(NO_FIX, NO_FIX), "got 1 and 2 rows"),
        ({"mel_spectrogram": np.ones(3)}, answers(NO_FIX), "expected positions, uncertainties"),
        ({"positions": np.ones(2), "uncertainties": np.ones(2)}, answers(NO_FIX), r"expected \(rows, 2\) twice"),
    ],
)
def test_what_cannot_be_compared_is_refused(before, after, message):
    with pytest.raises(ExportError, match=message):
        Drift.between(before, after)
