"""Twice the capacity, open loop: what is accepted keeps the budget, the rest fails fast, and no work is lost."""

import asyncio
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

from figures import head, show
from served import serving
from wire_load import Outcome, WireLoad, serialised

from rfserve.export.spec import EnsembleSpec, example, find

MODELS = ("heimdall_net", "locate")
ROUNDS = 5
CONCURRENCY = 8
CAPACITY_S, OVERLOAD_S = 2.5, 5.0
# Back to normal: so many requests in a row that take no longer than these multiples of an idle server's median.
RECOVERED_REQUESTS, RECOVERED_RATIO = 5, 3.0


@dataclass(frozen=True, kw_only=True)
class Overload:
    """The figures of one model. `slowdown` says how much slower than the spec's row costs this machine was."""

    model: str
    capacity_hz: float
    goodput: float
    accepted_p99_ms: float
    budget_ms: float
    slowdown: float
    refused: int
    refused_p50_ms: float
    refused_p99_ms: float
    other_failures: int
    recovery_s: float
    lag_p99_ms: float


async def measure(url: str, model: str, *, rounds: int, capacity_s: float, overload_s: float) -> Overload:
    """Saturation and overload by turns, so that what else the machine does meets both."""
    spec = find(model)
    requests = [serialised(model, example(spec, active=10, seed=seed)) for seed in range(8)]
    capacities, goodputs, recoveries = [], [], []
    overload = Outcome()
    async with WireLoad(url) as load:
        # A server that has just started is slower for some hundred requests.
        await load.closed(requests, concurrency=4, duration_s=capacity_s)
        idle = await load.closed(requests, concurrency=1, duration_s=capacity_s / 2)
        before = await load.closed(requests, concurrency=CONCURRENCY, duration_s=capacity_s)
        for seed in range(rounds):
            rate_hz = 2 * before.rate_hz
            run = await load.opened(requests, rate_hz=rate_hz, duration_s=overload_s, seed=seed)
            recoveries.append(await _recovery_s(load, requests, RECOVERED_RATIO * idle.answered_at_ms(50)))
            after = await load.closed(requests, concurrency=CONCURRENCY, duration_s=capacity_s)
            goodputs.append(run.rate_hz / statistics.mean((before.rate_hz, after.rate_hz)))
            capacities += [before.rate_hz]
            overload.add(run)
            before = after
    graphs = [s.model for s in spec.steps] if isinstance(spec, EnsembleSpec) else [spec]
    capacity_hz = statistics.median(capacities)
    return Overload(
        model=model,
        capacity_hz=capacity_hz,
        goodput=statistics.median(goodputs),
        accepted_p99_ms=overload.answered_at_ms(99),
        budget_ms=spec.budget("cpu").p99_ms,
        slowdown=max(1.0, 1e3 / (capacity_hz * sum(g.row_costs_ms["cpu"] for g in graphs))),
        refused=len(overload.refused_ms),
        refused_p50_ms=overload.refused_at_ms(50),
        refused_p99_ms=overload.refused_at_ms(99),
        other_failures=overload.failed,
        recovery_s=max(recoveries),
        lag_p99_ms=overload.lag_at_ms(99),
    )


async def _recovery_s(load: WireLoad, requests: Sequence[bytes], normal_ms: float) -> float:
    """How long after the load the first of some requests in a row began that are all as fast as before it."""
    ended = time.perf_counter()
    first, count = ended, 0
    while count < RECOVERED_REQUESTS and time.perf_counter() - ended < 30:
        begun, outcome = time.perf_counter(), Outcome()
        await load.send(requests[count % len(requests)], outcome)
        if outcome.answered_ms and outcome.answered_ms[0] <= normal_ms:
            first, count = (begun, 1) if count == 0 else (first, count + 1)
        else:
            count = 0
    return first - ended if count == RECOVERED_REQUESTS else float("inf")


def report(found: Overload) -> None:
    """Print the figures with their targets."""
    name = f"{found.model} at 2 x capacity"
    detail = f"{found.goodput * found.capacity_hz:.0f} / {found.capacity_hz:.0f} per s"
    show(f"{name}: goodput / capacity", found.goodput, ">= 0.9", detail)
    allowed_ms = found.budget_ms * found.slowdown
    detail = (
        f"{found.accepted_p99_ms:.0f} / {allowed_ms:.0f} ms: budget {found.budget_ms:g} ms, rows {found.slowdown:.2f} "
        f"times as slow as the spec says, generator {found.lag_p99_ms:.0f} ms late at p99"
    )
    show(f"{name}: p99 of what is accepted / budget", found.accepted_p99_ms / allowed_ms, "<= 1", detail)
    detail = f"p50 {found.refused_p50_ms:.0f} ms, p99 {found.refused_p99_ms:.0f} ms, {found.refused} requests"
    show(f"{name}: p99 of a refusal / budget", found.refused_p99_ms / allowed_ms, "<= 1", detail)
    show(f"{name}: failures that are no refusals", found.other_failures, "0", "")
    show(f"{name}: s until latency is back", found.recovery_s, "<= 5", f"worst of {ROUNDS}")


def main() -> None:
    """Every model in turn, alone on the server."""
    with serving(MODELS) as server:
        for model in MODELS:
            work = measure(server.grpc_url, model, rounds=ROUNDS, capacity_s=CAPACITY_S, overload_s=OVERLOAD_S)
            report(asyncio.run(work))


if __name__ == "__main__":
    head()
    main()
