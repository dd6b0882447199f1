"""One metrics port: Triton's own metrics and what it lacks, as Prometheus reads them."""

import socket
import time
import urllib.error
import urllib.request

import pytest
import tritonclient.grpc as triton
from prometheus_client.parser import text_string_to_metric_families

from rfserve.clients.connection import to_wire
from rfserve.export.spec import MODELS, example
from rfserve.export.spec.queueing import Priority
from rfserve.server import service as service_module
from rfserve.server.errors import PortBusy
from rfserve.server.http_api import Answer, HttpApi
from rfserve.server.latency_bounds import BOUNDS_S
from rfserve.server.mending import mend
from rfserve.server.model_watch import WatchOptions
from rfserve.server.options import ServerOptions
from rfserve.server.process import TritonServer
from rfserve.server.request_latency import Failure, Histogram, RequestLatency, outcomes
from rfserve.server.service import Service, ServiceOptions
from rfserve.server.watchdog import Watchdog

PORTS = {"grpc_port": 0, "http_port": 0, "metrics_port": 0}


def scrape(url: str) -> dict[str, list]:
    """Samples by name, from the endpoint as Prometheus reads it."""
    with urllib.request.urlopen(url) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        families = list(text_string_to_metric_families(answer.read().decode()))
    names = [f.name for f in families]
    assert len(names) == len(set(names))
    for family in families:
        assert family.documentation, family.name
    return {s.name: [x for x in f.samples if x.name == s.name] for f in families for s in f.samples}


def value(samples: list, **labels: str) -> float:
    (found,) = [s.value for s in samples if labels.items() <= s.labels.items()]
    return found


@pytest.mark.server
def test_endpoint_shows_triton_and_what_it_lacks(part_of, call):
    repository = part_of("mel_features", "heimdall_net", "iq_features", "locate")
    options = ServiceOptions(server=ServerOptions(repository=repository, **PORTS))
    with Service(options) as service:
        assert service.metrics_url != service.server.metrics_url
        callers = call(1, service.server.grpc_url, "mel_features", times=20)
        callers += call(1, service.server.grpc_url, "locate", times=5)
        for caller in callers:
            caller.join(60)
        deadline = time.monotonic() + 30
        while len(service.watchdog.up()) < 4 and time.monotonic() < deadline:
            time.sleep(0.05)
        found = scrape(service.metrics_url)
        again = scrape(service.metrics_url)

        # Warm-ups and canaries are in Triton's count, and in ours neither.
        own = found["rfserve_request_latency_seconds_count"]
        assert value(own, model="mel_features", version="1") == 20
        assert {value(own, model=m) for m in ("locate", "iq_features", "heimdall_net")} == {5}
        assert value(found["nv_inference_request_success_total"], model="mel_features") > 20
        buckets = [s.value for s in found["rfserve_request_latency_seconds_bucket"] if s.labels["model"] == "locate"]
        assert buckets == sorted(buckets)
        assert buckets[-1] == 5
        mean_s = value(found["rfserve_request_latency_seconds_sum"], model="locate") / 5
        assert 0.001 < mean_s < 30
        assert value(again["rfserve_request_latency_seconds_count"], model="locate") == 5

        assert value(found["rfserve_triton_metrics_up"]) == 1
        assert value(found["rfserve_canary_up"], model="locate") == 1
        assert 0 < value(found["rfserve_canary_latency_seconds"], model="heimdall_net") < 30
        assert value(found["rfserve_canaries_total"], model="heimdall_net", outcome="ok") >= 1
        assert value(found["rfserve_mends_total"], model="heimdall_net") == 0
        assert value(found["rfserve_mends_failed_total"], model="heimdall_net") == 0
        assert value(found["rfserve_stubs_lost_total"], model="heimdall_net") == 0
        started_s = value(found["rfserve_server_start_time_seconds"])
        assert value(found["rfserve_canary_last_success_timestamp_seconds"], model="heimdall_net") > started_s
        assert value(found["rfserve_model_version_served"], model="locate", version="1") == 1
        assert value(found["rfserve_model_ready"], model="locate") == 1
        assert value(found["rfserve_resident_memory_bytes"], process="tritonserver") > 10e6
        assert value(found["rfserve_resident_memory_bytes"], process="stubs") > 50e6
        # Every series is there before anything has failed.
        assert [s.value for s in found["rfserve_requests_failed_total"]] == [0] * 8

        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(service.metrics_url.replace("/metrics", "/other"))
        url = service.metrics_url
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(url)


