"""Two runs compared: noise is no change, a change is found, and what cannot be told apart is said to be so."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from made_runs import MACHINE, measurement, run
from scipy import stats

from rfserve.loadtest.comparison import LATENCIES, compare
from rfserve.loadtest.comparison_text import as_markdown, as_text
from rfserve.loadtest.errors import LoadTestError
from rfserve.loadtest.measurement import GeneratorUse
from rfserve.loadtest.noise import (
    Estimate,
    difference,
    difference_of_shares,
    estimates,
    mean,
    percentiles,
    together,
)

SEEDS = 40


def outcomes(found):
    return {c.figure: c.outcome for c in found.changes}


def test_percentiles_are_numpys_higher():
    samples = np.random.default_rng(1).normal(size=157)
    ones = np.ones((1, samples.size), np.int64)
    got = percentiles(50, 95, 99)(samples, ones)
    assert got[0] == pytest.approx(np.percentile(samples, (50, 95, 99), method="higher"))
    drawn = np.random.default_rng(2).multinomial(157, [1 / 157] * 157, 5)
    for row, weights in zip(percentiles(50, 99)(samples, drawn), drawn, strict=True):
        assert row == pytest.approx(np.percentile(np.repeat(samples, weights), (50, 99), method="higher"))


def test_error_of_a_mean_is_what_theory_says():
    rng = np.random.default_rng(3)
    repetitions = [rng.normal(size=4000) for _ in range(1)]
    (found,) = estimates(mean, repetitions)
    assert found.error == pytest.approx(4000**-0.5, rel=0.5)
    # Repetitions that differ by one standard deviation each leave an error of 1/sqrt(12).
    apart = [r + rng.normal() for r in [rng.normal(size=50) for _ in range(12)]]
    (found,) = estimates(mean, apart)
    assert found.error == pytest.approx(12**-0.5, rel=0.5)
    assert found.freedom == 11


def test_interval_is_welchs():
    one, other = (Estimate(value=v, error=0.1, freedom=4) for v in (1.0, 2.0))
    found = difference(one, other)
    # Student's t for 8 degrees of freedom is 2.306.
    assert (found.change, found.high - found.change) == pytest.approx((1.0, 2.306 * 0.02**0.5), rel=1e-3)
    assert found.change - found.low == pytest.approx(found.high - found.change)
    wanted = stats.ttest_ind_from_stats(1.0, 0.1 * 5**0.5, 5, 2.0, 0.1 * 5**0.5, 5, equal_var=False)
    assert found.chance == pytest.approx(wanted.pvalue)


def test_interval_of_shares_knows_what_no_failure_hides():
    found = difference_of_shares([(0, 240)], [(0, 240)], float)
    # Of 240 requests that all went well, 1.5 % may fail in truth.
    assert (found.low, found.high) == pytest.approx((-0.01525, 0.01525), abs=1e-5)
    assert np.isnan(found.chance)
    found = difference_of_shares([(2, 1000)], [(12, 500)], float)
    ends = [stats.binomtest(f, n).proportion_ci(method="exact") for f, n in ((2, 1000), (12, 500))]
    assert found.high - 0.022 == pytest.approx(((ends[1].high - 0.024) ** 2 + (0.002 - ends[0].low) ** 2) ** 0.5)
    assert found.chance == pytest.approx(2 * stats.binomtest(12, 14, 1 / 3, alternative="greater").pvalue)


def test_failures_in_bursts_are_less_certain():
    even = difference_of_shares([(0, 300)] * 3, [(10, 300)] * 3, float)
    burst = difference_of_shares([(0, 300)] * 3, [(30, 300), (0, 300), (0, 300)], float)
    assert even.low > 0.02
    assert even.chance < 1e-6
    assert burst.low < 0
    assert burst.chance > 0.3


def test_chances_together_are_benjamini_and_hochbergs():
    chances = np.random.default_rng(0).uniform(0, 0.2, 15)
    assert together(list(chances)) == pytest.approx(stats.false_discovery_control(chances))
    assert together([]) == []


def test_the_same_twice_is_the_same_and_hardly_ever_a_change():
    seen = {figure: Counter() for figure in LATENCIES}
    for seed in range(SEEDS):
        found = outcomes(compare(run(2 * seed, repetitions=5), run(2 * seed + 1, repetitions=5)))
        assert found["throughput_hz"] == "same"
        for figure in LATENCIES:
            seen[figure][found[figure]] += 1
    assert seen["p50_ms"]["same"] >= 0.95 * SEEDS
    assert seen["p95_ms"]["same"] >= 0.9 * SEEDS
    # Each is a change in one of twenty at most; p99 of so few samples is often undecided, and seldom a change.
    for counts in seen.values():
        assert counts["faster"] + counts["slower"] <= 0.1 * SEEDS


def test_repetitions_that_differ_make_no_change():
    """Noise of 5 % from one repetition to the next, which 3,000 requests in a row do not show."""
    seen = Counter()
    for seed in range(SEEDS):
        old, new = (run(2 * seed + i, repetitions=3, answered=300, between=0.05) for i in (0, 1))
        seen[outcomes(compare(old, new))["p50_ms"]] += 1
    assert seen["faster"] + seen["slower"] <= 0.1 * SEEDS


def of_phases(seed, slower=1.0, **given):
    """A run of five phases, the first of them slower than said."""
    runs = [run(10 * seed + i, phase=f"p{i}", median_ms=10 * (slower if i == 0 else 1), **given) for i in range(5)]
    return replace(runs[0], measurements=tuple(m for r in runs for m in r.measurements))


def test_of_many_figures_none_changes_by_chance():
    """Noise of 10 % from one repetition to the next, and 15 latencies: by itself one of them often stands out."""
    found = [
        compare(*(of_phases(2 * seed + i, repetitions=4, answered=250, between=0.1) for i in (0, 1)))
        for seed in range(20)
    ]
    assert sum(bool(c.changed) for c in found) <= 2
    alone = [x for c in found for x in c.changes if x.chance < 0.05]
    assert len(alone) >= 5
    demoted = [x for x in alone if x.outcome == "undecided"]
    assert demoted
    assert "looks like this by chance" in "".join(x.reason for x in demoted)


def test_of_many_figures_the_one_that_changed_is_told():
    given = {"repetitions": 5, "answered": 250, "between": 0.03}
    found = compare(of_phases(1, **given), of_phases(2, slower=1.4, **given))
    assert {(c.phase, c.outcome) for c in found.changed} == {("p0", "slower")}
    assert "slower: p0 heimdall_net p50_ms x 1." in as_text(found)


def test_a_shift_of_a_fifth_is_found():
    for seed in range(10):
        found = compare(run(2 * seed, repetitions=5), run(2 * seed + 1, repetitions=5, median_ms=12))
        assert {outcomes(found)[f] for f in ("p50_ms", "p95_ms")} == {"slower"}
        assert found.is_worse
        (p50,) = [c for c in found.changes if c.figure == "p50_ms"]
        assert p50.low < 1.2 < p50.high
        assert p50.low > 1.1


def test_the_other_way_round_is_faster_and_not_worse():
    found = compare(run(1, median_ms=12, repetitions=5), run(2, repetitions=5))
    assert outcomes(found)["p50_ms"] == "faster"
    assert not found.is_worse


def test_failures_are_worse_and_cost_throughput():
    found = compare(run(1, repetitions=5), run(2, repetitions=5, answered=400, failed=200))
    assert outcomes(found)["error_rate"] == "worse"
    assert outcomes(found)["throughput_hz"] == "slower"
    (errors,) = [c for c in found.changes if c.figure == "error_rate"]
    assert errors.change == pytest.approx(1 / 3)


def test_a_closed_loop_is_compared_by_its_answers():
    closed = {"loop": "closed", "target_rate_hz": None, "repetitions": 5}
    found = compare(run(1, **closed), run(2, rate_hz=30.0, **closed))
    (rate,) = [c for c in found.changes if c.figure == "throughput_hz"]
    assert rate.outcome == "slower"
    assert rate.change == pytest.approx(0.6, rel=0.05)


def test_one_repetition_decides_no_change():
    found = compare(run(1, repetitions=1), run(2, repetitions=1, median_ms=12))
    (p50,) = [c for c in found.changes if c.figure == "p50_ms"]
    assert p50.outcome == "undecided"
    assert "one repetition" in p50.reason


def test_errors_are_the_same_only_where_enough_requests_show_it():
    few, many = (
        outcomes(compare(*(run(seed, repetitions=3, answered=count) for seed in (1, 2))))["error_rate"]
        for count in (400, 2000)
    )
    assert (few, many) == ("undecided", "same")


def test_throughput_of_other_rates_is_not_compared():
    found = compare(run(1), run(2, rate_hz=60.0))
    (rate,) = [c for c in found.changes if c.figure == "throughput_hz"]
    assert (rate.outcome, rate.reason) == ("undecided", "another rate was asked for")
    assert (rate.before, rate.after) == pytest.approx((50, 60))


def test_too_few_samples_for_a_percentile_are_undecided():
    found = compare(run(1, answered=60), run(2, answered=60))
    (p99,) = [c for c in found.changes if c.figure == "p99_ms"]
    assert p99.outcome == "undecided"
    assert "1000 answers in all" in p99.reason


def test_a_run_whose_generator_was_the_bottleneck_shows_no_change():
    busy = GeneratorUse(cpu_share=0.99, processes=1, hosts=("load-1",))
    found = compare(run(1, repetitions=5), run(2, repetitions=5, median_ms=15, generator=busy))
    assert set(outcomes(found).values()) == {"undecided"}
    assert not found.is_worse
    assert "99% of its core" in found.changes[0].reason


def test_nothing_answered_is_undecided():
    found = compare(run(1), run(2, answered=0, failed=50))
    assert outcomes(found) == dict.fromkeys(LATENCIES, "undecided") | {
        "error_rate": "worse",
        "throughput_hz": "undecided",
    }
    json.dumps(found.to_dict(), allow_nan=False)


def test_other_machines_and_versions_are_warned_of():
    other = replace(MACHINE, cpu_model="Other CPU", versions={"triton": "2.60.0"})
    new = run(2, machine=other, device="cpu-8core", version="2", rate_hz=60.0)
    rng = np.random.default_rng(5)
    more = replace(new, measurements=(*new.measurements, measurement(rng, phase="burst")))
    warnings = "\n".join(compare(run(1), more).warnings)
    for said in (
        "device: cpu-2core before, cpu-8core after",
        "cpu_model: Some CPU before, Other CPU after",
        "version of triton: 2.51.0 before, 2.60.0 after",
        "version of rfserve: 0.1.0 before, - after",
        "steady/heimdall_net, target_rate_hz: 50.0 before, 60.0 after",
        "steady/heimdall_net, version: 1 before, 2 after",
        "burst/heimdall_net is in the second run only",
    ):
        assert said in warnings
    assert compare(run(1), run(2)).warnings == ()


def test_runs_without_anything_in_common_are_refused():
    with pytest.raises(LoadTestError, match="a phase and model in both"):
        compare(run(1), run(2, phase="burst"))
    with pytest.raises(LoadTestError, match="margin"):
        compare(run(1), run(2), margin=0)


def test_text_and_markdown_say_the_same_and_escape():
    found = compare(run(1), run(2, median_ms=15, phase="steady"))
    assert "slower: steady heimdall_net p50_ms x 1." in as_text(found)
    assert "nothing changed beyond noise" in as_text(compare(run(1), run(1)))
    hostile = compare(run(1, phase="a|b <script>"), run(2, phase="a|b <script>"))
    assert "a\\|b \\<script\\>" in as_markdown(hostile)
    assert as_markdown(found).count("**▲ slower**") == 3
