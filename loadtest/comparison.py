"""What changed from one run to another beyond noise: for each phase, model and figure."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from rfserve.export.spec.tensor import Array
from rfserve.loadtest import validity
from rfserve.loadtest.change import (
    BAD,
    CHANGED,
    ERROR_MARGIN,
    ERRORS,
    THROUGHPUT,
    UNDECIDED,
    Change,
    beyond_chance,
    judge,
    ratio,
    unknown,
)
from rfserve.loadtest.errors import LoadTestError
from rfserve.loadtest.measurement import Measurement, Run
from rfserve.loadtest.noise import (
    BLOCKS,
    difference,
    difference_of_shares,
    estimates,
    mean,
    percentiles,
)
from rfserve.loadtest.repetitions import Repetitions, by_phase_and_model

LATENCIES = {"p50_ms": 50.0, "p95_ms": 95.0, "p99_ms": 99.0}
MARGIN = 0.1


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All changes from one run to another, and what speaks against comparing them."""

    before: str
    after: str
    margin: float
    changes: tuple[Change, ...]
    warnings: tuple[str, ...]

    @property
    def changed(self) -> tuple[Change, ...]:
        """What changed beyond noise."""
        return tuple(c for c in self.changes if c.outcome in CHANGED)

    @property
    def is_worse(self) -> bool:
        """Whether anything got worse beyond noise."""
        return any(c.outcome in BAD for c in self.changes)

    def to_dict(self) -> dict[str, object]:
        """As JSON; what is not a number is null."""
        rows = [
            {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in asdict(c).items()}
            for c in self.changes
        ]
        return asdict(self) | {"changes": rows, "is_worse": self.is_worse}


def compare(before: Run, after: Run, *, margin: float = MARGIN) -> Comparison:
    """Compare two runs; a change within `margin` (a share) is none. `LoadTestError` when nothing is in both."""
    if not 0 < margin < 1:
        raise LoadTestError(f"margin: got {margin}; expected a share between 0 and 1, such as 0.05")
    old, new = by_phase_and_model(before.measurements), by_phase_and_model(after.measurements)
    shared = [key for key in old if key in new]
    if not shared:
        raise LoadTestError(
            f"{before.name} has {_names(old)}, {after.name} has {_names(new)}; expected a phase and model in both"
        )
    changes: list[Change] = []
    for key in shared:
        found = _changes(key, old[key], new[key], margin)
        invalid = [p for group in (old[key], new[key]) for p in validity.problems(group)]
        # What a generator that was too slow measured is no change of the server.
        if invalid:
            found = [replace(c, outcome=UNDECIDED, chance=math.nan, reason=f"invalid: {invalid[0]}") for c in found]
        changes += found
    return Comparison(
        before=f"{before.name}, {before.started}",
        after=f"{after.name}, {after.started}",
        margin=margin,
        changes=tuple(beyond_chance(changes)),
        warnings=(*_machine_warnings(before, after), *_plan_warnings(old, new)),
    )


def _changes(key: tuple[str, str], old: Repetitions, new: Repetitions, margin: float) -> list[Change]:
    single = min(len(old), len(new)) == 1
    return [
        *_latency_changes(key, old, new, margin, single=single),
        _error_change(key, old, new, single=single),
        _throughput_change(key, old, new, margin, single=single),
    ]


def _latency_changes(
    key: tuple[str, str], old: Repetitions, new: Repetitions, margin: float, *, single: bool
) -> list[Change]:
    sides = [[m.latency_s * 1e3 for m in group] for group in (old, new)]
    if not all(r.size and (r > 0).all() for s in sides for r in s):
        reason = "a repetition without an answer"
        return [unknown(key, figure, [math.nan, math.nan], reason) for figure in LATENCIES]
    pairs = [estimates(percentiles(*LATENCIES.values()), s, log=True) for s in sides]
    found = []
    for (figure, percentile), before, after in zip(LATENCIES.items(), *pairs, strict=True):
        values = [math.exp(before.value), math.exp(after.value)]
        in_all, in_each = validity.samples_needed(percentile)
        if any(sum(r.size for r in s) < in_all or min(r.size for r in s) < in_each for s in sides):
            reason = f"it needs {in_all} answers in all and {in_each} in each repetition"
            found.append(unknown(key, figure, values, reason))
        else:
            found.append(ratio(key, figure, values, difference(before, after), margin, single=single))
    return found


