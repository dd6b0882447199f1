"""Real certificates against a real tritonserver: who is answered, who is refused, and by whom."""

import re
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from served import BriefServer

from rfserve.clients.client import LocalizationClient
from rfserve.clients.errors import ServerUnavailable
from rfserve.export import onnx_file
from rfserve.export.cli import main as export
from rfserve.export.errors import LiveServerError
from rfserve.export.live import Encryption, LiveServer
from rfserve.export.spec import GRAPHS, example
from rfserve.server.cli import main as serve
from rfserve.server.http_api import HttpApi
from rfserve.server.options import ServerOptions
from rfserve.server.process import TritonServer
from rfserve.server.security import Security

FREE = {"grpc_port": 0, "http_port": 0, "metrics_port": 0}
SPEC = GRAPHS["mel_features"]
KEY = "of-the-administrator=with/some+signs=="
DAY = timedelta(days=1)
# Addresses of this machine: the certificates name one of them.
NAMED = "127.0.0.2"
UNNAMED = "127.0.0.3"


@pytest.fixture(scope="module")
def mutual(small_model: Path, tmp_path_factory, authority, server_pair) -> Iterator[TritonServer]:
    """On every address, with TLS that asks clients for a certificate, and an administrator's key."""
    security = Security(
        tls_cert=server_pair.certificate, tls_key=server_pair.key, client_ca=authority.file, admin_key=KEY
    )
    promoted = Path(shutil.copytree(small_model, tmp_path_factory.mktemp("promoted") / "repository"))
    with BriefServer(ServerOptions(repository=promoted, address="0.0.0.0", security=security, **FREE)) as server:
        yield server


def at(server: TritonServer, address: str) -> str:
    return f"{address}:{server.grpc_url.rpartition(':')[2]}"


def tls(authority, pair) -> dict[str, Path]:
    shown = {} if pair is None else {"private_key": pair.key, "certificate_chain": pair.certificate}
    return {"root_certificates": authority.file, **shown}


def ask(url: str, **options: Path) -> None:
    with LocalizationClient(url, timeout_s=10, **options) as client:
        got, _ = client.infer(SPEC.name, example(SPEC))
    assert got["mel_spectrogram"].shape == (1, 3, 128, 32)


def refused(url: str, reason: str, **options: Path) -> None:
    with (
        LocalizationClient(url, timeout_s=1.0, **options) as client,
        pytest.raises(ServerUnavailable, match=reason),
    ):
        client.infer(SPEC.name, example(SPEC))


@pytest.mark.server
def test_client_that_shows_a_certificate_of_the_authority_is_answered(mutual, authority, client_pair, small_model):
    session = onnx_file.open_session(small_model / SPEC.name / "1" / "model.onnx")
    expected = onnx_file.run_session(session, example(SPEC))
    with LocalizationClient(at(mutual, NAMED), timeout_s=10, **tls(authority, client_pair)) as client:
        got, _ = client.infer(SPEC.name, example(SPEC))
    np.testing.assert_allclose(got["mel_spectrogram"], expected["mel_spectrogram"], rtol=0, atol=SPEC.tolerance)


@pytest.mark.server
def test_client_refuses_a_server_of_another_authority(mutual, stranger, client_pair):
    refused(at(mutual, NAMED), "CERTIFICATE_VERIFY_FAILED", **tls(stranger, client_pair))


@pytest.mark.server
def test_client_refuses_a_server_whose_certificate_names_another_host(mutual, authority, client_pair):
    refused(at(mutual, UNNAMED), "Hostname Verification Check failed", **tls(authority, client_pair))


@pytest.mark.server
def test_client_refuses_a_server_whose_certificate_has_expired(small_model, authority):
    expired = authority.issue("expired-server", ends=-timedelta(minutes=1))
    # The launcher would not start with it, but a certificate may also expire while it is served.
    given = (
        "--grpc-use-ssl=true",
        f"--grpc-server-cert={expired.certificate}",
        f"--grpc-server-key={expired.key}",
    )
    options = ServerOptions(repository=small_model, address=NAMED, extra_arguments=given, **FREE)
    with BriefServer(options) as server:
        refused(server.grpc_url, "CERTIFICATE_VERIFY_FAILED", **tls(authority, None))


@pytest.mark.server
@pytest.mark.parametrize("shown", ["none", "of a stranger", "expired", "not yet valid"])
def test_server_refuses_a_client_without_a_good_certificate(mutual, authority, stranger, folder, shown):
    pair = {
        "none": lambda: None,
        "of a stranger": lambda: stranger.issue("foreign-client"),
        "expired": lambda: authority.issue("expired-client", ends=-timedelta(minutes=1)),
        "not yet valid": lambda: authority.issue("early-client", begins=DAY, ends=3 * DAY),
    }[shown]()
    refused(at(mutual, NAMED), "UNAVAILABLE", **tls(authority, pair))
    # Not that nobody is served.
    ask(at(mutual, NAMED), **tls(authority, authority.issue("good-client")))


@pytest.mark.server
def test_plain_text_is_not_answered_on_a_port_with_tls(mutual):
    refused(at(mutual, NAMED), "UNAVAILABLE")
    with socket.create_connection((NAMED, int(mutual.grpc_url.rpartition(":")[2])), timeout=5) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\nHost: triton\r\n\r\n")
        assert b"HTTP/" not in plain.recv(1000)


