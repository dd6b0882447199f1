"""A proxy in the environment: a server on this machine is asked past it, and does not get the administrator's key."""

import importlib.util
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import pytest

from rfserve.server.http_api import HttpApi

PROBE = Path(__file__).parents[2] / "deploy" / "k8s" / "components" / "probe" / "probe.py"


class Proxy(ThreadingHTTPServer):
    """Takes note of what it is asked for, and refuses it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Refusal)
        self.asked: list[str] = []


class _Refusal(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.send_error(502)

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *_) -> None:
        pass


@pytest.fixture
def proxy(monkeypatch, answering) -> Proxy:
    """A proxy that the environment names for every address."""
    for name in ("http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY", "REQUEST_METHOD"):
        monkeypatch.delenv(name, raising=False)
    # The one of urlopen, which keeps to the proxies that it was made with.
    monkeypatch.setattr(urllib.request, "_opener", None)
    running = Proxy()
    answering(running)
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{running.server_port}")
    return running


@pytest.fixture
def probe() -> ModuleType:
    spec = importlib.util.spec_from_file_location("probe", PROBE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_proxy_is_what_others_would_ask(proxy):
    with pytest.raises(urllib.error.HTTPError, match="502"):
        urllib.request.urlopen("http://127.0.0.1:9/")
    assert proxy.asked == ["http://127.0.0.1:9/"]


def test_administrators_key_does_not_reach_a_proxy(proxy, probe, monkeypatch):
    monkeypatch.setattr(probe, "URL", "http://127.0.0.1:9")
    headers = {"admin-key": "secret"}
    assert HttpApi(url="http://127.0.0.1:9", admin_key="secret").call("/v2/repository/index", {}).status == 0
    assert probe.call("/v2/health/live", None, headers, 5)[0] == probe.NO_ANSWER
    assert proxy.asked == []


@pytest.mark.server
def test_server_becomes_ready_and_is_watched_with_a_proxy_in_the_environment(proxy, small_model, run):
    running = run(small_model, "--load-timeout-s", "60")
    page = HttpApi(url=running.metrics).call("").body.decode()
    assert "rfserve_triton_metrics_up 1.0" in page
    assert 'rfserve_model_ready{model="mel_features"} 1.0' in page
    assert proxy.asked == []
