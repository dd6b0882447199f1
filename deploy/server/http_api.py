"""Triton's HTTP endpoint: health, the repository's models, and what is in them."""

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ADMIN_HEADER = "admin-key"
# Straight to the server: a proxy of the environment is for what is elsewhere, and would be given the key.
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An HTTP status, 0 when nobody answered in time, and the body; `reason` is Triton's own text for a refusal."""

    status: int
    body: bytes = b""

    @property
    def ok(self) -> bool:
        """Whether the call did what it was to do."""
        return self.status == 200

    @property
    def document(self) -> Any:
        """The body as JSON; None when it is none."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None

    @property
    def reason(self) -> str:
        """Why the call failed, empty when it did not."""
        if self.ok:
            return ""
        document = self.document
        if isinstance(document, dict) and document.get("error"):
            return str(document["error"])
        return f"HTTP status {self.status}" if self.status else "no answer"


@dataclass(frozen=True, kw_only=True)
class HttpApi:
    """One server's HTTP endpoint at `url` (`http://host:port`), which is asked past any proxy of the environment.
    `timeout_s` bounds each wait for bytes of a call.

    `admin_key` is for a server that restricts its administrative APIs. No method raises: a call that failed has an
    `Answer` that says so.
    """

    url: str
    timeout_s: float = 5.0
    admin_key: str | None = None

    def __post_init__(self) -> None:
        if not self.url.startswith("http://"):
            raise ValueError(f"got {self.url!r}; expected an http:// address")

    def call(
        self,
        path: str,
        body: Mapping[str, Any] | bytes | None = None,
        timeout_s: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """GET `path`, or POST `body` to it: as JSON, or as it is when it is bytes."""
        sent = dict(headers or {}) | ({} if self.admin_key is None else {ADMIN_HEADER: self.admin_key})
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}{path}", data=data, headers=sent)  # noqa: S310
        try:
            # The scheme is checked above.
            with DIRECT.open(request, timeout=timeout_s or self.timeout_s) as answer:
                return Answer(status=int(answer.status), body=bytes(answer.read()))
        except urllib.error.HTTPError as error:
            with error:
                return Answer(status=error.code, body=error.read())
        except (urllib.error.URLError, http.client.HTTPException, OSError):
            return Answer(status=0)

    def server_live(self) -> bool:
        """Whether the server answers at all."""
        return self.call("/v2/health/live").ok

    def model_ready(self, model: str) -> bool:
        """Whether the model's own ready endpoint says yes. The server's own one is no measure: it stays false for ever
        after one failed load, and a not-ready answer is a 400.
        """
        return self.call(f"/v2/models/{model}/ready").ok

    def repository_index(self) -> list[dict[str, Any]]:
        """Triton's list of models: name, version, state, reason. To make it, Triton lists the repository, and in an
        object store the bucket: what is asked often, and needs no reasons, is in the statistics.
        """
        answer = self.call("/v2/repository/index", {})
        found = answer.document if answer.ok else None
        return found if isinstance(found, list) else []

    def config(self, model: str) -> dict[str, Any] | None:
        """The configuration that the model is served with; None when it has no version that is."""
        answer = self.call(f"/v2/models/{model}/config")
        found = answer.document if answer.ok else None
        return found if isinstance(found, dict) else None

    def statistics(self) -> list[dict[str, Any]]:
        """What Triton has counted for each served version of each model."""
        return self._statistics() or []

    def served_versions(self) -> frozenset[tuple[str, str]] | None:
        """Model and version of all that is served; None when the server does not say."""
        found = self._statistics()
        return None if found is None else frozenset((str(s["name"]), str(s["version"])) for s in found)

    def _statistics(self) -> list[dict[str, Any]] | None:
        answer = self.call("/v2/models/stats")
        found = answer.document if answer.ok else None
        return list(found.get("model_stats", [])) if isinstance(found, dict) else None

    def unload(self, model: str, timeout_s: float) -> Answer:
        """Take the model out of service; the models that run it follow by themselves."""
        return self.call(f"/v2/repository/models/{model}/unload", {}, timeout_s=timeout_s)

    def load(self, model: str, timeout_s: float) -> Answer:
        """Put the model into service as the repository has it now; answers when it is, or why not."""
        return self.call(f"/v2/repository/models/{model}/load", {}, timeout_s=timeout_s)
