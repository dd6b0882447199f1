"""Kept figures of a kind of machine: the short form of the benchmark, its file, and the README's table."""

import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import bystanders
import performance as benchmark
import pytest

from rfserve.loadtest import performance
from rfserve.loadtest.cli import main
from rfserve.loadtest.errors import LoadTestError
from rfserve.loadtest.measurement import Machine
from rfserve.loadtest.performance import DIRECT, EAGER, INSTANCE, LOOP, TRITON, Case, Performance

# Ends by itself, whatever becomes of the test.
BUSY = "import time\nend = time.monotonic() + 2\nwhile time.monotonic() < end: pass"
ROOT = Path(__file__).parents[2]
MACHINE = Machine(cpu_model="Some CPU", cores=2, memory_bytes=16 * 2**30, kernel="6.1", python="3.11.7")


def case(**given):
    rounds_ms = {EAGER: (40.0, 44.0, 60.0), DIRECT: (10.0, 11.0, 12.0), INSTANCE: (16.0, 16.0, 16.0)}
    rounds_ms |= {TRITON: (20.0, 22.0, 20.0), LOOP: (80.0, 88.0, 90.0)}
    fields = {"model": "heimdall_net", "kind": "mbconv", "precision": "fp32", "date": "2026-01-02T03:04:05+00:00"}
    fields |= {
        "revision": "abc",
        "versions": {"torch": "2.0", "triton": "2.51.0"},
        "others_cores": 0.02,
        "in_flight": 8,
        "rounds_ms": rounds_ms,
        "rounds_hz": (100.0, 120.0, 50.0),
    }
    return Case(**(fields | given))


@pytest.fixture
def results():
    return Performance(device="cpu-2core", machine=MACHINE, cases=(case(),))


def test_speed_compares_what_one_round_measured():
    speed = case().speed(DIRECT)
    # Over all rounds the medians are 44 and 11; each round has a ratio of its own.
    assert (speed.low, speed.p50, speed.high) == (4.0, 4.0, 5.0)
    assert case().saturated_speed.p50 == pytest.approx(4.0)


def test_file_holds_the_rounds_and_what_follows_from_them(results, tmp_path):
    file = tmp_path / "cpu-2core.json"
    results.write(file)
    assert Performance.read(file) == results
    (entry,) = json.loads(file.read_text())["cases"]
    assert entry["times_eager"][DIRECT] == {"p50": 4.0, "low": 4.0, "high": 5.0}
    assert entry["p50_ms"][EAGER] == 44.0


def test_cases_take_the_place_of_older_ones(results):
    newer, other = case(revision="def"), case(precision="int8")
    merged = results.with_cases(MACHINE, [newer, other])
    assert merged.cases == (newer, other)


def test_another_machine_does_not_mix_in(results):
    with pytest.raises(LoadTestError, match="write another file"):
        results.with_cases(replace(MACHINE, cpu_model="Another CPU"), [case()])


@pytest.mark.parametrize(
    "rounds",
    [{EAGER: (1.0,)}, {EAGER: (1.0,), DIRECT: (1.0, 2.0), INSTANCE: (1.0,), TRITON: (1.0,)}],
)
def test_a_case_without_a_way_or_a_round_is_refused(rounds):
    with pytest.raises(LoadTestError, match="as many rounds of each"):
        case(rounds_ms=rounds, rounds_hz=(1.0,))


def test_other_files_are_refused(tmp_path):
    (tmp_path / "run.json").write_text('{"kind": "gpu_check", "schema": 1}')
    with pytest.raises(LoadTestError, match="expected performance 1"):
        Performance.read(tmp_path / "run.json")
    with pytest.raises(LoadTestError, match="make bench"):
        performance.results_in(tmp_path)


def test_table_says_what_was_measured_on_what(results):
    text = performance.table(results)
    assert "| `heimdall_net` mbconv | fp32 |" in text
    assert "44.0 ms" in text
    assert "11.0 ms · 4.00× (4.00-5.00)" in text
    assert "100 rows/s · 4.00× (3.00-5.28)" in text
    assert "2 cores of Some CPU, 16 GiB; torch 2.0, triton 2.51.0; 2026-01-02" in text


