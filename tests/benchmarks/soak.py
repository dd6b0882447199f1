"""Minutes of mixed load: resident memory after warm-up, and what is left in shared memory afterwards.

Memory is flat when its growth is within its noise: with the slope of a least-squares line through the samples after
warm-up, the lower end of the slope's 95 % interval times the duration is at most one standard deviation of the samples
around the line.
"""

import argparse
import asyncio
import itertools
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from figures import head, show
from memory_parts import growths_bytes, resident_parts
from scipy import stats
from served import serving
from wire_load import Outcome, WireLoad, serialised

from rfserve.export.spec import GRAPHS, MODELS, example, find
from rfserve.export.spec.model import Served
from rfserve.server import shared_memory
from rfserve.server.process import TritonServer

WORKERS = 4
POOL = 72
# A worker takes a new connection after so many requests.
CONNECTION_REQUESTS = 40
BURST_EVERY_S, BURST_S, BURST_RATE_HZ = 15.0, 1.0, 500.0
WARM_UP_SHARE = 1 / 3
SAMPLES = 120
# What a client reports when there was no answer at all.
NO_ANSWERS = ("UNAVAILABLE", "DEADLINE_EXCEEDED")
MIB = 2**20
# Parts whose growth is printed.
LARGEST = 4


@dataclass(frozen=True, kw_only=True)
class Soak:
    """The memory's line after warm-up, and how many requests there were of each kind."""

    minutes: float
    first_bytes: float
    slope_bytes_per_s: float
    slope_error: float
    noise_bytes: float
    span_s: float
    growths_bytes: Mapping[str, float]
    answered: int
    refused: int
    rejected: int
    unanswered: int

    @property
    def least_growth_bytes(self) -> float:
        """What memory grew by after warm-up, at the lower end of the 95 % interval."""
        return (self.slope_bytes_per_s - 1.96 * self.slope_error) * self.span_s

    @property
    def is_flat(self) -> bool:
        """Whether that is within the noise."""
        return self.least_growth_bytes <= self.noise_bytes


def good_requests(models: Sequence[str]) -> list[bytes]:
    """Requests of every model in many sizes: rows, receivers, lengths, with odd numbers in some."""
    rng = random.Random(1)
    found = []
    for number, name in zip(range(POOL), itertools.cycle(models), strict=False):
        spec = find(name)
        sizes = {a.name: _size(spec, a.name, rng) for a in spec.axes if not a.padded}
        arrays = example(spec, batch=rng.choice((1, 1, 2, 3)), sizes=sizes, seed=number)
        if number % 9 == 0:
            first = arrays[spec.inputs[0].name]
            first.reshape(len(first), -1)[0, 0] = np.nan
        found.append(serialised(name, arrays))
    return found


def _size(spec: Served, axis: str, rng: random.Random) -> int:
    bounds = spec.bounds[axis]
    return rng.choice((bounds.served, bounds.served, rng.randint(bounds.minimum, bounds.served)))


def bad_requests(model: str) -> list[bytes]:
    """A model that nobody serves, tensors cut short, a wrong shape, and bytes that are no message."""
    good = serialised(model, example(find(model)))
    name = model.encode()
    return [
        good.replace(name, b"x" * len(name), 1),
        good[: len(good) // 2],
        good[: len(good) - 4],
        bytes(range(256)) * 8,
    ]


async def load_for(
    server: TritonServer, models: Sequence[str], duration_s: float
) -> tuple[Outcome, list[tuple[float, Mapping[str, int]]]]:
    """The mixed load, with samples of (seconds, bytes of each part) beside it."""
    good, bad = good_requests(models), bad_requests("mel_features")
    burst = [serialised("mel_features", example(find("mel_features"), seed=seed)) for seed in range(4)]
    outcome = Outcome()
    samples: list[tuple[float, Mapping[str, int]]] = []
    begun = time.perf_counter()

    def is_on() -> bool:
        return time.perf_counter() - begun < duration_s

    async def worker(seed: int) -> None:
        rng = random.Random(seed)
        while is_on():
            async with WireLoad(server.grpc_url) as wire:
                for _ in range(CONNECTION_REQUESTS):
                    await wire.send(rng.choice(bad if rng.random() < 0.05 else good), outcome)
                    if not is_on():
                        break

    async def bursts() -> None:
        while is_on():
            async with WireLoad(server.grpc_url) as wire:
                outcome.add(await wire.opened(burst, rate_hz=BURST_RATE_HZ, duration_s=min(BURST_S, duration_s / 10)))
            await asyncio.sleep(min(BURST_EVERY_S, duration_s / 5))

    async def sampler() -> None:
        while is_on():
            if server.wait(0) is not None:
                raise RuntimeError(f"the server has ended: {server.log()[-2000:]}")
            samples.append((time.perf_counter() - begun, resident_parts(server.pid)))
            await asyncio.sleep(duration_s / SAMPLES)

    await asyncio.gather(sampler(), bursts(), *(worker(seed) for seed in range(WORKERS)))
    return outcome, samples


def measure(server: TritonServer, models: Sequence[str], minutes: float) -> Soak:
    """Load the server, and fit the line."""
    outcome, samples = asyncio.run(load_for(server, models, 60 * minutes))
    times, parts = zip(*[s for s in samples if s[0] >= WARM_UP_SHARE * 60 * minutes], strict=True)
    times_s, memory = np.array(times), np.array([sum(p.values()) for p in parts])
    line = stats.linregress(times_s, memory)
    unanswered = sum(n for reason, n in outcome.reasons.items() if reason.startswith(NO_ANSWERS))
    return Soak(
        minutes=minutes,
        first_bytes=float(memory[0]),
        slope_bytes_per_s=float(line.slope),
        slope_error=float(line.stderr),
        noise_bytes=float(np.std(memory - (line.intercept + line.slope * times_s))),
        span_s=float(times_s[-1] - times_s[0]),
        growths_bytes=growths_bytes(times, parts),
        answered=len(outcome.answered_ms),
        refused=len(outcome.refused_ms) - outcome.failed,
        rejected=outcome.failed - unanswered,
        unanswered=unanswered,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the figures; `--minutes` says how long."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="default: %(default)s")
    minutes = parser.parse_args(arguments).minutes
    with serving(MODELS) as server:
        prefix = server.shared_memory_prefix
        found = measure(server, tuple(MODELS), minutes)
        ends_well = all(server.http.model_ready(name) for name in GRAPHS)
    growth = found.slope_bytes_per_s * found.span_s / MIB
    largest = ", ".join(f"{n} {b / MIB:+.1f}" for n, b in list(found.growths_bytes.items())[:LARGEST])
    detail = (
        f"{growth:+.1f} MiB in {found.span_s / 60:.1f} min after warm-up at {found.first_bytes / MIB:.0f} MiB "
        f"(most: {largest}), {found.answered} answered, {found.refused} refused, {found.rejected} rejected as bad"
    )
    show("soak: memory's least growth (95 %) / its noise", found.least_growth_bytes / found.noise_bytes, "<= 1", detail)
    show("soak: requests without any answer", found.unanswered, "0", "")
    show("soak: models that are not ready at the end", float(not ends_well), "0", "")
    show("soak: regions of shared memory left", len(shared_memory.regions(prefix)), "0", "")


if __name__ == "__main__":
    head()
    main()
