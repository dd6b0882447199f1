"""Requests that nobody honest sends, over gRPC and HTTP: the server stays up, and goes on giving right answers."""

import json
import random
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from served import BriefServer
from tritonclient.grpc import service_pb2

from rfserve.export import onnx_file
from rfserve.export.spec import GRAPHS, example
from rfserve.export.spec.queueing import REFUSAL_TEXTS
from rfserve.server import process_group
from rfserve.server.http_api import HttpApi
from rfserve.server.options import ServerOptions
from rfserve.server.process import TritonServer

pytestmark = pytest.mark.server

Request = service_pb2.ModelInferRequest
Edit = Callable[[Any], object]

MODELS = ("mel_features", "heimdall_net")
# As small as the specs allow, so that thousands of requests take seconds.
SIZES = {"raw_samples": 4096, "receivers": 2, "samples": 256}
METHOD = "/inference.GRPCInferenceService/ModelInfer"
MUTATIONS = 10_000
IN_FLIGHT = 200
LARGE_INPUT_BYTES = 200 * 2**20
# Arenas for the largest batches; beyond them it is flat (tried with 30,000).
MUTATIONS_BYTES = 400 * 2**20


def message(model: str, arrays: dict[str, np.ndarray]) -> Any:
    """The request as protobuf."""
    request = Request(model_name=model, id="1")
    for tensor in GRAPHS[model].inputs:
        array = arrays[tensor.name]
        request.inputs.add(name=tensor.name, datatype=tensor.dtype.value, shape=array.shape)
        request.raw_input_contents.append(array.tobytes())
    for tensor in GRAPHS[model].outputs:
        request.outputs.add(name=tensor.name)
    return request


class Target:
    """A server, and the answers that it has to go on giving."""

    def __init__(self, server: TritonServer) -> None:
        self.server = server
        self.inputs = {m: example(GRAPHS[m], sizes=SIZES, batch=2, seed=3) for m in MODELS}
        self.valid = {m: message(m, arrays) for m, arrays in self.inputs.items()}
        folder = Path(server.options.repository)
        self.expected = {}
        for model, arrays in self.inputs.items():
            session = onnx_file.open_session(folder / model / "1" / "model.onnx")
            self.expected[model] = onnx_file.run_session(session, arrays)
        options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
        self.channel = grpc.insecure_channel(server.grpc_url, options=options)
        self.infer = self.channel.unary_unary(METHOD)
        self.processes = process_group.stubs(server.pid)

    def ask(self, data: bytes) -> str:
        """The name of gRPC's status."""
        return status(self.infer.future(data, timeout=20))

    def edited(self, model: str, edit: Edit) -> bytes:
        request = Request()
        request.CopyFrom(self.valid[model])
        edit(request)
        return bytes(request.SerializeToString())

    def check(self) -> None:
        """Right answers from every model, by the processes that have been there from the beginning."""
        for model, request in self.valid.items():
            answer = service_pb2.ModelInferResponse.FromString(self.infer(request.SerializeToString(), timeout=20))
            for tensor, raw in zip(answer.outputs, answer.raw_output_contents, strict=True):
                got = np.frombuffer(raw, np.float32).reshape(tensor.shape)
                wanted = self.expected[model][tensor.name]
                np.testing.assert_allclose(got, wanted, rtol=0, atol=GRAPHS[model].tolerance, err_msg=model)
        assert process_group.stubs(self.server.pid) == self.processes


def status(call: Any) -> str:
    error = call.exception()
    if error is None:
        return "OK"
    # The queue is full of valid ones for a moment: no sign of a server that is gone.
    refused = any(text in (error.details() or "") for text in REFUSAL_TEXTS)
    return "REFUSED" if refused else str(error.code().name)


@pytest.fixture(scope="module")
def target(repository: Path) -> Iterator[Target]:
    options = ServerOptions(repository=repository, models=MODELS, grpc_port=0, http_port=0, metrics_port=0)
    with BriefServer(options) as server:
        found = Target(server)
        found.check()
        yield found
        found.channel.close()


def shape(index: int, *sizes: int) -> Edit:
    def edit(request: Any) -> None:
        del request.inputs[index].shape[:]
        request.inputs[index].shape.extend(sizes)

    return edit


def content(index: int, change: Callable[[bytes], bytes]) -> Edit:
    def edit(request: Any) -> None:
        request.raw_input_contents[index] = change(request.raw_input_contents[index])

    return edit


