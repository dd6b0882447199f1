from pathlib import Path

import pytest

from rfserve.clients.connection import Connection
from rfserve.clients.errors import (
    ClientError,
    DeadlineExceeded,
    ModelUnavailable,
    Overloaded,
    RequestRejected,
    ServerUnavailable,
    from_status,
)


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("127.0.0.1:8001", "dns:///127.0.0.1:8001"),
        ("[::1]:8001", "dns:///[::1]:8001"),
        ("triton.rf.svc:8001", "dns:///triton.rf.svc:8001"),
        ("dns:///triton.rf.svc:8001", "dns:///triton.rf.svc:8001"),
    ],
)
def test_target_resolves_names_again_and_again(url, target):
    assert Connection(url=url, timeout_s=1.0).target == target


@pytest.mark.parametrize("url", ["", "localhost", ":8001", "localhost:", "http://localhost:8000", "localhost:grpc"])
def test_url_is_refused_when_it_is_no_grpc_address(url):
    with pytest.raises(ClientError, match="expected host:port"):
        Connection(url=url, timeout_s=1.0)


@pytest.mark.parametrize("url", ["127.0.0.1:1, triton.rf.svc:2", ["127.0.0.1:1", "triton.rf.svc:2"]])
def test_url_may_be_several(url):
    assert Connection(url=url, timeout_s=1.0).urls == ("127.0.0.1:1", "triton.rf.svc:2")


@pytest.mark.parametrize("url", [[], "127.0.0.1:1,", "127.0.0.1:1,127.0.0.1:1"])
def test_urls_are_refused_when_one_is_missing_or_twice(url):
    with pytest.raises(ClientError, match="url"):
        Connection(url=url, timeout_s=1.0)


@pytest.mark.parametrize("options", [{"connections": 0}, {"connections": 65}, {"try_timeout_s": 0.0}])
def test_options_are_refused_when_out_of_range(options):
    with pytest.raises(ClientError, match=next(iter(options))):
        Connection(url="127.0.0.1:1", timeout_s=1.0, **options)


@pytest.mark.parametrize("timeout_s", [0.0, -1.0, float("nan"), float("inf")])
def test_timeout_is_refused_when_it_is_no_deadline(timeout_s):
    with pytest.raises(ClientError, match="deadline"):
        Connection(url="127.0.0.1:8001", timeout_s=timeout_s)


def test_channel_options_mend_the_defaults():
    arguments = dict(Connection(url="127.0.0.1:8001", timeout_s=1.0).channel_options()["channel_args"])
    assert arguments["grpc.max_receive_message_length"] == arguments["grpc.max_send_message_length"] == -1
    assert arguments["grpc.lb_policy_name"] == "round_robin"
    # A server's default allows a ping each 300 s while a call is silent.
    assert arguments["grpc.keepalive_time_ms"] > 300_000
    # gRPC's own is two minutes: a server that is back would go unnoticed.
    assert arguments["grpc.max_reconnect_backoff_ms"] <= 2_000


def test_tls_is_off_unless_asked_for_and_on_with_any_certificate(tmp_path):
    pem = tmp_path / "any.pem"
    pem.write_text("")
    fine = {"url": "127.0.0.1:8001", "timeout_s": 1.0}
    assert "ssl" not in Connection(**fine).channel_options()
    assert Connection(**fine, tls=True).channel_options()["ssl"]
    assert Connection(**fine, root_certificates=pem).channel_options()["root_certificates"] == str(pem)
    # Never in the clear when somebody meant to show who they are.
    assert Connection(**fine, private_key=pem, certificate_chain=pem).channel_options()["ssl"]


def test_tls_is_refused_when_files_are_missing(tmp_path):
    with pytest.raises(ClientError, match="expected both"):
        Connection(url="127.0.0.1:8001", timeout_s=1.0, private_key=tmp_path / "key.pem")
    with pytest.raises(ClientError, match="no certificate file"):
        Connection(url="127.0.0.1:8001", timeout_s=1.0, root_certificates=Path("nowhere.pem"))


@pytest.mark.parametrize(
    ("status", "text", "kind"),
    [
        ("StatusCode.UNAVAILABLE", "failed to connect to all addresses", ServerUnavailable),
        ("StatusCode.UNAVAILABLE", "Exceeds maximum queue size", Overloaded),
        ("StatusCode.UNAVAILABLE", "Request timeout expired", Overloaded),
        ("StatusCode.RESOURCE_EXHAUSTED", "too much", Overloaded),
        ("StatusCode.DEADLINE_EXCEEDED", "Deadline Exceeded", DeadlineExceeded),
        ("StatusCode.NOT_FOUND", "Request for unknown model: 'locate' is not found", ModelUnavailable),
        ("StatusCode.UNAVAILABLE", "Request for unknown model: 'locate' has no available versions", ModelUnavailable),
        ("StatusCode.UNAVAILABLE", "'locate' version 2 is not at ready state", ModelUnavailable),
        ("StatusCode.UNAVAILABLE", "This protocol is restricted, expecting header 'x'", RequestRejected),
        ("StatusCode.INVALID_ARGUMENT", "unexpected shape", RequestRejected),
        ("StatusCode.INVALID_ARGUMENT", "input 'iq' not found in request", RequestRejected),
        ("StatusCode.INTERNAL", "Stub process 'heimdall_net_0_1' is not healthy.", ModelUnavailable),
        ("StatusCode.INTERNAL", "it broke", RequestRejected),
        ("None", "anything", RequestRejected),
    ],
)
def test_status_becomes_the_typed_error(status, text, kind):
    error = from_status(status, text, url="127.0.0.1:8001", model="locate")
    assert type(error) is kind
    assert text in str(error)
    assert "127.0.0.1:8001" in str(error)
