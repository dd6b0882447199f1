"""ONNX Runtime's execution providers for one instance, from the stock backend's configuration."""

from pathlib import Path
from typing import Any

import onnxruntime

Provider = tuple[str, dict[str, str]]

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
# The stock backend takes numbers where ONNX Runtime's Python interface takes words.
CUDA_WORDS = {
    "cudnn_conv_algo_search": {"0": "EXHAUSTIVE", "1": "HEURISTIC", "2": "DEFAULT"},
    "arena_extend_strategy": {"0": "kNextPowerOfTwo", "1": "kSameAsRequested"},
    "do_copy_in_default_stream": {"0": "0", "1": "1", "false": "0", "true": "1"},
    "gpu_mem_limit": {},
}
TENSORRT_PRECISIONS = {
    "FP32": {},
    "FP16": {"trt_fp16_enable": "True"},
    "BF16": {"trt_bf16_enable": "True"},
    "INT8": {"trt_int8_enable": "True"},
}
# Three of the stock backend's names for TensorRT are its own; the others are ONNX Runtime's.
TENSORRT_NAMES = {
    "max_workspace_size_bytes": "trt_max_workspace_size",
    "int8_calibration_table_name": "trt_int8_calibration_table_name",
    "int8_use_native_calibration_table": "trt_int8_use_native_calibration_table",
}
TENSORRT_SWITCHES = {
    "trt_build_heuristics_enable",
    "trt_context_memory_sharing_enable",
    "trt_cuda_graph_enable",
    "trt_detailed_build_log",
    "trt_dla_enable",
    "trt_dump_ep_context_model",
    "trt_dump_subgraphs",
    "trt_engine_cache_enable",
    "trt_force_sequential_engine_build",
    "trt_force_timing_cache",
    "trt_int8_use_native_calibration_table",
    "trt_layer_norm_fp32_fallback",
    "trt_sparsity_enable",
    "trt_timing_cache_enable",
}
# The stock backend takes these words in any case; ONNX Runtime's Python interface takes "True" and "False" only.
SWITCH_WORDS = {"0": "False", "1": "True", "false": "False", "true": "True"}
NEEDS = {
    TENSORRT: "expected a GPU, onnxruntime-gpu with the TensorRT libraries that it was built for, and a cache folder "
    "to write to; or serve with the gpu configuration",
    CUDA: "expected a GPU with CUDA and cuDNN, or serve with the cpu configuration",
}


class ProviderError(Exception):
    """A provider that the configuration asks for is not there, does not start, or does not know an option."""


def providers(config: dict[str, Any], *, kind: str, device_id: str) -> list[Provider]:
    """The providers for an instance of this kind (`CPU` or `GPU`), in the order in which they take nodes.

    `config` is the model configuration as Triton writes it in JSON. `ProviderError` for what the stock backend refuses.
    """
    if kind != "GPU":
        return [(CPU, {})]
    # torch's wheels bring CUDA and cuDNN; this finds them.
    onnxruntime.preload_dlls()
    options = {"device_id": device_id}
    for name, words in CUDA_WORDS.items():
        value = config.get("parameters", {}).get(name, {}).get("string_value")
        if value is not None:
            options[name] = words.get(value, value)
    accelerators = config.get("optimization", {}).get("execution_accelerators", {}).get("gpu_execution_accelerator", [])
    return [*(_accelerator(a, device_id) for a in accelerators), (CUDA, options), (CPU, {})]


def _accelerator(accelerator: dict[str, Any], device_id: str) -> Provider:
    if accelerator["name"] != "tensorrt":
        raise ProviderError(f"execution accelerator: got {accelerator['name']!r}; expected tensorrt")
    options = {"device_id": device_id}
    for given, value in accelerator.get("parameters", {}).items():
        if given == "precision_mode":
            if value not in TENSORRT_PRECISIONS:
                raise ProviderError(f"{given}: got {value!r}; expected one of {', '.join(TENSORRT_PRECISIONS)}")
            options |= TENSORRT_PRECISIONS[value]
            continue
        name = TENSORRT_NAMES.get(given, given)
        if not name.startswith("trt_"):
            raise ProviderError(f"accelerator tensorrt: got parameter {given!r}, which the stock backend does not know")
        if name in TENSORRT_SWITCHES and value.lower() not in SWITCH_WORDS:
            raise ProviderError(f"{given}: got {value!r}; expected one of {', '.join(SWITCH_WORDS)}")
        options[name] = SWITCH_WORDS[value.lower()] if name in TENSORRT_SWITCHES else value
    return TENSORRT, options


def open_session(file: Path, options: Any, wanted: list[Provider]) -> Any:
    """The graph on all of these providers; `ProviderError` when one of them cannot start.

    ONNX Runtime itself would go on without it: it warns about CUDA, and opens the graph again without TensorRT.
    """
    names = [name for name, _ in wanted]
    accelerated = TENSORRT in names
    if accelerated and TENSORRT not in onnxruntime.get_available_providers():
        raise ProviderError(
            f"the configuration asks for TensorRT, and ONNX Runtime {onnxruntime.__version__} was built without it; "
            f"{NEEDS[TENSORRT]}"
        )
    try:
        session = onnxruntime.InferenceSession(str(file), options, providers=wanted, enable_fallback=not accelerated)
    except Exception as error:  # ONNX Runtime's exceptions share no base of their own
        if not accelerated:
            raise
        raise ProviderError(f"the graph does not open with TensorRT: {error}; {NEEDS[TENSORRT]}") from error
    missing = [name for name in names if name not in session.get_providers()]
    if missing:
        raise ProviderError(
            f"instance_group asks for a GPU, but ONNX Runtime could not start {missing[0]} here; {NEEDS[missing[0]]}"
        )
    return session
