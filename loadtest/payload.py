"""Requests as they go over the wire, serialised before the clock starts."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from tritonclient.grpc._utils import _get_inference_request

from rfserve.clients.alignment import align
from rfserve.clients.connection import server_timeout_us, to_wire
from rfserve.clients.formats.sigmf_pair import COLLECTION
from rfserve.clients.observation import Observation
from rfserve.clients.recording import read_event
from rfserve.clients.request import tensors
from rfserve.export.spec import ENSEMBLES, EnsembleSpec, RfserveError, example, find
from rfserve.export.spec.tensor import Array
from rfserve.loadtest.errors import LoadTestError
from rfserve.loadtest.plan import Mix, Stream

METHOD = "/inference.GRPCInferenceService/ModelInfer"


def serialised(model: str, arrays: Mapping[str, Array], *, priority: int = 0, timeout_us: int | None = None) -> bytes:
    """One request for a model, its tensors checked, as the client's own library writes it."""
    inputs, outputs = to_wire(model, arrays)
    request = _get_inference_request(
        model_name=model,
        inputs=inputs,
        model_version="",
        request_id="",
        outputs=outputs,
        sequence_id=0,
        sequence_start=False,
        sequence_end=False,
        priority=priority,
        timeout=timeout_us,
        parameters=None,
    )
    return bytes(request.SerializeToString())


def requests(stream: Stream, *, timeout_s: float, seed: int) -> Iterator[bytes]:
    """The distinct requests of a stream, serialised, with the time-out in the queue that the client would give."""
    drawn = _of_events(stream) if stream.mix.events is not None else _drawn(stream, seed)
    for arrays in drawn:
        yield serialised(stream.model, arrays, timeout_us=server_timeout_us(timeout_s))


def order(count: int, distinct: int, mix: Mix, rng: np.random.Generator) -> Array:
    """Which of `distinct` requests goes out at each of `count` places: int64 (count,).

    They take turns; the mix's share of the places, drawn at random but for the first, repeats the one before.
    """
    repeats = np.zeros(count, bool)
    chosen = round(mix.duplicate_share * max(count - 1, 0))
    if chosen:
        repeats[1 + rng.permutation(count - 1)[:chosen]] = True
    return np.asarray((np.cumsum(~repeats) - 1) % distinct)


def _drawn(stream: Stream, seed: int) -> Iterator[dict[str, Array]]:
    mix, spec = stream.mix, find(stream.model)
    axis = stream.samples_axis
    for i in range(mix.distinct):
        yield example(
            spec,
            # Streams of one plan must not send each other's bytes.
            seed=seed * 1000 + i,
            active=mix.receivers[i % len(mix.receivers)] if mix.receivers else None,
            sizes={axis: mix.samples[i % len(mix.samples)]} if mix.samples and axis is not None else None,
        )


def _of_events(stream: Stream) -> Iterator[dict[str, Array]]:
    """Every SigMF collection below the folder, as the client would send it; for models that take raw IQ."""
    folder, spec = Path(stream.mix.events or ""), find(stream.model)
    chain, names = _front(stream.model)
    found = sorted(folder.rglob(f"*{COLLECTION}"))
    if not found:
        raise LoadTestError(f"{stream.model}: {folder} holds no {COLLECTION}; expected a folder of events on this host")
    axis = next(a for a in chain.axes if a.name == "raw_samples")
    for path in found:
        try:
            recordings = read_event([path])
            alone = "receivers" not in chain.bounds
            groups = [[r] for r in recordings] if alone else [recordings]
            events: list[list[Observation]] = [list(align(group, samples=axis)) for group in groups]
            whole = [tensors(chain, [event]) for event in events]
        except RfserveError as error:
            raise LoadTestError(f"{path}: {error}; mend it, or take it out of {folder}") from error
        for arrays in whole:
            yield {t.name: arrays[names[t.name]] for t in spec.inputs}


def _front(model: str) -> tuple[EnsembleSpec, dict[str, str]]:
    """The ensemble whose recordings a model takes, and the ensemble's names of the model's inputs."""
    for ensemble in ENSEMBLES.values():
        if ensemble.name == model:
            return ensemble, {t.name: t.name for t in ensemble.inputs}
    for ensemble in ENSEMBLES.values():
        if ensemble.steps[0].model.name == model:
            return ensemble, dict(ensemble.steps[0].input_map)
    raise LoadTestError(
        f"{model} takes no raw IQ, so no recorded events; expected {', '.join(ENSEMBLES)}, or a front end"
    )
