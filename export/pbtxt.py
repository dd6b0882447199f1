"""`config.pbtxt` from a spec: built as Triton's own protobuf message, so that its schema is checked."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2

from rfserve.export import accelerator
from rfserve.export.spec import ENSEMBLES, EnsembleSpec, ModelSpec, TensorSpec, queueing
from rfserve.export.spec.model import Served
from rfserve.export.spec.queueing import Priority, QueueLimits

# A pattern lays all memory of a run out as one block, for each shape that comes. Requests come in many, and the blocks
# do not fit each other's places: a session of `iq_features` held 101 MiB instead of 63, and more after rare shapes.
# Without patterns a run takes as long, within 2 % (each network, one row and two).
CPU_PARAMETERS = {"enable_mem_pattern": "0"}
# What a step before the last adds to its processes' nice value, where CPUs are shared. A step that is done sooner than
# the next one can follow makes work that is then refused: of 2347 windows at twice the capacity of `locate`, 160 were
# for nothing. As it is, the next step goes first, and a request is refused before anything was done for it.
YIELDING_NICE = 10
# Options of the stock backend's CUDA provider that hold only when given as parameters.
CUDA_PARAMETERS = {
    "cudnn_conv_algo_search": "1",  # heuristic: the exhaustive search stalls the first request of every new shape
    "arena_extend_strategy": "1",  # grow by what is asked, not by powers of two
    "do_copy_in_default_stream": "1",
    "gpu_mem_limit": str(8 * 2**30),
}
WARMUP_BATCHES = (1, 8)


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """One of the files that `--model-config-name` picks: a target's placement and version, perhaps accelerated."""

    target: str
    tensorrt: bool = False


CONFIGURATIONS: Mapping[str, Configuration] = {
    "cpu": Configuration(target="cpu"),
    "gpu": Configuration(target="gpu"),
    "gpu-tensorrt": Configuration(target="gpu", tensorrt=True),
}


def config_text(spec: Served, name: str, version: int | None = None, *, cores: int | None = None) -> str:
    """The model configuration of `spec` of one of the `CONFIGURATIONS`, as protobuf text that parses back to itself.

    `version` is the one to serve; without it Triton takes the newest that it finds. `cores` is how many CPU cores the
    target's machines have; without it, what the spec says.
    """
    config = _config(spec, CONFIGURATIONS[name], cores)
    if version is not None:
        config["version_policy"] = {"specific": {"versions": [version]}}
    message = json_format.ParseDict(config, model_config_pb2.ModelConfig())
    text = text_format.MessageToString(message)
    if text_format.Parse(text, model_config_pb2.ModelConfig()) != message:
        raise AssertionError(f"{spec.name}: config.pbtxt does not parse back to what it was made from")
    header = "# Written by `rfserve-export` from the spec of this model; a change here is lost.\n"
    return header + str(text)


def parse(text: str) -> model_config_pb2.ModelConfig:
    """The message that a config file holds; `google.protobuf.text_format.ParseError` when it is none."""
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def names_versions(text: str) -> bool:
    """Whether a config file says which versions to serve, rather than have Triton take the newest that it finds."""
    try:
        return bool(parse(text).version_policy.HasField("specific"))
    except text_format.ParseError:
        return False


def differs(text: str, expected: str) -> bool:
    """Whether two config files say something different; one that does not parse always does."""
    try:
        return bool(parse(text) != parse(expected))
    except text_format.ParseError:
        return True


def _config(spec: Served, configuration: Configuration, cores: int | None) -> dict[str, object]:
    config: dict[str, object] = {
        "name": spec.name,
        "max_batch_size": spec.max_batch_size,
        "input": [_tensor(t) for t in spec.inputs],
        "output": [_tensor(t) for t in spec.outputs],
    }
    if isinstance(spec, EnsembleSpec):
        return config | {"platform": "ensemble", "ensemble_scheduling": {"step": _steps(spec)}}
    if cores is not None:
        spec = spec.on_cores(configuration.target, cores)
    config |= _graph_config(spec, configuration.target)
    if configuration.tensorrt and accelerator.accelerates(spec):
        config["optimization"] = {"execution_accelerators": {"gpu_execution_accelerator": [_tensorrt(spec)]}}
    return config


