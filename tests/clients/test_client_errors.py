"""Both clients against a gRPC server on loopback that does what a real Triton cannot be made to do at will."""

import asyncio
import shutil
import subprocess
import threading
import time

import grpc
import numpy as np
import ports
import pytest
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from rfserve.clients.async_client import AsyncLocalizationClient
from rfserve.clients.client import LocalizationClient
from rfserve.clients.errors import (
    DeadlineExceeded,
    InvalidAnswer,
    ModelUnavailable,
    Overloaded,
    RequestRejected,
    ServerUnavailable,
)
from rfserve.export.spec import TensorError, example, find

AWAY = grpc.StatusCode.UNAVAILABLE


def _blocking(url, method, *given, **options):
    with LocalizationClient(url, **options) as client:
        return getattr(client, method)(*given)


def _asynchronous(url, method, *given, **options):
    async def run():
        async with AsyncLocalizationClient(url, **options) as client:
            return await getattr(client, method)(*given)

    return asyncio.run(run())


@pytest.fixture(params=[_blocking, _asynchronous], ids=["blocking", "async"])
def call(request):
    """Make one call with a client of its own."""
    return request.param


@pytest.fixture
def free_port():
    """A port where nothing listens."""
    return ports.free_port()


def test_fix_says_who_answered(call, serve, answer, observe):
    server = serve(answer())
    fix = call(server.url, "locate", [observe(), observe(latitude_deg=45.2)], timeout_s=5.0)
    assert (fix.latitude_deg, fix.longitude_deg) == (pytest.approx(45.1, abs=2e-6), pytest.approx(7.6, abs=2e-6))
    assert (fix.sigma_north_m, fix.sigma_east_m) == (30.0, 20.0)
    assert (fix.model, fix.model_version) == ("locate", "3")
    assert fix.request_id == server.requests[0].id != ""
    assert 0 < fix.timings_ms["round_trip"] < 5000
    assert fix.timings_ms["prepare"] > 0


def test_request_holds_the_tensors_of_the_spec(call, serve, answer, observe):
    server = serve(answer())
    call(server.url, "locate", [observe()], timeout_s=5.0, version="7")
    (sent,) = server.requests
    assert (sent.model_name, sent.model_version) == ("locate", "7")
    spec = find("locate")
    assert [(t.name, t.datatype, tuple(t.shape)) for t in sent.inputs] == [
        (t.name, t.dtype.value, t.shape(1, spec.served_sizes)) for t in spec.inputs
    ]


def test_batch_becomes_one_fix_for_each_event(call, serve, answer, observe):
    server = serve(answer(positions=[[45, 7], [46, 8], [47, 9]], uncertainties=[[1, 2]] * 3))
    fixes = call(server.url, "locate_batch", [[observe()]] * 3, timeout_s=5.0)
    assert [f.latitude_deg for f in fixes] == [45, 46, 47]
    assert len(server.requests) == 1


def test_large_messages_pass_when_channel_arguments_are_set(call, serve, answer):
    rows = 32
    server = serve(answer(positions=np.full((rows, 2), 5.0), uncertainties=np.ones((rows, 2))))
    outputs, _ = call(server.url, "infer", "locate", example(find("locate"), batch=rows), timeout_s=30.0)
    assert server.requests[0].ByteSize() > 2**25
    assert outputs["positions"].shape == (rows, 2)


def test_call_is_repeated_when_the_server_was_away(call, serve, refuse, answer, observe):
    server = serve(refuse(AWAY, "starting"), refuse(AWAY, "starting"), answer())
    assert call(server.url, "locate", [observe()], timeout_s=5.0).model_version == "3"
    assert len(server.requests) == 3
    assert len({r.id for r in server.requests}) == 1


def test_call_is_answered_when_the_server_comes_back_in_time(call, serve, answer, observe, free_port):
    late = threading.Timer(1.0, serve, [answer()], {"port": free_port})
    late.start()
    try:
        fix = call(f"127.0.0.1:{free_port}", "locate", [observe()], timeout_s=10.0)
    finally:
        late.join()
    assert 900 < fix.timings_ms["round_trip"] < 5000


def test_call_fails_within_its_time_when_nothing_listens(call, observe, free_port):
    begun = time.monotonic()
    with pytest.raises(ServerUnavailable, match="rfserve-server run") as caught:
        call(f"127.0.0.1:{free_port}", "locate", [observe()], timeout_s=0.8)
    assert time.monotonic() - begun < 5
    assert isinstance(caught.value.__cause__, InferenceServerException)


