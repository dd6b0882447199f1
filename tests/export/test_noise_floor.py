"""Signals and the noise of receivers: what is measured of both, and what is learned of the one above the other."""

import math
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from rss_walks import PLANE, walk

from rfserve.export.training import floors, noise_floor, season
from rfserve.export.training.noise_floor import linearised, signal_db, total_db
from rfserve.export.training.path_loss import Heard, PathLoss
from rfserve.export.training.radio_map import RadioMap
from rfserve.export.training.rss_event import RssEvent, truths_deg
from rfserve.export.training.rss_table import UNHEARD, Jitter, RssTable
from rfserve.export.training.season import Season

FLOOR_DB = -78.0
DAY, NEXT_DAY = "2022-07-05", "2022-07-06"


def noisy(count: int, floor_db: float = FLOOR_DB, **options: object) -> list[RssEvent]:
    """A walk whose receivers have a noise of their own: half of what they measure is that."""
    rng = np.random.default_rng(7)
    events = []
    for event in walk(count, **options):
        measured = 10 * np.log10(10 ** (event.rss_db / 10) + 10 ** (floor_db / 10))
        events.append(replace(event, rss_db=measured + rng.normal(0, noise_floor.METER_DB, len(event.names))))
    return events


def test_powers_of_signal_and_noise_are_added():
    signal, floor = torch.tensor([-70.0, -80.0, -90.0]), torch.tensor(-80.0)
    expected = [10 * math.log10(10 ** (s / 10) + 10**-8) for s in signal.tolist()]
    assert total_db(signal, floor).tolist() == pytest.approx(expected, abs=1e-4)
    assert signal_db(total_db(signal, floor), floor).tolist() == pytest.approx(signal.tolist(), abs=1e-3)
    assert total_db(signal, torch.tensor(-torch.inf)).tolist() == pytest.approx(signal.tolist(), abs=1e-4)
    assert signal_db(torch.tensor([-81.0, -80.0]), floor).tolist() == [-torch.inf, -torch.inf]


def test_tangent_is_exact_where_it_touches_and_weak_below_the_floor():
    near = np.array([-60.0, -80.0, -95.0])
    measured = total_db(torch.from_numpy(near), torch.tensor(-80.0)).numpy()
    signal, variance = linearised(measured, np.full(3, -80.0), near)
    assert signal == pytest.approx(near)
    assert variance[1] == pytest.approx((noise_floor.METER_DB / 0.5) ** 2)
    assert variance[0] < 1.03 * noise_floor.METER_DB**2
    assert variance[2] > 200 * noise_floor.METER_DB**2
    above, _ = linearised(measured + 0.01, np.full(3, -80.0), near)
    assert (10 * np.log10(10 ** (above / 10) + 10**-8))[:2] == pytest.approx(measured[:2] + 0.01, abs=1e-4)


def test_day_on_which_all_was_sent_from_one_place_has_a_floor_too():
    """Half an hour of rest: through one distance there is no line."""
    rng = np.random.default_rng(0)
    rest = walk(1, receivers=4)[0]
    rests = [
        replace(rest, time=f"{NEXT_DAY} 10:00:{i:02d}", rss_db=rest.rss_db + rng.normal(0, 1, 4)) for i in range(30)
    ]
    events = walk(60, receivers=4, shadowing_db=1.0) + rests
    found = floors.learned(events, PLANE)
    assert set(found) == {(name, day) for name in rest.names for day in (DAY, NEXT_DAY)}
    assert np.isfinite(list(found.values())).all()
    assert found["r00", NEXT_DAY] < rest.rss_db[0]
    assert np.isfinite(list(asdict(RadioMap(events, PLANE, seed=0).common).values())).all()


def test_path_loss_through_one_distance_is_a_level():
    logs, rss_db = np.full(30, 2.5), np.linspace(-61, -59, 30)
    heard = Heard(
        truths_m=np.zeros((30, 2)),
        places_m=np.full((30, 2), 10**2.5 / 2**0.5),
        rss_db=rss_db,
        floor_db=np.full(30, -99.0),
    )
    assert heard.logs == pytest.approx(logs)
    for loss in (PathLoss.fitted(heard.logs, rss_db), PathLoss.under_noise(heard)):
        assert loss.slope_db == pytest.approx(0, abs=1e-6)
        assert loss.level_db == pytest.approx(-60, abs=0.1)


