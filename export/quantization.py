"""INT8 graphs for CPUs: matrix products in 8 bits, by ONNX Runtime's quantizer, in standard ONNX operators.

Weights are quantized per channel and in 7 bits: on processors without VNNI two products of 8 bits overflow the 16 bits
they are added in, without a sign of it, and the gate may have run on a processor that has VNNI. Activations are
quantized per tensor in 8 bits, either by ranges measured once on calibration inputs (`static`) or by the range of each
batch (`dynamic`). Convolutions stay in FP32: ConvNeXt's are depthwise, and gained nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

from rfserve.export.errors import GraphError
from rfserve.export.spec.tensor import Array

STATIC, DYNAMIC = "static", "dynamic"
METHODS = (STATIC, DYNAMIC)
QUANTIZED_OPS = ("MatMul", "Gemm")
NETWORK, STAGES = "/network", "stages"


@dataclass(frozen=True, kw_only=True)
class Quantizer:
    """Quantizes one FP32 graph, some of its products or all. `calibration` holds rows of inputs by name.

    `ranges_file` is where the activations' ranges are kept from one run to the next; it need not exist.
    """

    graph: Path
    ranges_file: Path
    method: str
    calibration: Mapping[str, Array]

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise GraphError(f"quantization: got {self.method!r}; expected one of {', '.join(METHODS)}")

    def candidates(self) -> list[str]:
        """The names of the nodes that can be quantized; `GraphError` when there is none."""
        model = onnx.load(self.graph, load_external_data=False)
        weights = {i.name for i in model.graph.initializer}
        found = [n.name for n in model.graph.node if n.op_type in QUANTIZED_OPS and n.input[1] in weights]
        if not found:
            raise GraphError(f"{self.graph.name} has no matrix product with constant weights to quantize")
        return found

    def write(self, file: Path, nodes: Sequence[str]) -> None:
        """Write the graph with these nodes in 8 bits."""
        common: dict[str, Any] = {"op_types_to_quantize": list(QUANTIZED_OPS), "nodes_to_quantize": list(nodes)}
        common |= {"per_channel": True, "reduce_range": True, "weight_type": QuantType.QInt8}
        if self.method == DYNAMIC:
            quantize_dynamic(self.graph, file, **common)
            return
        quantize_static(
            self.graph,
            file,
            _Rows(self.calibration),
            # The ranges do not depend on what is quantized, and finding them takes longest.
            calibration_cache_path=self.ranges_file,
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            **common,
        )


class _Rows(CalibrationDataReader):  # type: ignore[misc]
    """Feeds the calibration row by row."""

    def __init__(self, inputs: Mapping[str, Array]) -> None:
        self._rows = self._each(inputs)

    @staticmethod
    def _each(inputs: Mapping[str, Array]) -> Iterator[dict[str, Array]]:
        for row in range(len(next(iter(inputs.values())))):
            yield {name: array[row : row + 1] for name, array in inputs.items()}

    def get_next(self) -> dict[str, Array] | None:
        """The next row; None after the last."""
        return next(self._rows, None)


def groups(nodes: Sequence[str], *, depth: int) -> dict[str, list[str]]:
    """Nodes by the part that they belong to: their stage at `depth` 1, their block in it at 2.

    `/network/stages/stages.0/blocks/blocks.1/mlp/fc1/MatMul` is of `stages.0` and of `stages.0/blocks.1`. A block is
    the smallest part, since its products feed each other. What is in no stage is grouped by its name below the network.
    """
    found: dict[str, list[str]] = {}
    for node in nodes:
        path = node.removeprefix(f"{NETWORK}/").split("/")
        numbered = [part for part in path if "." in part]
        name = "/".join(numbered[:depth]) if path[0] == STAGES else path[0]
        found.setdefault(name, []).append(node)
    return found
