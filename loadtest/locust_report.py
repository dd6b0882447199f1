"""What Locust's own statistics and web page are told of each request."""

from locust.env import Environment

from rfserve.loadtest.generator import Report


def to(environment: Environment) -> Report:
    """A generator's report to Locust."""

    def report(model: str, latency_s: float | None, size: int, reason: str | None) -> None:
        environment.events.request.fire(
            request_type="grpc",
            name=model,
            # None keeps a failure out of Locust's histogram as well.
            response_time=None if latency_s is None else latency_s * 1e3,
            response_length=size,
            exception=None if reason is None else RuntimeError(reason),
        )

    return report
