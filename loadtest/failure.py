"""Why a request was not answered well: one word for each cause, so that they can be counted."""

from typing import Any

import numpy as np
from tritonclient.grpc import service_pb2

from rfserve.clients.errors import MODEL_TEXTS
from rfserve.export.spec.queueing import REFUSAL_TEXTS

DEADLINE = "deadline"
QUEUE_FULL = "refused: queue full"
EXPIRED = "refused: expired in the queue"
UNAVAILABLE = "unavailable"
MODEL_UNAVAILABLE = "model unavailable"
REJECTED = "rejected"
NON_FINITE = "non-finite answer"
INVALID_ANSWER = "invalid answer"
REASONS = (
    DEADLINE,
    QUEUE_FULL,
    EXPIRED,
    UNAVAILABLE,
    MODEL_UNAVAILABLE,
    REJECTED,
    NON_FINITE,
    INVALID_ANSWER,
)

_BY_TEXT = {
    **dict(zip(REFUSAL_TEXTS, (QUEUE_FULL, EXPIRED), strict=True)),
    **dict.fromkeys(MODEL_TEXTS, MODEL_UNAVAILABLE),
}
_BY_STATUS = {
    "DEADLINE_EXCEEDED": DEADLINE,
    "CANCELLED": DEADLINE,
    "RESOURCE_EXHAUSTED": QUEUE_FULL,
    "UNAVAILABLE": UNAVAILABLE,
    "NOT_FOUND": MODEL_UNAVAILABLE,
}
_FLOATS: dict[str, np.dtype[Any]] = {"FP32": np.dtype("<f4"), "FP64": np.dtype("<f8")}


def of_status(status: str, text: str) -> str:
    """The reason behind gRPC's status code and the server's text."""
    return next((reason for part, reason in _BY_TEXT.items() if part in text), _BY_STATUS.get(status, REJECTED))


def of_answer(answer: bytes, outputs: int) -> tuple[str | None, str]:
    """What is wrong with a serialised `ModelInferResponse` (None: nothing), and the version that answered."""
    try:
        response = service_pb2.ModelInferResponse.FromString(answer)
    except Exception:  # Protobuf's own class differs between its implementations.
        return INVALID_ANSWER, ""
    version = str(response.model_version)
    if len(response.outputs) != outputs or len(response.raw_output_contents) != outputs:
        return INVALID_ANSWER, version
    for output, raw in zip(response.outputs, response.raw_output_contents, strict=True):
        dtype: np.dtype[Any] | None = _FLOATS.get(output.datatype)
        if not raw or (dtype is not None and len(raw) % dtype.itemsize):
            return INVALID_ANSWER, version
        if dtype is not None and not np.isfinite(np.frombuffer(raw, dtype)).all():
            return NON_FINITE, version
    return None, version
