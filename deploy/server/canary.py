"""One small inference that shows whether a model answers, made from nothing but the model's own configuration."""

import json
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from enum import StrEnum
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rfserve.server.http_api import Answer, HttpApi

REQUEST_ID = "rfserve-canary"
# Where neither dims nor warm-up say a size.
UNKNOWN_SIZE = 1
DTYPES = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    # NumPy has none; 0 is 0 in either.
    "BF16": np.uint16,
    "FP32": np.float32,
    "FP64": np.float64,
}
_DEAD = "is not healthy"
# Triton's words for a full queue and an expired request, and for a model that is being unloaded or swapped.
_QUEUED = ("Exceeds maximum queue size", "timeout expired")
_ALIVE = (*_QUEUED, "stopped accepting")


class Outcome(StrEnum):
    """What a canary says of its model, from good to bad."""

    OK = "ok"
    BUSY = "busy"
    """Refused by a queue, or by the model's own checks: somebody is there."""
    SILENT = "silent"
    """No answer in time."""
    FAILED = "failed"
    """An error of the server's own."""
    DEAD = "dead"
    """Triton itself says that the process behind an instance is gone."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """The outcome, how long the whole call took, the reason when it is not `OK`, and how many of them were answered."""

    outcome: Outcome
    latency_s: float
    reason: str = ""
    answered: int = 0

    @property
    def kept_by_queue(self) -> bool:
        """Whether no instance was asked, as the queue was full or too slow: that says nothing of the instances."""
        return any(words in self.reason for words in _QUEUED)


@dataclass(frozen=True, kw_only=True)
class Canary:
    """A request of batch 1 for `model`, in the binary form of Triton's HTTP endpoint, ready to be sent."""

    model: str
    instances: int
    body: bytes
    header_bytes: int

    def send(self, http: HttpApi, deadline_s: float) -> Result:
        """Send one for every instance, all at once so that they spread; the worst result counts, else the slowest."""
        if self.instances == 1:
            return self._send_once(http, deadline_s)
        with ThreadPoolExecutor(self.instances) as pool:
            results = list(pool.map(lambda _: self._send_once(http, deadline_s), range(self.instances)))
        worst = max(results, key=lambda r: (list(Outcome).index(r.outcome), r.latency_s))
        return replace(worst, answered=sum(r.answered for r in results))

    def _send_once(self, http: HttpApi, deadline_s: float) -> Result:
        began = time.monotonic()
        answer = http.call(
            f"/v2/models/{self.model}/infer",
            self.body,
            timeout_s=deadline_s,
            headers={"Inference-Header-Content-Length": str(self.header_bytes)},
        )
        latency_s = time.monotonic() - began
        outcome, reason = verdict(answer)
        return Result(outcome=outcome, latency_s=latency_s, reason=reason, answered=int(answer.ok))


def verdict(answer: Answer) -> tuple[Outcome, str]:
    """What an answer to an inference says, and why."""
    if answer.ok:
        empty = _empty_outputs(answer.body)
        return (Outcome.FAILED, f"empty outputs: {', '.join(empty)}") if empty else (Outcome.OK, "")
    reason = answer.reason
    if _DEAD in reason:
        return Outcome.DEAD, reason
    if answer.status == 0:
        return Outcome.SILENT, "no answer in time"
    # 4xx is the model's own no, 503 that of a queue; a broken instance answers 500.
    if answer.status < 500 or answer.status == 503 or any(words in reason for words in _ALIVE):
        return Outcome.BUSY, reason
    return Outcome.FAILED, reason


def from_server(http: HttpApi, model: str, deadline_s: float) -> Canary | None:
    """The canary of a served model, or of an ensemble; None when no version is served."""
    config = http.config(model)
    if config is None:
        return None
    return from_config(config, deadline_s, [http.config(s) or {} for s in ensemble_steps(config)])


def from_config(config: Mapping[str, Any], deadline_s: float, steps: Sequence[Mapping[str, Any]] = ()) -> Canary:
    """The canary of the model with this configuration (`/v2/models/M/config`); of an ensemble, with those of its steps.

    Sizes that the configuration leaves open are those of the first warm-up. Numbers are ones, whole numbers zeros, and
    of a mask the first element alone is set: one receiver is computed, the rest is padding.
    """
    batched = int(config.get("max_batch_size", 0)) > 0
    warm = _warm_up_dims(config)
    mapped = (config.get("ensemble_scheduling") or {}).get("step") or []
    for step, step_config in zip(mapped, steps, strict=False):
        inner_dims = _warm_up_dims(step_config)
        warm |= {outer: inner_dims[inner] for inner, outer in step["input_map"].items() if inner in inner_dims}
    inputs, payload = [], b""
    for tensor in config["input"]:
        dims = warm.get(tensor["name"]) or [int(d) for d in tensor["dims"]]
        shape = [*([1] if batched else []), *(d if d > 0 else UNKNOWN_SIZE for d in dims)]
        datatype = str(tensor["data_type"]).removeprefix("TYPE_").replace("STRING", "BYTES")
        data = _values(shape, datatype)
        payload += data
        inputs.append(
            {
                "name": tensor["name"],
                "shape": shape,
                "datatype": datatype,
                "parameters": {"binary_data_size": len(data)},
            }
        )
    # A server that looks at it drops a canary whose sender has given up.
    parameters = {"binary_data_output": True, "timeout": int(deadline_s * 1e6)}
    header = json.dumps({"id": REQUEST_ID, "inputs": inputs, "parameters": parameters}).encode()
    return Canary(
        model=str(config["name"]),
        instances=instance_count(config),
        body=header + payload,
        header_bytes=len(header),
    )


def instance_count(config: Mapping[str, Any]) -> int:
    """How many instances execute the model; 1 for an ensemble, which has none of its own."""
    groups = config.get("instance_group") or []
    return sum(int(g.get("count", 1)) * max(1, len(g.get("gpus") or [])) for g in groups) or 1


def ensemble_steps(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The models that an ensemble runs; none for a model of its own."""
    steps = (config.get("ensemble_scheduling") or {}).get("step") or []
    return tuple(str(step["model_name"]) for step in steps)


def _warm_up_dims(config: Mapping[str, Any]) -> dict[str, list[int]]:
    warm_ups = config.get("model_warmup") or [{}]
    return {n: [int(d) for d in t["dims"]] for n, t in (warm_ups[0].get("inputs") or {}).items()}


def _values(shape: list[int], datatype: str) -> bytes:
    if datatype == "BYTES":
        return prod(shape) * b"\0\0\0\0"
    values: NDArray[Any] = np.zeros(shape, dtype=DTYPES[datatype])
    if datatype == "BOOL":
        values.flat[0] = True
    elif datatype.startswith("FP"):
        values[...] = 1
    return values.tobytes()


def _empty_outputs(body: bytes) -> list[str]:
    # Latin-1 maps every byte, so that the binary tail cannot spoil the JSON before it.
    try:
        document, _ = json.JSONDecoder().raw_decode(body.decode("latin-1"))
    except ValueError:
        return ["all"]
    outputs = document.get("outputs", [])
    if not outputs:
        return ["all"]
    return [o["name"] for o in outputs if not (o.get("parameters") or {}).get("binary_data_size") and not o.get("data")]
