"""A server that stops for a second: latency from when requests were due tells, a user that waits with it does not."""

import threading

import pytest

from rfserve.loadtest import stall
from rfserve.loadtest.endpoint import Endpoint
from rfserve.loadtest.plan import Phase, Plan, Stream
from rfserve.server import process_group

pytestmark = [pytest.mark.server, pytest.mark.alone]

MODEL = "mel_features"
WINDOW_S = 4.0


def test_true_p99_rises_when_the_model_stops_and_the_naive_one_does_not(server, lone_engine):
    pids = [s.pid for s in process_group.stubs(server.pid) if s.instance.startswith(f"{MODEL}_")]
    assert len(pids) == 2
    opened = Phase(name="open", duration_s=WINDOW_S, streams=(Stream(model=MODEL, rate_hz=30),))
    closed = Phase(name="closed", duration_s=WINDOW_S, streams=(Stream(model=MODEL, users=1),))
    plan = Plan(name="stall", device="cpu-2core", phases=(opened, closed), repetitions=1, warm_up_s=0.5)
    threads: list[threading.Thread] = []
    freeze = stall.on_each_phase(1.8, pids, threads)
    true, naive = lone_engine.run(plan, Endpoint(url=server.grpc_url), progress=freeze).measurements
    for thread in threads:
        thread.join()
    print(f"\nsince due {true.latency_ms(99):.0f} ms, since sent {naive.send_latency_ms(99):.1f} ms at p99")
    # The same second happened to both.
    assert true.latency_ms(99) > 500 or true.failed > 5
    assert naive.send_latency_ms(100) > 500 or naive.failed
    assert naive.answered > 120
    assert naive.send_latency_ms(99) < 250
