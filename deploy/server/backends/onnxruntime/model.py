"""Triton's `onnxruntime` backend, in Python, for the server that pip installs.

It takes the stock backend's configuration: `instance_group`, the accelerator `tensorrt` for GPU instances, and as
`parameters` the thread counts, the CUDA options, `execution_mode`, `enable_mem_arena` and `enable_mem_pattern`; and
two of its own: `bounds.<input>`, and `nice`, which the instances' processes add to their nice value. It needs nothing
of rfserve; Triton puts this folder on the path, so that it finds the modules beside it.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils
from cpu_affinity import AFFINITY_OPTION, of_instance, stay_on, worker_option
from execution_providers import ProviderError, open_session, providers
from input_bounds import InputBounds
from numpy.typing import NDArray
from wrapped_shapes import Guard

Array = NDArray[Any]

ONNX_TYPES = {
    "TYPE_FP16": "tensor(float16)",
    "TYPE_FP32": "tensor(float)",
    "TYPE_FP64": "tensor(double)",
    "TYPE_INT8": "tensor(int8)",
    "TYPE_INT16": "tensor(int16)",
    "TYPE_INT32": "tensor(int32)",
    "TYPE_INT64": "tensor(int64)",
    "TYPE_UINT8": "tensor(uint8)",
    "TYPE_UINT16": "tensor(uint16)",
    "TYPE_UINT32": "tensor(uint32)",
    "TYPE_UINT64": "tensor(uint64)",
    "TYPE_BOOL": "tensor(bool)",
}


GUARD = Guard()
GUARD.install()


class TritonPythonModel:
    """One instance of one model. Triton makes it, calls `initialize` once and `execute` for every batch."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the graph and compare it with the configuration; an exception fails the load, with its text."""
        config = json.loads(args["model_config"])
        parameters = {k: v["string_value"] for k, v in config.get("parameters", {}).items()}
        folder = Path(args["model_repository"]) / args["model_version"]
        file = folder / (config.get("default_model_filename") or "model.onnx")
        if not file.is_file():
            raise pb_utils.TritonModelException(f"no {file.name} in version {args['model_version']}")
        self.batched = int(config.get("max_batch_size", 0)) > 0
        self.inputs = [t["name"] for t in config["input"]]
        self.outputs = [t["name"] for t in config["output"]]
        self.bounds = InputBounds(config["input"], parameters, batched=self.batched)
        if "nice" in parameters:
            # Of this thread, which runs the graph, and before the session, whose workers inherit it.
            os.nice(int(parameters["nice"]))
        try:
            wanted = providers(config, kind=args["model_instance_kind"], device_id=args["model_instance_device_id"])
            options = _session_options(parameters)
            chosen = of_instance(config, args["model_instance_name"], options.intra_op_num_threads)
            if AFFINITY_OPTION in parameters:
                chosen = ()
            if chosen:
                options.add_session_config_entry(AFFINITY_OPTION, worker_option(chosen))
            self.session = open_session(file, options, wanted)
        except ProviderError as error:
            raise pb_utils.TritonModelException(str(error)) from error
        if chosen:
            # After the session: its workers must not inherit the main thread's CPU.
            stay_on(chosen[0])
        problems = _differences("input", config["input"], self.session.get_inputs(), batched=self.batched)
        problems += _differences("output", config["output"], self.session.get_outputs(), batched=self.batched)
        if problems:
            raise pb_utils.TritonModelException(f"the graph and config.pbtxt differ: {'; '.join(problems)}")

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer the requests of one batch: one run for each group whose shapes agree beyond the batch."""
        GUARD.withdraw()
        answers: list[Any] = [None] * len(requests)
        groups: dict[tuple[Any, ...], list[int]] = {}
        arrays: list[dict[str, Array]] = []
        for index, request in enumerate(requests):
            found = {n: pb_utils.get_input_tensor_by_name(request, n).as_numpy() for n in self.inputs}
            arrays.append(found)
            problem = self.bounds.problem(found)
            if problem:
                error = pb_utils.TritonError(problem, pb_utils.TritonError.INVALID_ARG)
                answers[index] = pb_utils.InferenceResponse(error=error)
                continue
            shapes = tuple(a.shape[1:] if self.batched else (index, *a.shape) for a in found.values())
            groups.setdefault(shapes, []).append(index)
        for members in groups.values():
            self._answer(requests, arrays, members, answers)
        return answers

    def finalize(self) -> None:
        """Let the graph go."""
        del self.session

    def _answer(
        self, requests: Sequence[Any], arrays: list[dict[str, Array]], members: list[int], answers: list[Any]
    ) -> None:
        try:
            outputs = self._run([arrays[i] for i in members])
        except Exception as error:  # ONNX Runtime's exceptions share no base of their own
            if len(members) > 1:
                # One bad request must not fail its neighbours, nor show in their errors.
                for member in members:
                    self._answer(requests, arrays, [member], answers)
            else:
                answers[members[0]] = pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error)))
            return
        begin = 0
        for member in members:
            rows = next(iter(arrays[member].values())).shape[0] if self.batched else 0
            wanted = set(requests[member].requested_output_names())
            answers[member] = pb_utils.InferenceResponse(
                output_tensors=[
                    pb_utils.Tensor(n, np.ascontiguousarray(v[begin : begin + rows]) if self.batched else v)
                    for n, v in zip(self.outputs, outputs, strict=True)
                    if n in wanted
                ]
            )
            begin += rows

    def _run(self, parts: list[dict[str, Array]]) -> list[Array]:
        feed = parts[0] if len(parts) == 1 else {n: np.concatenate([p[n] for p in parts]) for n in self.inputs}
        found: list[Array] = self.session.run(self.outputs, feed)
        return found


def _session_options(parameters: dict[str, str]) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = int(parameters.get("intra_op_thread_count", 0))
    options.inter_op_num_threads = int(parameters.get("inter_op_thread_count", 0))
    if parameters.get("execution_mode") == "1":
        options.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL
    options.enable_cpu_mem_arena = parameters.get("enable_mem_arena", "1") not in {"0", "false"}
    options.enable_mem_pattern = parameters.get("enable_mem_pattern", "1") not in {"0", "false"}
    # Threads may spin within a run, but after it they would take the cores from the server and from other models.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    for key, value in parameters.items():
        if key.startswith("session."):
            options.add_session_config_entry(key, value)
    return options


def _differences(role: str, configured: list[dict[str, Any]], graph: Sequence[Any], *, batched: bool) -> list[str]:
    by_name = {g.name: g for g in graph}
    names = [c["name"] for c in configured]
    if set(names) - set(by_name) or (role == "input" and set(by_name) - set(names)):
        return [f"{role}s: config {sorted(names)}, graph {sorted(by_name)}"]
    problems = []
    for tensor in configured:
        found = by_name[tensor["name"]]
        expected = ONNX_TYPES.get(tensor["data_type"], tensor["data_type"])
        rank = len(tensor["dims"]) + batched
        if found.type != expected or len(found.shape) != rank:
            problems.append(
                f"{role} {tensor['name']}: config {tensor['data_type']} of rank {rank} with batch, graph {found.type} "
                f"of rank {len(found.shape)}"
            )
    return problems