@pytest.mark.parametrize(
    "case",
    [
        (AWAY, "Exceeds maximum queue size", Overloaded),
        (AWAY, "This protocol is restricted, expecting header x", RequestRejected),
        (AWAY, "Request for unknown model: it has no available versions", ModelUnavailable),
        (grpc.StatusCode.NOT_FOUND, "Request for unknown model: it is not found", ModelUnavailable),
        (grpc.StatusCode.INVALID_ARGUMENT, "unexpected shape", RequestRejected),
        (grpc.StatusCode.INTERNAL, "it broke", RequestRejected),
    ],
    ids=lambda case: case[1],
)
def test_call_is_not_repeated_when_that_cannot_help(call, serve, refuse, observe, case):
    status, text, kind = case
    server = serve(refuse(status, text))
    with pytest.raises(kind, match=text) as caught:
        call(server.url, "locate", [observe()], timeout_s=5.0)
    assert len(server.requests) == 1
    assert isinstance(caught.value.__cause__, InferenceServerException)


def test_call_goes_to_another_server_when_the_process_of_its_model_died(call, serve, refuse, answer, observe):
    dead = serve(refuse(grpc.StatusCode.INTERNAL, "Stub process 'heimdall_net_0_1' is not healthy."))
    well = serve(answer())
    for _ in range(2):
        assert call([dead.url, well.url], "locate", [observe()], timeout_s=5.0).model_version == "3"
    assert len(dead.requests) >= 1
    with pytest.raises(ModelUnavailable, match="the server's watchdog mends it"):
        call(dead.url, "locate", [observe()], timeout_s=5.0)


def test_deadline_ends_a_call_that_gets_no_answer(call, serve, observe):
    release = threading.Event()

    def hang(_, context):
        release.wait(10)
        context.abort(grpc.StatusCode.INTERNAL, "too late")

    server = serve(hang)
    begun = time.monotonic()
    try:
        with pytest.raises(DeadlineExceeded, match="longer time-out"):
            call(server.url, "locate", [observe()], timeout_s=0.3)
        assert time.monotonic() - begun < 5
    finally:
        release.set()
    assert len(server.requests) == 1


def test_call_whose_deadline_passed_is_left_to_the_server(call, serve, answer, observe):
    """A cancelled one can end a Triton, which answers it in vain."""
    waited_for = []

    def late(request, context):
        time.sleep(0.6)
        waited_for.append(context.is_active())
        return answer()(request, context)

    server = serve(late)
    with pytest.raises(DeadlineExceeded, match="longer time-out"):
        call(server.url, "locate", [observe()], timeout_s=0.2)
    # Closing waits for what is late, as long as it is not too late.
    assert waited_for == [True]


def test_server_is_told_how_long_its_answer_is_waited_for(call, serve, answer, refuse, observe):
    server = serve(refuse(AWAY, "starting"), refuse(AWAY, "starting"), refuse(AWAY, "starting"), answer())
    call(server.url, "locate", [observe()], timeout_s=2.0)
    told = [r.parameters["timeout"].int64_param for r in server.requests]
    assert 1_500_000 < told[0] < 1_960_000
    assert told == sorted(told, reverse=True)
    assert told[0] - told[-1] > 100_000


