"""Fixes that say themselves that they should not be trusted."""

import pytest

from rfserve.clients.doubt import doubt
from rfserve.clients.fix import Fix

RECEIVERS = [(45.0, 7.5), (45.01, 7.5), (45.0, 7.52)]


def fix(north_m: float, east_m: float) -> Fix:
    sigmas = {"sigma_north_m": north_m, "sigma_east_m": east_m}
    return Fix(latitude_deg=45.0, longitude_deg=7.5, model="locate", model_version="1", **sigmas)


@pytest.mark.parametrize("sigmas", [(1000.0, 1900.0), (1900.0, 1000.0), (0.0, 0.0)])
def test_sigma_within_the_receivers_is_trusted(sigmas):
    """They stand 1.92 km apart."""
    assert doubt(fix(*sigmas), RECEIVERS) == ""


@pytest.mark.parametrize("sigmas", [(100.0, 2000.0), (2000.0, 100.0)])
def test_sigma_wider_than_the_receivers_is_not(sigmas):
    assert "sigma of 2.0 km is wider than the receivers stand apart (1.9 km)" in doubt(fix(*sigmas), RECEIVERS)


def test_one_receiver_is_not_judged():
    assert doubt(fix(1e6, 1e6), RECEIVERS[:1]) == ""
