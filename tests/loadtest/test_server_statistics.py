"""What a server counted in a window: one server, and never the difference between two."""

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from tritonclient.grpc import service_pb2

from rfserve.loadtest import server_statistics
from rfserve.loadtest.endpoint import Endpoint
from rfserve.loadtest.errors import LoadTestError
from rfserve.loadtest.model_control import ModelControl
from rfserve.loadtest.server_statistics import Counts, split

MODEL = "mel_features"
BEFORE = Counts(
    requests=1000,
    executions=500,
    rows=1000,
    queue_ns=30 * 10**9,
    compute_ns=20 * 10**9,
    addresses=frozenset({"10.0.0.1"}),
)
AFTER = Counts(
    requests=1100, executions=550, rows=1150, queue_ns=31 * 10**9, compute_ns=22 * 10**9, addresses=BEFORE.addresses
)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Of a server that has answered seven requests."""

    def answer(request: service_pb2.ModelStatisticsRequest, _: object) -> service_pb2.ModelStatisticsResponse:
        found = service_pb2.ModelStatisticsResponse()
        stats = found.model_stats.add(name=request.name, inference_count=8, execution_count=5)
        stats.inference_stats.success.count = 7
        return found

    handler = grpc.unary_unary_rpc_method_handler(
        answer,
        request_deserializer=service_pb2.ModelStatisticsRequest.FromString,
        response_serializer=service_pb2.ModelStatisticsResponse.SerializeToString,
    )
    with ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool)
        service = server_statistics.SERVICE.removeprefix("/")
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"ModelStatistics": handler}),))
        found = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield found
        server.stop(None).wait()


def named(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Have every name stand for these."""
    found = [(socket.AF_INET6 if ":" in a else socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, 8001)) for a in addresses]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)


@pytest.mark.parametrize("addresses", [("127.0.0.1",), ("::1", "127.0.0.1")])
def test_counts_of_one_server_also_when_it_has_an_address_of_each_kind(port, monkeypatch, addresses):
    named(monkeypatch, *addresses)
    found = server_statistics.counts(Endpoint(url=f"localhost:{port}"), [MODEL])
    assert found == {MODEL: Counts(requests=7, executions=5, rows=8, addresses=frozenset(addresses))}


@pytest.mark.parametrize("addresses", [("127.0.0.1", "127.0.0.2"), ("::1", "::2", "127.0.0.1")])
def test_several_servers_behind_a_name_have_no_counts(port, monkeypatch, addresses):
    """One of them would answer now, and another one later."""
    named(monkeypatch, *addresses)
    found = server_statistics.counts(Endpoint(url=f"localhost:{port}"), [MODEL, "locate"])
    assert set(found) == {MODEL, "locate"}
    note = f"no statistics: localhost:{port} has {len(addresses)} addresses, and each server counts for itself"
    for counted in found.values():
        assert counted.note.startswith(note)
        assert split(counted, counted, 20) == (None, counted.note)


def test_name_that_is_not_known_any_more_is_said():
    (found,) = server_statistics.counts(Endpoint(url="nowhere.invalid:8001"), [MODEL]).values()
    assert found.note.startswith("no statistics: nowhere.invalid:8001: ")


def test_address_of_a_url_is_that_of_its_host():
    assert Endpoint(url="127.0.0.1:8001").addresses() == {"127.0.0.1"}
    assert Endpoint(url="dns:///[::1]:8001").addresses() == {"::1"}


def test_what_happened_between_two_counts_of_one_server():
    found, note = split(BEFORE, AFTER, 50)
    assert note == ""
    assert found is not None
    assert (found.requests, found.executions, found.mean_batch) == (100, 50, 3)
    assert (found.queue_ms, found.compute_ms, found.network_ms) == pytest.approx((10, 20, 20))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"addresses": frozenset({"10.0.0.2"})}, "the server's address changed"),
        ({"addresses": frozenset({"10.0.0.1", "fd00::1"})}, "the server's address changed"),
        ({"queue_ns": 10**9}, "went back"),
        ({"compute_ns": 10**9}, "went back"),
        ({"rows": 900}, "went back"),
        ({"requests": 900}, "was started anew"),
        ({"note": "no statistics: closed"}, "closed"),
    ],
)
def test_counts_of_two_servers_are_not_compared(changes, words):
    found, note = split(BEFORE, Counts(**{**vars(AFTER), **changes}), 50)
    assert found is None
    assert words in note


def test_model_of_several_servers_is_not_configured(monkeypatch):
    named(monkeypatch, "10.0.0.1", "10.0.0.2")
    with pytest.raises(LoadTestError, match=r"has 2 addresses: .*give the address of one: 10\.0\.0\.1, 10\.0\.0\.2"):
        ModelControl(Endpoint(url="triton:8001"), MODEL)


def test_name_without_an_address_is_no_server(monkeypatch):
    def unknown(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(LoadTestError, match=r"nowhere:8001: .*not known; expected the address of a server"):
        ModelControl(Endpoint(url="nowhere:8001"), MODEL)
