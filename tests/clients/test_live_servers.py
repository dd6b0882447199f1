"""Both clients against real tritonservers that are killed, stopped, started anew, or have too much to do."""

import asyncio
import contextlib
import os
import re
import shutil
import signal
import socket
import threading
import time
import urllib.request
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton
from google.protobuf import text_format
from served import BriefServer

from rfserve.clients import cli, late_calls
from rfserve.clients import client as client_module
from rfserve.clients.alignment import align
from rfserve.clients.async_client import AsyncLocalizationClient
from rfserve.clients.client import LocalizationClient
from rfserve.clients.errors import (
    ClientError,
    DeadlineExceeded,
    ModelUnavailable,
    Overloaded,
    RequestError,
    RequestRejected,
)
from rfserve.clients.hedging import Hedging
from rfserve.clients.recording import read_event
from rfserve.clients.retries import RetryLimit
from rfserve.clients.synthetic_event import SyntheticEvent, write
from rfserve.export import pbtxt
from rfserve.export.spec import example, find
from rfserve.export.spec.queueing import Priority
from rfserve.server.process import ServerOptions
from rfserve.server.security import Security

pytestmark = pytest.mark.server

SMALL = "mel_features"
PATIENT = 60_000_000
NO_RETRY = RetryLimit(share=0, per_second=0, burst=0)
KEY = "of-the-administrator"


@contextmanager
def serving(repository, models=(SMALL,), grpc_port=0, **security):
    options = ServerOptions(
        repository=repository,
        models=models,
        grpc_port=grpc_port,
        http_port=0,
        metrics_port=0,
        exit_timeout_s=1,
        security=Security(**security),
    )
    with BriefServer(options) as server:
        yield server


@pytest.fixture
def pair(repository):
    with serving(repository) as one, serving(repository) as other:
        yield one, other


def copy_edited(model, folder, edit):
    """A copy of a model in which every configuration is edited."""
    shutil.copytree(model, folder)
    for file in [folder / "config.pbtxt", *(folder / "configs").iterdir()]:
        config = pbtxt.parse(file.read_text())
        edit(config)
        file.write_text(text_format.MessageToString(config))


@pytest.fixture(scope="module")
def impatient(repository, tmp_path_factory):
    """A server that heeds the time-out of a request, and has none of its own that would come first."""
    folder = tmp_path_factory.mktemp("impatient")
    models = ("iq_features", "heimdall_net", "locate")

    def patient(config):
        for policy in config.dynamic_batching.priority_queue_policy.values():
            policy.default_timeout_microseconds = PATIENT

    for model in models:
        copy_edited(repository / model, folder / model, patient)
    with serving(folder, models) as server:
        yield server


@pytest.fixture
def sleepy(small_model, tmp_path):
    """A server whose batcher misses every third time that its only instance is free."""

    def alone(config):
        config.instance_group[0].count = 1

    copy_edited(small_model / SMALL, tmp_path / SMALL, alone)
    with serving(tmp_path) as server:
        yield server


def test_what_the_batcher_overslept_is_sent_again(sleepy):
    arrays = example(find(SMALL))
    options = {"timeout_s": 20.0, "retry_limit": RetryLimit(burst=1000)}
    with LocalizationClient(sleepy.grpc_url, **options) as client, ThreadPoolExecutor(3) as workers:
        expected, _ = client.infer(SMALL, arrays)
        for _ in range(400):
            for answer in workers.map(lambda _: client.infer(SMALL, arrays)[0], range(3)):
                np.testing.assert_array_equal(answer["mel_spectrogram"], expected["mel_spectrogram"])
            if client.counts.retries:
                break
        assert client.counts.retries >= 1


def end(server, number):
    os.killpg(server.pid, number)


def urls(pair):
    """One address and one name: each is resolved, and would be checked, as what it is."""
    return f"{pair[0].grpc_url},{pair[1].grpc_url.replace('127.0.0.1', 'localhost')}"


