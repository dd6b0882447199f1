"""FP16 where it is safe only: physical units, sums and weights that do not fit stay in FP32."""

import collections

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from rfserve.export import half, onnx_file
from rfserve.export.errors import GraphError
from rfserve.export.publication import Source, build_network
from rfserve.export.spec import GRAPHS

SPEC = GRAPHS["heimdall_net"]
FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16}
SUMS = ("LayerNormalization", "Softmax", "ReduceSum", "ReduceMean", "ReduceMax", "Sqrt", "Div", "Where", "Softplus")


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    file = tmp_path_factory.mktemp("half") / "single.onnx"
    onnx_file.write(build_network(SPEC, Source()).module, SPEC, file)
    return file


@pytest.fixture(scope="module")
def converted(single):
    file = single.with_name("half.onnx")
    names = half.write(single, file)
    model = onnx.shape_inference.infer_shapes(onnx.load(file), strict_mode=True)
    kinds = {v.name: v.type.tensor_type.elem_type for v in (*model.graph.value_info, *model.graph.input)}
    kinds |= {w.name: w.data_type for w in model.graph.initializer}
    return names, model, kinds


def test_the_graph_keeps_its_inputs_and_outputs(single, converted):
    onnx_file.check(single.with_name("half.onnx"), SPEC)
    assert len(converted[0]) > 60


def test_every_convolution_is_in_fp16_and_every_sum_is_not(converted):
    _, model, kinds = converted
    by_op = collections.defaultdict(set)
    for node in model.graph.node:
        by_op[node.op_type] |= {
            kinds[i] for i in node.input if kinds.get(i) in {TensorProto.FLOAT, TensorProto.FLOAT16}
        }
    assert by_op["Conv"] == {TensorProto.FLOAT16}
    for op in (
        "LayerNormalization",
        "Softmax",
        "ReduceSum",
        "ReduceMean",
        "ReduceMax",
        "Sqrt",
        "Div",
        "Where",
        "Softplus",
    ):
        assert by_op[op] == {TensorProto.FLOAT}, op


def test_physical_units_never_pass_through_fp16(converted):
    _, model, kinds = converted
    for node in model.graph.node:
        if node.name.startswith(half.SINGLE_SCOPES) or not node.name.startswith(half.NETWORK):
            assert TensorProto.FLOAT16 not in {kinds.get(i) for i in node.input} or node.op_type == "Cast", node.name
    casts = [
        n.input[0] for n in model.graph.node if n.op_type == "Cast" and kinds.get(n.output[0]) == TensorProto.FLOAT16
    ]
    assert not {t.name for t in SPEC.inputs} & set(casts)


def test_a_weight_beyond_fp16_stays_in_fp32(single, tmp_path):
    model = onnx.load(single)
    weight = next(n.input[1] for n in model.graph.node if n.op_type == "Conv")
    for initializer in model.graph.initializer:
        if initializer.name == weight:
            array = numpy_helper.to_array(initializer).copy()
            array.flat[0] = 1e5
            initializer.CopyFrom(numpy_helper.from_array(array, weight))
    changed = tmp_path / "single.onnx"
    onnx.save(model, changed)
    half.write(changed, tmp_path / "half.onnx")
    kept = {i.name: i.data_type for i in onnx.load(tmp_path / "half.onnx").graph.initializer}
    assert kept[weight] == TensorProto.FLOAT


def test_a_graph_without_products_is_refused(tmp_path):
    node = onnx.helper.make_node("Relu", ["a"], ["b"], "/network/relu")
    value = [onnx.helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch"]) for n in "ab"]
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([node], "g", value[:1], value[1:])), tmp_path / "a.onnx")
    with pytest.raises(GraphError, match="no part that FP16 is for"):
        half.write(tmp_path / "a.onnx", tmp_path / "b.onnx")


def test_scaling_far_from_the_origin_costs_nothing(single, converted):
    """Degrees around 60 would be rounded to 0.03° in FP16, which is 3 km."""
    from rfserve.export.scene import scenes

    rows = scenes(SPEC, 8, seed=2)
    names = ("single", "half")
    answers = [onnx_file.run_session(onnx_file.open_session(single.with_name(f"{n}.onnx")), rows) for n in names]
    assert np.abs(answers[0]["positions"] - answers[1]["positions"]).max() < 1e-3
