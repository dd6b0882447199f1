"""When a run proves nothing: its generator was the bottleneck, or there are too few samples."""

import math

from rfserve.loadtest.measurement import Measurement
from rfserve.loadtest.plan import Plan

MOST_CPU_SHARE = 0.9
MOST_LATE = 0.01
LEAST_RATE = 0.99
# Late is who goes out later after it was due than this share of the p99 budget, and than a scheduler may take.
LATE_SHARE = 0.1
LATE_FLOOR_MS = 5.0
# Samples beyond a percentile: in all repetitions, and in each. Fewer than one is none that the percentile could be of.
BEYOND_IN_ALL = 10.0
BEYOND_IN_EACH = 1.0


def lateness_limit_ms(plan: Plan, model: str) -> float:
    """How late a request may go out before it counts as late: `LATE_SHARE` of the p99 budget, 5 ms at least."""
    return max(LATE_FLOOR_MS, LATE_SHARE * plan.budget(model).get("p99_ms", 0.0))


def problems(measurement: Measurement) -> list[str]:
    """What makes one repetition invalid, whatever it measured; empty when it is valid."""
    found = []
    use, m = measurement.generator, measurement
    if use.cpu_share > MOST_CPU_SHARE:
        found.append(
            f"a generator used {use.cpu_share:.0%} of its core (at most {MOST_CPU_SHARE:.0%}); add --processes or hosts"
        )
    if m.sent and m.late / m.sent > MOST_LATE:
        found.append(
            f"{m.late} of {m.sent} requests went out more than {m.lateness_limit_ms:g} ms late (at most "
            f"{MOST_LATE:.0%}); run the generator where it has a core to itself"
        )
    if m.scheduled and m.loop == "open" and m.sent / m.scheduled < LEAST_RATE:
        wanted_hz = m.scheduled / m.duration_s
        found.append(
            f"{m.achieved_rate_hz:.4g} of {wanted_hz:.4g} requests a second went out (at least {LEAST_RATE:.0%}); add "
            "--processes or hosts"
        )
    if not m.sent:
        found.append("nothing was sent")
    return found


def samples_needed(percentile: float) -> tuple[int, int]:
    """How many answers a percentile needs: in all repetitions together, and in each of them.

    Ten in all lie beyond it then, one in each: 1000 and 100 for p99, 200 and 20 for p95, 20 and 2 for p50.
    """
    beyond = 1 - percentile / 100
    # Exactly, but for what floats make of it.
    return tuple(math.ceil(round(n / beyond, 6)) for n in (BEYOND_IN_ALL, BEYOND_IN_EACH))  # type: ignore[return-value]