def test_table_names_every_version_that_its_cases_ran_on():
    later = case(precision="int8", date="2026-02-03T04:05:06+00:00", versions={"torch": "2.1", "triton": "2.51.0"})
    text = performance.table(Performance(device="cpu-2core", machine=MACHINE, cases=(case(), later)))
    assert "torch 2.0 and 2.1, triton 2.51.0; 2026-01-02 to 2026-02-03" in text


def test_a_document_without_markers_is_refused(results):
    with pytest.raises(LoadTestError, match="add them where the table belongs"):
        performance.between_markers("nothing", [results])


def test_command_prints_the_table_and_writes_it_into_a_document(results, tmp_path, capsys):
    folder, document = tmp_path / "results", tmp_path / "README.md"
    results.write(folder / "cpu-2core.json")
    (folder / "gpu.json").write_text('{"kind": "gpu_check", "schema": 1}')
    assert main(["table", "--results", str(folder)]) == 0
    assert capsys.readouterr().out == performance.table(results)
    document.write_text(f"before\n{performance.BEGIN}\nold\n{performance.END}\nafter\n")
    for _ in range(2):
        assert main(["table", "--results", str(folder), "--write", str(document)]) == 0
        assert document.read_text() == (
            f"before\n{performance.BEGIN}\n{performance.table(results)}{performance.END}\nafter\n"
        )
    document.write_text("no markers")
    assert main(["table", "--results", str(folder), "--write", str(document)]) == 2
    assert document.read_text() == "no markers"


def test_work_of_this_process_and_its_children_is_not_that_of_others():
    before_s = bystanders.own_s()
    with subprocess.Popen([sys.executable, "-c", BUSY]) as child:
        sum(range(10**6))
        _wait_for(lambda: bystanders.own_s() - before_s > 0.3)
        child.kill()


def test_work_that_this_process_did_not_start_is_that_of_others():
    orphan = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {BUSY!r}])"
    others = bystanders.Bystanders()
    own_s = bystanders.own_s()
    subprocess.run([sys.executable, "-c", orphan], check=True)
    _wait_for(lambda: others.cores() > 0.2)
    assert bystanders.own_s() - own_s < 0.2


def _wait_for(holds):
    end = time.monotonic() + 2
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_rounds_in_which_others_worked_are_made_again(monkeypatch):
    shares = iter([0.0, 0.5, 0.02, 0.11, 0.1, 0.0])
    monkeypatch.setattr(
        benchmark.Bench, "round", lambda _: benchmark.Round(times_ms={}, rates_hz={}, others_cores=next(shares))
    )
    bench = benchmark.Bench(shared={}, own={}, urls={}, requests=[], triton="")
    assert [r.others_cores for r in bench.quiet_rounds(3)] == [0.0, 0.02, 0.1]
    shares = iter([0.5] * 6)
    assert bench.quiet_rounds(3) == []


@pytest.mark.server
@pytest.mark.alone
def test_every_way_of_a_network_is_measured_in_one_run(repository, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "BLOCK_S", 0.01)
    monkeypatch.setattr(benchmark, "ROUND_S", 0.2)
    monkeypatch.setattr(benchmark, "WARM_UP_S", 0.2)
    # Others may well run tests at the same time.
    monkeypatch.setattr(benchmark, "MOST_OTHERS_CORES", 64)
    subject = benchmark.Subject(model="heimdall_net", encoder_order="mbconv")
    shutil.copytree(repository / "heimdall_net", subject.repository(tmp_path, "fp32") / "heimdall_net")
    benchmark.prepare(subject, tmp_path)
    (found,), machine = benchmark.measure(subject, tmp_path, rounds=2, revision="abc")
    assert set(found.rounds_ms) == set(performance.WAYS)
    assert found.versions["triton"].startswith("2.")
    assert (found.revision, machine.versions["revision"]) == ("abc", "abc")
    assert found.saturated_hz.low > 1
    file = tmp_path / "cpu-2core.json"
    benchmark.keep([found], file, machine)
    benchmark.keep([found], file, machine)
    assert Performance.read(file).cases == (found,)
    assert found.speed(LOOP).p50 > 0
