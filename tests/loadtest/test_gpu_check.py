"""The check of a GPU, run in full on the CPU: no GPU is needed to know that every step of it works."""

import json
from dataclasses import replace

import numpy as np
import pytest

from rfserve.export import half
from rfserve.loadtest import gpu_check
from rfserve.loadtest.accelerator import QUICK, Device, Peaks, Timing, gpu_name
from rfserve.loadtest.errors import LoadTestError
from rfserve.loadtest.gpu_results import GpuResults

ARGUMENTS = ["--device", "cpu", "--quick", "--batches", "1", "2", "--models", "heimdall_net"]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    file = tmp_path_factory.mktemp("gpu") / "check.json"
    assert gpu_check.main([*ARGUMENTS, "--output", str(file)]) == 0
    return GpuResults.read(file)


@pytest.fixture(scope="module")
def subject():
    return gpu_check.Subject.make("heimdall_net", variant=None, rows=2)


def test_check_measures_every_runtime_precision_and_batch(results):
    found = {(r.runtime, r.precision, r.batch) for r in results.rows}
    assert found == {(r, p, b) for r in ("torch", "onnxruntime") for p in ("fp32", "fp16") for b in (1, 2)}
    assert not results.not_run
    for row in results.rows:
        assert 0 < row.p50_ms <= row.p99_ms
        assert row.rows_per_s > 0
        assert row.share_of_compute > 0
        assert row.parity <= 1


def test_check_counts_the_flops_of_a_network(results):
    """HeimdallNet's are mostly those of its convolutions: between 10 and 1000 a parameter and receiver."""
    (gflop,) = {r.gflop_per_row for r in results.rows}
    assert 0.01 < gflop < 2


def test_check_names_versions_and_no_place(results):
    assert {"torch", "timm", "rfserve"} <= set(results.machine.versions)
    assert results.device.startswith("cpu-")


def test_results_survive_the_file(results, tmp_path):
    results.write(tmp_path / "again.json")
    assert GpuResults.read(tmp_path / "again.json") == results


@pytest.mark.parametrize("content", ["", "[]", json.dumps({"kind": "performance", "schema": 1})])
def test_results_refuse_other_files(tmp_path, content):
    (tmp_path / "other.json").write_text(content)
    with pytest.raises(LoadTestError, match=r"other\.json"):
        GpuResults.read(tmp_path / "other.json")


def test_parity_is_the_share_of_what_is_allowed(subject):
    exact = {name: a.copy() for name, a in subject.expected.items()}
    assert subject.parity(exact, "fp32") == 0
    tolerance_m = subject.spec.tolerance * 10_000
    apart = {**exact, "uncertainties": exact["uncertainties"] + np.float32(10 * tolerance_m)}
    assert subject.parity(apart, "fp32") == pytest.approx(10, rel=0.2)
    # 30 m to the north is what FP16 may do at worst, and three times what it may at the 99th percentile.
    moved = {**exact, "positions": exact["positions"] + np.array([30 / 111_195, 0], np.float32)}
    assert subject.parity(moved, "fp16") == pytest.approx(3, rel=0.1)


def test_check_fails_when_the_device_answers_something_else(monkeypatch, tmp_path, capsys):
    exact = gpu_check.TorchRunner.answer
    monkeypatch.setattr(gpu_check.TorchRunner, "answer", lambda self: {n: a + 1 for n, a in exact(self).items()})
    monkeypatch.setattr(gpu_check, "why_no_onnxruntime", lambda _: "left out")
    file = tmp_path / "check.json"
    assert gpu_check.main([*ARGUMENTS[:-4], "1", "--models", "heimdall_net", "--output", str(file)]) == 1
    said = capsys.readouterr().out
    assert "not run: heimdall_net in ONNX Runtime: left out" in said
    assert "parity: heimdall_net torch fp32 batch 1" in said


def test_a_network_whose_package_is_missing_is_left_out_with_the_reason(monkeypatch):
    def missing(*_, **__):
        raise ModuleNotFoundError("No module named 'timm'", name="timm")

    monkeypatch.setattr(gpu_check, "build", missing)
    check = gpu_check.Check(Device("cpu"), batches=(1,), quick=True)
    check.network("localization_net", "tiny")
    assert check.not_run == ["localization_net: timm is not installed"]


def test_fp16_keeps_in_fp32_what_the_exported_graphs_do():
    assert {f"/network/{p.replace('.', '/')}" for p in gpu_check.SINGLE_PARTS} == set(half.SINGLE_SCOPES)


@pytest.mark.skipif(gpu_check.torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(capsys):
    assert gpu_check.main([]) == 1
    assert "torch sees no GPU here" in capsys.readouterr().err


def test_figures_of_a_cpu_do_not_get_among_the_results(capsys):
    assert gpu_check.main(["--device", "cpu", "--quick"]) == 1
    assert "--output" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("description", "name"),
    [
        ("NVIDIA H200", "gpu-h200"),
        ("NVIDIA H100 80GB HBM3", "gpu-h100"),
        ("Tesla T4", "gpu-t4"),
        ("NVIDIA GeForce RTX 4090", "gpu-4090"),
        ("", "gpu-unknown"),
    ],
)
def test_gpus_are_named_as_budgets_name_them(description, name):
    assert gpu_name(description) == name


def test_peaks_say_what_a_copy_and_a_product_reach():
    device = Device("cpu")
    peaks = Peaks.measure(device, QUICK)
    assert set(peaks.flop_per_s) == {"fp32", "fp16"}
    assert 1e8 < peaks.bytes_per_s < 1e13
    timing = Timing.measure(lambda: None, device, replace(QUICK, fewest_runs=4, seconds=0))
    assert timing.runs == 4
