"""What changed from one run to another beyond noise: for each phase, model and figure."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

import numpy as np

from rfserve.export.spec.tensor import Array
from rfserve.loadtest import validity
from rfserve.loadtest.errors import LoadTestError
from rfserve.loadtest.measurement import Measurement, Run
from rfserve.loadtest.noise import BLOCKS, Estimate, difference, estimates, mean, percentiles
from rfserve.loadtest.repetitions import Repetitions, by_phase_and_model

LATENCIES = {"p50_ms": 50.0, "p95_ms": 95.0, "p99_ms": 99.0}
THROUGHPUT, ERRORS = "throughput_hz", "error_rate"
FASTER, SLOWER, BETTER, WORSE, SAME, UNDECIDED = "faster", "slower", "better", "worse", "same", "undecided"
BAD = frozenset([SLOWER, WORSE])
MARGIN = 0.1
ERROR_MARGIN = 0.001


@dataclass(frozen=True, kw_only=True)
class Change:
    """One figure of one model in one phase, before and after, with the 95 % interval of the change.

    `change` is after / before, of `error_rate` after - before. `outcome` is `same` when the interval lies within the
    margin, `faster` or `slower` (of errors: `better`, `worse`) when it lies on one side of no change, and `undecided`
    otherwise; `reason` says why it is.
    """

    phase: str
    model: str
    figure: str
    before: float
    after: float
    change: float
    low: float
    high: float
    outcome: str
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All changes from one run to another, and what speaks against comparing them."""

    before: str
    after: str
    margin: float
    changes: tuple[Change, ...]
    warnings: tuple[str, ...]

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
        changes += [replace(c, outcome=UNDECIDED, reason=f"invalid: {invalid[0]}") for c in found] if invalid else found
    return Comparison(
        before=f"{before.name}, {before.started}",
        after=f"{after.name}, {after.started}",
        margin=margin,
        changes=tuple(changes),
        warnings=(*_machine_warnings(before, after), *_plan_warnings(old, new)),
    )


def _changes(key: tuple[str, str], old: Repetitions, new: Repetitions, margin: float) -> list[Change]:
    single = min(len(old), len(new)) == 1
    found = _latency_changes(key, old, new, margin, single=single)
    for figure, of, log in ((ERRORS, _errors, False), (THROUGHPUT, _rates, True)):
        sides = [[of(m) for m in group] for group in (old, new)]
        values = [float(np.concatenate(s).mean()) if all(r.size for r in s) else math.nan for s in sides]
        if not all(math.isfinite(v) and (v > 0 or not log) for v in values):
            found.append(_unknown(key, figure, values, "nothing was sent" if not log else "nothing was answered"))
            continue
        pair = [estimates(mean, s, log=log)[0] for s in sides]
        found.append(_judge(key, figure, pair[0], pair[1], margin=margin, log=log, single=single))
    return found


def _latency_changes(
    key: tuple[str, str], old: Repetitions, new: Repetitions, margin: float, *, single: bool
) -> list[Change]:
    sides = [[m.latency_s * 1e3 for m in group] for group in (old, new)]
    if not all(r.size and (r > 0).all() for s in sides for r in s):
        reason = "a repetition without an answer"
        return [_unknown(key, figure, [math.nan, math.nan], reason) for figure in LATENCIES]
    pairs = [estimates(percentiles(*LATENCIES.values()), s, log=True) for s in sides]
    found = []
    for (figure, percentile), before, after in zip(LATENCIES.items(), *pairs, strict=True):
        judged = _judge(key, figure, before, after, margin=margin, log=True, single=single)
        in_all, in_each = validity.samples_needed(percentile)
        if any(sum(r.size for r in s) < in_all or min(r.size for r in s) < in_each for s in sides):
            reason = f"it needs {in_all} answers in all and {in_each} in each repetition"
            judged = _unknown(key, figure, [judged.before, judged.after], reason)
        found.append(judged)
    return found


def _judge(
    key: tuple[str, str],
    figure: str,
    before: Estimate,
    after: Estimate,
    *,
    margin: float,
    log: bool,
    single: bool,
) -> Change:
    change, low, high = difference(before, after)
    edge_low, edge_high = (-math.log1p(margin), math.log1p(margin)) if log else (-ERROR_MARGIN, ERROR_MARGIN)
    more_is_worse = figure != THROUGHPUT
    good, bad = (BETTER, WORSE) if figure == ERRORS else (FASTER, SLOWER)
    reason = "more repetitions or longer ones decide it"
    if edge_low <= low and high <= edge_high:
        outcome = SAME
    elif single:
        outcome, reason = UNDECIDED, "one repetition says nothing of how much the next one differs"
    elif low > 0 or high < 0:
        outcome = bad if (low > 0) == more_is_worse else good
    else:
        outcome = UNDECIDED
    shown = math.exp if log else float
    return Change(
        phase=key[0],
        model=key[1],
        figure=figure,
        before=shown(before.value),
        after=shown(after.value),
        change=shown(change),
        low=shown(low),
        high=shown(high),
        outcome=outcome,
        reason=reason if outcome == UNDECIDED else "",
    )


def _unknown(key: tuple[str, str], figure: str, values: list[float], reason: str) -> Change:
    return Change(
        phase=key[0],
        model=key[1],
        figure=figure,
        before=values[0],
        after=values[1],
        change=math.nan,
        low=math.nan,
        high=math.nan,
        outcome=UNDECIDED,
        reason=reason,
    )


def _rates(measurement: Measurement) -> Array:
    """Good answers a second: in a closed loop those of equal parts of the window, the last one with what came after.

    In an open loop how many requests there are is the schedule's chance: what the server adds is whether it answers
    them, so there is one entry a request, the target rate or 0.
    """
    if measurement.target_rate_hz is not None:
        return measurement.target_rate_hz * (1 - _failed(measurement.scheduled, measurement.answered))
    part = np.clip(measurement.done_s / measurement.duration_s * BLOCKS, 0, BLOCKS - 1).astype(np.int64)
    return np.bincount(part, minlength=BLOCKS) * (BLOCKS / measurement.duration_s)


def _errors(measurement: Measurement) -> Array:
    """1 for a failed request, else 0."""
    return _failed(measurement.sent, measurement.answered)


def _failed(count: int, answered: int) -> Array:
    """1 for each of `count` that was not answered, else 0. Which ones is not known: they are taken as independent."""
    failed = np.zeros(count)
    failed[answered:] = 1
    return np.random.default_rng(0).permutation(failed)


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
