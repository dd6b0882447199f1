"""What the stock backend's configuration means to ONNX Runtime, and a GPU that is not there."""

import ctypes.util
import json
from pathlib import Path

import onnxruntime
import pytest
from google.protobuf import json_format

from rfserve.export import pbtxt
from rfserve.export.spec import find
from rfserve.server.backends.onnxruntime.execution_providers import (
    CPU,
    CUDA,
    TENSORRT,
    ProviderError,
    open_session,
    providers,
)
from rfserve.server.errors import ModelLoadError
from rfserve.server.options import ServerOptions
from rfserve.server.process import TritonServer

no_gpu = pytest.mark.skipif(
    ctypes.util.find_library("cuda") is not None or ctypes.util.find_library("nvinfer") is not None,
    reason="this machine has a GPU driver or TensorRT; the test is of one that has none",
)


def config(name: str, configuration: str) -> dict:
    """The configuration as Triton hands it to a backend."""
    message = pbtxt.parse(pbtxt.config_text(find(name), configuration))
    return json.loads(json_format.MessageToJson(message, preserving_proto_field_name=True))


def accelerated(**parameters: str) -> dict:
    entry = {"name": "tensorrt", "parameters": parameters}
    return {"optimization": {"execution_accelerators": {"gpu_execution_accelerator": [entry]}}}


def test_cpu_instance_gets_the_cpu_whatever_is_accelerated():
    assert providers(config("localization_net", "gpu-tensorrt"), kind="CPU", device_id="0") == [(CPU, {})]


def test_gpu_instance_gets_the_options_in_onnx_runtimes_words():
    found = providers(config("localization_net", "gpu"), kind="GPU", device_id="1")
    options = {
        "device_id": "1",
        "cudnn_conv_algo_search": "HEURISTIC",
        "arena_extend_strategy": "kSameAsRequested",
        "do_copy_in_default_stream": "1",
        "gpu_mem_limit": str(8 * 2**30),
    }
    assert found == [(CUDA, options), (CPU, {})]


def test_tensorrt_comes_first_with_the_parameters_of_the_configuration():
    found = providers(config("localization_net", "gpu-tensorrt"), kind="GPU", device_id="1")
    assert [name for name, _ in found] == [TENSORRT, CUDA, CPU]
    assert found[0][1] == {
        "device_id": "1",
        "trt_max_workspace_size": str(2 * 2**30),
        "trt_builder_optimization_level": "3",
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": "/var/cache/rfserve",
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": "/var/cache/rfserve",
        "trt_profile_min_shapes": "mel_spectrogram:1x3x128x32",
        "trt_profile_opt_shapes": "mel_spectrogram:8x3x128x32",
        "trt_profile_max_shapes": "mel_spectrogram:32x3x128x32",
    }
    assert found[1:] == providers(config("localization_net", "gpu"), kind="GPU", device_id="1")


@pytest.mark.parametrize(
    ("given", "option"),
    [
        ({"precision_mode": "FP16"}, {"trt_fp16_enable": "True"}),
        ({"precision_mode": "FP32"}, {}),
        ({"int8_use_native_calibration_table": "true"}, {"trt_int8_use_native_calibration_table": "True"}),
        ({"trt_engine_cache_enable": "0"}, {"trt_engine_cache_enable": "False"}),
        ({"trt_engine_cache_prefix": "true"}, {"trt_engine_cache_prefix": "true"}),
    ],
)
def test_parameter_is_translated(given, option):
    assert providers(accelerated(**given), kind="GPU", device_id="0")[0] == (TENSORRT, {"device_id": "0"} | option)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (accelerated(precision_mode="FP8"), "precision_mode: got 'FP8'; expected one of FP32"),
        (accelerated(workspace="1"), "got parameter 'workspace'"),
        (accelerated(trt_engine_cache_enable="yes"), "trt_engine_cache_enable: got 'yes'; expected one of 0, 1"),
        (
            {"optimization": {"execution_accelerators": {"gpu_execution_accelerator": [{"name": "openvino"}]}}},
            "got 'openvino'; expected tensorrt",
        ),
    ],
)
def test_parameter_that_the_stock_backend_refuses_is_refused(given, message):
    with pytest.raises(ProviderError, match=message):
        providers(given, kind="GPU", device_id="0")


@no_gpu
@pytest.mark.parametrize(
    ("configuration", "message"),
    [
        ("gpu", "could not start CUDAExecutionProvider"),
        ("gpu-tensorrt", "does not open with TensorRT: "),
    ],
)
def test_provider_that_cannot_start_is_an_error_not_the_next_provider(configuration, message, repository: Path):
    wanted = providers(config("localization_net", configuration), kind="GPU", device_id="0")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    with pytest.raises(ProviderError, match=message):
        open_session(repository / "localization_net" / "1" / "model.onnx", options, wanted)


def test_onnx_runtime_without_tensorrt_is_named(monkeypatch, tmp_path: Path):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CPU])
    with pytest.raises(ProviderError, match=f"ONNX Runtime {onnxruntime.__version__} was built without it"):
        open_session(tmp_path / "model.onnx", onnxruntime.SessionOptions(), [(TENSORRT, {}), (CPU, {})])


@no_gpu
@pytest.mark.server
def test_triton_refuses_the_configuration_without_a_gpu(repository: Path):
    options = ServerOptions(
        repository=repository,
        config="gpu-tensorrt",
        models=("localization_net",),
        grpc_port=0,
        http_port=0,
        metrics_port=0,
    )
    with pytest.raises(ModelLoadError, match="kind KIND_GPU but no GPUs are available"):
        TritonServer(options).start()
