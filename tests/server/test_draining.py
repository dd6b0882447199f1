"""SIGTERM to `rfserve-server run`: what is in flight is answered, what comes later refused; twice ends it at once."""

import signal
import socket
import time

import pytest

MODEL = "localization_net"
CALLS = 4


@pytest.mark.server
def test_requests_in_flight_are_answered_and_later_ones_refused(part_of, run, call):
    running = run(part_of(MODEL), "--exit-timeout-s", "60")
    # Two at a time: when the first is answered, others still wait, however fast the machine is.
    early = call(CALLS, running.grpc, MODEL, batch=32, timeout_s=60, times=1)
    deadline = time.monotonic() + 60
    while not any(c.answers for c in early) and time.monotonic() < deadline:
        time.sleep(0.002)
    assert 0 < sum(len(c.answers) for c in early) < CALLS
    running.process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    late = call(1, running.grpc, MODEL, times=1)
    for caller in (*early, *late):
        caller.join(60)
    assert [len(c.answers) for c in early] == [1] * CALLS
    assert not late[0].answers
    # By the endpoint, or once all is answered by the models that are gone.
    assert any(text in late[0].failures[0][1] for text in ("UNAVAILABLE", "no available versions"))
    assert running.process.wait(60) == 0
    for url in (running.grpc, running.http.removeprefix("http://"), running.metrics.split("/")[2]):
        host, _, port = url.rpartition(":")
        with socket.socket() as probe:
            assert probe.connect_ex((host, int(port))) != 0


@pytest.mark.server
def test_second_signal_ends_it_at_once(part_of, run, call):
    running = run(part_of(MODEL))
    callers = call(CALLS, running.grpc, MODEL, batch=32, timeout_s=60, times=3)
    time.sleep(0.5)
    running.process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert running.process.poll() is None
    began = time.monotonic()
    running.process.send_signal(signal.SIGINT)
    assert running.process.wait(20) == 128 + signal.SIGINT
    assert time.monotonic() - began < 5
    assert sum(len(c.answers) for c in callers) < 3 * CALLS