@pytest.mark.server
def test_what_a_full_queue_refuses_is_counted_once(part_of, call):
    repository = part_of("heimdall_net", "iq_features", "locate")
    with Service(ServiceOptions(server=ServerOptions(repository=repository, **PORTS))) as service:
        # All at once, through the ensemble: the queue of its first step has no room for most of them.
        callers = call(60, service.server.grpc_url, "locate", times=1, priority=Priority.NORMAL)
        for caller in callers:
            caller.join(60)
        refused = sum(len(caller.failures) for caller in callers)
        found = scrape(service.metrics_url)
    assert refused
    failed = found["rfserve_requests_failed_total"]
    assert value(failed, model="locate", reason="refused") == refused
    assert value(failed, model="locate", reason="error") == 0
    assert value(found["rfserve_request_latency_seconds_count"], model="locate") == 60 - refused
    assert value(found["nv_inference_request_failure_total"], model="locate", reason="OTHER") == 2 * refused


def collected(latency: RequestLatency, http: HttpApi) -> dict[tuple[str, str], int]:
    return {key: sum(histogram.counts) for key, histogram in latency.collect(http).items()}


@pytest.mark.server
def test_requests_wait_for_statistics_that_cannot_be_read_and_nothing_is_granted_meanwhile(small_model, tmp_path, call):
    latency = RequestLatency(tmp_path)
    # As a server that is too busy to say.
    closed = ("--http-restricted-api=statistics:other-key=secret",)
    options = ServerOptions(repository=small_model, extra_arguments=(*latency.arguments(), *closed), **PORTS)
    with TritonServer(options) as server:
        server.http.call("/v2/trace/setting", {"trace_count": "500"})
        (caller,) = call(1, server.grpc_url, "mel_features", times=7)
        caller.join(60)
        # A changed setting makes Triton write what it holds.
        server.http.call("/v2/trace/setting", {"log_frequency": "4000"})
        assert list(tmp_path.iterdir())
        assert collected(latency, server.http) == {}
        left = server.http.call("/v2/trace/setting").document["trace_count"]
        assert 0 < int(left) <= 500
        opened = Opened(url=server.http_url, admin_key=server.http.admin_key)
        assert collected(latency, opened) == {("mel_features", "1"): 7}


class Opened(HttpApi):
    """With the key to the statistics as well."""

    def call(self, path: str, *arguments, **options) -> Answer:
        return super().call(path, *arguments, **options | {"headers": {"other-key": "secret"}})


@pytest.mark.server
def test_repository_that_cannot_be_read_costs_no_metrics(part_of, call):
    repository = part_of("mel_features")
    with Service(ServiceOptions(server=ServerOptions(repository=repository, **PORTS))) as service:
        repository.rename(repository.with_name("away"))
        assert service.server.http.repository_index() == []
        (caller,) = call(1, service.server.grpc_url, "mel_features", times=7)
        caller.join(60)
        found = scrape(service.metrics_url)
    assert value(found["rfserve_request_latency_seconds_count"], model="mel_features", version="1") == 7
    assert value(found["rfserve_model_version_served"], model="mel_features", version="1") == 1
    assert value(found["rfserve_model_ready"], model="mel_features") == 1


@pytest.mark.server
def test_what_is_done_every_few_seconds_does_not_list_the_repository(small_model, tmp_path):
    asked = []

    class Noted(HttpApi):
        def call(self, path: str, *arguments, **options) -> Answer:
            asked.append(path)
            return super().call(path, *arguments, **options)

    latency = RequestLatency(tmp_path)
    options = ServerOptions(repository=small_model, extra_arguments=latency.arguments(), **PORTS)
    with TritonServer(options) as server:
        http = Noted(url=server.http_url, admin_key=server.http.admin_key)
        watchdog = Watchdog(server.pid, http, WatchOptions(), say=print, give_up=print)
        watchdog.start()
        deadline = time.monotonic() + 60
        while not watchdog.up() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert watchdog.up() == {"mel_features": True}
        watchdog.stop()
        latency.collect(http)
        assert mend(http, "mel_features", retire=lambda: None, limit_s=60, deadline_s=30) == (True, "")
    assert "/v2/models/stats" in asked
    assert "/v2/repository/index" not in asked


@pytest.mark.server
def test_request_ids_make_no_series(small_model):
    inputs, outputs = to_wire("mel_features", example(MODELS["mel_features"]))
    with Service(ServiceOptions(server=ServerOptions(repository=small_model, **PORTS))) as service:
        with triton.InferenceServerClient(service.server.grpc_url) as client:
            for number, model, version in ((70, "mel_features", 987654321), (71, "invented", 1)):
                # Triton writes it as it is.
                forged = trace(number, model, version=version, REQUEST_START=5)
                request_id = f'"}},{forged},{{"id":90,"model_name":"x","model_version":1,"request_id":"'
                client.infer("mel_features", inputs, outputs=outputs, request_id=request_id)
        found = scrape(service.metrics_url)
    labels = [s.labels for s in found["rfserve_requests_failed_total"]]
    assert {(x["model"], x["version"]) for x in labels} == {("mel_features", "1")}
    assert value(found["rfserve_request_latency_seconds_count"], model="mel_features") == 2


