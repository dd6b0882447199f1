"""One address for Prometheus: Triton's own metrics as they are, and after them what Triton lacks."""

import threading
import urllib.error
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from rfserve.server.errors import PortBusy
from rfserve.server.http_api import DIRECT

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
TRITON_TIMEOUT_S = 5.0


class MetricsEndpoint:
    """Listens on `address` and `port` (0 picks a free one) from when it is made; answers from `start` on.

    `triton_url` is Triton's own endpoint; `own` gives further metrics in Prometheus' text format.
    """

    def __init__(self, address: str, port: int) -> None:
        try:
            self._server = ThreadingHTTPServer((address, port), _Handler, bind_and_activate=True)
        except OSError as error:
            raise PortBusy(
                f"metrics port {address}:{port}: {error.strerror}; stop what listens there, or give --metrics-port N "
                "(--metrics-port 0 picks a free one)"
            ) from error
        self._server.daemon_threads = True
        self._thread: threading.Thread | None = None
        self.url = f"http://{address}:{self._server.server_port}/metrics"

    def start(self, triton_url: str, own: Callable[[bool], bytes]) -> None:
        """Answer scrapes. `own` is told whether Triton's metrics could be read."""

        def page() -> bytes:
            triton = _read(triton_url)
            return triton + own(bool(triton))

        self._server.RequestHandlerClass = type("Handler", (_Handler,), {"page": staticmethod(page)})
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Close the port."""
        if self._thread is not None:
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()


def _read(url: str) -> bytes:
    try:
        with DIRECT.open(url, timeout=TRITON_TIMEOUT_S) as answer:
            return bytes(answer.read())
    except (urllib.error.URLError, OSError):
        return b""


class _Handler(BaseHTTPRequestHandler):
    timeout = 30
    page: Callable[[], bytes]

    def do_GET(self) -> None:
        if self.path.partition("?")[0] not in {"/metrics", "/"}:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        body = self.page()
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", CONTENT_TYPE)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with suppress(BrokenPipeError, ConnectionResetError):
            self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing: every scrape would be a line."""
