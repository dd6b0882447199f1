"""What Triton counted between two moments: requests, batches, and where their time went.

Each server counts what it was asked itself, since it started. Two counts are compared only when both are of one server;
there are none where a name has several, because nobody knows which of them says it.
"""

from collections.abc import Collection
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import grpc
from tritonclient.grpc import service_pb2

from rfserve.clients.errors import RESTRICTED_TEXT
from rfserve.loadtest.endpoint import Endpoint, are_several
from rfserve.loadtest.errors import LoadTestError
from rfserve.loadtest.measurement import ServerSplit

SERVICE = "/inference.GRPCInferenceService"
TIMEOUT_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Counts:
    """All that the server at `addresses` counted of a model since it was loaded; `note` says why there is nothing."""

    requests: int = 0
    executions: int = 0
    rows: int = 0
    queue_ns: int = 0
    compute_ns: int = 0
    addresses: frozenset[str] = frozenset()
    note: str = ""


def counts(endpoint: Endpoint, models: Collection[str]) -> dict[str, Counts]:
    """What the server has counted of all versions of each model by now; never raises."""
    try:
        addresses = endpoint.addresses()
        if are_several(addresses):
            note = (
                f"no statistics: {endpoint.url} has {len(addresses)} addresses, and each server counts for itself; "
                "give the address of one alone to see them"
            )
            return dict.fromkeys(models, Counts(note=note))
        # A connection from before may be to a server that the name does not stand for any more.
        with closing(endpoint.channel()) as channel:
            return {m: _counts(channel, endpoint, m, addresses) for m in models}
    except (OSError, LoadTestError) as error:
        return dict.fromkeys(models, Counts(note=f"no statistics: {endpoint.url}: {error}"))


def _counts(channel: Any, endpoint: Endpoint, model: str, addresses: frozenset[str]) -> Counts:
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
        addresses=addresses,
    )


def split(before: Counts, after: Counts, mean_send_latency_ms: float) -> tuple[ServerSplit | None, str]:
    """What happened between two counts, or None and why it cannot be said."""
    if before.note or after.note:
        return None, before.note or after.note
    if before.addresses != after.addresses:
        return None, "no statistics: the server's address changed in the window, so that another one counted"
    requests, executions, rows, queue_ns, compute_ns = (
        getattr(after, name) - getattr(before, name)
        for name in ("requests", "executions", "rows", "queue_ns", "compute_ns")
    )
    if requests <= 0 or executions <= 0:
        return None, "the server answered nothing in the window, or was started anew"
    if min(rows, queue_ns, compute_ns) < 0:
        return None, "the server's counts went back in the window: it was started anew, or there are several"
    queue_ms, compute_ms = queue_ns / requests / 1e6, compute_ns / requests / 1e6
    return ServerSplit(
        requests=requests,
        executions=executions,
        queue_ms=queue_ms,
        compute_ms=compute_ms,
        network_ms=mean_send_latency_ms - queue_ms - compute_ms,
        mean_batch=rows / executions,
    ), ""


def version(endpoint: Endpoint) -> str:
    """The version of the server, of one of them where there are several; empty when none says it."""
    try:
        with closing(endpoint.channel()) as channel:
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
