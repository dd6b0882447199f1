"""What Triton's metrics lack: canaries, mends, versions, memory, and latencies that can be added up."""

from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from rfserve.server import model_table, process_group
from rfserve.server.http_api import HttpApi
from rfserve.server.request_latency import Failure, Histogram, RequestLatency
from rfserve.server.watch_record import WatchRecord
from rfserve.server.watchdog import Watchdog

_BY_MODEL: tuple[tuple[Any, str, str, Callable[[WatchRecord], float | None]], ...] = (
    (
        GaugeMetricFamily,
        "rfserve_canary_latency_seconds",
        "How long the last answered canary took.",
        lambda record: record.latency_s,
    ),
    (
        GaugeMetricFamily,
        "rfserve_canary_last_success_timestamp_seconds",
        "When a canary was last answered, in Unix seconds.",
        lambda record: record.last_success_s,
    ),
    (
        CounterMetricFamily,
        "rfserve_stubs_lost",
        "Processes of the Python backend that died or stood still.",
        lambda record: record.stubs_lost,
    ),
    (
        CounterMetricFamily,
        "rfserve_mends",
        "Times that unloading and loading made the model answer again.",
        lambda record: record.mends,
    ),
    (
        CounterMetricFamily,
        "rfserve_mends_failed",
        "Times that it did not within the limit.",
        lambda record: record.failed_mends,
    ),
)


class OwnMetrics:
    """A collector in the sense of prometheus_client, for one running server. Labels are model, and version where it
    matters.
    """

    def __init__(
        self,
        *,
        http: HttpApi,
        leader: int,
        started_s: float,
        watchdog: Watchdog | None,
        latency: RequestLatency | None,
    ) -> None:
        self._http, self._leader, self._started_s = http, leader, started_s
        self._watchdog, self._latency = watchdog, latency
        self._triton_answers = False

    def text(self, triton_answers: bool) -> bytes:
        """All of it in Prometheus' text format."""
        registry = CollectorRegistry()
        self._triton_answers = triton_answers
        registry.register(self)
        return bytes(generate_latest(registry))

    def describe(self) -> list[Any]:
        """Nothing: it keeps the registry from collecting once more to learn the names."""
        return []

    def collect(self) -> Iterator[Any]:
        """Every family, read anew."""
        yield from self._server()
        yield from self._models()
        if self._watchdog is not None:
            yield from self._watch(self._watchdog)

    def _server(self) -> Iterator[Any]:
        yield GaugeMetricFamily(
            "rfserve_triton_metrics_up", "1 when Triton's own metrics could be read.", value=float(self._triton_answers)
        )
        yield GaugeMetricFamily(
            "rfserve_server_start_time_seconds",
            "When tritonserver was started, in Unix seconds; changes() of it counts restarts.",
            value=self._started_s,
        )
        memory = GaugeMetricFamily(
            "rfserve_resident_memory_bytes",
            "Resident memory, shared pages counted once (proportional set size): of tritonserver, and of the Python "
            "backend's stubs together.",
            labels=["process"],
        )
        for process, size in process_group.resident_bytes(self._leader).items():
            memory.add_metric([process], size)
        yield memory

    def _models(self) -> Iterator[Any]:
        rows = model_table.read(self._http)
        ready = GaugeMetricFamily("rfserve_model_ready", "1 when a version of the model is served.", labels=["model"])
        served = GaugeMetricFamily(
            "rfserve_model_version_served", "1 for each served version.", labels=["model", "version"]
        )
        for row in rows:
            if row.state != model_table.NOT_LOADED:
                ready.add_metric([row.name], float(row.ready))
            for version in row.versions:
                served.add_metric([row.name, version], 1)
        yield ready
        yield served
        if self._latency is not None:
            latency = HistogramMetricFamily(
                "rfserve_request_latency_seconds",
                "From a request's arrival in Triton to its answer, queues included, the network not. Successful "
                "requests and those that ensembles make; no canaries.",
                labels=["model", "version"],
            )
            failed = CounterMetricFamily(
                "rfserve_requests_failed",
                "Requests without a good answer: refused by a full queue or after too long a wait, or an instance "
                "failed. Also those that ensembles make; no canaries, and none that its client cancelled.",
                labels=["model", "version", "reason"],
            )
            histograms = self._latency.collect(self._http)
            for key, histogram in histograms.items():
                latency.add_metric(list(key), histogram.cumulative(), histogram.sum_s)
            # From the start, as Prometheus takes no notice of the first count of a series that it did not know.
            for key in {(row.name, version) for row in rows for version in row.versions} | histograms.keys():
                for reason in Failure:
                    failed.add_metric([*key, reason], histograms.get(key, Histogram()).failed[reason])
            yield latency
            yield failed

    def _watch(self, watchdog: Watchdog) -> Iterator[Any]:
        up = GaugeMetricFamily(
            "rfserve_canary_up",
            "1 when the model's last canary was answered, or refused by a full queue; of an ensemble, by its steps.",
            labels=["model"],
        )
        for model, is_up in watchdog.up().items():
            up.add_metric([model], float(is_up))
        yield up
        for family, name, text, read in _BY_MODEL:
            made = family(name, text, labels=["model"])
            for model, record in watchdog.records.items():
                value = read(record)
                if value is not None:
                    made.add_metric([model], value)
            yield made
        canaries = CounterMetricFamily(
            "rfserve_canaries", "Canaries by what came of them.", labels=["model", "outcome"]
        )
        for model, record in watchdog.records.items():
            for outcome, count in sorted(record.canaries.items()):
                canaries.add_metric([model, str(outcome)], count)
        yield canaries
