"""FP16 graphs for GPUs: matrix products and convolutions in half precision, everything that overflows in single.

ONNX Runtime's own converter casts every input of the graph to FP16 first, and back for the nodes that stay in FP32:
degrees would lose their metres. So nodes are converted here one by one, and a value that an FP32 node reads is never
rounded on its way there.
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from rfserve.export import onnx_file
from rfserve.export.errors import GraphError

PRODUCTS = frozenset(["Conv", "Gemm", "MatMul"])
# These run in FP16 where what they read is in FP16 already. All other operators stay in FP32: normalisation, softmax
# and every reduction sum up past 65,504, and masks fill with numbers beyond it.
FOLLOWERS = frozenset(["Gelu", "Relu", "Sigmoid", "Mul", "Add", "Transpose", "Reshape", "Flatten"])
SHAPE_INPUTS = {"Reshape": 1}
# The network without its scaling, and in it the parts that take or make physical units (hertz, degrees, metres).
NETWORK = "/network/"
SINGLE_SCOPES = (
    "/network/receiver_encoder/feature_encoder",
    "/network/geometry_encoder",
    "/network/position_head",
    "/network/uncertainty_head",
)
LARGEST = float(np.finfo(np.float16).max)


def write(single: Path, half: Path) -> list[str]:
    """Convert the FP32 graph `single` to `half`, inputs and outputs unchanged; the names of the nodes in FP16.

    `GraphError` when there is nothing to convert.
    """
    model = onnx.load(single)
    conversion = _Conversion(model.graph)
    if not conversion.converted:
        raise GraphError(f"{single.name} has no part that FP16 is for; export it in FP32")
    onnx_file.save(model, half)
    return conversion.converted


class _Conversion:
    """Rewrites a graph whose nodes stand in topological order."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.converted: list[str] = []
        self._weights = {i.name: i for i in graph.initializer}
        self._halved: dict[str, TensorProto] = {}
        # FP32 value to its FP16 twin; and values of which only the twin exists yet.
        self._half: dict[str, str] = {}
        self._only_half: set[str] = set()
        self._nodes: list[onnx.NodeProto] = []
        for node in graph.node:
            if self._fits(node):
                self._convert(node)
            else:
                for name in node.input:
                    self._restore(name)
                self._nodes.append(node)
        for output in graph.output:
            self._restore(output.name)
        del graph.node[:]
        graph.node.extend(self._nodes)
        used = {name for node in self._nodes for name in node.input}
        kept = [w for w in (*graph.initializer, *self._halved.values()) if w.name in used]
        del graph.initializer[:]
        graph.initializer.extend(kept)
        # What was inferred of converted values is FP32.
        del graph.value_info[:]

    def _fits(self, node: onnx.NodeProto) -> bool:
        if not node.name.startswith(NETWORK) or node.name.startswith(SINGLE_SCOPES):
            return False
        numbers = self._numbers(node)
        if not all(self._small(name) for name in numbers):
            return False
        if node.op_type in PRODUCTS:
            return True
        ready = [name in self._half for name in numbers]
        return (
            node.op_type in FOLLOWERS
            and any(ready)
            and all(known or name in self._weights for known, name in zip(ready, numbers, strict=True))
        )

    def _numbers(self, node: onnx.NodeProto) -> list[str]:
        """The inputs that hold what is computed with, not shapes."""
        return [name for name in node.input[: SHAPE_INPUTS.get(node.op_type)] if name]

    def _small(self, name: str) -> bool:
        """Whether a weight fits into FP16; what is computed is the gate's business."""
        weight = self._weights.get(name)
        if weight is None:
            return True
        return weight.data_type == TensorProto.FLOAT and bool((np.abs(numpy_helper.to_array(weight)) <= LARGEST).all())

    def _convert(self, node: onnx.NodeProto) -> None:
        for index, name in enumerate(node.input[: SHAPE_INPUTS.get(node.op_type)]):
            if name:
                node.input[index] = self._in_half(name)
        for index, name in enumerate(node.output):
            twin = f"{name}_fp16"
            node.output[index] = twin
            self._half[name] = twin
            self._only_half.add(name)
        self._nodes.append(node)
        self.converted.append(node.name)

    def _in_half(self, name: str) -> str:
        twin = self._half.get(name, f"{name}_fp16")
        if name in self._weights:
            if name not in self._halved:
                array = numpy_helper.to_array(self._weights[name]).astype(np.float16)
                self._halved[name] = numpy_helper.from_array(array, twin)
        elif name not in self._half:
            self._half[name] = twin
            self._nodes.append(helper.make_node("Cast", [name], [twin], f"{name}/to_fp16", to=TensorProto.FLOAT16))
        return twin

    def _restore(self, name: str) -> None:
        if name in self._only_half:
            self._only_half.remove(name)
            twin = self._half[name]
            self._nodes.append(helper.make_node("Cast", [twin], [name], f"{name}/to_fp32", to=TensorProto.FLOAT))
