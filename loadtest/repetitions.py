"""The repetitions of one phase and model, which are judged, drawn and compared together."""

from collections import Counter
from collections.abc import Iterable, Mapping

from rfserve.loadtest.measurement import Measurement

Repetitions = tuple[Measurement, ...]


def by_phase_and_model(measurements: Iterable[Measurement]) -> Mapping[tuple[str, str], Repetitions]:
    """All repetitions of each (phase, model), in the order in which they were first seen and then by number."""
    found: dict[tuple[str, str], list[Measurement]] = {}
    for measurement in measurements:
        found.setdefault((measurement.phase, measurement.model), []).append(measurement)
    return {key: tuple(sorted(group, key=lambda m: m.repetition)) for key, group in found.items()}


def failures(measurements: Iterable[Measurement]) -> Counter[str]:
    """How many requests failed in all of them, by reason."""
    found: Counter[str] = Counter()
    for measurement in measurements:
        found.update(measurement.failures)
    return found