def test_each_day_has_its_floor_and_a_receiver_that_always_hears_has_none_near():
    events = noisy(150) + noisy(150, FLOOR_DB + 8, day=NEXT_DAY)
    found = floors.learned(events, PLANE)
    assert set(found) == {(name, day) for name in events[0].names for day in (DAY, NEXT_DAY)}
    assert np.median([f for (_, day), f in found.items() if day == DAY]) == pytest.approx(FLOOR_DB, abs=0.7)
    assert np.median([f for (_, day), f in found.items() if day == NEXT_DAY]) == pytest.approx(FLOOR_DB + 8, abs=0.7)
    quiet = walk(150)
    for (name, _), floor_db in floors.learned(quiet, PLANE).items():
        column = quiet[0].names.index(name)
        assert np.mean([e.rss_db[column] < floor_db for e in quiet]) <= 0.02


def test_radio_map_finds_the_signal_beneath_the_noise():
    """A line through what was measured would be 13 dB a tenfold instead of 20, and sure of what nobody can know."""
    asked = walk(60, seed=9, receivers=4)
    found = RadioMap(noisy(300, receivers=4, shadowing_db=1.0), PLANE, seed=0)
    assert found.common.slope_db == pytest.approx(-20, abs=1.5)
    truths = PLANE.metres(truths_deg(asked))
    for column, name in enumerate(asked[0].names):
        mean, deviation = found.receivers[name].predict(truths)
        signal = np.array([e.rss_db[column] for e in asked])
        assert np.sqrt(np.mean((mean - signal)[signal > FLOOR_DB] ** 2)) < 1.5
        assert np.sqrt(np.mean(((mean - signal) / deviation) ** 2)) < 1.2


def test_made_events_have_the_noise_of_their_receivers():
    made = RadioMap(noisy(200, receivers=5), PLANE, seed=0).made_events(
        300, seed=1, spread_m=100, anywhere=0.3, far=0.0, far_m=1.0, weakest_db=-200
    )
    assert made is not None
    table = made.draw(500, torch.Generator().manual_seed(0))
    heard = table.rss_db[table.rss_db > UNHEARD]
    assert float(heard.min()) > FLOOR_DB - 6 * noise_floor.METER_DB
    assert 0.1 < float((heard < FLOOR_DB + 1).float().mean()) < 0.7
    assert float(table.floor_db[table.rss_db > UNHEARD].median()) == pytest.approx(FLOOR_DB, abs=1)


def test_more_power_changes_signals_and_not_the_noise():
    events = noisy(200)
    table = RssTable.of(events, PLANE, floors.learned(events, PLANE))
    louder = Jitter(rss_db=0, level_db=6.0, direction_db=0, truth_m=0, receiver_dropout=0, strongest_share=0)
    moved = (table.jittered(louder, torch.Generator().manual_seed(0)).rss_db - table.rss_db).abs()
    strong, weak = table.rss_db > table.floor_db + 12, table.rss_db < table.floor_db
    assert int(strong.sum()) > 50
    assert int(weak.sum()) > 10
    assert float(moved[weak].max()) == 0
    near = (table.rss_db > table.floor_db) & (table.rss_db < table.floor_db + 2)
    assert 0 < float(moved[near].mean()) < 0.5 * float(moved[strong].mean())
    assert float(moved[strong].mean()) == pytest.approx(6 * math.sqrt(2 / math.pi), rel=0.25)


def test_another_gain_moves_signal_and_noise_and_another_place_the_signal_alone():
    events = noisy(100)
    table = RssTable.of(events, PLANE, floors.learned(events, PLANE))
    loss = PathLoss(slope_db=-20, level_db=-20, sigma_db=0)
    still = Season(gain_share=0, elsewhere_share=0)
    louder = season.changed(table, replace(still, gain_share=1.0), loss, torch.Generator().manual_seed(0))
    assert torch.allclose(louder.rss_db - table.rss_db, louder.floor_db - table.floor_db, atol=1e-4)
    assert float((louder.rss_db - table.rss_db).std()) > 2
    away = replace(still, elsewhere_share=1.0, odd_share=0)
    moved = season.changed(table, away, loss, torch.Generator().manual_seed(0))
    there = (moved.receivers_m != table.receivers_m).any(-1)
    assert bool((moved.rss_db >= table.floor_db)[there].all())
    assert torch.equal(moved.floor_db, table.floor_db)
