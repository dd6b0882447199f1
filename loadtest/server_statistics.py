"""What Triton counted between two moments: requests, batches, and where their time went."""

from dataclasses import dataclass
from typing import Any

import grpc
from tritonclient.grpc import service_pb2

from rfserve.clients.errors import RESTRICTED_TEXT
from rfserve.loadtest.endpoint import Endpoint
from rfserve.loadtest.measurement import ServerSplit

SERVICE = "/inference.GRPCInferenceService"
TIMEOUT_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Counts:
    """All that a server counted of a model since it was loaded; `note` says why there is nothing."""

    requests: int = 0
    executions: int = 0
    rows: int = 0
    queue_ns: int = 0
    compute_ns: int = 0
    note: str = ""


def counts(channel: Any, endpoint: Endpoint, model: str) -> Counts:
    """What the server has counted of all versions of a model by now; never raises."""
    request = service_pb2.ModelStatisticsRequest(name=model)
    try:
        answer = call(channel, "ModelStatistics", request, service_pb2.ModelStatisticsResponse, endpoint)
    except grpc.RpcError as error:
        text = error.details() or ""
        why = "the server keeps them to its administrator; give --admin-key-file" if RESTRICTED_TEXT in text else text
        return Counts(note=f"no statistics: {why}")
    found = answer.model_stats
    parts = [s.inference_stats for s in found]
    compute = sum(p.compute_input.ns + p.compute_infer.ns + p.compute_output.ns for p in parts)
    return Counts(
        requests=sum(p.success.count for p in parts),
        executions=sum(s.execution_count for s in found),
        rows=sum(s.inference_count for s in found),
        queue_ns=sum(p.queue.ns for p in parts),
        compute_ns=compute,
    )


def split(before: Counts, after: Counts, mean_send_latency_ms: float) -> tuple[ServerSplit | None, str]:
    """What happened between two counts, or None and why it cannot be said."""
    if before.note or after.note:
        return None, before.note or after.note
    requests = after.requests - before.requests
    executions = after.executions - before.executions
    if requests <= 0 or executions <= 0:
        return None, "the server answered nothing in the window, or was started anew"
    queue_ms = (after.queue_ns - before.queue_ns) / requests / 1e6
    compute_ms = (after.compute_ns - before.compute_ns) / requests / 1e6
    return ServerSplit(
        requests=requests,
        executions=executions,
        queue_ms=queue_ms,
        compute_ms=compute_ms,
        network_ms=mean_send_latency_ms - queue_ms - compute_ms,
        mean_batch=(after.rows - before.rows) / executions,
    ), ""


def version(channel: Any, endpoint: Endpoint) -> str:
    """The server's own version; empty when it does not say."""
    try:
        request = service_pb2.ServerMetadataRequest()
        return str(call(channel, "ServerMetadata", request, service_pb2.ServerMetadataResponse, endpoint).version)
    except grpc.RpcError:
        return ""


def call(
    channel: Any, method: str, request: Any, answer: Any, endpoint: Endpoint, *, timeout_s: float = TIMEOUT_S
) -> Any:
    """One of the service's calls; `grpc.RpcError` when it fails."""
    ask = channel.unary_unary(
        f"{SERVICE}/{method}",
        request_serializer=type(request).SerializeToString,
        response_deserializer=answer.FromString,
    )
    return ask(request, timeout=timeout_s, metadata=endpoint.metadata)
