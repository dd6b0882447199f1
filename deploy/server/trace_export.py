"""Sending spans to an OpenTelemetry collector: what tritonserver is told for it."""

from dataclasses import dataclass
from urllib.parse import urlsplit

from rfserve.server.errors import ServerError


@dataclass(frozen=True, kw_only=True)
class TraceExport:
    """`url` is that of a collector for OTLP over HTTP. Of all requests, the share `rate` is traced: Triton takes every
    n-th, whether or not its caller traces; one that carries `traceparent` joins its caller's trace.
    """

    url: str
    rate: float = 0.01

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or "," in self.url or parts.path in {"", "/"}:
            raise ServerError(f"trace URL: got {self.url!r}; expected one such as http://collector:4318/v1/traces")
        if not 0 < self.rate <= 1:
            raise ServerError(f"trace rate: got {self.rate}; expected the share of requests, above 0 up to 1")

    def arguments(self) -> tuple[str, ...]:
        """Arguments for tritonserver."""
        settings = (
            "mode=opentelemetry",
            "level=TIMESTAMPS",
            f"rate={round(1 / self.rate)}",
            f"opentelemetry,url={self.url}",
            "opentelemetry,resource=service.name=rfserve",
        )
        return tuple(f"--trace-config={s}" for s in settings)
