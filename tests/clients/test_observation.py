import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfserve.clients.errors import ClientError, ObservationError, PositionInvalid
from rfserve.clients.observation import check_position
from rfserve.export.spec import RfserveError


def test_observation_keeps_what_it_is_given(observe):
    seen = observe(name="roof", start_ns=1_597_301_541_000_035_812, altitude_m=240.0, receiver_id=3)
    assert (seen.name, seen.start_ns, seen.altitude_m, seen.receiver_id) == ("roof", 1597301541000035812, 240.0, 3)
    assert seen.full_scale_dbm is None


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1j * np.nan, -np.inf * 1j])
def test_observation_is_refused_when_a_sample_is_not_finite(observe, bad):
    iq = np.ones(2048, np.complex64)
    iq[[3, 700]] = bad
    with pytest.raises(ObservationError, match="2 of 2048 samples are not finite"):
        observe(iq=iq)


@pytest.mark.parametrize(
    ("given_", "text"),
    [
        ({"iq": np.ones(2048, np.float32)}, "expected complex"),
        ({"iq": np.ones((2, 1024), np.complex64)}, "one dimension"),
        ({"iq": np.ones(0, np.complex64)}, "expected complex"),
        ({"sample_rate_hz": 0.0}, "sample rate"),
        ({"sample_rate_hz": float("nan")}, "sample rate"),
        ({"center_frequency_hz": float("inf")}, "centre frequency"),
        ({"center_frequency_hz": -1.0}, "centre frequency"),
        ({"altitude_m": float("nan")}, "altitude"),
        ({"altitude_m": -1001.0}, "altitude -1001"),
        ({"altitude_m": 240_000.0}, "altitude 240000"),
        ({"full_scale_dbm": float("nan")}, "full scale"),
        ({"iq": np.zeros(2048, np.complex64)}, "every sample is zero"),
        ({"iq": np.full(2048, 32767, np.complex64)}, "up to 32767; expected 1.0 = full scale"),
        ({"receiver_id": -1}, "receiver id -1"),
    ],
)
def test_observation_is_refused_when_it_contradicts_itself(observe, given_, text):
    with pytest.raises(ObservationError, match=text):
        observe(**given_)


def test_position_is_refused_when_it_is_the_zero_of_no_fix(observe):
    with pytest.raises(PositionInvalid, match="no fix"):
        observe(latitude_deg=0.0, longitude_deg=0.0)


def test_position_message_says_swapped_when_it_would_fit_the_other_way():
    with pytest.raises(PositionInvalid, match="look swapped"):
        check_position("R1", 120.0, 30.0)
    with pytest.raises(PositionInvalid) as caught:
        check_position("R1", 30.0, 200.0)
    assert "swapped" not in str(caught.value)


@given(latitude=st.floats(), longitude=st.floats())
def test_position_passes_exactly_when_it_is_on_earth(latitude, longitude):
    fits = -90 <= latitude <= 90 and -180 <= longitude <= 180 and (latitude, longitude) != (0, 0)
    try:
        check_position("R1", latitude, longitude)
    except PositionInvalid:
        assert not fits
    else:
        assert fits


def test_errors_stand_in_the_tree_that_export_shares():
    assert issubclass(PositionInvalid, ObservationError)
    assert issubclass(ObservationError, ClientError)
    assert issubclass(ClientError, RfserveError)
