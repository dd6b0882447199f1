"""The administrative APIs of a real tritonserver: with the key, without it, and with another one."""

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tritonclient.grpc as triton
from served import BriefServer
from tritonclient.utils import InferenceServerException

from rfserve.clients.client import LocalizationClient
from rfserve.export.spec import GRAPHS, example
from rfserve.server import cli
from rfserve.server.http_api import HttpApi
from rfserve.server.options import ServerOptions
from rfserve.server.process import TritonServer
from rfserve.server.security import ADMINISTRATIVE, Security

FREE = {"grpc_port": 0, "http_port": 0, "metrics_port": 0}
SPEC = GRAPHS["mel_features"]
KEY = "of-the-administrator=with/some+signs=="
WRONG = "of-somebody-else=with/some+signs=="
HEADER = "triton-grpc-protocol-admin-key"


def ask(url: str) -> None:
    with LocalizationClient(url, timeout_s=10) as client:
        assert client.infer(SPEC.name, example(SPEC))[0]["mel_spectrogram"].shape == (1, 3, 128, 32)


@pytest.fixture(scope="module")
def closed(small_model: Path) -> Iterator[TritonServer]:
    """On loopback without TLS, with an administrator's key."""
    with BriefServer(ServerOptions(repository=small_model, security=Security(admin_key=KEY), **FREE)) as server:
        yield server


GrpcCall = Callable[[triton.InferenceServerClient, dict[str, str]], object]
GRPC_CALLS: dict[str, list[GrpcCall]] = {
    "model-repository": [
        lambda c, h: c.get_model_repository_index(headers=h),
        lambda c, h: c.load_model(SPEC.name, headers=h),
    ],
    "model-config": [lambda c, h: c.get_model_config(SPEC.name, headers=h)],
    "shared-memory": [
        lambda c, h: c.get_system_shared_memory_status(headers=h),
        lambda c, h: c.unregister_system_shared_memory("nothing", headers=h),
        lambda c, h: c.get_cuda_shared_memory_status(headers=h),
    ],
    "trace": [
        lambda c, h: c.get_trace_settings(headers=h),
        lambda c, h: c.update_trace_settings(settings={"trace_rate": "1000"}, headers=h),
    ],
    "logging": [
        lambda c, h: c.get_log_settings(headers=h),
        lambda c, h: c.update_log_settings({"log_verbose_level": 0}, headers=h),
    ],
}
HTTP_CALLS: dict[str, list[tuple[str, dict | None]]] = {
    "model-repository": [("/v2/repository/index", {}), (f"/v2/repository/models/{SPEC.name}/load", {})],
    "model-config": [(f"/v2/models/{SPEC.name}/config", None), (f"/v2/models/{SPEC.name}/versions/1/config", None)],
    "shared-memory": [
        ("/v2/systemsharedmemory/status", None),
        ("/v2/systemsharedmemory/region/nothing/unregister", {}),
        ("/v2/cudasharedmemory/status", None),
    ],
    "trace": [("/v2/trace/setting", None), (f"/v2/models/{SPEC.name}/trace/setting", {"trace_rate": "1000"})],
    "logging": [("/v2/logging", None), ("/v2/logging", {"log_verbose_level": 0})],
}


def test_calls_of_every_administrative_api_are_listed():
    assert set(GRPC_CALLS) == set(HTTP_CALLS) == set(ADMINISTRATIVE)


@pytest.mark.server
@pytest.mark.parametrize("api", ADMINISTRATIVE)
def test_administrative_api_asks_for_the_key_over_grpc(closed, api):
    with triton.InferenceServerClient(closed.grpc_url) as client:
        for call in GRPC_CALLS[api]:
            for headers in ({}, {HEADER: WRONG}, {HEADER: ""}, {"admin-key": KEY}):
                with pytest.raises(InferenceServerException, match="This protocol is restricted"):
                    call(client, headers)
            call(client, {HEADER: KEY})


@pytest.mark.server
@pytest.mark.parametrize("api", ADMINISTRATIVE)
def test_administrative_api_asks_for_the_key_over_http(closed, api):
    for path, body in HTTP_CALLS[api]:
        for key in (None, WRONG, ""):
            answer = HttpApi(url=closed.http_url, admin_key=key).call(path, body)
            assert (answer.status, answer.reason) == (403, "This API is restricted, expecting header 'admin-key'")
        assert closed.http.call(path, body).status != 403


