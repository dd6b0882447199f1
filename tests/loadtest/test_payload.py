"""Requests before the clock starts: the client's own bytes, mixes, events and duplicates."""

import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from rfserve.clients.alignment import align
from rfserve.clients.recording import read_event
from rfserve.clients.request import tensors
from rfserve.clients.synthetic_event import SyntheticEvent, write
from rfserve.export.spec import find
from rfserve.export.spec.models.mel_features import MEL_RAW_SAMPLES
from rfserve.loadtest import failure, null_server, payload
from rfserve.loadtest.errors import LoadTestError
from rfserve.loadtest.plan import Mix, Stream


def parsed(request: bytes) -> dict[str, np.ndarray]:
    message = service_pb2.ModelInferRequest.FromString(request)
    spec = find(message.model_name)
    assert [o.name for o in message.outputs] == [o.name for o in spec.outputs]
    return {
        given.name: np.frombuffer(raw, spec.input(given.name).dtype.numpy).reshape(list(given.shape))
        for given, raw in zip(message.inputs, message.raw_input_contents, strict=True)
    }


def built(stream: Stream, **options) -> list[bytes]:
    return list(payload.requests(stream, **options))


def test_mix_takes_turns_in_receivers_and_lengths():
    stream = Stream(model="heimdall_net", mix=Mix(receivers=(2, 5, 10), samples=(512, 1024), distinct=6))
    found = built(stream, timeout_s=2, seed=3)
    arrays = [parsed(r) for r in found]
    assert [int(a["mask"].sum()) for a in arrays] == [2, 5, 10, 2, 5, 10]
    assert [a["iq_data"].shape for a in arrays] == [(1, 10, 2, n) for n in (512, 1024) * 3]
    assert len(set(found)) == 6
    assert built(stream, timeout_s=2, seed=3) == found
    assert not set(built(stream, timeout_s=2, seed=4)) & set(found)
    timeout_us = service_pb2.ModelInferRequest.FromString(found[0]).parameters["timeout"].int64_param
    # What the client gives: its deadline without the way back.
    assert timeout_us == 1_950_000


def test_events_are_sent_as_the_client_sends_them(tmp_path):
    for seed in (1, 2):
        write(SyntheticEvent(receivers=seed + 2, seed=seed), tmp_path / str(seed))
    paths = sorted(tmp_path.rglob("*.sigmf-collection"))
    found = built(Stream(model="locate", mix=Mix(events=str(tmp_path))), timeout_s=5, seed=1)
    assert len(found) == 2
    for request, path in zip(found, paths, strict=True):
        wanted = tensors(find("locate"), [align(read_event([path]))])
        for name, array in parsed(request).items():
            np.testing.assert_array_equal(array, wanted[name])
    # A front end gets its part of the same, a model of one receiver each recording.
    fronts = built(Stream(model="iq_features", mix=Mix(events=str(tmp_path))), timeout_s=5, seed=1)
    np.testing.assert_array_equal(parsed(fronts[0])["raw_iq"], parsed(found[0])["raw_iq"])
    alone = built(Stream(model="mel_features", mix=Mix(events=str(tmp_path))), timeout_s=5, seed=1)
    assert len(alone) == 3 + 4
    cut = align(read_event(paths[:1])[:1], samples=MEL_RAW_SAMPLES)
    np.testing.assert_array_equal(parsed(alone[0])["raw_iq"], tensors(find("locate_spectrogram"), [cut])["raw_iq"])


def test_events_that_cannot_be_sent_are_named(tmp_path):
    with pytest.raises(LoadTestError, match="takes no raw IQ"):
        built(Stream(model="heimdall_net", mix=Mix(events=str(tmp_path))), timeout_s=5, seed=1)
    with pytest.raises(LoadTestError, match="holds no"):
        built(Stream(model="locate", mix=Mix(events=str(tmp_path))), timeout_s=5, seed=1)
    (tmp_path / "bad.sigmf-collection").write_text("{")
    with pytest.raises(LoadTestError, match=r"bad\.sigmf-collection.*take it out"):
        built(Stream(model="locate", mix=Mix(events=str(tmp_path))), timeout_s=5, seed=1)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_share_of_requests_repeats_the_one_before(share):
    found = payload.order(1001, 16, Mix(duplicate_share=share), np.random.default_rng(1))
    assert found.size == 1001
    assert set(found.tolist()) == (set(range(16)) if share < 1 else {0})
    assert (np.diff(found) == 0).sum() == round(1000 * share)
    assert payload.order(0, 16, Mix(duplicate_share=share), np.random.default_rng(1)).size == 0


def test_answer_is_checked():
    good = null_server.answer("heimdall_net")
    assert failure.of_answer(good, 2) == (None, "1")
    assert failure.of_answer(good, 3) == (failure.INVALID_ANSWER, "1")
    assert failure.of_answer(b"\xff\xff", 2)[0] == failure.INVALID_ANSWER
    message = service_pb2.ModelInferResponse.FromString(good)
    message.raw_output_contents[1] = np.float32([np.nan, 0]).tobytes()
    assert failure.of_answer(message.SerializeToString(), 2) == (failure.NON_FINITE, "1")
    # What Triton's Python backend answers on numpy 2.
    message.raw_output_contents[1] = b""
    assert failure.of_answer(message.SerializeToString(), 2) == (failure.INVALID_ANSWER, "1")


@pytest.mark.parametrize(
    ("status", "text", "reason"),
    [
        ("DEADLINE_EXCEEDED", "Deadline Exceeded", failure.DEADLINE),
        ("UNAVAILABLE", "[request id: <id_unknown>] Exceeds maximum queue size", failure.QUEUE_FULL),
        ("UNAVAILABLE", "Request timeout expired", failure.EXPIRED),
        ("UNAVAILABLE", "failed to connect to all addresses", failure.UNAVAILABLE),
        ("UNAVAILABLE", "Request for unknown model: 'x' is not found", failure.MODEL_UNAVAILABLE),
        ("INTERNAL", "Stub process 'x' is not healthy", failure.REJECTED),
    ],
)
def test_failure_has_one_reason(status, text, reason):
    assert failure.of_status(status, text) == reason
    assert reason in failure.REASONS
