"""The search for the highest rate that holds a budget: what it decides, what it says, and what it draws."""

import json
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from made_runs import run
from ports import free_port

from rfserve.loadtest import capacity_page, capacity_text, endpoint
from rfserve.loadtest.capacity import Capacity
from rfserve.loadtest.capacity_question import question
from rfserve.loadtest.capacity_search import BROKEN, HOLDS, INVALID, UNDECIDED, Search
from rfserve.loadtest.cli import main
from rfserve.loadtest.errors import LoadTestError
from rfserve.loadtest.measurement import GeneratorUse

MODEL = "heimdall_net"
SEARCH = Search(start_hz=10, lowest_hz=2.5, highest_hz=640)
ASKED = replace(question(MODEL, "cpu-2core"), repetitions=3)


def searched(search, outcome_of):
    """What a search comes to, and the rates it measured, in turn."""
    outcomes = {}
    while (rate := search.next_hz(outcomes)) is not None:
        assert rate not in outcomes
        outcomes[rate] = outcome_of(rate)
    return outcomes


@pytest.mark.parametrize("true_hz", [2.5, 2.6, 7, 9.99, 10, 10.1, 37, 92.4, 500, 639])
def test_search_closes_in_on_the_capacity_and_takes_no_longer_than_it_says(true_hz):
    outcomes = searched(SEARCH, lambda rate: HOLDS if rate <= true_hz else BROKEN)
    held = max(r for r, o in outcomes.items() if o == HOLDS)
    above = min(r for r, o in outcomes.items() if o == BROKEN)
    assert held <= true_hz < above <= held * 1.05
    cost_s = ASKED.cost_s
    assert sum(map(cost_s, outcomes)) <= SEARCH.most_s({}, cost_s)
    assert len(outcomes) <= 12


def test_search_takes_as_long_as_it_says_for_one_capacity():
    costs = {
        true_hz: sum(map(ASKED.cost_s, searched(SEARCH, lambda rate, t=true_hz: HOLDS if rate <= t else BROKEN)))
        for true_hz in np.geomspace(2, 700, 400)
    }
    assert max(costs.values()) == pytest.approx(SEARCH.most_s({}, ASKED.cost_s))


def test_search_ends_at_its_ends():
    assert list(searched(SEARCH, lambda _: BROKEN)) == [10, 5, 2.5]
    assert list(searched(SEARCH, lambda _: HOLDS)) == [10, 20, 40, 80, 160, 320, 640]


def test_search_ends_where_the_generator_is_the_bottleneck():
    assert list(searched(SEARCH, lambda _: INVALID)) == [10, 5, 2.5]
    outcomes = searched(SEARCH, lambda rate: HOLDS if rate < 70 else INVALID)
    assert max(r for r, o in outcomes.items() if o == HOLDS) < 70 < min(r for r, o in outcomes.items() if o == INVALID)
    # Nothing above the first invalid rate is tried.
    assert max(outcomes) == 80


def test_search_counts_what_is_not_decided_as_not_holding():
    outcomes = searched(SEARCH, lambda rate: HOLDS if rate < 50 else UNDECIDED if rate < 60 else BROKEN)
    assert 47 < max(r for r, o in outcomes.items() if o == HOLDS) < 50


@pytest.mark.parametrize("wrong", [{"lowest_hz": 11}, {"highest_hz": 9}, {"lowest_hz": 0}, {"resolution": 0}])
def test_search_between_impossible_ends_is_refused(wrong):
    with pytest.raises(LoadTestError, match="expected"):
        replace(SEARCH, **wrong)


def run_at(rate_hz, asked=ASKED, **given):
    """A run as the engine would bring it back: log-normal latencies of the median that is given."""
    return run(
        int(rate_hz * 10),
        repetitions=asked.repetitions,
        name="capacity",
        plan=asked.plan(rate_hz).to_dict(),
        answered=round(rate_hz * asked.duration_s(rate_hz)) - given.get("failed", 0),
        rate_hz=rate_hz,
        phase=f"{rate_hz:g}/s",
        **given,
    )


def found(outcomes, search=SEARCH, asked=ASKED):
    """A capacity with points that hold, fail or have a busy generator, as `outcomes` says."""
    given = {
        HOLDS: {},
        BROKEN: {"median_ms": 200},
        INVALID: {"generator": GeneratorUse(cpu_share=0.99, processes=1, hosts=("load-1",))},
        UNDECIDED: {"median_ms": 76, "between": 0.3},
    }
    made = Capacity(question=asked, search=search)
    for rate_hz, outcome in outcomes.items():
        made = made.with_run(run_at(rate_hz, asked, **given[outcome]))
    assert made.outcomes == dict(sorted(outcomes.items()))
    return made


def test_points_are_decided_by_the_verdict():
    made = found({20: HOLDS, 40: UNDECIDED, 50: BROKEN, 80: INVALID})
    by_rate = {p.rate_hz: p for p in made.points}
    assert "is over the budget of 150" in by_rate[50].reasons[0]
    assert "is not clear of the budget" in by_rate[40].reasons[0]
    assert "99% of its core" in by_rate[80].reasons[0]
    assert by_rate[20].reasons == ()
    # Too few answers for the percentile prove nothing, though all of them were quick.
    (point,) = Capacity(question=ASKED, search=SEARCH).with_run(run_at(20, failed=340)).points
    assert point.outcome in {UNDECIDED, BROKEN}


