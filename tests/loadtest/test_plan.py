"""Plans: what a file may say, what each model's budget is, and those that come with rfserve."""

import json
import tomllib
from pathlib import Path

import pytest

from rfserve.export.spec import DEVICES, MODELS
from rfserve.loadtest import plan as plans
from rfserve.loadtest import verdict
from rfserve.loadtest.errors import LoadTestError
from rfserve.loadtest.plan import BUNDLED, Mix, Phase, Plan, Stream, read
from rfserve.loadtest.validity import samples_needed

WHOLE = """
device = "cpu-2core"
repetitions = 2
figures = ["p50_ms"]
[budgets.heimdall_net]
p99_ms = 5
[budgets."*"]
error_rate = 0.5
[[phases]]
name = "steady"
duration_s = 4
[[phases.streams]]
model = "heimdall_net"
arrivals = "constant"
mix = { receivers = [3, 10], samples = [512, 1024], duplicate_share = 0.25 }
[[phases.streams]]
model = "locate"
users = 3
"""


def test_file_says_phases_streams_and_mixes(tmp_path):
    (tmp_path / "mine.toml").write_text(WHOLE)
    found = read(str(tmp_path / "mine.toml"))
    assert (found.name, found.models, found.repetitions) == ("mine", ("heimdall_net", "locate"), 2)
    opened, closed = found.phases[0].streams
    assert opened.mix == Mix(receivers=(3, 10), samples=(512, 1024), duplicate_share=0.25)
    assert (opened.loop, closed.loop) == ("open", "closed")
    promised = MODELS["heimdall_net"].budgets["cpu-2core"]
    assert found.rate_hz(opened) == promised.rate_hz
    budget = found.budget("heimdall_net")
    assert (budget["p50_ms"], budget["p99_ms"], budget["error_rate"]) == (promised.p50_ms, 5, 0.5)
    # As it travels to workers and into reports.
    assert Plan.from_dict(json.loads(json.dumps(found.to_dict()))) == found


@pytest.mark.parametrize("file", sorted(BUNDLED.glob("*.toml")), ids=lambda f: f.stem)
def test_bundled_plan_has_the_samples_that_its_figures_need(file):
    plan = read(file.stem)
    assert plan.device in DEVICES
    for phase in plan.phases:
        for stream in phase.streams:
            each = round(plan.rate_hz(stream) * phase.duration_s)
            for figure in set(plan.figures) & set(verdict.PERCENTILES):
                in_all, in_each = samples_needed(verdict.PERCENTILES[figure])
                assert each >= in_each
                assert each * plan.repetitions >= in_all


@pytest.mark.parametrize("name", ["cpu-2core", "gpu-h100"])
def test_plan_of_a_device_has_every_model(name):
    assert set(read(name).models) == set(MODELS)


def test_plans_are_in_the_wheel():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    assert "plans/*.toml" in project["tool"]["setuptools"]["package-data"]["rfserve.loadtest"]
    assert plans.BUNDLED.is_dir()


def test_missing_plan_is_told_the_bundled_ones(tmp_path):
    with pytest.raises(LoadTestError, match="cpu-2core, gpu-h100, smoke"):
        read("smok")
    (tmp_path / "bad.toml").write_text("device = ")
    with pytest.raises(LoadTestError, match="is no TOML"):
        read(str(tmp_path / "bad.toml"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("users = 3", "users = 3\nrate_hz = 1", "expected one: an open loop"),
        ("users = 3", "user = 3", "unknown user; expected model, rate_hz"),
        ("users = 3", "users = 0", "1 or more"),
        ('model = "locate"', 'model = "heimdall_net"', "each once"),
        ('model = "locate"', 'model = "nothing"', "no served model"),
        ("receivers = [3, 10]", "receivers = [33]", r"got receivers \[33\]; expected 1 to 32"),
        ("samples = [512, 1024]", "samples = [3]", "expected 256 to 16384"),
        ("samples = [512, 1024]", 'events = "here"', "events bring their own"),
        ("duplicate_share = 0.25", "duplicate_share = 1.25", "share from 0"),
        ('arrivals = "constant"', 'arrivals = "bursts"', "poisson or constant"),
        ("repetitions = 2", "repetitions = 0", "1 or more"),
        ("duration_s = 4", "duration_s = 0", "above 0 s"),
        ('figures = ["p50_ms"]', 'figures = ["p42_ms"]', "expected some of"),
        ("p99_ms = 5", "p98_ms = 5", "p98_ms"),
        ('device = "cpu-2core"', 'device = "abacus"', "no rate_hz, and device 'abacus' no budget"),
        ('[[phases.streams]]\nmodel = "locate"\nusers = 3', "[phases.streams.x]", "expected|TOML"),
    ],
)
def test_what_cannot_be_is_refused_with_what_can(tmp_path, old, new, message):
    assert old in WHOLE
    (tmp_path / "mine.toml").write_text(WHOLE.replace(old, new))
    with pytest.raises(LoadTestError, match=message):
        read(str(tmp_path / "mine.toml"))


def test_model_without_an_axis_cannot_vary_it():
    with pytest.raises(LoadTestError, match="no axis"):
        Stream(model="localization_net", mix=Mix(receivers=(3,)))
    with pytest.raises(LoadTestError, match="no axis"):
        Stream(model="localization_net", mix=Mix(samples=(1024,)))


def test_unknown_device_has_the_plan_s_own_budgets_alone():
    stream = Stream(model="locate", rate_hz=2)
    plan = Plan(
        name="x",
        device="cpu-64core",
        phases=(Phase(name="a", duration_s=1, streams=(stream,)),),
        budgets={"locate": {"p95_ms": 9.0}},
    )
    assert plan.budget("locate") == {"p95_ms": 9.0}
    assert plan.rate_hz(stream) == 2
