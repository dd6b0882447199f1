"""Joining the server's spans to the caller's: the current OpenTelemetry span travels with each request.

Without opentelemetry-api nothing is sent; without a current span neither. Triton's gRPC endpoint (2.51) overlooks the
parent of one request in ten or so, whose spans then start a trace of their own.
"""

try:
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ModuleNotFoundError:
    _propagator = None
else:
    # This one alone: baggage is for the caller's own services.
    _propagator = TraceContextTextMapPropagator()


def headers() -> dict[str, str]:
    """`traceparent`, and `tracestate` when there is one, of the current span; for tritonclient's `headers`."""
    carrier: dict[str, str] = {}
    if _propagator is not None:
        _propagator.inject(carrier)
    return carrier