def test_windows_are_long_enough_for_a_verdict():
    for percentile in (50, 95, 99):
        asked = replace(ASKED, percentile=percentile)
        for rate_hz in (3, 40, 900):
            made = found({rate_hz: HOLDS}, asked=asked)
            assert made.points[0].has_samples_for(asked.figure)


@pytest.mark.parametrize("rate_hz", [2.56, 2.69, 2.76])
def test_rate_holds_where_its_window_has_no_place_for_all_of_it(rate_hz):
    asked = replace(ASKED, percentile=95, budget_ms=60, repetitions=20)
    window_s = asked.duration_s(rate_hz)
    assert round(rate_hz * window_s) / window_s < rate_hz * (1 - asked.error_rate)
    (point,) = Capacity(question=asked, search=SEARCH).with_run(run_at(rate_hz, asked, duration_s=window_s)).points
    assert (point.outcome, point.reasons) == (HOLDS, ())


@pytest.mark.parametrize(
    ("outcomes", "code", "capacity_hz", "said"),
    [
        ({10: HOLDS, 20: BROKEN, 15.4: HOLDS, 16.1: BROKEN}, 0, 15.4, "holds p99 <= 150 ms at 15.4/s; at 16.1/s it"),
        ({10: HOLDS, 10.4: UNDECIDED}, 0, 10, "at 10.4/s that is not decided"),
        ({640: HOLDS}, 0, 640, "the highest rate that was tried"),
        ({10: BROKEN, 5: BROKEN, 2.5: BROKEN}, 1, 0, "capacity 0: heimdall_net does not hold p99 <= 150 ms at 2.5/s"),
        ({2.5: UNDECIDED}, 3, 0, "capacity 0: heimdall_net is not shown to hold"),
        ({2.5: INVALID}, 3, 0, "the load generator was the bottleneck, and the search ends: a generator used 99%"),
        ({10: HOLDS, 10.4: INVALID}, 3, 10, "at 10/s at least: at 10.4/s the load generator was the bottleneck"),
        ({10: HOLDS, 20: BROKEN}, 3, 10, "unfinished: heimdall_net holds p99 <= 150 ms at 10/s, and 14.1/s comes next"),
        ({}, 3, 0, "nothing was measured"),
    ],
)
def test_answer_and_exit_code(outcomes, code, capacity_hz, said):
    made = found(outcomes)
    assert (made.exit_code(), made.capacity_hz) == (code, capacity_hz)
    assert said in made.statement()


def test_file_gives_back_what_was_measured(tmp_path):
    made = found({20: HOLDS, 40: BROKEN})
    file = tmp_path / "capacity.json"
    made.write(file)
    assert Capacity.read(file) == made
    document = json.loads(file.read_text())
    assert (document["kind"], document["capacity_hz"]) == ("capacity", 20)
    # Nothing was answered: figures that are not there must not break the file.
    silent = Capacity(question=ASKED, search=SEARCH).with_run(run_at(20, failed=round(20 * ASKED.duration_s(20))))
    silent.write(file)
    assert Capacity.read(file) == silent
    for damaged in ("{", "[]", json.dumps(document | {"kind": "performance"}), json.dumps({"schema": 1})):
        file.write_text(damaged)
        with pytest.raises(LoadTestError, match=r"capacity\.json"):
            Capacity.read(file)


SVG = re.compile(r"<svg.*?</svg>", re.S)


def test_page_draws_the_curve_up_to_the_knee():
    made = found({20: HOLDS, 40: HOLDS, 44: BROKEN, 80: BROKEN})
    page = capacity_page.render(made)
    for outside in ("http:", "https:", "url(", "@import", "<script", "<link", "<img", "src=", "href="):
        assert outside not in page, outside
    drawings = [ET.fromstring(d) for d in SVG.findall(page)]
    assert len(drawings) == 2
    for drawing in drawings:
        titles = [t.text for t in drawing.iter("title")]
        # Three percentiles at three rates: 80/s lies beyond the knee.
        assert [t.split("/s")[0] for t in titles] == ["20", "40", "44"] * 3
        assert [e.get("class") for e in drawing.iter("circle")].count("fail") == 1
        assert len([e for e in drawing.iter("path") if "spread" in e.get("class")]) == 9
        labels = [t.text for t in drawing.iter("text") if "label" in t.get("class")]
        assert {"p50", "p95", "p99", "budget: p99 <= 150 ms", "40/s"} == set(labels)
    # Where refusals break the budget, latencies alone would not show it.
    refused = capacity_page.svg(made.with_run(run_at(46, failed=36)))
    assert re.findall(r"[\d.]+% failed", refused) == ["10.2% failed"]
    alone = ET.fromstring(capacity_page.svg(made))
    assert alone.tag == "{http://www.w3.org/2000/svg}svg"
    assert "--due" in next(alone.iter("{http://www.w3.org/2000/svg}style")).text


