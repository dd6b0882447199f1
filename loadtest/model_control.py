"""The configuration that a running Triton serves a model with: read, replaced for a while, and always put back."""

import contextlib
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import json_format
from tritonclient.grpc import model_config_pb2, service_pb2

from rfserve.clients.errors import RESTRICTED_TEXT
from rfserve.loadtest import server_statistics
from rfserve.loadtest.endpoint import Endpoint, are_several
from rfserve.loadtest.errors import LoadTestError

LOAD_TIMEOUT_S = 300.0
AGAIN_S = 1.0
# A server that was started anew has forgotten what it was given.
AWAY_S = 10.0
TRIAL = "rfserve.trial"
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class ModelControl:
    """One model of one server; use as a context manager, or `close` it.

    The server has to be in explicit mode (`--model-control-mode=explicit`), as `rfserve-server` starts it.
    `LoadTestError` for a name that several servers have.
    """

    def __init__(self, endpoint: Endpoint, model: str) -> None:
        self._endpoint, self.model = endpoint, model
        self._is_changed = False
        self._trials = 0
        addresses = _addresses(endpoint)
        if are_several(addresses):
            raise LoadTestError(
                f"{endpoint.url} has {len(addresses)} addresses: one of its servers would be configured, "
                f"and all of them measured; give the address of one: {', '.join(sorted(addresses))}"
            )
        self._channel = endpoint.channel()

    def __enter__(self) -> "ModelControl":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def config(self) -> Any:
        """The `ModelConfig` that is served; `LoadTestError` when the server does not say."""
        request = service_pb2.ModelConfigRequest(name=self.model)
        answer = self._call("ModelConfig", request, service_pb2.ModelConfigResponse, server_statistics.TIMEOUT_S)
        config = model_config_pb2.ModelConfig()
        config.CopyFrom(answer.config)
        return config

    def load(self, config: Any, timeout_s: float = LOAD_TIMEOUT_S) -> None:
        """Serve the model with another configuration; the one before serves until that is loaded, and stays if not.

        The repository's files do not change. A load without a configuration would not undo this: Triton (tried on
        2.51) takes one whose files did not change for one that it has loaded already, and keeps what it was given.
        """
        request = service_pb2.RepositoryModelLoadRequest(model_name=self.model)
        text = json_format.MessageToJson(config, preserving_proto_field_name=True, indent=None)
        request.parameters["config"].string_param = text
        self._is_changed = True
        self._call("RepositoryModelLoad", request, service_pb2.RepositoryModelLoadResponse, timeout_s)

    def try_out(self, config: Any) -> None:
        """Serve the model with a configuration as if it had never been served otherwise.

        Where only the number of instances differs, Triton keeps those that it has, and the CPUs that each chose when
        there were more or fewer. A parameter that nobody reads makes it start all of them.
        """
        trial = model_config_pb2.ModelConfig()
        trial.CopyFrom(config)
        self._trials += 1
        trial.parameters[TRIAL].string_value = str(self._trials)
        self.load(trial)

    @contextlib.contextmanager
    def kept(self) -> Iterator[Any]:
        """Yields the configuration as it is, and puts it back in the end, whatever happens but `kill -9`."""
        before = self.config()
        with _ended_in_order():
            try:
                yield before
            finally:
                with _undisturbed():
                    if self._is_changed:
                        self._put_back(before)

    def _put_back(self, before: Any) -> None:
        deadline = time.monotonic() + LOAD_TIMEOUT_S
        problem = "another configuration came between"
        away_since: float | None = None
        while (left_s := deadline - time.monotonic()) > 0:
            try:
                # Also when it seems to be there: a load that was interrupted may still be under way.
                self.load(before, left_s)
                if self.config() == before:
                    return
                away_since = None
            except LoadTestError as error:
                problem = str(error)
                away_since = (away_since or time.monotonic()) if _is_away(error) else None
            if away_since is not None and time.monotonic() - away_since > AWAY_S:
                raise LoadTestError(
                    f"{problem}: the server is gone, and {self.model} was not put back; when it starts again, it "
                    "serves what its repository says"
                )
            time.sleep(AGAIN_S)
        handle = tempfile.NamedTemporaryFile("w", suffix=f"-{self.model}.json", delete=False)  # noqa: SIM115
        with handle:
            handle.write(json_format.MessageToJson(before, preserving_proto_field_name=True))
        raise LoadTestError(
            f"{self.model} could not be put back: {problem}; unload and load it, or restart the server. It was "
            f"served with {Path(handle.name)}"
        )

    def _call(self, method: str, request: Any, answer: Any, timeout_s: float) -> Any:
        try:
            return server_statistics.call(self._channel, method, request, answer, self._endpoint, timeout_s=timeout_s)
        except grpc.RpcError as error:
            text = error.details() or error.code().name
            if RESTRICTED_TEXT in text:
                text += "; give --admin-key-file"
            elif "not allowed" in text:
                text += "; start the server with --model-control-mode=explicit"
            raise LoadTestError(f"{self._endpoint.url}: {method} of {self.model}: {text}") from error


def _addresses(endpoint: Endpoint) -> frozenset[str]:
    try:
        return endpoint.addresses()
    except OSError as error:
        raise LoadTestError(f"{endpoint.url}: {error}; expected the address of a server") from error


def _is_away(error: LoadTestError) -> bool:
    cause = error.__cause__
    return isinstance(cause, grpc.RpcError) and cause.code() == grpc.StatusCode.UNAVAILABLE


@contextlib.contextmanager
def _ended_in_order() -> Iterator[None]:
    """SIGTERM ends what is under way as Ctrl-C does, so that what has to be put back is."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with _handled({signal.SIGTERM: interrupt}):
        yield


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Neither ends what is under way: whoever is impatient would leave the server as it is."""
    with _handled(dict.fromkeys(SIGNALS, signal.SIG_IGN)):
        yield


@contextlib.contextmanager
def _handled(handlers: Any) -> Iterator[None]:
    # Only the main thread hears of signals.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