@pytest.mark.server
def test_status_says_what_could_not_be_asked_and_what_to_pass(closed, tmp_path, capsys):
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    for file, key in ((right, KEY), (wrong, WRONG)):
        file.write_text(key)
        file.chmod(0o600)
    command = ["status", "--url", closed.http_url]
    assert cli.main(command) == 1
    said = capsys.readouterr().err
    assert f"{closed.http_url} runs; the list of its models could not be asked for" in said
    assert "no key was sent. Pass --admin-key-file with the file that the server was started with" in said
    assert cli.main([*command, "--admin-key-file", str(wrong)]) == 1
    assert "the key that was sent is not its own" in capsys.readouterr().err
    assert cli.main([*command, "--admin-key-file", str(right)]) == 0
    assert SPEC.name in capsys.readouterr().out


@pytest.mark.server
def test_inference_health_metadata_and_statistics_need_no_key(closed):
    ask(closed.grpc_url)
    with triton.InferenceServerClient(closed.grpc_url) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready(SPEC.name)
        assert client.get_model_metadata(SPEC.name).name == SPEC.name
        assert client.get_inference_statistics(SPEC.name).model_stats[0].inference_count > 0
    outsider = HttpApi(url=closed.http_url)
    for path in ("/v2/health/live", "/v2", f"/v2/models/{SPEC.name}", f"/v2/models/{SPEC.name}/stats"):
        assert outsider.call(path).ok
    tensor = {"name": "raw_iq", "datatype": "FP32", "shape": [1, 2, 4096], "data": [0.5, 0.25] * 4096}
    assert outsider.call(f"/v2/models/{SPEC.name}/infer", {"inputs": [tensor]}).ok
    assert HttpApi(url=closed.metrics_url).call("").ok


@pytest.fixture(scope="module")
def public(small_model: Path) -> Iterator[TritonServer]:
    """On every address, with the launcher's own key."""
    with BriefServer(ServerOptions(repository=small_model, address="0.0.0.0", **FREE)) as server:
        yield server


@pytest.mark.server
def test_key_of_the_launcher_is_its_own_and_stays_out_of_the_log(public):
    key = public.options.security.admin_key
    assert len(key) > 40
    assert key != Security().admin_key
    assert key not in repr(public.options)
    assert [m["state"] for m in public.http.repository_index()] == ["READY"]
    assert HttpApi(url=public.http_url).repository_index() == []
    assert key not in public.log()


@pytest.mark.server
def test_address_that_others_reach_has_no_http_inference_without_the_key(public):
    """A body in a million chunks ends tritonserver 2.51: nobody gets so far."""
    port = int(public.http_url.rpartition(":")[2])
    for path in (f"/v2/models/{SPEC.name}/infer", f"/v2/models/{SPEC.name}/generate", "/v2/repository/index"):
        head = f"POST {path} HTTP/1.1\r\nHost: triton\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        with socket.create_connection(("127.0.0.1", port), timeout=20) as sender:
            sender.sendall(head + b"1\r\n \r\n" * 1_500_000 + b"0\r\n\r\n")
            assert sender.recv(100).startswith(b"HTTP/1.1 403 ")
        assert public.http.server_live()
    for path in ("/v2/health/live", "/v2", f"/v2/models/{SPEC.name}/stats"):
        assert HttpApi(url=public.http_url).call(path).ok
    ask(public.grpc_url.replace("0.0.0.0", "127.0.0.1"))


@pytest.mark.server
@pytest.mark.server
def test_desk_opens_every_administrative_api(server):
    with triton.InferenceServerClient(server.grpc_url) as client:
        for api in ADMINISTRATIVE:
            for call in GRPC_CALLS[api]:
                call(client, {})
    assert HttpApi(url=server.http_url).repository_index()


@pytest.mark.server
def test_desk_opens_shared_memory_alone(small_model):
    security = Security(open_shared_memory=True)
    with (
        BriefServer(ServerOptions(repository=small_model, security=security, **FREE)) as server,
        triton.InferenceServerClient(server.grpc_url) as client,
    ):
        assert not client.get_system_shared_memory_status().regions
        assert HttpApi(url=server.http_url).call("/v2/systemsharedmemory/status").ok
        with pytest.raises(InferenceServerException, match="This protocol is restricted"):
            client.get_model_repository_index()