def _tensorrt(spec: ModelSpec) -> dict[str, object]:
    return {"name": accelerator.NAME, "parameters": accelerator.parameters(spec, _warmup_batches(spec)[-1])}


def _steps(spec: EnsembleSpec) -> list[dict[str, object]]:
    return [
        {
            "model_name": s.model.name,
            "model_version": -1,
            "input_map": dict(s.input_map),
            "output_map": dict(s.output_map),
        }
        for s in spec.steps
    ]


def _graph_config(spec: ModelSpec, target: str) -> dict[str, object]:
    placement = spec.placements[target]
    parameters = {
        "intra_op_thread_count": str(placement.intra_op_threads),
        "inter_op_thread_count": "1",
    }
    # Our backend refuses what is larger; the stock one reads neither this nor `nice`.
    parameters |= {f"bounds.{t.name}": json.dumps(_bounds(spec, t)) for t in spec.inputs}
    parameters |= CUDA_PARAMETERS if target == "gpu" else CPU_PARAMETERS
    if target == "cpu" and spec.name in {s.model.name for e in ENSEMBLES.values() for s in e.steps[:-1]}:
        parameters["nice"] = str(YIELDING_NICE)
    return {
        "backend": "onnxruntime",
        "default_model_filename": "model.onnx",
        "instance_group": [{"kind": f"KIND_{target.upper()}", "count": placement.instances}],
        "dynamic_batching": _batching(spec, target),
        "parameters": {k: {"string_value": v} for k, v in parameters.items()},
        "model_warmup": [_warmup(spec, batch) for batch in _warmup_batches(spec)],
    }


def _batching(spec: ModelSpec, target: str) -> dict[str, object]:
    limits = queueing.queue_limits(spec, target)
    batching: dict[str, object] = {
        "max_queue_delay_microseconds": spec.placements[target].queue_delay_us,
        "priority_levels": len(Priority),
        "default_priority_level": int(Priority.NORMAL),
        "default_queue_policy": _queue_policy(limits[Priority.NORMAL]),
        "priority_queue_policy": {int(level): _queue_policy(found) for level, found in limits.items()},
    }
    rows = queueing.largest_formed_batch(spec, target)
    if rows < spec.max_batch_size:
        # Without a delay, the batcher sends what waits up to this many rows, and never waits for more.
        batching["preferred_batch_size"] = [rows]
    return batching


def _queue_policy(limits: QueueLimits) -> dict[str, object]:
    return {
        "timeout_action": "REJECT",
        # Triton takes the request's own time-out when it is shorter than this, and never without this.
        "default_timeout_microseconds": round(1e3 * limits.timeout_ms),
        "allow_timeout_override": True,
        "max_queue_size": limits.size,
    }


def _tensor(tensor: TensorSpec) -> dict[str, object]:
    return {"name": tensor.name, "data_type": f"TYPE_{tensor.dtype.value}", "dims": list(tensor.dims)}


def _bounds(spec: ModelSpec, tensor: TensorSpec) -> list[int | list[int]]:
    """The sizes behind the batch: a number, or the smallest and the largest."""
    axes = {axis.name: [axis.minimum, axis.maximum] for axis in spec.axes}
    return [a if isinstance(a, int) else axes[a] for a in tensor.axes]


def _warmup_batches(spec: ModelSpec) -> list[int]:
    return [batch for batch in WARMUP_BATCHES if batch <= spec.max_batch_size]


def _warmup(spec: ModelSpec, batch: int) -> dict[str, object]:
    inputs = {
        t.name: {
            "data_type": f"TYPE_{t.dtype.value}",
            "dims": list(t.shape(1, spec.served_sizes)[1:]),
            "input_data_file": t.name,
        }
        for t in spec.inputs
    }
    return {"name": f"served shapes, batch {batch}", "batch_size": batch, "inputs": inputs}