def test_no_call_fails_when_one_of_two_servers_is_killed(pair):
    arrays = example(find(SMALL))
    with LocalizationClient(urls(pair), timeout_s=20.0) as client, ThreadPoolExecutor(4) as workers:
        expected, _ = client.infer(SMALL, arrays)
        killer = threading.Timer(0.3, end, [pair[0], signal.SIGKILL])
        killer.start()
        answers = list(workers.map(lambda _: client.infer(SMALL, arrays)[0], range(200)))
        killer.join()
        assert pair[0]._process.wait(5) == -signal.SIGKILL
        assert len(answers) == 200
        for answer in answers:
            np.testing.assert_array_equal(answer["mel_spectrogram"], expected["mel_spectrogram"])
        # Only what met the dead server was sent again; the rest of the calls went past it.
        assert 1 <= client.counts.retries <= 20


async def counts_with_one_that_hangs(pair, **options):
    arrays = example(find(SMALL))
    async with AsyncLocalizationClient(urls(pair), timeout_s=20.0, **options) as client:
        for _ in range(10):
            await client.infer(SMALL, arrays)
        end(pair[0], signal.SIGSTOP)
        try:
            for _ in range(30):
                await client.infer(SMALL, arrays)
        finally:
            # It may end itself now: calls were cancelled, and its processes waited for each other.
            end(pair[0], signal.SIGCONT)
        return client.counts


def test_no_call_fails_when_one_of_two_servers_hangs(pair):
    tried = asyncio.run(counts_with_one_that_hangs(pair, try_timeout_s=2.0))
    assert 1 <= tried.retries <= 5


def test_hedges_get_past_a_server_that_hangs(pair):
    hedged = asyncio.run(counts_with_one_that_hangs(pair, hedging=Hedging(after_s=1.0)))
    assert hedged.retries == 0
    assert 1 <= hedged.hedges_won <= hedged.hedges <= 8


def test_calls_reach_a_server_that_is_back(repository, pair):
    arrays = example(find(SMALL))
    port = int(pair[0].grpc_url.rpartition(":")[2])
    with LocalizationClient(urls(pair), timeout_s=20.0) as client:
        end(pair[0], signal.SIGKILL)
        for _ in range(4):
            client.infer(SMALL, arrays)
        with serving(repository, grpc_port=port) as back:
            seen = triton.InferenceServerClient(back.grpc_url)
            deadline = time.monotonic() + 20
            while not (count := seen.get_inference_statistics(SMALL).model_stats[0].inference_stats.success.count) > 9:
                assert time.monotonic() < deadline, count
                client.infer(SMALL, arrays)
            seen.close()


@pytest.mark.parametrize("model", ["heimdall_net", "locate"])
def test_server_drops_what_nobody_waits_for(impatient, model, monkeypatch):
    """The client's own deadline is left long, so that it is the server that ends the request."""
    first_step = {"locate": "iq_features"}.get(model, model)
    busy, small = example(find(model), batch=24), example(find(model), batch=1)

    def rejected():
        with urllib.request.urlopen(impatient.metrics_url) as answer:
            text = answer.read().decode()
        pattern = rf'nv_inference_request_failure{{model="{first_step}",reason="REJECTED",version="1"}} (\d+)'
        return int(re.search(pattern, text)[1])

    before = rejected()
    given = late_calls.server_timeout_us
    monkeypatch.setattr(late_calls, "server_timeout_us", lambda left_s: 20_000 if left_s <= 30 else given(left_s))
    with (
        LocalizationClient(impatient.grpc_url, timeout_s=90.0) as client,
        # What is refused after half a second would be sent again, as if the batcher had slept over it.
        LocalizationClient(impatient.grpc_url, timeout_s=30.0, retry_limit=NO_RETRY) as short,
        ThreadPoolExecutor(10) as workers,
    ):
        patient = [workers.submit(client.infer, model, busy) for _ in range(4)]
        time.sleep(0.2)
        hasty = [workers.submit(short.infer, model, small) for _ in range(5)]
        problems = [f.exception() for f in hasty]
        assert [f.exception() for f in patient] == [None] * 4
    late = [p for p in problems if p is not None]
    assert len(late) >= 3
    assert {type(p) for p in late} == {Overloaded}
    assert rejected() - before == len(late)


