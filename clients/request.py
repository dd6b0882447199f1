"""Observations to the tensors of a served model, and its answer to fixes; everything follows the model's spec."""

import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from rfserve.clients import receiver_checks
from rfserve.clients.doubt import doubt
from rfserve.clients.errors import EventError, InvalidAnswer
from rfserve.clients.event import Event, Screen
from rfserve.clients.fix import Fix
from rfserve.clients.observation import Observation
from rfserve.clients.plain_text import utc_text
from rfserve.clients.receiver_checks import NETWORKS
from rfserve.export.spec import ENSEMBLES, EnsembleSpec, TensorError, TensorSpec, find
from rfserve.export.spec.tensor import Array


class Question:
    """Observations of some events, made into one request of an ensemble, and how its answer becomes their fixes."""

    def __init__(
        self,
        model: str,
        events: Sequence[Sequence[Observation]],
        request_id: str | None,
        *,
        known_receivers: Collection[int] | None = None,
        minimum_receivers: int | None = None,
        pad_receivers: bool = True,
    ) -> None:
        begun = time.perf_counter()
        self.model = model
        self.request_id = request_id or uuid.uuid4().hex
        slots = ensemble(model).bounds.get("receivers")
        known, whose = known_receivers, "are those that the client was told the network knows"
        if known is None and slots is not None:
            known, whose = range(slots.maximum), NETWORKS
        screened = [_screen(event, known, whose, Screen(minimum_receivers)) for event in events]
        self._known = [_known(event) for event in screened]
        self._places = [[(o.latitude_deg, o.longitude_deg) for o in event] for event in screened]
        self.arrays = tensors(ensemble(model), screened, pad_receivers=pad_receivers)
        self._made = time.perf_counter()
        self._prepare_ms = 1e3 * (self._made - begun)

    def fixes(self, answer: Mapping[str, Array], version: str) -> list[Fix]:
        """One fix for each event, with the time since the request was made as its round trip."""
        timings = {"prepare": self._prepare_ms, "round_trip": 1e3 * (time.perf_counter() - self._made)}
        found = fixes(answer, model=self.model, version=version, request_id=self.request_id, timings_ms=timings)
        return [
            replace(fix, **known, doubt=doubt(fix, places))
            for fix, known, places in zip(found, self._known, self._places, strict=True)
        ]


def _known(event: Event) -> dict[str, Any]:
    """What a fix says of the event that it was made from."""
    start_ns = min((o.start_ns for o in event if o.start_ns is not None), default=None)
    return {
        "receivers": tuple(o.name for o in event),
        "start_utc": "" if start_ns is None else utc_text(start_ns, 9),
        "dropped": event.dropped,
    }


def _screen(event: Sequence[Observation], known: Collection[int] | None, whose: str, screen: Screen) -> Event:
    """The event without the receivers that must not be sent; raises for the first when none may be left out."""
    before = event.dropped if isinstance(event, Event) else ()
    for dropped in before:
        screen.remember(dropped)
    receivers = dict(zip(screen.places(len(event)), event, strict=True))
    receivers = receiver_checks.of_one_event(receivers, screen)
    if known is not None:
        receivers = screen.keep(receivers, receiver_checks.unknown(receivers, known, whose))
    return screen.event(receivers)


def ensemble(model: str) -> EnsembleSpec:
    """The spec of an ensemble that takes raw IQ; `TensorError` for a model that does not."""
    spec = find(model)
    if not isinstance(spec, EnsembleSpec):
        raise TensorError(
            f"{model} takes tensors, not recordings; expected one of {', '.join(ENSEMBLES)}, or use infer"
        )
    return spec


def tensors(
    spec: EnsembleSpec, events: Sequence[Sequence[Observation]], *, pad_receivers: bool = True
) -> dict[str, Array]:
    """One row for each event, padded to the served number of receivers; `TensorError` or `EventError` when unfit.

    Without `pad_receivers`, to that of the event that has most.
    """
    if not events or not all(events):
        raise EventError("an event holds no observation; expected at least one receiver in each")
    lengths = {o.iq.size for event in events for o in event}
    if len(lengths) != 1:
        raise EventError(f"observations have {sorted(lengths)} samples; expected the same number in all: align them")
    slots = max(len(event) for event in events)
    if pad_receivers:
        # The batcher joins requests of one shape only.
        slots = max(slots, spec.served_sizes.get("receivers", 1))
    rows = [_row(spec, event, slots) for event in events]
    stacked = {t.name: np.stack([row[t.name] for row in rows]) for t in spec.inputs}
    spec.check(stacked)
    return stacked


def _row(spec: EnsembleSpec, event: Sequence[Observation], slots: int) -> dict[str, Array]:
    receivers = spec.bounds.get("receivers")
    if receivers is None:
        if len(event) != 1:
            raise EventError(f"{spec.name} takes one receiver, got {len(event)}; choose one, or use locate")
        return {t.name: _values(t, event[0], 0) for t in spec.inputs}
    if len(event) > receivers.maximum:
        raise EventError(f"{spec.name} takes up to {receivers.maximum} receivers, got {len(event)}; choose some")
    outside = receiver_checks.unknown(dict(enumerate(event)), range(receivers.maximum), NETWORKS)
    for error in outside.values():
        raise error
    row = {}
    for tensor in spec.inputs:
        held = np.stack([_values(tensor, o, i) for i, o in enumerate(event)])
        row[tensor.name] = np.pad(held, [(0, slots - len(event)), *[(0, 0)] * (held.ndim - 1)])
    return row


def _receiver_id(observation: Observation, place: int) -> int:
    return place if observation.receiver_id is None else observation.receiver_id


def _values(tensor: TensorSpec, observation: Observation, place: int) -> Array:
    """What one receiver puts into a tensor of the front end."""
    makers: dict[str, Callable[[], Any]] = {
        "raw_iq": lambda: np.stack([observation.iq.real, observation.iq.imag]),
        "sample_rate_hz": lambda: observation.sample_rate_hz,
        "full_scale_dbm": lambda: observation.full_scale_dbm or 0.0,
        "receiver_positions": lambda: [observation.latitude_deg, observation.longitude_deg, observation.altitude_m],
        "receiver_ids": lambda: _receiver_id(observation, place),
        "mask": lambda: True,
    }
    return np.asarray(makers[tensor.name](), tensor.dtype.numpy)


def fixes(
    answer: Mapping[str, Array], *, model: str, version: str, request_id: str, timings_ms: dict[str, float]
) -> list[Fix]:
    """One fix for each row; `InvalidAnswer` names every row that is none."""
    spec = find(model)
    positions, sigmas = (np.asarray(answer[t.name], float) for t in spec.outputs)
    if positions.shape != sigmas.shape or positions.shape[1:] != (2,):
        raise InvalidAnswer(f"{model} answered {positions.shape} and {sigmas.shape}; expected (batch, 2) twice")
    found: list[Fix] = []
    problems = []
    for row, (position, sigma) in enumerate(zip(positions, sigmas, strict=True)):
        try:
            fix = Fix(
                latitude_deg=float(position[0]),
                longitude_deg=float(position[1]),
                sigma_north_m=float(sigma[0]),
                sigma_east_m=float(sigma[1]),
                model=model,
                model_version=version,
                request_id=request_id,
                timings_ms=timings_ms,
            )
        except InvalidAnswer as error:
            problems.append(f"row {row}: {error}")
        else:
            found.append(fix)
    if problems:
        raise InvalidAnswer(f"{len(problems)} of {len(positions)} rows hold no fix: {'; '.join(problems)}")
    return found
