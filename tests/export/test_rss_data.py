"""Measured signal strengths: reading the POWDER data set, splitting it, accuracy and what is simpler than a network."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rss_walks import PLANE, walk, write_table

from rfserve.export.cli import main
from rfserve.export.errors import DataError
from rfserve.export.spec import GRAPHS
from rfserve.export.training import nearness, powder
from rfserve.export.training.accuracy import measure
from rfserve.export.training.baselines import BASELINES
from rfserve.export.training.evaluation import Errors, Evaluation
from rfserve.export.training.plane import around
from rfserve.export.training.rss_event import RssEvent
from rfserve.export.training.rss_tensors import NOISE_DB, tensors
from rfserve.export.training.split import Split, by_day, by_place, by_source

FIXED = {"roof": [40.77, -111.84], "wall": [40.76, -111.85]}


def table(folder: Path, rows: list[dict[str, object]]) -> Path:
    """A table as the data set has it: two fixed receivers and a shuttle."""
    (folder / powder.LOCATIONS).write_text(json.dumps(FIXED | {"bus-1": None}))
    names = ["timestamp", "roof", "wall", "bus-1_rss", "bus-1_x", "bus-1_y", "tx_x_coord", "tx_y_coord"]
    lines = [",".join(names)] + [",".join(str(row[n]) for n in names) for row in rows]
    (folder / powder.TABLE).write_text("\n".join(lines) + "\n")
    return folder


def row(**changed: object) -> dict[str, object]:
    values = {"timestamp": "2022-07-05 10:00:00", "roof": -70.5, "wall": -90, "bus-1_rss": -60, "bus-1_x": 40.765}
    return values | {"bus-1_y": -111.841, "tx_x_coord": 40.767, "tx_y_coord": -111.843} | changed


def test_table_is_read_with_what_each_receiver_heard(tmp_path):
    (event,) = powder.read(table(tmp_path, [row()]))
    assert event.names == ("roof", "wall", "bus-1")
    assert event.rss_db.tolist() == [-70.5, -90.0, -60.0]
    assert event.receivers_deg.tolist() == [*FIXED.values(), [40.765, -111.841]]
    assert event.transmitter_deg.tolist() == [40.767, -111.843]
    assert event.day == "2022-07-05"


def test_who_heard_nothing_or_has_no_position_is_left_out(tmp_path):
    rows = [row(wall=-101), row(**{"bus-1_x": -1, "bus-1_y": -1}), row(roof="-inf"), row(roof=-101, wall=-101)]
    found = powder.read(table(tmp_path, rows))
    assert [e.names for e in found] == [("roof", "bus-1"), ("roof", "wall"), ("wall", "bus-1"), ("bus-1",)]


def test_events_form_is_read_and_only_one_transmitter_counts(tmp_path):
    heard = [[-70.5, 40.77, -111.84, "roof"], [None, 40.76, -111.85, "wall"], [-60, 0.0, 0.0, "bus-1"]]
    content = {
        "2022-07-05 10:00:00": {"rx_data": heard, "tx_coords": [[40.767, -111.843]]},
        "2022-07-05 10:00:04": {"rx_data": heard, "tx_coords": [[40.767, -111.843], [40.7, -111.8]]},
        "2022-07-05 10:00:08": {"rx_data": heard, "tx_coords": []},
    }
    (tmp_path / "events.json").write_text(json.dumps(content))
    (event,) = powder.read(tmp_path / "events.json")
    assert event.names == ("roof",)
    assert event.rss_db.tolist() == [-70.5]


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("{}", "no event of one transmitter"),
        ("[1", "not of the POWDER data set"),
        ("[]", "not of the POWDER data set"),
        ('{"t": {"rx_data": []}}', "KeyError"),
        ('{"t": {"rx_data": [["loud", 40, -111, "roof"]], "tx_coords": [[40, -111]]}}', "loud"),
        ('{"t": {"rx_data": [[-70, 140, -111, "roof"]], "tx_coords": [[40, -111]]}}', "not on Earth"),
    ],
)
def test_what_is_no_such_file_is_refused(tmp_path, content, named):
    (tmp_path / "events.json").write_text(content)
    with pytest.raises(DataError, match=named):
        powder.read(tmp_path / "events.json")


@pytest.mark.parametrize("name", ["missing.csv", "missing.json", "walk.txt", "."])
def test_missing_data_say_where_to_get_them(tmp_path, name):
    with pytest.raises(DataError, match="7259895"):
        powder.read(tmp_path / name)


def test_places_of_one_cell_are_never_on_both_sides():
    events = walk(400)
    places = around(np.array([e.transmitter_deg for e in events]))
    held: list[RssEvent] = []
    for fold in range(5):
        split = by_place(events, fold=fold, cell_m=150)
        cells = [
            {tuple(np.floor(places.metres(e.transmitter_deg) / 150).astype(int)) for e in side}
            for side in (split.learned, split.held_out)
        ]
        assert not cells[0] & cells[1]
        assert len(split.learned) + len(split.held_out) == len(events)
        held += split.held_out
    assert sorted(e.time for e in held) == sorted(e.time for e in events)
    assert by_place(events, fold=1).held_out == by_place(events, fold=1).held_out


def test_days_are_held_out_from_one_on():
    events = walk(10) + walk(10, day="2022-11-23")
    split = by_day(events, since="2022-11-01")
    assert {e.day for e in split.held_out} == {"2022-11-23"}
    assert {e.day for e in split.learned} == {"2022-07-05"}


def test_events_of_another_source_are_none_that_are_learned():
    learned, asked = walk(10), walk(8, seed=4)
    split = by_source("other.json", learned, asked)
    assert (split.learned, split.held_out) == (tuple(learned), tuple(asked))
    # At the same second somewhere else is another event.
    assert learned[3].time == asked[3].time
    with pytest.raises(DataError, match=r"other\.json: 2 of 8 events are learned from too"):
        by_source("other.json", learned, [*asked[2:], *learned[:2]])


def test_evaluate_refuses_what_it_would_not_heed(tmp_path, capsys):
    data, others = write_table(tmp_path / "data", walk(20)), write_table(tmp_path / "others", walk(20, seed=4))
    evaluate = ["evaluate", "--data", str(data), "--learn-from"]
    assert main([*evaluate, str(data)]) == 1
    assert "20 of 20 events are learned from too" in capsys.readouterr().err
    for options in (["--since", "2022-07-06"], ["--fold", "1"], ["--cell-m", "100"]):
        assert main([*evaluate, str(others), *options]) == 1
        assert "leave out --fold, --cell-m and --since" in capsys.readouterr().err


def test_errors_are_told_apart_by_how_near_the_next_learned_event_is():
    learned = [replace(walk(1)[0], transmitter_deg=PLANE.degrees(np.array([0.0, 1000.0 * i]))) for i in range(3)]
    away_m = (10.0, 20.0, 50.0, 200.0, 300.0, 400.0)
    asked = [replace(learned[0], transmitter_deg=PLANE.degrees(np.array([a, 1000.0]))) for a in away_m]
    split = Split(name="a", learned=tuple(learned), held_out=tuple(asked))
    assert nearness.apart_m(split) == pytest.approx(away_m, rel=1e-3)
    error_m = {"net/1": np.stack([np.array(away_m) / 10, np.zeros(6)], 1)}
    errors = Errors(events=tuple(e.label for e in asked), error_m=error_m, sigma_m=np.ones((6, 2)))
    lines = nearness.table(Evaluation.of(errors, split="a", learned=3, model="net", version=1), split).splitlines()
    assert lines[0].endswith("| nearer than 25 m (2 events) | 25 to 80 m (1 events) | beyond 80 m (3 events) |")
    assert lines[2:] == ["| net/1 | 2 m | 5 m | 30 m |"]


def test_splits_with_an_empty_side_are_refused():
    events = walk(10)
    with pytest.raises(DataError, match="0 held out"):
        by_day(events, since="2023-01-01")
    with pytest.raises(DataError, match="0 events to learn from"):
        by_day(events, since="2022-01-01")
    with pytest.raises(DataError, match="0 held out"):
        by_place(events, fold=4, cell_m=1e6)
    with pytest.raises(DataError, match="expected 0 to 4"):
        by_place(events, fold=5)


def test_tensors_hold_the_strongest_receivers_in_the_units_of_the_spec():
    spec = GRAPHS["heimdall_net"]
    events = walk(3, receivers=40)
    held = tensors(spec, events)
    spec.check(held)
    strongest = np.sort(events[1].rss_db)[::-1][:32]
    assert np.allclose(held["features"][1, :, 0], strongest - NOISE_DB, atol=1e-4)
    first = int(np.argmax(events[1].rss_db))
    assert np.allclose(held["receiver_positions"][1, 0, :2], events[1].receivers_deg[first], atol=1e-5)
    assert held["mask"].all()
    assert not held["iq_data"].any()
    few = tensors(spec, [events[0].strongest(4)])
    assert few["mask"].sum() == 4
    assert not few["features"][0, 4:].any()


def test_strongest_of_a_split_leaves_each_event_its_best_receivers():
    split = by_place(walk(60)).strongest(3)
    assert split.name.endswith("3 strongest receivers")
    for event in (*split.learned, *split.held_out):
        assert len(event.names) == 3
    whole = {e.time: e for e in walk(60)}
    assert all(e.rss_db[0] == whole[e.time].rss_db.max() for e in split.held_out)


def test_events_that_contradict_themselves_are_refused():
    event = walk(1)[0]
    parts = {"time": "t", "names": ("a",), "rss_db": np.array([1.0]), "receivers_deg": event.receivers_deg[:1]}
    good = parts | {"transmitter_deg": event.transmitter_deg}
    for changed, named in (
        ({"rss_db": np.array([1.0, 2.0])}, r"rss_db is \(2,\); expected \(1,\)"),
        ({"rss_db": np.array([math.nan])}, "finite"),
        ({"transmitter_deg": np.array([-111.0, 40.0])}, "not on Earth"),
        ({"names": (), "rss_db": np.empty(0), "receivers_deg": np.empty((0, 2))}, "no receiver heard it"),
    ):
        with pytest.raises(DataError, match=named):
            RssEvent(**good | changed)


def test_accuracy_of_errors_that_are_as_they_say():
    rng = np.random.default_rng(0)
    sigma = rng.uniform(50, 200, (20_000, 2))
    found = measure(rng.normal(size=sigma.shape) * sigma, sigma)
    assert np.allclose(found.inside, (0.50, 0.68, 0.95), atol=0.01)
    # The entropy of the two normals, averaged.
    assert found.nll == pytest.approx((np.log(sigma).sum(1) + 1 + math.log(2 * math.pi)).mean(), abs=0.03)
    assert measure(np.array([[3.0, 4.0], [0.0, 0.0], [60.0, 80.0]])).error_m[0] == pytest.approx(5.0)


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_locate_what_is_easy_to_locate(name):
    learned, asked = walk(500), walk(60, seed=4)
    truths = PLANE.metres(np.array([e.transmitter_deg for e in asked]))
    found = np.hypot(*(BASELINES[name](learned, asked, PLANE) - truths).T)
    limits_m = {"path-loss fit": 1.0, "extra trees": 120, "5 nearest neighbours": 120, "weighted centroid": 450}
    assert np.median(found) < limits_m.get(name, 400)


def test_baselines_take_receivers_that_nobody_learned():
    learned, asked = walk(100), walk(5, seed=4, receivers=16)
    for baseline in BASELINES.values():
        assert np.isfinite(baseline(learned, asked, PLANE)).all()


@pytest.mark.parametrize("count", [1, 2, 3])
def test_baselines_learn_from_few_events(count):
    for baseline in BASELINES.values():
        assert np.isfinite(baseline(walk(count), walk(5, seed=4), PLANE)).all()


@pytest.mark.recordings
def test_real_events_are_read_whole(recordings):
    events = powder.read(recordings / "powder-rss")
    assert len(events) == 3654
    assert {e.day for e in events} == {"2022-07-05", "2022-07-06", "2022-07-11", "2022-11-23"}
    assert min(len(e.names) for e in events) >= 15
    few = powder.read(recordings / "powder-rss" / "events.json")
    assert len(few) == 101
    same = {e.time: e for e in events}
    common = [(e, same[e.time]) for e in few if e.time in same]
    for ours, theirs in common:
        at = {n: i for i, n in enumerate(theirs.names)}
        kept = [at[n] for n in ours.names]
        assert np.allclose(ours.rss_db, theirs.rss_db[kept])
        assert np.allclose(ours.receivers_deg, theirs.receivers_deg[kept])


@pytest.mark.recordings
def test_real_baselines_are_what_others_found(recordings):
    split = by_place(powder.read(recordings / "powder-rss"))
    plane = around(np.array([e.transmitter_deg for e in split.learned]))
    truths = plane.metres(np.array([e.transmitter_deg for e in split.held_out]))
    for name, (low, high) in {"strongest receiver": (180, 300), "extra trees": (90, 150)}.items():
        found = BASELINES[name](split.learned, split.held_out, plane)
        assert low < measure(found - truths).error_m[0] < high
