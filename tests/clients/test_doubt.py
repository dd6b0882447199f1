"""Fixes that say themselves that they should not be trusted."""

import math

import pytest

from rfserve.clients.doubt import doubt
from rfserve.clients.fix import Fix
from rfserve.clients.geodesy import distance_m

RECEIVERS = [(45.0, 7.5), (45.01, 7.5), (45.0, 7.52)]


def fix(north_m: float, east_m: float) -> Fix:
    sigmas = {"sigma_north_m": north_m, "sigma_east_m": east_m}
    return Fix(latitude_deg=45.0, longitude_deg=7.5, model="locate", model_version="1", **sigmas)


@pytest.mark.parametrize("sigmas", [(500.0, 907.0), (907.0, 500.0), (0.0, 0.0)])
def test_sigma_within_the_receivers_is_trusted(sigmas):
    """They are 0.908 km from their middle."""
    assert doubt(fix(*sigmas), RECEIVERS) == ""


@pytest.mark.parametrize("sigmas", [(100.0, 909.0), (909.0, 100.0)])
def test_sigma_wider_than_the_receivers_is_not(sigmas):
    assert "sigma of 0.9 km is wider than the receivers' own spread (0.9 km)" in doubt(fix(*sigmas), RECEIVERS)


@pytest.mark.parametrize("pair", [RECEIVERS[:2], [(0.0, 179.995), (0.0, -179.995)]])
def test_two_receivers_spread_over_half_of_what_they_stand_apart(pair):
    half_m = distance_m(*pair) / 2
    assert doubt(fix(half_m - 0.1, 0.0), pair) == ""
    assert doubt(fix(half_m + 0.1, 0.0), pair)


def test_spread_of_many_is_their_root_mean_square_distance_from_their_middle():
    middle = 45.005, 7.51
    square = [(45.0, 7.5), (45.01, 7.5), (45.0, 7.52), (45.01, 7.52)]
    spread_m = math.sqrt(sum(distance_m(p, middle) ** 2 for p in square) / 4)
    assert doubt(fix(spread_m - 0.5, 0.0), square) == ""
    assert doubt(fix(spread_m + 0.5, 0.0), square)


def test_one_receiver_is_not_judged():
    assert doubt(fix(1e6, 1e6), RECEIVERS[:1]) == ""
