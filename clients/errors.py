"""The client's part of the error tree, and the one table from gRPC's status codes to it.

RfserveError
└── ClientError
    ├── ObservationError          an observation that contradicts itself
    │   └── PositionInvalid       coordinates out of range, or the 0, 0 of a receiver without a fix
    ├── RecordingError            a recording that cannot be read
    ├── EventError                recordings that do not belong to one event
    │   ├── NotSimultaneous       they share no instant
    │   │   └── ClockSkew         a start that is too far from the others'
    │   ├── ClockNotLocked        a time stamp that its receiver does not vouch for
    │   ├── TuningDiffers         another centre frequency or sample rate
    │   ├── DuplicateReceiver     the same receiver twice
    │   ├── UnknownReceiver       a receiver id that the network has no calibration for
    │   └── TooFewReceivers       too many were left out
    └── RequestError              a call that got no usable answer
        ├── ServerUnavailable     nothing answers there
        ├── DeadlineExceeded      no answer in time
        ├── Overloaded            the server's queue is full, or the request waited too long in it
        ├── ModelUnavailable      no such model or version, or it is not ready, or its process died
        ├── RequestRejected       the server refused the request
        └── InvalidAnswer         the answer is no position
"""

from rfserve.export.spec.errors import RfserveError
from rfserve.export.spec.queueing import REFUSAL_TEXTS


class ClientError(RfserveError):
    """Base of everything that rfserve.clients raises on purpose."""


class ObservationError(ClientError):
    """An observation contradicts itself."""


class PositionInvalid(ObservationError):
    """Coordinates out of range, or those that receivers write without a fix."""


class RecordingError(ClientError):
    """A recording cannot be read."""


class EventError(ClientError):
    """Recordings that do not belong to one event."""


class NotSimultaneous(EventError):
    """The recordings share no instant."""


class ClockNotLocked(EventError):
    """The receiver itself says that its time stamps are not locked to UTC."""


class ClockSkew(NotSimultaneous):
    """A recording starts too far from the others: its clock is wrong, or it is another event's."""


class TuningDiffers(EventError):
    """A receiver had another centre frequency or sample rate than the others."""


class DuplicateReceiver(EventError):
    """The same receiver was given twice."""


class UnknownReceiver(EventError):
    """The network has no calibration for this receiver id."""


class TooFewReceivers(EventError):
    """Receivers that failed were left out, and too few remain."""


class RequestError(ClientError):
    """A call got no usable answer."""


class ServerUnavailable(RequestError):
    """Nothing answers at the address."""


class DeadlineExceeded(RequestError):
    """No answer within the time-out."""


class Overloaded(RequestError):
    """The server sheds load: its queue is full, or the request expired in it."""


class ModelUnavailable(RequestError):
    """No such model or version, or it is not ready, or its process died."""


class RequestRejected(RequestError):
    """The server refused the request, or failed at it."""


class InvalidAnswer(RequestError):
    """The answer is not a position on Earth."""


MODEL_TEXTS = ("unknown model", "is not ready", "is not at ready state", "no available versions")
# Triton says so of a model whose process died, with the status of any failure.
DEAD_TEXT = "is not healthy"
RESTRICTED_TEXT = "protocol is restricted"

BY_STATUS: dict[str, tuple[type[RequestError], str]] = {
    "UNAVAILABLE": (ServerUnavailable, "start a server with `rfserve-server run`, or give the right address"),
    "DEADLINE_EXCEEDED": (DeadlineExceeded, "give a longer time-out, or see whether the server is overloaded"),
    "CANCELLED": (DeadlineExceeded, "the call was cancelled before it was answered"),
    "RESOURCE_EXHAUSTED": (Overloaded, "send less, or add replicas"),
    "NOT_FOUND": (ModelUnavailable, "see `rfserve-export list` for what is published"),
    "INVALID_ARGUMENT": (RequestRejected, "compare the tensors with the model's table in the README"),
}


def from_status(status: str, text: str, *, url: str, model: str) -> RequestError:
    """The error for a failed call of `model` at `url`, from gRPC's status code and the server's text."""
    name = status.removeprefix("StatusCode.")
    kind: type[RequestError]
    if any(t in text for t in REFUSAL_TEXTS):
        kind, remedy = Overloaded, "send less, or add replicas"
    elif any(t in text for t in MODEL_TEXTS):
        kind, remedy = BY_STATUS["NOT_FOUND"]
    elif DEAD_TEXT in text:
        kind, remedy = ModelUnavailable, "its process died: the server's watchdog mends it, ask again in some seconds"
    elif RESTRICTED_TEXT in text:
        kind, remedy = RequestRejected, "this call needs the administrator's key"
    else:
        kind, remedy = BY_STATUS.get(name, (RequestRejected, "see the server's log"))
    return kind(f"{model} at {url}: {name}: {text}; {remedy}")