@pytest.mark.server
def test_old_versions_of_tls_are_not_spoken(mutual, authority, client_pair):

    context = ssl.create_default_context(cafile=str(authority.file))
    context.load_cert_chain(client_pair.certificate, client_pair.key)
    port = int(mutual.grpc_url.rpartition(":")[2])
    with (
        socket.create_connection((NAMED, port), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname=NAMED) as secure,
    ):
        assert secure.version() in {"TLSv1.2", "TLSv1.3"}
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("AES128-SHA:AES256-SHA:@SECLEVEL=0")
    with (
        socket.create_connection((NAMED, port), timeout=5) as plain,
        pytest.raises((ssl.SSLError, ConnectionError)),
    ):
        context.wrap_socket(plain, server_hostname=NAMED)


@pytest.mark.server
def test_http_and_metrics_stay_on_loopback_when_grpc_has_tls(mutual):
    assert mutual.grpc_url.startswith("0.0.0.0:")
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", mutual.http_url)
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/metrics", mutual.metrics_url)
    assert mutual.http.server_live()
    assert HttpApi(url=mutual.metrics_url).call("").ok
    for url in (mutual.http_url, mutual.metrics_url):
        assert HttpApi(url=url.replace("127.0.0.1", NAMED), timeout_s=2).call("").status == 0


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    file = tmp_path / "key"
    file.write_text(f"{KEY}\n")
    file.chmod(0o600)
    return file


@pytest.fixture
def shown(client_pair) -> list[str]:
    return ["--private-key", str(client_pair.key), "--certificate-chain", str(client_pair.certificate)]


@pytest.mark.server
def test_promotion_passes_with_certificates_and_the_key(mutual, authority, key_file, shown, capsys):
    where = ["--repository", str(mutual.options.repository), "--url", at(mutual, NAMED), "--timeout-s", "5"]
    command = ["promote", SPEC.name, "1", *where]
    trusting = ["--root-certificates", str(authority.file)]
    key = ["--admin-key-file", str(key_file)]
    assert export([*command, *key]) == 1
    assert "UNAVAILABLE" in capsys.readouterr().err
    assert export([*command, *key, *shown, "--root-certificates", shown[-1]]) == 1
    assert re.search("CERTIFICATE_VERIFY_FAILED.*see --root-certificates", capsys.readouterr().err, re.DOTALL)
    elsewhere = ["promote", SPEC.name, "1", *where[:2], "--url", at(mutual, UNNAMED), "--timeout-s", "5"]
    assert export([*elsewhere, *key, *shown, *trusting]) == 1
    assert "--url has to name the host as the server's certificate does" in capsys.readouterr().err
    assert export([*command, *shown, *trusting]) == 1
    assert "protocol is restricted" in capsys.readouterr().err
    assert export([*command, *key, *shown, *trusting]) == 0
    assert "cpu serves version 1" in capsys.readouterr().out


@pytest.mark.server
def test_release_passes_with_certificates_and_the_key_to_a_pod_that_is_called_by_address(
    mutual, authority, key_file, shown, capsys
):
    """Certificates name a Service, and pods have addresses that nobody knows beforehand."""
    where = ["--repository", str(mutual.options.repository), "--pods", at(mutual, UNNAMED), "--pod-timeout-s", "10"]
    trusting = [*shown, "--root-certificates", str(authority.file)]
    named = [*trusting, "--server-name", NAMED]
    key = ["--admin-key-file", str(key_file)]
    command = ["release", SPEC.name, "1", *where]
    for given, reason in (
        ([*key, *trusting], "Hostname Verification Check failed"),
        ([*key, "--tls", "--server-name", NAMED], "UNAVAILABLE"),
        (named, "protocol is restricted"),
    ):
        assert serve([*command, *given]) == 1
        assert reason in capsys.readouterr().err
    assert serve([*command, *key, *named]) == 0
    assert "cpu serves version 1" in capsys.readouterr().out


@pytest.mark.server
def test_running_server_says_what_it_serves_over_tls(mutual, authority, client_pair):
    with LiveServer(at(mutual, NAMED), 5, KEY, Encryption(**tls(authority, client_pair))) as server:
        assert server.served_versions(SPEC.name) == [1]


def test_certificates_for_a_running_server_are_refused_when_files_are_missing(client_pair, tmp_path):
    with pytest.raises(LiveServerError, match="expected both"):
        Encryption(private_key=client_pair.key)
    with pytest.raises(LiveServerError, match="no certificate file"):
        Encryption(root_certificates=tmp_path / "nowhere.pem")
    assert Encryption().channel_options() == {}
    assert Encryption(tls=True).channel_options() == {"ssl": True}


@pytest.mark.server
def test_command_serves_with_tls_and_a_key(small_model, authority, server_pair, key_file, shown):
    np.savez(key_file.parent / "in.npz", **example(SPEC))
    out = key_file.parent / "out.npz"
    client = [sys.executable, "-m", "rfserve.clients.cli", "infer", SPEC.name, str(key_file.parent / "in.npz")]
    client += ["--root-certificates", str(authority.file), *shown, "--output-file", str(out)]
    command = [sys.executable, "-m", "rfserve.server.cli", "exec", "--repository", str(small_model), "--address", NAMED]
    command += ["--tls-cert", str(server_pair.certificate), "--tls-key", str(server_pair.key)]
    command += ["--client-ca", str(authority.file), "--admin-key-file", str(key_file)]
    command += ["--grpc-port", "0", "--http-port", "0", "--metrics-port", "0", "--", *client]
    assert subprocess.run(command, check=False, timeout=120).returncode == 0
    assert out.is_file()


def test_command_says_what_it_cannot_do(tmp_path, server_pair, capsys):
    assert serve(["run", "--repository", str(tmp_path), "--tls-cert", str(server_pair.certificate)]) == 1
    assert "got one of --tls-cert and --tls-key" in capsys.readouterr().err
    assert serve(["run", "--repository", str(tmp_path), "--address", "0.0.0.0", "--open-admin"]) == 1
    assert "--open-admin is for loopback" in capsys.readouterr().err
