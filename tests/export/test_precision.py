"""A version of another precision is published behind a gate in metres, or not at all."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from rfserve.export import half, onnx_file, pbtxt, precision, quantization_search
from rfserve.export.cli import main
from rfserve.export.drift_gate import Gate, exceeded
from rfserve.export.errors import DriftError, ExportError
from rfserve.export.publication import Source, build_network, publish
from rfserve.export.quantization import DYNAMIC, STATIC, Quantizer, groups
from rfserve.export.quantization_search import Search
from rfserve.export.repository import Repository
from rfserve.export.scaling import Scaling, moved_home
from rfserve.export.scene import scenes
from rfserve.export.spec import GRAPHS
from rfserve.export.spec.precision import FP16, FP32, INT8, PRECISIONS, DriftLimit
from rfserve.export.verification import problems

pytestmark = pytest.mark.usefixtures("brief_gate")

SPEC = GRAPHS["localization_net"]
WIDE = DriftLimit(position_p99_m=1e6, position_worst_m=1e6, sigma_p99_percent=1e6, sigma_worst_percent=1e6)


@pytest.fixture(scope="module")
def single(tmp_path_factory) -> Path:
    file: Path = tmp_path_factory.mktemp("precision") / "single.onnx"
    onnx_file.write(build_network(SPEC, Source(variant="tiny")).module, SPEC, file)
    return file


@pytest.fixture(scope="module")
def gate(single: Path) -> Gate:
    return Gate(SPEC, single, batches=2)


@pytest.fixture(scope="module")
def quantizer(single: Path) -> Quantizer:
    rows = scenes(SPEC, 6, seed=9)
    return Quantizer(graph=single, ranges_file=single.with_name("ranges.json"), method=STATIC, calibration=rows)


@pytest.fixture(scope="module")
def quantized(quantizer: Quantizer, single: Path) -> Path:
    file = single.with_name("int8.onnx")
    quantizer.write(file, quantizer.candidates())
    return file


def test_every_model_decides_on_every_precision():
    for spec in GRAPHS.values():
        assert {FP32, *spec.drift_limits, *spec.not_offered} == set(PRECISIONS), spec.name


@pytest.mark.parametrize("spec", GRAPHS.values(), ids=lambda s: s.name)
@pytest.mark.parametrize("wanted", [FP16, INT8])
def test_a_precision_that_is_not_offered_is_refused_with_the_reason(spec, wanted, tmp_path: Path):
    if wanted in spec.drift_limits:
        precision.require_offered(spec, wanted)
        return
    with pytest.raises(ExportError, match=f"not offered in {wanted}: .*use fp32"):
        publish(spec, Repository(tmp_path / "new"), Source(precision=wanted), version=None, report=lambda _: None)
    assert not (tmp_path / "new").exists()


def test_int8_is_in_standard_operators_and_survives_processors_without_vnni(quantized: Path):
    onnx_file.check(quantized, SPEC)
    weights = [numpy_helper.to_array(i) for i in onnx.load(quantized).graph.initializer]
    matrices = [w for w in weights if w.dtype == np.int8 and w.ndim == 2]
    assert len(matrices) == 42
    # 7 bits: two products of 8-bit numbers fit into the 16 bits that they are added in.
    assert max(int(np.abs(m.astype(int)).max()) for m in matrices) <= 64


def test_static_int8_rows_do_not_notice_their_neighbours(quantized: Path):
    session = onnx_file.open_session(quantized)
    rows = scenes(SPEC, 4, seed=5)
    together = onnx_file.run_session(session, rows)
    name = SPEC.inputs[0].name
    hostile = {name: rows[name].copy()}
    hostile[name][1] *= 1e4
    hostile[name][2] = np.nan
    beside = onnx_file.run_session(session, hostile)
    for output in SPEC.outputs:
        for row in (0, 3):
            alone = onnx_file.run_session(session, {name: rows[name][row : row + 1]})[output.name]
            np.testing.assert_allclose(beside[output.name][row], alone[0], rtol=1e-5)
            np.testing.assert_allclose(together[output.name][row], alone[0], rtol=1e-5)
        assert np.isnan(beside[output.name][2]).all()


def test_dynamic_int8_passes_its_gate_but_its_rows_depend_on_the_batch(gate: Gate, single: Path, tmp_path: Path):
    file = tmp_path / "model.onnx"
    rows = scenes(SPEC, 4, seed=5)
    quantizer = Quantizer(graph=single, ranges_file=tmp_path / "none", method=DYNAMIC, calibration={})
    quantizer.write(file, quantizer.candidates())
    onnx_file.check(file, SPEC)
    session = onnx_file.open_session(file)
    assert not exceeded(gate.drift(session, batches=2), WIDE)
    together = onnx_file.run_session(session, rows)["uncertainties"]
    alone = onnx_file.run_session(session, {n: a[:1] for n, a in rows.items()})["uncertainties"]
    # Which is why static is the default.
    assert (together[0] != alone[0]).any()


def test_an_unknown_method_is_refused(single: Path):
    with pytest.raises(ExportError, match="got 'guess'; expected one of static, dynamic"):
        Quantizer(graph=single, ranges_file=single, method="guess", calibration={})


def test_parts_are_blocks_of_stages():
    nodes = [
        "/network/stages/stages.2/blocks/blocks.13/mlp/fc1/MatMul",
        "/network/stages/stages.2/blocks/blocks.13/mlp/fc2/MatMul",
        "/network/stages/stages.2/blocks/blocks.1/mlp/fc2/MatMul",
        "/network/position_head/position_head.0/Gemm",
    ]
    assert groups(nodes, depth=1) == {"stages.2": nodes[:3], "position_head": nodes[3:]}
    assert set(groups(nodes, depth=2)) == {"stages.2/blocks.13", "stages.2/blocks.1", "position_head"}


def test_the_search_keeps_what_hurts_most_in_fp32(gate: Gate, quantizer: Quantizer, tmp_path: Path):
    file = tmp_path / "model.onnx"
    said: list[str] = []
    kept, free = Search(gate, quantizer, WIDE, said.append).write(file)
    assert kept == ()
    assert said == []
    # Half of what INT8 costs by itself: the heads of this network make nearly all of it.
    tight = replace(WIDE, position_p99_m=free.position_p99_m / 2)
    kept, drift = Search(gate, quantizer, tight, said.append).write(file)
    assert kept[0] == "position_head"
    assert not exceeded(drift, tight)
    assert any("position_head alone" in s for s in said)
    in_float = [n.name for n in onnx.load(file).graph.node if n.op_type == "Gemm" and "position_head" in n.name]
    initializers = {i.name for i in onnx.load(file).graph.initializer if i.data_type == onnx.TensorProto.FLOAT}
    by_name = {n.name: n for n in onnx.load(file).graph.node}
    assert in_float
    assert all(by_name[n].input[1] in initializers for n in in_float)


def test_the_search_gives_up_when_half_in_fp32_is_not_enough(
    gate: Gate, quantizer: Quantizer, tmp_path: Path, monkeypatch
):
    # Whole stages are enough to search among here.
    monkeypatch.setattr(quantization_search, "SPLIT_SHARE", np.inf)
    impossible = replace(WIDE, position_p99_m=1e-12, position_worst_m=1e-12)
    kept, drift = Search(gate, quantizer, impossible, lambda _: None).write(tmp_path / "model.onnx")
    assert exceeded(drift, impossible)
    assert len(kept) == 3


def test_the_gate_sees_a_variant_that_answers_for_a_row_that_is_not_finite(gate: Gate, quantized: Path, tmp_path: Path):
    assert gate.drift(gate.single, batches=2).position_worst_m == 0
    assert np.isfinite(gate.drift(onnx_file.open_session(quantized), batches=2).position_worst_m)
    model = onnx.load(quantized)
    # QuantizeLinear makes a number of NaN: what says that a row is unusable must not be lost.
    for mask in [n for n in model.graph.node if n.op_type == "Where"]:
        mask.CopyFrom(onnx.helper.make_node("Identity", [mask.input[1]], list(mask.output), mask.name))
    onnx.save(model, tmp_path / "careless.onnx")
    assert gate.drift(onnx_file.open_session(tmp_path / "careless.onnx"), batches=2).position_worst_m == np.inf


def test_published_int8_serves_cpus_and_leaves_gpus_what_they_had(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr(precision, "Gate", lambda spec, file, moved: Gate(spec, file, moved=moved, batches=2))
    folder = tmp_path / "repository"
    # In units of 1 km instead of 10 all of it may be quantized, without a search.
    scaling = tmp_path / "scaling.json"
    scaling.write_text(json.dumps({"origin": [45.0, 7.5], "target_scale": [1000, 1000]}))
    common = ["--repository", str(folder), "--variant", "tiny", "--scaling", str(scaling)]
    assert main(["write", "localization_net", *common]) == 0
    assert main(["write", "localization_net", *common, "--precision", "int8"]) == 0
    repository = Repository(folder)
    manifest = repository.manifest("localization_net", 2)
    assert manifest.precision == INT8
    assert manifest.drift is not None
    assert manifest.drift["size_ratio"] < 0.35
    assert 0 < manifest.drift["position_p99_m"] <= SPEC.drift_limits[INT8].position_p99_m
    assert json.loads(json.dumps(manifest.drift)) == manifest.drift
    served = {
        name: list(pbtxt.parse(content.decode()).version_policy.specific.versions)
        for name, content in repository.expected_files(SPEC).items()
        if name.endswith(".pbtxt")
    }
    assert served["configs/cpu.pbtxt"] == served["config.pbtxt"] == []
    assert served["configs/gpu.pbtxt"] == [1]
    assert problems(repository, "localization_net") == []
    capsys.readouterr()
    assert main(["list", "--repository", str(folder)]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[1:3] for line in listed] == [["1", "gpu"], ["2", "cpu"]]
    assert f"int8  untrained (seed 0)  tiny within {manifest.drift['position_p99_m']:.3g} m of fp32 at p99" in listed[1]


def test_a_variant_over_its_limit_is_not_published(tmp_path: Path, monkeypatch):
    limit = DriftLimit(position_p99_m=1e-9, position_worst_m=1e-9, sigma_p99_percent=1e-9, sigma_worst_percent=1e-9)
    spec = replace(SPEC, drift_limits={FP16: limit, INT8: limit})
    monkeypatch.setattr(precision, "Gate", lambda spec, file, moved: Gate(spec, file, moved=moved, batches=2))
    source = Source(variant="tiny", precision=FP16)
    with pytest.raises(DriftError, match=r"in fp16 .*position_p99_m is .*, allowed 1e-09.*Nothing was published"):
        publish(spec, Repository(tmp_path / "new"), source, version=None, report=lambda _: None)
    assert not (tmp_path / "new" / "localization_net").exists()


CAMPUS = Scaling(
    origin=(40.76, -111.84),
    features_are_local=True,
    feature_offset=(20.0, -100.0, 0.0, 0.0, 0.0, 0.0),
    feature_scale=(20.0, 40.0, 1_000.0, 500.0, 500.0, 1_000.0),
    position_scale=(500.0, 500.0, 1_000.0),
    target_scale=(500.0, 500.0),
    reach_m=1_000.0,
)


def test_gate_sees_the_sigma_of_a_network_that_knows_a_single_place(tmp_path: Path, monkeypatch):
    """Anywhere else on Earth its sigma is only the distance, and a wrong head of it would pass."""
    write = half.write

    def write_spoiled(single: Path, file: Path) -> list[str]:
        nodes = write(single, file)
        model = onnx.load(file)
        bias = next(i for i in model.graph.initializer if i.name.endswith("uncertainty_head.2.bias"))
        bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(3), bias.name))
        onnx.save(model, file)
        return nodes

    monkeypatch.setattr(half, "write", write_spoiled)
    monkeypatch.setattr(precision, "Gate", lambda spec, file, moved: Gate(spec, file, moved=moved, batches=2))
    source = Source(scaling=CAMPUS, precision=FP16)
    with pytest.raises(DriftError, match=r"sigma_p99_percent is .*, allowed 1"):
        publish(GRAPHS["heimdall_net"], Repository(tmp_path), source, version=None, report=lambda _: None)


def test_scenes_that_are_moved_keep_their_receivers_apart():
    rows = scenes(GRAPHS["heimdall_net"], 12, seed=3, moved=partial(moved_home, CAMPUS))
    for places, features, mask in zip(rows["receiver_positions"], rows["features"], rows["mask"], strict=True):
        metres = (places[mask, :2] - np.float32(CAMPUS.origin)) * CAMPUS.metres_per_degree
        assert np.hypot(*metres.mean(0)) < 5
        assert mask.sum() == 1 or np.allclose(metres.std(0), 500, rtol=0.01)
        np.testing.assert_array_equal(features[mask, 3:5], places[mask, :2])
