"""What a running Triton says of its models over HTTP."""

import json
import urllib.error
import urllib.request
from typing import Any


def _call(url: str, data: bytes | None = None) -> tuple[int, bytes]:
    if not url.startswith("http://"):
        raise ValueError(f"got {url!r}; expected an http:// address")
    try:
        # The scheme is checked above.
        with urllib.request.urlopen(urllib.request.Request(url, data=data), timeout=5) as answer:  # noqa: S310
            return int(answer.status), bytes(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()
    except (urllib.error.URLError, OSError):
        return 0, b""


def server_live(http_url: str) -> bool:
    """Whether the server answers at all."""
    return _call(f"{http_url}/v2/health/live")[0] == 200


def model_ready(http_url: str, model: str) -> bool:
    """Whether the model's own ready endpoint says yes. The server's own one is no measure: it stays false for ever
    after one failed load, and a not-ready answer is a 400.
    """
    return _call(f"{http_url}/v2/models/{model}/ready")[0] == 200


def repository_index(http_url: str) -> list[dict[str, Any]]:
    """Triton's list of models: name, version, state, reason."""
    status, body = _call(f"{http_url}/v2/repository/index", b"{}")
    found: list[dict[str, Any]] = json.loads(body) if status == 200 and body else []
    return found