def typed(field: str, values: list) -> Edit:
    def edit(request: Any) -> None:
        del request.raw_input_contents[:]
        getattr(request.inputs[0].contents, field).extend(values)

    return edit


def parameter(place: Callable[[Any], Any], name: str, **value: Any) -> Edit:
    def edit(request: Any) -> None:
        ((kind, given),) = value.items()
        setattr(place(request).parameters[name], f"{kind}_param", given)

    return edit


def whole(request: Any) -> Any:
    return request


def first_input(request: Any) -> Any:
    return request.inputs[0]


def first_output(request: Any) -> Any:
    return request.outputs[0]


def named(model: str) -> Edit:
    return lambda request: setattr(request, "model_name", model)


def versioned(version: str) -> Edit:
    return lambda request: setattr(request, "model_version", version)


def of_type(name: str) -> Edit:
    return lambda request: setattr(request.inputs[0], "datatype", name)


REFUSED = "INVALID_ARGUMENT"
PATHS = ("../x", "..", ".", "/etc/passwd", "%2e%2e/mel_features", "mel_features/1", "..\\x", "a\0b", "")
# What is done to a request of mel_features, whose one input is (2, 2, 4096), and what gRPC then has to say.
REQUESTS: dict[str, tuple[Edit, str]] = {
    "negative size": (shape(0, 2, 2, -4096), REFUSED),
    "negative batch": (shape(0, -2, 2, 4096), REFUSED),
    "two negative sizes": (shape(0, 2, -2, -4096), REFUSED),
    "no samples": (shape(0, 2, 2, 0), REFUSED),
    "nothing at all": (lambda r: (shape(0, 2, 2, 0)(r), content(0, lambda _: b"")(r)), REFUSED),
    "no batch": (shape(0, 0, 2, 4096), REFUSED),
    "no shape": (shape(0), REFUSED),
    "shape of a number": (shape(0, 16384), REFUSED),
    "thousand axes": (shape(0, *[1] * 1000), REFUSED),
    "batch too large": (lambda r: (shape(0, 33, 2, 4096)(r), content(0, lambda _: bytes(33 * 32768))(r)), REFUSED),
    "too few samples": (shape(0, 4, 2, 2048), REFUSED),
    "largest size": (shape(0, 2, 2, 2**63 - 1), REFUSED),
    # Products that are right modulo 2^64.
    "samples wrap around": (shape(0, 2, 2, 4096 + 2**60), REFUSED),
    "samples wrap around once more": (shape(0, 1, 2, 8192 + 2**61), REFUSED),
    "batch wraps around": (shape(0, 2**60, 2, 8192), REFUSED),
    "batch wraps around in 32 bits": (shape(0, 2**32 + 2, 2, 4096), "OK"),
    "huge and nothing": (lambda r: (shape(0, 2**62, 2, 0)(r), content(0, lambda _: b"")(r)), REFUSED),
    "byte missing": (content(0, lambda c: c[:-1]), REFUSED),
    "byte too many": (content(0, lambda c: c + b"x"), REFUSED),
    "half": (content(0, lambda c: c[: len(c) // 2]), REFUSED),
    "empty": (content(0, lambda _: b""), REFUSED),
    "no contents": (lambda r: r.ClearField("raw_input_contents"), REFUSED),
    "contents twice": (lambda r: r.inputs[0].contents.fp32_contents.append(1.0), REFUSED),
    "contents of another type": (typed("bytes_contents", [b"a"] * 16384), REFUSED),
    "too few contents": (typed("fp32_contents", [1.0] * 7), REFUSED),
    **{f"datatype {d[:9]!r}": (of_type(d), REFUSED) for d in ("FP16", "INT64", "BOOL", "BYTES", "", "x" * 5_000)},
    "no inputs": (lambda r: r.ClearField("inputs"), REFUSED),
    "input twice": (lambda r: (r.inputs.add().CopyFrom(r.inputs[0]), content(0, bytes)(r)), REFUSED),
    "unknown input": (lambda r: setattr(r.inputs[0], "name", "../raw_iq"), REFUSED),
    "unknown output": (lambda r: r.outputs.add(name="nothing"), REFUSED),
    "output's name is a path": (lambda r: setattr(r.outputs[0], "name", "../../etc/passwd"), REFUSED),
    **{f"model {m[:9]!r}": (named(m), "NOT_FOUND") for m in (*PATHS, "x" * 5_000)},
    **{f"version {v[:9]!r}": (versioned(v), REFUSED) for v in ("../1", "-1", "9" * 30, "\0", "x" * 5_000)},
    "unknown version": (versioned("77"), "NOT_FOUND"),
    # gRPC itself: the answer's text would be longer than a header may be.
    "endless name": (named("x" * 1_000_000), "RESOURCE_EXHAUSTED"),
    "priority below none": (parameter(whole, "priority", int64=-1), REFUSED),
    "priority in words": (parameter(whole, "priority", string="high"), REFUSED),
    "timeout in words": (parameter(whole, "timeout", string="soon"), REFUSED),
    "sequence in words": (parameter(whole, "sequence_start", string="yes"), REFUSED),
    "endless sequence": (parameter(whole, "sequence_id", string="x" * 10_000), "UNIMPLEMENTED"),
    "no parameter": (lambda r: r.parameters["timeout"].SetInParent(), REFUSED),
    "fewer classes than none": (parameter(first_output, "classification", int64=-5), REFUSED),
    "shared memory": (parameter(first_input, "shared_memory_region", string="../x"), REFUSED),
    "shared memory for the answer": (parameter(first_output, "shared_memory_region", string="x"), REFUSED),
    # Odd, and yet answered.
    "priority above all": (parameter(whole, "priority", uint64=2**64 - 1), "OK"),
    "timeout of nothing": (parameter(whole, "timeout", int64=0), "OK"),
    "timeout for ever": (parameter(whole, "timeout", int64=2**63 - 1), "OK"),
    "all classes there are": (parameter(first_output, "classification", int64=2**62), "OK"),
    "not a number": (content(0, lambda c: b"\xff" * len(c)), "OK"),
    "output ten thousand times": (lambda r: r.outputs.extend([r.outputs[0]] * 10_000), "OK"),
    "unknown parameters": (lambda r: [parameter(whole, f"p{i}", double=i)(r) for i in range(1000)], "OK"),
}


@pytest.mark.parametrize("case", REQUESTS)
def test_hostile_request_is_answered_with_its_reason(target, case):
    edit, expected = REQUESTS[case]
    assert target.ask(target.edited("mel_features", edit)) == expected
    target.check()


@pytest.mark.parametrize(
    ("index", "sizes"),
    [
        (0, (2, 2 + 2**60, 2, 256)),
        (0, (2, 2, 2, 256 + 2**58)),
        # NumPy leaves the zero out, and the rest is too big for it.
        (0, (2, 2**62, 2, 0)),
        (3, (2, 2 + 2**60)),
        (4, (2, 2**63 - 1)),
    ],
)
def test_shape_that_wraps_around_is_refused_for_each_of_several_inputs(target, index, sizes):
    def edit(request: Any) -> None:
        shape(index, *sizes)(request)
        if 0 in sizes:
            request.raw_input_contents[index] = b""

    assert target.ask(target.edited("heimdall_net", edit)) == REFUSED
    target.check()


@pytest.mark.parametrize("data", [b"", b"\0", b"\xff" * 100, b"\x0a\xff\xff\xff\xff\x0f", b"{}", bytes(100_000)])
def test_what_is_no_request_is_refused(target, data):
    assert target.ask(data) in {"INTERNAL", "NOT_FOUND"}
    target.check()


def test_inputs_that_are_too_large_cost_no_memory_for_long(target):
    """A graph would take ten times as much, and ONNX Runtime keep it."""
    before = target.server.memory_bytes()
    samples = 4_000_000
    for _ in range(3):
        large = target.edited(
            "mel_features",
            lambda r: (shape(0, 1, 2, samples)(r), content(0, lambda _: bytes(8 * samples))(r)),
        )
        assert target.ask(large) == REFUSED
    target.check()
    assert target.server.memory_bytes() - before < LARGE_INPUT_BYTES


SIZES_TO_TRY = (0, 1, 2, 3, -1, 33, 2**15, 2**31 - 1, 2**31, 2**32, 2**32 + 1, 2**58, 2**60, 2**61, 2**62, 2**63 - 1)
TEXTS = ("", "x", "../1", "1", "-1", "mel_features", "heimdall_net", "mask", "FP32", "FP64", "BYTES", "INT64", "BOOL")
NAMES = ("priority", "timeout", "sequence_id", "sequence_start", "sequence_end", "classification", "binary_data")
NAMES += ("shared_memory_region", "shared_memory_byte_size", "shared_memory_offset", "x")


def mutated_fields(rng: random.Random, request: Any) -> bytes:
    """One to three fields changed to something that protobuf takes."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        inputs, raw = request.inputs, request.raw_input_contents
        tensor = rng.choice(inputs) if inputs else request.inputs.add()
        place = rng.choice([request, tensor, *request.outputs])
        kind = rng.randrange(10)
        if kind <= 1 and tensor.shape:
            at = rng.randrange(len(tensor.shape))
            near = [(tensor.shape[at] + s) % 2**63 for s in SIZES_TO_TRY]
            tensor.shape[at] = rng.choice([*SIZES_TO_TRY, *near])
        elif kind == 2:
            tensor.shape.append(rng.choice(SIZES_TO_TRY))
        elif kind == 3 and tensor.shape:
            tensor.shape.pop(rng.randrange(len(tensor.shape)))
        elif kind == 4:
            setattr(tensor, rng.choice(("name", "datatype")), rng.choice(TEXTS))
        elif kind == 5 and raw:
            at = rng.randrange(len(raw))
            raw[at] = rng.choice((b"", raw[at][:-1], raw[at] * 2, rng.randbytes(len(raw[at])), raw[0]))
        elif kind == 6 and inputs:
            inputs.pop(rng.randrange(len(inputs)))
        elif kind == 7:
            setattr(request, rng.choice(("model_name", "model_version", "id")), rng.choice(TEXTS))
        elif kind == 8:
            value = place.parameters[rng.choice(NAMES)]
            if rng.random() < 0.5:
                value.int64_param = rng.choice((-1, 0, 1, 2**31, 2**63 - 1))
            else:
                value.string_param = rng.choice(TEXTS)
        else:
            request.outputs.add(name=rng.choice(TEXTS))
    return bytes(request.SerializeToString())


def mutated_bytes(rng: random.Random, data: bytes, structured: int) -> bytes:
    """Bits flipped, bytes cut, doubled, moved and made up, mostly in the first `structured` bytes."""
    content = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        end = max(1, min(len(content), structured if rng.random() < 0.9 else len(content)))
        at, length, kind = rng.randrange(end), rng.randrange(1, 16), rng.randrange(6)
        if kind == 0 and content:
            content[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            content[at : at + 1] = b"\xff" * rng.randrange(1, 10) + b"\x01"
        elif kind == 2:
            del content[at:]
        elif kind == 3:
            del content[at : at + length]
        elif kind == 4:
            content[at:at] = rng.randbytes(length)
        else:
            begin = rng.randrange(end)
            content[at:at] = content[begin : begin + 4 * length]
    return bytes(content)


def test_ten_thousand_mutations_of_valid_requests_change_nothing(target):
    rng = random.Random(20)
    before = target.server.memory_bytes()
    plain = {m: (r.SerializeToString(), len(r.SerializeToString()) - _raw_size(r)) for m, r in target.valid.items()}
    found: Counter[str] = Counter()
    for _ in range(MUTATIONS // IN_FLIGHT):
        calls = []
        for i in range(IN_FLIGHT):
            model = rng.choice(MODELS)
            if i % 2:
                data = mutated_bytes(rng, *plain[model])
            else:
                data = target.edited(model, lambda request: mutated_fields(rng, request))
            calls.append(target.infer.future(data, timeout=5))
        found.update(status(c) for c in calls)
        target.check()
    print(f"\n{dict(found)}, memory {(target.server.memory_bytes() - before) / 2**20:+.0f} MiB")
    assert sum(found.values()) == MUTATIONS
    # Each kind of end was reached, and none that means that a server or a model is gone.
    assert {"OK", "INTERNAL", "INVALID_ARGUMENT", "NOT_FOUND"} <= set(found)
    assert not {"UNKNOWN", "UNAVAILABLE", "CANCELLED", "ABORTED"} & set(found)
    assert target.server.memory_bytes() - before < MUTATIONS_BYTES


def _raw_size(request: Any) -> int:
    return sum(len(c) for c in request.raw_input_contents)


def exchange(url: str, data: bytes) -> bytes:
    """What an HTTP server answers to these bytes."""
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        return connection.recv(4096)


def post(path: str, body: bytes, **headers: object) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: triton", f"Content-Length: {len(body)}", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


INFER = "/v2/models/mel_features/infer"
TENSOR = {"name": "raw_iq", "datatype": "FP32", "shape": [1, 2, 4096]}


def as_json(**changes: object) -> bytes:
    return json.dumps({"inputs": [TENSOR | {"data": [0.5] * 8192} | changes]}).encode()


BINARY = json.dumps({"inputs": [TENSOR | {"parameters": {"binary_data_size": 32768}}]}).encode()


@pytest.mark.parametrize(
    "data",
    [
        post(INFER, b""),
        post(INFER, b"nonsense"),
        post(INFER, b"[" * 100_000),
        post(INFER, b'{"inputs":' * 10_000),
        post(INFER, b'{"inputs": 1}'),
        post(INFER, b'{"inputs": [1, null, {}]}'),
        post(INFER, b"\xff\xfe\0\0"),
        post(INFER, as_json(shape=[1, 2, -4096])),
        post(INFER, as_json(shape=[1, 2, 4096 + 2**61])),
        post(INFER, as_json(shape=[1, 2, 1e300])),
        post(INFER, as_json(shape="many")),
        post(INFER, as_json(shape=[[1], 2, 4096])),
        post(INFER, as_json(data=["x"] * 8192)),
        post(INFER, as_json(data=[[0.5] * 8192] * 2)),
        post(INFER, as_json(data=None)),
        post(INFER, as_json(data={"a": 1})),
        post(INFER, as_json(datatype="BYTES")),
        post(INFER, as_json(datatype=7)),
        post(INFER, as_json(parameters={"binary_data_size": 2**63})),
        post(INFER, as_json(parameters={"binary_data_size": -1})),
        post(INFER, as_json(parameters={"shared_memory_region": "../x", "shared_memory_byte_size": -1})),
        post(INFER, BINARY, Inference_Header_Content_Length=len(BINARY)),
        post(INFER, BINARY + bytes(100), Inference_Header_Content_Length=len(BINARY)),
        post(INFER, BINARY + bytes(32768), Inference_Header_Content_Length=10**9),
        post(INFER, BINARY + bytes(32768), Inference_Header_Content_Length=-1),
        post(INFER, BINARY + bytes(32768), Inference_Header_Content_Length=2**64 + 10),
        post(INFER, BINARY + bytes(32768), Inference_Header_Content_Length="many"),
        post(INFER, as_json(), Content_Encoding="gzip"),
        post(INFER, as_json(), Content_Encoding="deflate"),
        post(INFER, as_json(), Content_Encoding="nonsense"),
        post("/v2/models/..%2f..%2fetc/infer", as_json()),
        post("/v2/models/%2e%2e/versions/%2e%2e/infer", as_json()),
        post("/v2/models/mel_features%00/infer", as_json()),
        post("/v2/models/mel_features/versions/99999999999999999999/infer", as_json()),
        post("/v2/models/mel_features/versions/-1/infer", as_json()),
        post("/v2/models/" + "x" * 4000 + "/infer", as_json()),
        post("/../../etc/passwd", b""),
        post("/" + "%" * 1000, b""),
        b"GET\r\n\r\n",
        b"\0" * 1000,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 200,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"POST " + INFER.encode() + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n",
        b"POST " + INFER.encode() + b" HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\nxxxxx",
        b"POST " + INFER.encode() + b" HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nx",
        b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: y\r\n" % i for i in range(10_000)) + b"\r\n",
    ],
    ids=lambda data: data[:24].decode(errors="replace").split(" ")[0].strip() or "bytes",
)
def test_hostile_http_is_refused(target, data):
    said = exchange(target.server.http_url, data)
    assert not said or said.startswith((b"HTTP/1.1 4", b"HTTP/1.1 5", b"HTTP/1.0 4")), said[:200]
    target.check()


def test_honest_http_is_answered(target):
    """Or the refusals above would show nothing."""
    said = exchange(target.server.http_url, post(INFER, as_json()))
    assert said.startswith(b"HTTP/1.1 200 ")
    binary = post(INFER, BINARY + bytes(32768), Inference_Header_Content_Length=len(BINARY))
    assert exchange(target.server.http_url, binary).startswith(b"HTTP/1.1 200 ")
    assert HttpApi(url=target.server.http_url).model_ready("mel_features")