async def bulk_left(url, arrays):
    """How many of 16 bulk requests wait or run when one that came later, of a client's usual priority, is answered."""
    async with (
        AsyncLocalizationClient(url, timeout_s=60.0, priority=Priority.BULK) as bulk,
        AsyncLocalizationClient(url, timeout_s=60.0) as usual,
    ):
        waiting = [asyncio.create_task(bulk.infer("heimdall_net", arrays)) for _ in range(16)]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        await usual.infer("heimdall_net", arrays)
        left = sum(not task.done() for task in waiting)
        await asyncio.gather(*waiting)
        return left


def bulk_left_of_threads(url, arrays):
    with (
        LocalizationClient(url, timeout_s=60.0, priority=Priority.BULK) as bulk,
        LocalizationClient(url, timeout_s=60.0) as usual,
        ThreadPoolExecutor(16) as workers,
    ):
        waiting = [workers.submit(bulk.infer, "heimdall_net", arrays) for _ in range(16)]
        wait(waiting, return_when=FIRST_COMPLETED)
        usual.infer("heimdall_net", arrays)
        left = sum(not future.done() for future in waiting)
        for future in waiting:
            future.result()
        return left


def test_interactive_call_is_answered_before_the_bulk_that_waits(impatient):
    arrays = example(find("heimdall_net"), batch=8)
    # Two run already, and two more may be done before it is.
    assert asyncio.run(bulk_left(impatient.grpc_url, arrays)) >= 8
    assert bulk_left_of_threads(impatient.grpc_url, arrays) >= 8