def test_metrics_port_that_is_taken_is_named(repository):
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        options = ServerOptions(repository=repository, **PORTS | {"metrics_port": port})
        with pytest.raises(PortBusy, match=f"metrics port 127.0.0.1:{port}: .*--metrics-port 0"):
            Service(ServiceOptions(server=options))


def test_metrics_are_tritons_own_where_prometheus_client_is_missing(repository, monkeypatch):
    monkeypatch.setattr(service_module, "find_spec", lambda _: None)
    service = Service(ServiceOptions(server=ServerOptions(repository=repository, **PORTS)))
    assert service.metrics_url == service.server.metrics_url
    assert service.notes == ["the metrics are Triton's alone: prometheus_client is not installed"]
    service.stop()


def trace(number: int, model: str, *, version: int = 1, parent: int = 0, request_id: str = "", **times_ns: int) -> str:
    """One request as Triton (2.51) writes it."""
    head = f'{{"id":{number},"model_name":"{model}","model_version":{version}'
    head += f',"request_id":"{request_id}"' if request_id else ""
    head += f',"parent_id":{parent}}}' if parent else "}"
    times = [f'{{"id":{number},"timestamps":[{{"name":"{n}","ns":{t}}}]}}' for n, t in times_ns.items()]
    return ",".join([head, *times])


SENT = {"GRPC_SEND_START": 20}


def test_outcomes_leave_out_canaries_and_what_was_cancelled():
    def took(milliseconds: int, output: int = 5) -> dict[str, int]:
        return {"REQUEST_START": 10, "COMPUTE_OUTPUT_START": output, "REQUEST_END": 10 + milliseconds * 10**6}

    begins = {"REQUEST_START": 10}
    ends = {**begins, "REQUEST_END": 10 + 9 * 10**6}
    text = ",".join(
        [
            trace(1, "good", request_id="a", **took(2)),
            trace(2, "good", request_id="rfserve-canary", **took(2)),
            trace(3, "dead", **took(1000, output=0), **SENT),
            trace(4, "expired", **ends, **SENT),
            trace(11, "full", **begins, **SENT),
            trace(12, "full over HTTP", **begins),
            trace(13, "full", request_id="rfserve-canary", **begins, **SENT),
            trace(14, "cancelled", **ends),
            trace(6, "step", parent=5, **took(3)),
            trace(7, "step", parent=5, **took(4)),
            trace(5, "whole", **ends, **SENT),
            trace(9, "step", parent=8, **took(5)),
            trace(10, "step", parent=8, **took(6, output=0)),
            trace(8, "whole", **ends, **SENT),
            trace(16, "step", parent=15, **took(5)),
            trace(17, "step", parent=15, **begins),
            trace(15, "whole", **ends, HTTP_SEND_START=20),
            trace(19, "step", parent=18, **ends),
            trace(18, "whole", **ends),
        ]
    )
    found = [(m, o if isinstance(o, Failure) else round(o, 6)) for m, _, o in outcomes(f"[{text}]")]
    assert found == [
        ("good", 0.002),
        ("dead", Failure.ERROR),
        ("expired", Failure.REFUSED),
        ("full", Failure.REFUSED),
        ("full over HTTP", Failure.REFUSED),
        *[("step", 0.003), ("step", 0.004), ("whole", 0.009)],
        *[("step", 0.005), ("step", Failure.ERROR), ("whole", Failure.ERROR)],
        *[("step", 0.005), ("step", Failure.REFUSED), ("whole", Failure.REFUSED)],
    ]


def test_histogram_counts_up_to_each_bound_inclusively():
    histogram = Histogram()
    for latency_s in (0.002, 0.0021, 99.0):
        histogram.add(latency_s)
    counts = dict(histogram.cumulative())
    assert (counts["0.001"], counts["0.002"], counts["0.005"], counts["10.0"], counts["+Inf"]) == (0, 1, 2, 2, 3)
    assert len(counts) == len(BOUNDS_S) + 1
    assert histogram.sum_s == pytest.approx(99.0041)


def test_budgets_are_bounds_of_the_histogram():
    budgets = [budget for spec in MODELS.values() for budget in spec.budgets.values()]
    assert {ms / 1e3 for b in budgets for ms in (b.p50_ms, b.p95_ms, b.p99_ms)} <= set(BOUNDS_S)