def test_page_says_so_when_there_is_nothing_to_draw(tmp_path):
    made = found({10: INVALID})
    assert "Nothing was answered." in capacity_page.render(made)
    with pytest.raises(LoadTestError, match="nothing to draw"):
        capacity_page.write(made, tmp_path / "a.svg")
    with pytest.raises(LoadTestError, match="cannot write"):
        capacity_page.write(found({10: HOLDS}), tmp_path / "no folder" / "a.svg")
    assert list(tmp_path.iterdir()) == []


def test_percentiles_without_enough_answers_are_not_shown():
    made = found({20: HOLDS}, asked=replace(ASKED, percentile=50, error_rate=0.5))
    assert not made.points[0].has_samples_for("p99_ms")
    row = capacity_text.text(made).splitlines()[2]
    assert row.split()[3] == "-"
    assert "p99" not in re.findall(r">(p\d\d)</text>", capacity_page.svg(made))


def test_kept_results_are_read_and_the_picture_is_of_them():
    folder = Path(capacity_page.__file__).parent
    kept = {c.question.model: c for c in map(Capacity.read, folder.glob("results/*-capacity-*.json"))}
    assert set(kept) == {"heimdall_net", "localization_net"}
    assert all(c.next_hz is None and c.capacity_hz > 0 for c in kept.values())
    drawn = (folder / "example_capacity.svg").read_text()
    assert drawn == capacity_page.svg(kept["heimdall_net"]), "`rfserve-loadtest capacity --resume --svg` draws it again"


def test_command_shows_a_finished_search_again_without_a_server(tmp_path, capsys):
    made = found({10: HOLDS, 10.4: BROKEN})
    file, page, drawing = (tmp_path / name for name in ("c.json", "c.html", "c.svg"))
    made.write(file)
    command = ["capacity", MODEL, "--repetitions", "3", "--json", str(file), "--url", "127.0.0.1:1"]
    assert main([*command, "--resume", "--html", str(page), "--svg", str(drawing)]) == 0
    assert "holds p99 <= 150 ms at 10/s" in capsys.readouterr().out
    assert page.read_text().startswith("<!DOCTYPE html>")
    assert drawing.read_text().startswith("<svg xmlns=")
    assert main([*command, "--resume", "--budget-ms", "149"]) == 2
    assert "give the same options, or begin anew" in capsys.readouterr().err
    assert main(["capacity", MODEL, "--resume"]) == 2
    assert main([*command, "--percentile", "90"]) == 2
    assert "expected one of p50_ms" in capsys.readouterr().err


def test_server_that_is_away_is_no_capacity(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(endpoint, "CONNECT_S", 0.5)
    file = tmp_path / "c.json"
    assert main(["capacity", MODEL, "--json", str(file), "--url", f"127.0.0.1:{free_port()}"]) == 2
    assert "no connection to 127.0.0.1:" in capsys.readouterr().err
    assert not file.exists()


def test_question_takes_the_budget_of_the_spec():
    assert (ASKED.budget_ms, ASKED.error_rate) == (150, 0.01)
    assert question(MODEL, "gpu-h100", percentile=95).budget_ms == 12
    with pytest.raises(LoadTestError, match="expected one of cpu-2core"):
        question(MODEL, "abacus")


@pytest.mark.server
@pytest.mark.alone
def test_capacity_of_a_real_server(server, tmp_path, capsys):
    """Two cores that others use as well: the answer has to be that of the points, whatever they are."""
    file = tmp_path / "capacity.json"
    command = ["capacity", "mel_features", "--url", server.grpc_url, "--json", str(file), "--repetitions", "2"]
    command += [
        "--percentile",
        "50",
        "--window-s",
        "0.5",
        "--from-hz",
        "150",
        "--lowest-hz",
        "150",
        "--highest-hz",
        "150",
    ]
    code = main([*command, "--budget-ms", "2000"])
    out, said = capsys.readouterr()
    assert "at most" in said
    made = Capacity.read(file)
    assert [p.rate_hz for p in made.points][-1] == 150
    assert sum(p.sent for p in made.points) >= 300
    assert made.statement() in out
    assert code == made.exit_code()
    # Nobody answers within 10 us: that is said, or that it is not decided, or that the generator was in the way.
    code = main([*command, "--budget-ms", "0.01"])
    out, _ = capsys.readouterr()
    made = Capacity.read(file)
    assert code == made.exit_code() != 0
    assert made.statement() in out
    assert all(p.outcome != "holds" for p in made.points)


@pytest.mark.server
def test_capacity_measures_nothing_that_may_take_longer_than_the_limit(server, tmp_path, capsys):
    command = ["capacity", "mel_features", "--url", server.grpc_url, "--json", str(tmp_path / "c.json")]
    assert main([*command, "--time-limit-s", "20"]) == 3
    out, said = capsys.readouterr()
    assert "10/s may take" in said
    assert "nothing was measured yet" in out
