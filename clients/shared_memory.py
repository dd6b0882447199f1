"""Tensors in memory that a server on this machine shares, instead of in the request.

It saves two copies, gRPC's framing and the socket: 4 to 33 %, by machine, of the round trip of what carries raw IQ
(1.3 MB an event), and nothing that can be measured for the tensors of HeimdallNet (82 kB). The answer always
comes by gRPC.
"""

import ipaddress
import os
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing import shared_memory
from typing import Any, TypeVar

import numpy as np
from tritonclient.grpc import InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from rfserve.clients.connection import ADMIN_HEADER, Connection, to_wire
from rfserve.clients.errors import ClientError, DeadlineExceeded, RequestError, ServerUnavailable
from rfserve.export.spec import find
from rfserve.export.spec.model import Served
from rfserve.export.spec.tensor import Array

# What Triton says of a region that it does not know: it has been started anew.
LOST_TEXT = "Unable to find shared memory region"
ALIGNMENT = 64
CLOSE_S = 5.0
CLOSE_POLL_S = 0.05
# For a server that stands still, which is asked again another time.
BURY_S = 0.2

Answer = TypeVar("Answer")
# Inputs, requested outputs, and the time for them in seconds.
Send = Callable[[list[Any], list[Any], float], Answer]


class Regions:
    """The regions of one client, as many as it has calls in flight; each holds the inputs of one call.

    `client` is tritonclient's, to the only server of `connection`, on this machine. `admin_key` is for a server that
    lets nobody else register memory. Regions are unlinked when they are closed, and by Python's resource tracker when
    the process dies without closing them.
    """

    def __init__(self, connection: Connection, client: Any, admin_key: str = "") -> None:
        if len(connection.urls) != 1 or not _is_loopback(connection.urls[0]):
            raise ClientError(
                f"shared memory with {', '.join(connection.urls)}; expected one server on this machine, at a loopback "
                "address"
            )
        self._connection, self._client = connection, client
        self._headers = {ADMIN_HEADER: admin_key} if admin_key else None
        self._free: list[shared_memory.SharedMemory] = []
        self._retired: list[shared_memory.SharedMemory] = []
        self._lock = threading.Lock()

    def ask(self, model: str, arrays: Mapping[str, Array], send: Send[Answer]) -> Answer:
        """What `send` answers to these inputs, which are in a region; `TensorError` when they do not fit the spec.

        All of it, with what is asked of the server besides, keeps to the connection's time-out: `DeadlineExceeded`.
        """
        deadline = time.monotonic() + self._connection.timeout_s
        spec = find(model)
        spec.check(arrays)
        outputs = [InferRequestedOutput(t.name) for t in spec.outputs]
        for last in (False, True):
            try:
                region = self._take(sum(_padded(arrays[t.name].nbytes) for t in spec.inputs), deadline)
            except ServerUnavailable:
                # It is waited for as for any call, and knows no regions when it is back.
                self._retire(*self._drain())
                region = None
            if region is None:
                return send(*to_wire(model, arrays), deadline - time.monotonic())
            usable = True
            try:
                return send(_inputs(spec, arrays, region), outputs, deadline - time.monotonic())
            except RequestError as error:
                lost = LOST_TEXT in str(error)
                # Nobody waits for an answer after the deadline, but the server may still read.
                usable = not lost and not isinstance(error, DeadlineExceeded)
                if last or not lost:
                    raise
                self._retire(*self._drain())
            except BaseException:
                usable = False
                raise
            finally:
                if usable:
                    self._give_back(region)
                else:
                    self._retire(region)
        raise AssertionError("the last try answers or raises")

    def close(self) -> None:
        """Unregister and unlink all of them; one that the server still reads is unlinked only, after 5 s."""
        self._retire(*self._drain())
        deadline = time.monotonic() + CLOSE_S
        while self._retired and time.monotonic() < deadline:
            self._bury(deadline)
            if self._retired:
                time.sleep(CLOSE_POLL_S)
        for region in self._retired:
            region.close()
        self._retired = []

    def _take(self, size: int, deadline: float) -> shared_memory.SharedMemory | None:
        """A region that large, or None while the server stands still: one more each time would fill the memory."""
        if not self._bury(deadline):
            return None
        with self._lock:
            fitting = [r for r in self._free if r.size >= size]
            if fitting:
                region = min(fitting, key=lambda r: r.size)
                self._free.remove(region)
                return region
        region = shared_memory.SharedMemory(f"rfserve-client-{os.getpid()}-{uuid.uuid4().hex}", create=True, size=size)
        try:
            self._client.register_system_shared_memory(
                region.name,
                f"/{region.name}",
                size,
                headers=self._headers,
                client_timeout=max(0.0, deadline - time.monotonic()),
            )
        except BaseException as error:
            # The server may have registered it, and not have said so in time.
            self._retire(region)
            if isinstance(error, InferenceServerException):
                raise self._connection.translate(error, "shared memory") from error
            raise
        return region

    def _give_back(self, region: shared_memory.SharedMemory) -> None:
        with self._lock:
            self._free.append(region)

    def _drain(self) -> list[shared_memory.SharedMemory]:
        with self._lock:
            found, self._free = self._free, []
            return found

    def _retire(self, *regions: shared_memory.SharedMemory) -> None:
        for region in regions:
            region.unlink()
        with self._lock:
            self._retired += regions

    def _bury(self, deadline: float) -> bool:
        """Let go of what was retired, if the server does: it refuses while it reads. Whether it answers at all."""
        with self._lock:
            waiting, self._retired = self._retired, []
        answers = True
        for region in waiting:
            try:
                if answers:
                    self._client.unregister_system_shared_memory(
                        region.name,
                        headers=self._headers,
                        client_timeout=max(0.0, min(BURY_S, deadline - time.monotonic())),
                    )
            except InferenceServerException as error:
                answers = str(error.status()) != "StatusCode.DEADLINE_EXCEEDED"
                gone = answers and "currently in use" not in str(error.message())
            else:
                gone = answers
            if gone:
                region.close()
            else:
                with self._lock:
                    self._retired.append(region)
        return answers


def _inputs(spec: Served, arrays: Mapping[str, Array], region: shared_memory.SharedMemory) -> list[Any]:
    """Copy the inputs into the region, one after the other, and say where each is."""
    inputs, offset = [], 0
    for tensor in spec.inputs:
        array = arrays[tensor.name]
        np.ndarray(array.shape, array.dtype, buffer=region.buf, offset=offset)[...] = array
        inputs.append(InferInput(tensor.name, list(array.shape), np_to_triton_dtype(array.dtype)))
        inputs[-1].set_shared_memory(region.name, array.nbytes, offset)
        offset += _padded(array.nbytes)
    return inputs


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _is_loopback(url: str) -> bool:
    host = url.removeprefix("dns:///").rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False