@pytest.mark.parametrize("connections", [1, 3])
def test_connections_are_as_many_as_asked_for_and_take_turns(serve, answer, connections):
    peers = []

    def note(request, context):
        peers.append(context.peer())
        return answer()(request, context)

    with LocalizationClient(serve(note).url, timeout_s=5.0, connections=connections) as client:
        for _ in range(6):
            client.infer("locate", example(find("locate")))
    assert [peers.count(p) for p in set(peers)] == [6 // connections] * connections


def test_each_of_several_servers_has_its_turn(call, serve, answer, observe):
    one, other = serve(answer(version="1")), serve(answer(version="2"))
    for _ in range(2):
        call([one.url, other.url], "locate", [observe()], timeout_s=5.0)
    with LocalizationClient(f"{one.url},{other.url}", timeout_s=5.0) as client:
        assert [client.locate([observe()]).model_version for _ in range(4)] in (["1", "2"] * 2, ["2", "1"] * 2)


def test_full_queue_of_one_server_goes_to_another(call, serve, refuse, answer, observe):
    full, free = serve(refuse(AWAY, "Exceeds maximum queue size")), serve(answer())
    for urls in ([full.url, free.url], [free.url, full.url]):
        assert call(urls, "locate", [observe()], timeout_s=5.0).model_version == "3"
    assert len(free.requests) == 2


def test_answer_is_refused_when_a_row_is_not_finite(call, serve, answer, observe):
    server = serve(answer(positions=[[45, 7], [np.nan, 7]], uncertainties=[[1, 2], [1, 2]]))
    with pytest.raises(InvalidAnswer, match=r"1 of 2 rows hold no fix: row 1: .*no active receiver"):
        call(server.url, "locate_batch", [[observe()]] * 2, timeout_s=5.0)


def test_answer_is_refused_when_it_is_empty(call, serve, observe):
    """What a Python backend on numpy 2 does: shapes without contents."""

    def empty(_, __):
        response = service_pb2.ModelInferResponse(model_version="1")
        for name in ("positions", "uncertainties"):
            response.outputs.add(name=name, datatype="FP32", shape=(1, 2))
            response.raw_output_contents.append(b"")
        return response

    with pytest.raises(InvalidAnswer, match="numpy below 2"):
        call(serve(empty).url, "locate", [observe()], timeout_s=5.0)


def test_answer_is_refused_when_an_output_is_missing(call, serve, observe):
    def lacking(_, __):
        return service_pb2.ModelInferResponse(model_version="1")

    with pytest.raises(InvalidAnswer, match="got nothing for output positions"):
        call(serve(lacking).url, "locate", [observe()], timeout_s=5.0)


def test_nothing_is_sent_when_the_tensors_do_not_fit(call, serve, answer):
    server = serve(answer())
    arrays = example(find("locate"))
    arrays["mask"] = arrays["mask"][:, :3]
    with pytest.raises(TensorError, match="receivers"):
        call(server.url, "infer", "locate", arrays, timeout_s=5.0)
    assert server.requests == []


def ready(yes):
    return lambda _, __: service_pb2.ModelReadyResponse(ready=yes)


def test_wait_ends_when_the_model_is_ready(call, serve, refuse):
    loading = refuse(AWAY, "Request for unknown model: 'locate' is not at ready state")
    server = serve(ready(False), loading, ready(True))
    call(server.url, "wait_ready", 5.0, timeout_s=5.0)
    assert len(server.requests) == 3


def test_wait_fails_in_time_when_the_model_never_is_ready(call, serve):
    begun = time.monotonic()
    with pytest.raises(ModelUnavailable, match=r"not ready after 0\.5 s"):
        call(serve(ready(False)).url, "wait_ready", 0.5, timeout_s=5.0)
    assert time.monotonic() - begun < 5


def test_wait_says_that_there_is_no_server(call, free_port):
    with pytest.raises(ServerUnavailable):
        call(f"127.0.0.1:{free_port}", "wait_ready", 2.0, timeout_s=5.0)


def test_wait_ends_at_once_when_waiting_cannot_help(call, serve, refuse):
    server = serve(refuse(grpc.StatusCode.UNAUTHENTICATED, "who are you"))
    with pytest.raises(RequestRejected, match="who are you"):
        call(server.url, "wait_ready", 30.0, timeout_s=5.0)


def test_model_is_ready_or_not(serve, refuse):
    server = serve(ready(True), ready(False), refuse(grpc.StatusCode.NOT_FOUND, "no"), refuse(AWAY, "gone"))
    with LocalizationClient(server.url, timeout_s=5.0) as client:
        assert [client.is_ready() for _ in range(3)] == [True, False, False]
        with pytest.raises(ServerUnavailable):
            client.is_ready()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """A root, and what it signed: a server on 127.0.0.1 and a caller."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed, so there are no certificates")
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    new = ("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    openssl(*new, "-x509", "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=test root")
    for name in ("server", "caller"):
        openssl(*new[:-2], "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        (folder / "ext").write_text("subjectAltName=IP:127.0.0.1")
        signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "ext")
        openssl("x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.pem", *signed)
    return folder


@pytest.fixture
def secure(certificates, serve, answer):
    """A server that speaks TLS only and asks who calls."""
    key, chain, root = ((certificates / name).read_bytes() for name in ("server.key", "server.pem", "ca.pem"))
    return serve(answer(), credentials=grpc.ssl_server_credentials([(key, chain)], root, require_client_auth=True))


def test_tls_passes_when_both_sides_show_a_certificate(call, certificates, secure, observe):
    files = {
        "root_certificates": certificates / "ca.pem",
        "private_key": certificates / "caller.key",
        "certificate_chain": certificates / "caller.pem",
    }
    assert call(secure.url, "locate", [observe()], timeout_s=5.0, **files).model_version == "3"


@pytest.mark.parametrize("shown", [[], ["root_certificates"]])
def test_tls_fails_when_the_caller_shows_none(call, certificates, secure, observe, shown):
    files = dict.fromkeys(shown, certificates / "ca.pem")
    with pytest.raises(ServerUnavailable):
        call(secure.url, "locate", [observe()], timeout_s=0.8, **files)
    assert secure.requests == []
