"""Trying ways of running a model: what is tried, which is best, and that the server is always as it was afterwards."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from served import BriefServer
from test_capacity import ASKED, found

from rfserve.export import pbtxt
from rfserve.export.cli import main as export
from rfserve.export.spec import MODELS, Placement, find
from rfserve.loadtest import model_control, tuning
from rfserve.loadtest.candidate import Candidate, sweep
from rfserve.loadtest.capacity_search import BROKEN, HOLDS, INVALID
from rfserve.loadtest.cli import main
from rfserve.loadtest.commands import tune
from rfserve.loadtest.endpoint import Endpoint
from rfserve.loadtest.errors import LoadTestError
from rfserve.loadtest.model_control import ModelControl
from rfserve.loadtest.tuning import Screening, Tried, Tuning
from rfserve.server.process import ServerOptions, TritonServer
from rfserve.server.security import Security

MODEL = "mel_features"
KEY = "of-the-administrator=with/some+signs=="
SPEC = find(MODEL)
PRESENT = Candidate(instances=2, threads=1, delay_us=0, joined_rows=5)


def config_of(spec, name="cpu"):
    return pbtxt.parse(pbtxt.config_text(spec, name))


@pytest.mark.parametrize("name", [n for n, s in MODELS.items() if hasattr(s, "placements")])
@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_what_is_tried_is_what_the_exporter_writes(name, target):
    spec = find(name)
    config = config_of(spec, target)
    present = Candidate.of(config)
    assert present.applied(config) == config
    for rows in (1, 4, spec.max_batch_size):
        candidate = Candidate(instances=3, threads=2, delay_us=0, joined_rows=rows)
        placement = Placement(instances=3, intra_op_threads=2, joined_rows=rows)
        assert candidate.applied(config) == config_of(spec.placed(target, placement), target)
        assert Candidate.of(candidate.applied(config)) == candidate


@pytest.mark.parametrize("changes", [{"delay_us": 500}, {"instances": 1}])
def test_what_triton_cannot_serve_with_limits_is_tried_without(changes):
    candidate = replace(PRESENT, **changes)
    assert not candidate.keeps_limits
    batching = candidate.applied(config_of(SPEC)).dynamic_batching
    assert not batching.HasField("default_queue_policy")
    assert not batching.priority_queue_policy
    assert not batching.priority_levels
    assert batching.max_queue_delay_microseconds == candidate.delay_us


def test_sweep_varies_what_is_not_said_around_the_present_one():
    tried = sweep(PRESENT, 32)
    assert tried[0] == PRESENT
    assert len(tried) == len(set(tried)) == 8
    assert {c.instances for c in tried} == {2, 3}
    assert {c.threads for c in tried} == {1, 2}
    assert {c.joined_rows for c in tried} == {5, 10}
    assert {c.delay_us for c in tried} == {0}
    said = sweep(PRESENT, 32, instances=[4], threads=[1], delays_us=[0, 100], joined_rows=[8, 8])
    assert [c.delay_us for c in said] == [0, 0, 100]
    assert sweep(replace(PRESENT, joined_rows=32), 32)[-1].joined_rows == 32


def test_candidates_that_cannot_be_are_refused():
    with pytest.raises(LoadTestError, match="expected 1 or more"):
        replace(PRESENT, threads=0)
    with pytest.raises(LoadTestError, match="expected 1 to 32"):
        replace(PRESENT, joined_rows=33).applied(config_of(SPEC))
    with pytest.raises(LoadTestError, match="expected onnxruntime with one"):
        Candidate.of(config_of(find("locate")))


def tried(candidate, saturated_hz, *, capacity_hz=None, rated_ms=10.0, failed=0.0, ends=BROKEN):
    looks = tuple(Screening(saturated_hz=s, rated_ms=rated_ms, failed=failed) for s in saturated_hz)
    capacity = None
    if capacity_hz is not None:
        outcomes = {capacity_hz: HOLDS, round(1.04 * capacity_hz, 1): ends} if capacity_hz else {2.5: ends}
        capacity = found(outcomes)
    return Tried(candidate=candidate, screenings=looks, capacity=capacity)


def test_only_the_best_that_hold_the_budget_are_searched():
    three, four, slow, failing = (replace(PRESENT, instances=n) for n in (3, 4, 5, 6))
    looked = [
        tried(PRESENT, [50, 54]),
        tried(three, [60, 58]),
        tried(four, [70, 72]),
        tried(slow, [90, 90], rated_ms=151),
        tried(failing, [90, 90], failed=0.02),
        Tried(candidate=replace(PRESENT, instances=7), problem="out of memory"),
    ]
    assert tuning.finalists(looked, ASKED, 1) == [PRESENT, four]
    assert tuning.finalists(looked, ASKED, 5) == [PRESENT, four, three]
    assert tuning.finalists(looked, ASKED, 0) == []


def tuned(present_hz, *others, resolution=0.05):
    return Tuning(question=ASKED, resolution=resolution, tried=(tried(PRESENT, [50], capacity_hz=present_hz), *others))


def test_another_configuration_is_best_only_beyond_noise():
    three = replace(PRESENT, instances=3)
    equal = tuned(40.0, tried(three, [50], capacity_hz=41.0))
    assert equal.best is equal.present
    assert "the present configuration stays" in equal.statement()
    better = tuned(40.0, tried(three, [50], capacity_hz=44.0))
    assert better.best.candidate == three
    assert "best: 3 instances x 1 threads, 5 rows serves 44/s" in better.statement()
    none = tuned(0, tried(three, [50], capacity_hz=0))
    assert "no configuration holds" in none.statement()
    assert Tuning(question=ASKED, resolution=0.05, tried=(tried(PRESENT, [50]),)).best is None


@pytest.mark.parametrize("present_hz", [0, 40.0])
def test_nothing_is_better_than_what_is_not_known(present_hz):
    """A generator in the way of the present one leaves nothing to compare with; of another, it leaves a lower end."""
    three = tried(replace(PRESENT, instances=3), [50], capacity_hz=44.0)
    unknown = Tuning(
        question=ASKED, resolution=0.05, tried=(tried(PRESENT, [50], capacity_hz=present_hz, ends=INVALID), three)
    )
    assert unknown.best is None
    assert "which is best is not known; of the present one: " in unknown.statement()
    assert f"{present_hz:g} or more" in unknown.text()
    at_least = tried(replace(PRESENT, instances=4), [50], capacity_hz=48.0, ends=INVALID)
    assert tuned(40.0, three, at_least).best is at_least


def test_best_without_the_limits_of_the_queue_is_said_and_not_chosen():
    waiting, three = replace(PRESENT, delay_us=500), replace(PRESENT, instances=3)
    made = tuned(40.0, tried(waiting, [90], capacity_hz=80.0), tried(three, [50], capacity_hz=44.0))
    assert made.best.candidate == three
    assert made.best_without_limits.candidate == waiting
    assert "it is never written" in made.statement()
    assert "without the queue's limits" in made.text()


def test_tuning_is_written_as_json(tmp_path):
    made = tuned(40.0, Tried(candidate=replace(PRESENT, instances=3), problem="no memory"))
    made.write(tmp_path / "t.json")
    assert '"kind": "tuning"' in (tmp_path / "t.json").read_text()
    assert "no memory" in made.text()


def test_users_keep_candidates_busy_and_the_queue_from_refusing():
    config = config_of(find("heimdall_net"))
    limit = config.dynamic_batching.default_queue_policy.max_queue_size
    assert tuning.users(config, [PRESENT]) == min(limit + 2, 20)
    del config.dynamic_batching.preferred_batch_size[:]
    config.dynamic_batching.ClearField("default_queue_policy")
    assert tuning.users(config, [PRESENT]) == 20


# From here on with a server of its own, whose model is loaded again and again.


@pytest.fixture(scope="module")
def folder(small_model: Path, tmp_path_factory) -> Path:
    return Path(shutil.copytree(small_model, tmp_path_factory.mktemp("tuned") / "repository"))


@pytest.fixture(scope="module")
def tuned_server(folder: Path) -> Iterator[TritonServer]:
    # After a load that failed, Triton waits for what is left of it as long as it may.
    options = ServerOptions(
        repository=folder,
        grpc_port=0,
        http_port=0,
        metrics_port=0,
        security=Security(admin_key=KEY),
        exit_timeout_s=2,
    )
    with BriefServer(options) as running:
        yield running


@pytest.fixture(scope="module")
def key_file(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("key") / "key"
    file.write_text(KEY)
    return file


@pytest.fixture
def control(tuned_server: TritonServer) -> Iterator[ModelControl]:
    with ModelControl(Endpoint(url=tuned_server.grpc_url, admin_key=KEY), MODEL) as opened:
        before = opened.config()
        yield opened
        assert opened.config() == before


def three_of(config):
    return replace(Candidate.of(config), instances=3).applied(config)


def try_and(control, then):
    with control.kept() as config:
        control.try_out(three_of(config))
        then()


@pytest.mark.server
def test_model_is_put_back_whatever_happens(control: ModelControl):
    before = control.config()
    with control.kept() as config:
        control.try_out(three_of(config))
        assert Candidate.of(control.config()).instances == 3
    assert control.config() == before

    with pytest.raises(ZeroDivisionError):
        try_and(control, lambda: 1 / 0)
    assert control.config() == before

    # SIGTERM as Ctrl-C, and neither of them while it is being put back.
    with pytest.raises(KeyboardInterrupt):
        try_and(control, lambda: (os.kill(os.getpid(), signal.SIGTERM), time.sleep(5)))
    assert control.config() == before
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL

    # What cannot be loaded leaves what is served.
    with control.kept() as config:
        impossible = three_of(config)
        impossible.default_model_filename = "nowhere.onnx"
        with pytest.raises(LoadTestError, match=r"RepositoryModelLoad of mel_features: .*nowhere"):
            control.try_out(impossible)
    assert control.config() == before


@pytest.mark.server
def test_load_without_a_configuration_does_not_put_back(tuned_server: TritonServer, control: ModelControl):
    """Why `kept` does not just load: if Triton ever does it, this can be simpler."""
    with control.kept() as config:
        control.try_out(three_of(config))
        assert tuned_server.http.load(MODEL, 60).ok
        assert Candidate.of(control.config()).instances == 3


@pytest.mark.server
def test_instances_start_anew_for_every_try(tuned_server: TritonServer, control: ModelControl):
    """An instance chooses its CPUs by how many there are: one that is kept would be placed for another number."""
    with control.kept() as config:
        for instances in (3, 2):
            already = len(tuned_server.log())
            control.try_out(replace(Candidate.of(config), instances=instances).applied(config))
            started = tuned_server.log()[already:].count("TRITONBACKEND_ModelInstanceInitialize")
            assert started == instances


def command(server: TritonServer, key_file: Path, *arguments: object) -> list[str]:
    where = ["--url", server.grpc_url, "--admin-key-file", str(key_file)]
    quick = ["--screen-s", "0.5", "--rounds", "1", "--percentile", "50", "--budget-ms", "3000"]
    return ["tune", MODEL, *where, *quick, "--threads", "1", "--preferred", "8", *map(str, arguments)]


@pytest.mark.server
def test_tune_looks_at_each_and_says_what_it_saw(tuned_server, control, key_file, tmp_path, capsys):
    file = tmp_path / "t.json"
    before = control.config()
    code = main(command(tuned_server, key_file, "--instances", 3, "--finalists", 0, "--json", file))
    out, said = capsys.readouterr()
    # Nothing was searched, so that nothing is best.
    assert code == 3
    assert "at most" in said
    rows = [line.split()[:4] for line in out.splitlines()[1:3]]
    assert rows == [["2", "1", "0", str(Candidate.of(before).joined_rows)], ["3", "1", "0", "8"]]
    assert file.exists()
    assert control.config() == before


@pytest.mark.server
def test_tune_puts_the_model_back_on_ctrl_c(tuned_server, control, key_file):
    before = control.config()
    arguments = command(tuned_server, key_file, "--instances", 3, "--rounds", 50)
    whole = [sys.executable, "-m", "rfserve.loadtest.cli", *arguments]
    with subprocess.Popen(whole, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        seen = next((line for line in process.stderr if "round 1: 3 instances" in line), "")
        assert seen
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
        assert process.wait(30) == 130
    assert "interrupted; mel_features is as it was" in said
    assert "Traceback" not in said
    assert control.config() == before


@pytest.mark.server
def test_closed_server_asks_for_its_key(tuned_server, capsys):
    assert main(["tune", MODEL, "--url", tuned_server.grpc_url]) == 2
    assert "give --admin-key-file" in capsys.readouterr().err


@pytest.mark.server
def test_best_is_written_and_served_as_it_was_tried(tuned_server, control, key_file, capsys, monkeypatch):
    folder = tuned_server.options.repository
    best = Candidate(instances=3, threads=1, delay_us=0, joined_rows=7)
    with control.kept() as config:
        control.load(best.applied(config))
        as_tried = control.config()
    made = tuned(40.0, tried(best, [60], capacity_hz=60.0))
    options = tune_options(tuned_server, key_file, folder)
    tune._write(replace(made, question=replace(ASKED, model=MODEL)), options)
    capsys.readouterr()
    assert export(["check", MODEL, "--repository", str(folder)]) == 0
    assert "ok (version 1; tuned for cpu: 3 instances, 1 threads each, 7 rows joined)" in capsys.readouterr().out
    before = control.config()
    try:
        assert tuned_server.http.load(MODEL, 60).ok
        assert control.config() == as_tried
    finally:
        assert export(["place", MODEL, "--target", "cpu", "--spec", "--repository", str(folder)]) == 0
        assert tuned_server.http.load(MODEL, 60).ok
    assert control.config() == before
    # The present one is nothing to write.
    tune._write(tuned(40.0, tried(best, [60], capacity_hz=41.0)), options)
    assert "nothing was written" in capsys.readouterr().out
    assert export(["check", MODEL, "--repository", str(folder)]) == 0
    # And a failure of the exporter is one.
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(LoadTestError, match=r"nothing was written.*rfserve-export place mel_features --target cpu"):
        tune._write(made, options)


def tune_options(server, key_file, folder):
    from rfserve.loadtest.cli import _parser

    return _parser().parse_args([*command(server, key_file), "--repository", str(folder), "--write"])


def test_server_that_is_gone_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(model_control, "AWAY_S", 0.5)
    with ModelControl(Endpoint(url="127.0.0.1:1"), MODEL) as control:
        config = config_of(SPEC)
        with pytest.raises(LoadTestError, match="serves what its repository says"):
            control._put_back(config)


def test_tune_refuses_what_it_cannot_do(capsys):
    for arguments, said in (
        (["locate"], "tune its steps: iq_features, heimdall_net"),
        ([MODEL, "--write"], "without --repository"),
        ([MODEL, "--rounds", "0"], "got 0 rounds"),
    ):
        assert main(["tune", *arguments, "--url", "127.0.0.1:1"]) == 2
        assert said in capsys.readouterr().err


@pytest.mark.server
def test_tune_refuses_a_device_of_another_target(tuned_server, control, key_file, capsys):
    assert main(command(tuned_server, key_file, "--device", "gpu-h100")) == 2
    assert "runs as KIND_CPU, and gpu-h100 is a gpu" in capsys.readouterr().err
