"""Writes `recorded_load.json`: what one server with two cores says of itself at loads from idle to twice too much.

`python tests/deploy/record_load.py REPOSITORY` on a machine that does nothing else. The simulation of the autoscaler
reads it.
"""

import json
import os
import sys
import threading
import time
import urllib.request
from pathlib import Path

import numpy as np
import tritonclient.grpc as triton

from rfserve.clients.connection import to_wire
from rfserve.export.spec import example, find
from rfserve.server import process_group
from rfserve.server.process import ServerOptions, TritonServer

MODEL = "heimdall_net"
RATES_HZ = (2, 5, 10, 20, 35, 50, 65, 80, 95, 110, 130, 160, 220)
SETTLE_S, WINDOW_S = 3.0, 10.0
FILE = Path(__file__).with_name("recorded_load.json")
COUNTERS = {
    "queue_us": "nv_inference_queue_duration_us",
    "request_us": "nv_inference_request_duration_us",
    "answered": "nv_inference_request_success",
}
PENDING = "nv_inference_pending_request_count"


def scrape(url: str) -> dict[str, float]:
    with urllib.request.urlopen(url) as answer:
        lines = answer.read().decode().splitlines()
    found = {}
    for line in lines:
        name, _, rest = line.partition("{")
        if f'model="{MODEL}"' in rest:
            found[name] = float(line.rsplit(" ", 1)[1])
    return {key: found[name] for key, name in COUNTERS.items()} | {"pending": found.get(PENDING, 0.0)}


def cpu_s(leader: int) -> float:
    """CPU time of tritonserver and its stubs."""
    ticks = 0
    for pid in process_group.members(leader):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


class Load:
    """Independent arrivals at one rate, whether earlier requests are answered or not."""

    def __init__(self, url: str, rate_hz: float) -> None:
        self._client = triton.InferenceServerClient(url)
        self._requests = [to_wire(MODEL, example(find(MODEL), seed=seed)) for seed in range(16)]
        self._rate_hz, self.sent = rate_hz, 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Load":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        time.sleep(1)
        self._client.close()

    def _run(self) -> None:
        rng = np.random.default_rng(1)
        due = time.monotonic()
        while not self._stop.is_set():
            due += rng.exponential(1 / self._rate_hz)
            time.sleep(max(0.0, due - time.monotonic()))
            inputs, outputs = self._requests[self.sent % len(self._requests)]
            self._client.async_infer(MODEL, inputs, lambda result, error: None, outputs=outputs)
            self.sent += 1


def main() -> None:
    repository = Path(sys.argv[1])
    points = []
    options = ServerOptions(repository=repository, models=(MODEL,), grpc_port=0, http_port=0, metrics_port=0)
    with TritonServer(options) as server:
        for rate_hz in RATES_HZ:
            with Load(server.grpc_url, rate_hz) as load:
                time.sleep(SETTLE_S)
                before, began, sent = scrape(server.metrics_url), time.monotonic(), load.sent
                used_s = cpu_s(server.pid)
                pending = []
                while time.monotonic() < began + WINDOW_S:
                    time.sleep(0.5)
                    pending.append(scrape(server.metrics_url)["pending"])
                after, sent = scrape(server.metrics_url), load.sent - sent
                used_s = cpu_s(server.pid) - used_s
                took_s = time.monotonic() - began
            answered = after["answered"] - before["answered"]
            points.append(
                {
                    "offered_hz": round(sent / took_s, 2),
                    "answered_hz": round(answered / took_s, 2),
                    "queue_ms": round((after["queue_us"] - before["queue_us"]) / answered / 1e3, 3),
                    "in_flight": round((after["request_us"] - before["request_us"]) / took_s / 1e6, 4),
                    "pending": round(float(np.mean(pending)), 3),
                    "cpu_cores": round(used_s / took_s, 3),
                }
            )
            print(points[-1], flush=True)
    FILE.write_text(json.dumps({"model": MODEL, "window_s": WINDOW_S, "points": points}, indent=1) + "\n")


if __name__ == "__main__":
    main()
