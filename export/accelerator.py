"""TensorRT behind ONNX Runtime on a GPU: which models take it, and what the `gpu-tensorrt` configuration asks for.

The parameters are those that Triton's stock backend hands on (onnxruntime_backend, `gpu_execution_accelerator` in
src/onnxruntime.cc and the table in its README); it refuses a model with any other. See deploy/TENSORRT.md.
"""

from collections.abc import Mapping

from rfserve.export.spec import ModelSpec

NAME = "tensorrt"
# The provider makes the last folder of this path only: the parent must exist and, where the root file system is read
# only, a writable volume must be mounted there. Every model and version may share it: see `onnx_file.save`.
CACHE_FOLDER = "/var/cache/rfserve"
WORKSPACE_BYTES = 2 * 2**30
# TensorRT's default: what a higher level may gain costs much longer builds.
BUILDER_OPTIMIZATION_LEVEL = 3


def accelerates(spec: ModelSpec) -> bool:
    """Whether TensorRT takes the graph whole, so that a profile of its inputs is all it needs.

    Front ends, which have no weights, compute in FP64, which TensorRT would cast down to FP32. With a mask only active
    rows are computed: their number stands in the data, and where ONNX Runtime splits the graph for it (1.20.1 does), it
    asks for a profile of tensors inside, whose names no spec knows.
    """
    return spec.has_weights and not any(t.values is not None and t.values.kind == "mask" for t in spec.inputs)


def profile(spec: ModelSpec, batch: int, sizes: Mapping[str, int]) -> str:
    """The shape of every input as ONNX Runtime writes a profile: `input:1x3x128x32,other:1x10`."""
    return ",".join(f"{t.name}:{'x'.join(map(str, t.shape(batch, sizes)))}" for t in spec.inputs)


def parameters(spec: ModelSpec, likely_batch: int) -> dict[str, str]:
    """The accelerator's parameters. The engine is fastest at `likely_batch` rows of the served sizes.

    Its bounds are the spec's, so that no request that fits the spec makes it build another engine.
    """
    smallest = {a.name: a.minimum for a in spec.axes}
    largest = {a.name: a.maximum for a in spec.axes}
    return {
        # The export gate compares FP32. A version in FP16 has a gate of its own; TensorRT choosing FP16 has none.
        "precision_mode": "FP32",
        "max_workspace_size_bytes": str(WORKSPACE_BYTES),
        "trt_builder_optimization_level": str(BUILDER_OPTIMIZATION_LEVEL),
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": CACHE_FOLDER,
        # What was timed for one version builds the next one's engine sooner.
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": CACHE_FOLDER,
        "trt_profile_min_shapes": profile(spec, 1, smallest),
        "trt_profile_opt_shapes": profile(spec, likely_batch, spec.served_sizes),
        "trt_profile_max_shapes": profile(spec, spec.max_batch_size, largest),
    }
