"""When a run proves nothing: its generator was the bottleneck, or there are too few samples."""

import math
from collections.abc import Sequence

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


def problems(measurements: Sequence[Measurement]) -> list[str]:
    """What makes the repetitions of one phase and model prove nothing, whatever they measured; empty when they may."""
    found = []
    cpu_share = max(m.generator.cpu_share for m in measurements)
    sent, scheduled, late = (sum(getattr(m, name) for m in measurements) for name in ("sent", "scheduled", "late"))
    if cpu_share > MOST_CPU_SHARE:
        found.append(
            f"a generator used {cpu_share:.0%} of its core (at most {MOST_CPU_SHARE:.0%}); add --processes or hosts"
        )
    if not sent:
        found.append("nothing was sent")
    elif late / sent > MOST_LATE:
        limit_ms = measurements[0].lateness_limit_ms
        found.append(
            f"{late} of {sent} requests went out more than {limit_ms:g} ms late (at most {MOST_LATE:.0%}); run the "
            "generator where it has a core to itself"
        )
    if scheduled and sent / scheduled < LEAST_RATE:
        span_s = sum(m.duration_s for m in measurements)
        found.append(
            f"{sent / span_s:.4g} of {scheduled / span_s:.4g} requests a second went out (at least {LEAST_RATE:.0%}); "
            "add --processes or hosts"
        )
    return found


def samples_needed(percentile: float) -> tuple[int, int]:
    """How many answers a percentile needs: in all repetitions together, and in each of them.

    Ten in all lie beyond it then, one in each: 1000 and 100 for p99, 200 and 20 for p95, 20 and 2 for p50.
    """
    beyond = 1 - percentile / 100
    # Floats make a little more than 1000 of 10 / 0.01.
    return math.ceil(round(BEYOND_IN_ALL / beyond, 6)), math.ceil(round(BEYOND_IN_EACH / beyond, 6))