def test_receivers_alone_give_the_same_fix_in_fewer_bytes(server, tmp_path, monkeypatch):
    collection = write(SyntheticEvent(receivers=3), tmp_path)
    event = align(read_event([collection]))
    sizes, to_wire = [], client_module.to_wire

    def remembered(model, arrays):
        sizes.append(arrays["raw_iq"].nbytes)
        return to_wire(model, arrays)

    monkeypatch.setattr(client_module, "to_wire", remembered)
    fixes = []
    for padded in (True, False):
        with LocalizationClient(server.grpc_url, timeout_s=30.0, pad_receivers=padded) as client:
            fixes.append(client.locate(event))
    for name in ("latitude_deg", "longitude_deg", "sigma_north_m", "sigma_east_m"):
        assert getattr(fixes[1], name) == pytest.approx(getattr(fixes[0], name), rel=1e-6)
    assert cli.main(["locate", str(collection), "--url", server.grpc_url, "--unpadded"]) == 0
    least = 3 * 2 * 4 * event[0].iq.size
    assert sizes == [10 * least // 3, least, least]


def regions():
    return {f.name for f in Path("/dev/shm").glob(f"rfserve-client-{os.getpid()}-*")}


def test_shared_memory_gives_the_answers_of_the_wire_and_is_given_back(server):
    with (
        LocalizationClient(server.grpc_url, timeout_s=30.0, priority=Priority.BULK) as plain,
        LocalizationClient(server.grpc_url, timeout_s=30.0, priority=Priority.BULK, shared_memory=True) as shared,
        ThreadPoolExecutor(4) as workers,
    ):
        for model in ("locate", "heimdall_net"):
            given = [example(find(model), seed=i, batch=1 + i % 3) for i in range(12)]
            expected = [plain.infer(model, arrays)[0] for arrays in given]
            for answer, wanted in zip(
                workers.map(lambda a, m=model: shared.infer(m, a)[0], given), expected, strict=True
            ):
                for name, values in wanted.items():
                    np.testing.assert_allclose(answer[name], values, rtol=1e-5, atol=1e-5)
        assert 1 <= len(regions()) <= 8
    assert regions() == set()
    asked = triton.InferenceServerClient(server.grpc_url)
    assert not asked.get_system_shared_memory_status().regions
    asked.close()


def test_shared_memory_is_given_back_after_errors(server):
    busy = example(find("heimdall_net"), batch=32)
    with LocalizationClient(server.grpc_url, timeout_s=0.02, shared_memory=True) as client:
        for _ in range(3):
            with pytest.raises((DeadlineExceeded, Overloaded)):
                client.infer("heimdall_net", busy)
    assert regions() == set()
    with LocalizationClient(server.grpc_url, timeout_s=30.0, priority=Priority.BULK, shared_memory=True) as client:
        with pytest.raises((RequestRejected, ModelUnavailable)):
            client.infer("heimdall_net", busy, version="99")
        assert len(regions()) == 1
        assert client.infer("heimdall_net", busy)[0]["positions"].shape == (32, 2)
        assert len(regions()) == 1
    assert regions() == set()


def test_shared_memory_is_given_back_to_a_server_that_stood_still(repository):
    arrays = example(find(SMALL))
    with serving(repository, open_shared_memory=True) as server:
        with LocalizationClient(server.grpc_url, timeout_s=0.5, shared_memory=True) as client:
            client.infer(SMALL, arrays)
            os.kill(server.pid, signal.SIGSTOP)
            try:
                for _ in range(3):
                    with pytest.raises(DeadlineExceeded):
                        client.infer(SMALL, arrays)
            finally:
                os.kill(server.pid, signal.SIGCONT)
            while not answers(client, arrays):
                time.sleep(0.1)
        asked = triton.InferenceServerClient(server.grpc_url)
        assert not asked.get_system_shared_memory_status().regions
        asked.close()
    assert regions() == set()


def answers(client, arrays):
    with contextlib.suppress(RequestError):
        client.infer(SMALL, arrays)
        return True
    return False


def test_shared_memory_is_registered_again_when_the_server_was_started_anew(repository):
    arrays = example(find(SMALL))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with LocalizationClient(f"127.0.0.1:{port}", timeout_s=20.0, shared_memory=True) as client:
        answers = []
        for _ in range(2):
            with serving(repository, grpc_port=port, open_shared_memory=True) as server:
                answers += [client.infer(SMALL, arrays)[0], client.infer(SMALL, arrays)[0]]
                end(server, signal.SIGKILL)
        assert len(answers) == 4
    assert regions() == set()


def test_shared_memory_needs_the_administrators_key_where_it_is_restricted(repository, tmp_path, capsys):
    arrays = example(find(SMALL))
    file, key = tmp_path / "in.npz", tmp_path / "key"
    np.savez(file, **arrays)
    key.write_text(f"{KEY}\n")
    with serving(repository, admin_key=KEY) as server:
        with (
            LocalizationClient(server.grpc_url, timeout_s=10.0, shared_memory=True) as client,
            pytest.raises(RequestRejected, match="administrator's key"),
        ):
            client.infer(SMALL, arrays)
        with LocalizationClient(server.grpc_url, timeout_s=10.0, shared_memory=True, admin_key=KEY) as client:
            assert client.infer(SMALL, arrays)[1] == "1"
        command = ["infer", SMALL, str(file), "--url", server.grpc_url, "--shared-memory"]
        assert cli.main(command) == 1
        assert "administrator's key" in capsys.readouterr().err
        assert cli.main([*command, "--admin-key-file", str(key)]) == 0
        assert "mel_spectrogram" in capsys.readouterr().out
    assert regions() == set()


@pytest.mark.parametrize("url", ["10.0.0.1:8001", "triton.example:8001", "127.0.0.1:1,127.0.0.1:2"])
def test_shared_memory_is_refused_when_the_server_is_not_the_one_on_this_machine(url):
    with pytest.raises(ClientError, match="loopback"):
        LocalizationClient(url, timeout_s=1.0, shared_memory=True)


def test_retry_limit_of_none_sends_each_call_once(pair):
    end(pair[0], signal.SIGKILL)
    end(pair[1], signal.SIGKILL)
    limit = RetryLimit(share=0.0, per_second=0.0, burst=0.0)
    with LocalizationClient(urls(pair), timeout_s=5.0, retry_limit=limit) as client:
        with pytest.raises(ClientError) as caught:
            client.infer(SMALL, example(find(SMALL)))
        assert client.counts.retries == 0
        assert "retry limit" in caught.value.__notes__[0]