def _error_change(key: tuple[str, str], old: Repetitions, new: Repetitions, *, single: bool) -> Change:
    parts = [[(m.failed, m.sent) for m in group] for group in (old, new)]
    values = [_share(part) for part in parts]
    if not all(math.isfinite(v) for v in values):
        return unknown(key, ERRORS, values, "nothing was sent")
    found = difference_of_shares(parts[0], parts[1], lambda share: share)
    return judge(key, ERRORS, values, found, (-ERROR_MARGIN, ERROR_MARGIN), single=single)


def _throughput_change(
    key: tuple[str, str], old: Repetitions, new: Repetitions, margin: float, *, single: bool
) -> Change:
    """Of a closed loop the good answers a second.

    In an open loop how many requests there are is the schedule's chance: what the server adds is the share of them that
    it answers.
    """
    asked = {m.target_rate_hz for m in (*old, *new)}
    reason = "another rate was asked for" if len(asked) > 1 else "nothing was answered"
    if len(asked) > 1 or not all(any(m.answered for m in group) for group in (old, new)):
        values = [float(np.mean([m.goodput_hz for m in group])) for group in (old, new)]
        return unknown(key, THROUGHPUT, values, reason)
    (rate_hz,) = asked
    if rate_hz is None:
        pair = [estimates(mean, [_answers_hz(m) for m in group], log=True)[0] for group in (old, new)]
        values = [math.exp(e.value) for e in pair]
        return ratio(key, THROUGHPUT, values, difference(pair[0], pair[1]), margin, single=single)
    parts = [[(m.scheduled - m.answered, m.scheduled) for m in group] for group in (old, new)]
    values = [rate_hz * (1 - _share(part)) for part in parts]
    found = difference_of_shares(parts[0], parts[1], lambda failed: math.log1p(-failed) if failed < 1 else -math.inf)
    return ratio(key, THROUGHPUT, values, found, margin, single=single)


def _answers_hz(measurement: Measurement) -> Array:
    """Good answers a second in equal parts of the window, the last one with what came after it."""
    part = np.clip(measurement.done_s / measurement.duration_s * BLOCKS, 0, BLOCKS - 1).astype(np.int64)
    return np.bincount(part, minlength=BLOCKS) * (BLOCKS / measurement.duration_s)


def _share(part: Sequence[tuple[int, int]]) -> float:
    """Failed of all; NaN of none."""
    count = sum(n for _, n in part)
    return sum(f for f, _ in part) / count if count else math.nan


def _machine_warnings(before: Run, after: Run) -> list[str]:
    found = []
    if before.device != after.device:
        found.append(f"device: {before.device} before, {after.device} after")
    for name in ("cpu_model", "cores", "memory_bytes", "kernel", "python"):
        old, new = getattr(before.machine, name), getattr(after.machine, name)
        if old != new:
            found.append(f"machine, {name}: {old} before, {new} after")
    old_versions, new_versions = before.machine.versions, after.machine.versions
    for name in sorted({*old_versions, *new_versions}):
        if old_versions.get(name) != new_versions.get(name):
            found.append(
                f"version of {name}: {old_versions.get(name, '-')} before, {new_versions.get(name, '-')} after"
            )
    return found


def _plan_warnings(old: Mapping[tuple[str, str], Repetitions], new: Mapping[tuple[str, str], Repetitions]) -> list[str]:
    found = [f"{phase}/{model} is in the first run only" for phase, model in old if (phase, model) not in new]
    found += [f"{phase}/{model} is in the second run only" for phase, model in new if (phase, model) not in old]
    for key in (k for k in old if k in new):
        name = "/".join(key)
        for what in ("loop", "target_rate_hz", "precision", "version"):
            values = [sorted({str(getattr(m, what)) for m in group}) for group in (old[key], new[key])]
            if values[0] != values[1]:
                found.append(f"{name}, {what}: {', '.join(values[0])} before, {', '.join(values[1])} after")
    return found


def _names(groups: Mapping[tuple[str, str], Repetitions]) -> str:
    return ", ".join("/".join(key) for key in groups) or "nothing"
