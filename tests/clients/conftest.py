import json
import shutil
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from rfserve.clients.observation import Observation
from rfserve.clients.synthetic_event import SyntheticEvent, write


@pytest.fixture
def observe() -> Callable[..., Observation]:
    """An observation that is fine, except for what is given."""

    def make(**given: Any) -> Observation:
        iq = np.exp(2j * np.pi * 0.01 * np.arange(given.pop("samples", 16384))).astype(np.complex64)
        fine = {
            "iq": iq,
            "sample_rate_hz": 1e6,
            "center_frequency_hz": 433e6,
            "latitude_deg": 45.0,
            "longitude_deg": 7.5,
        }
        return Observation(**(fine | given))

    return make


@pytest.fixture(scope="session")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic event on disk; not to be changed."""
    return write(SyntheticEvent(), tmp_path_factory.mktemp("event"))


@pytest.fixture
def edited(collection: Path, tmp_path: Path) -> Callable[..., Path]:
    """The metadata file of a copied receiver, after a change; its data is written anew when `data` is given."""

    def make(change: Callable[[dict[str, Any]], object] = lambda _: None, data: bytes | None = None) -> Path:
        folder = tmp_path / "edited"
        shutil.copytree(collection.parent, folder)
        meta = folder / "synthetic_R1.sigmf-meta"
        content = json.loads(meta.read_text())
        if data is not None:
            content["global"].pop("core:sha512")
            meta.with_suffix(".sigmf-data").write_bytes(data)
        change(content)
        meta.write_text(json.dumps(content))
        return meta

    return make


Behaviour = Callable[[Any, grpc.ServicerContext], Any]


class ScriptedServer(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Does what a real Triton cannot be made to do at will. The last behaviour of a script repeats."""

    def __init__(self, script: list[Behaviour]) -> None:
        self.script = script
        self.requests: list[Any] = []
        self.url = ""
        self.stop: Callable[[], Any] = lambda: None

    def _next(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.requests.append(request)
        return self.script[min(len(self.requests), len(self.script)) - 1](request, context)

    def ModelInfer(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        return self._next(request, context)

    def ModelReady(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        return self._next(request, context)


@pytest.fixture
def serve() -> Iterator[Callable[..., ScriptedServer]]:
    """Start a scripted server on loopback; `credentials` makes it speak TLS, `port` fixes where."""
    started = []

    def start(*script: Behaviour, credentials: Any = None, port: int = 0) -> ScriptedServer:
        server = grpc.server(futures.ThreadPoolExecutor(4), options=[("grpc.max_receive_message_length", -1)])
        servicer = ScriptedServer(list(script))
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
        address = f"127.0.0.1:{port}"
        bound = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
        servicer.url = f"127.0.0.1:{bound}"
        server.start()
        started.append(server)
        servicer.stop = lambda: server.stop(None).wait()
        return servicer

    yield start
    for server in started:
        server.stop(None).wait()


@pytest.fixture
def answer() -> Callable[..., Behaviour]:
    """A behaviour that answers with these positions and uncertainties, whatever was asked."""

    def make(positions: Any = ((45.1, 7.6),), uncertainties: Any = ((30.0, 20.0),), version: str = "3") -> Behaviour:
        def behave(request: Any, _: grpc.ServicerContext) -> Any:
            response = service_pb2.ModelInferResponse(model_name=request.model_name, model_version=version)
            response.id = request.id
            for name, values in {"positions": positions, "uncertainties": uncertainties}.items():
                array = np.asarray(values, np.float32)
                response.outputs.add(name=name, datatype="FP32", shape=array.shape)
                response.raw_output_contents.append(array.tobytes())
            return response

        return behave

    return make


@pytest.fixture
def refuse() -> Callable[[grpc.StatusCode, str], Behaviour]:
    """A behaviour that ends the call with a status."""

    def make(status: grpc.StatusCode, text: str) -> Behaviour:
        def behave(_: Any, context: grpc.ServicerContext) -> Any:
            context.abort(status, text)

        return behave

    return make
