"""What is asked of a model: a latency budget, and the plan that measures one rate against it."""

import math
from dataclasses import dataclass, field

from rfserve.export.spec import DEVICES, Budget, find
from rfserve.loadtest import validity
from rfserve.loadtest.errors import LoadTestError
from rfserve.loadtest.plan import Mix, Phase, Plan, Stream
from rfserve.loadtest.verdict import PERCENTILES

# Answers that fail cost a percentile some of its samples.
SAMPLES_MARGIN = 1.05
# What an answer may take, in budgets, before nobody waits for it.
PATIENCE_BUDGETS, LEAST_PATIENCE_S = 3.0, 2.0
# What goes by between two windows beside the warm-up.
BETWEEN_S = 0.5


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked: `model` holds a percentile within `budget_ms`, with no more than `error_rate` failing.

    Each rate is measured in `repetitions` windows of `window_s` or, where the percentile needs more samples, longer.
    """

    model: str
    device: str
    percentile: float
    budget_ms: float
    error_rate: float
    repetitions: int = 5
    window_s: float = 3.0
    warm_up_s: float = 1.0
    seed: int = 1
    processes: int = 1
    mix: Mix = field(default_factory=Mix)

    def __post_init__(self) -> None:
        find(self.model)
        if self.figure not in PERCENTILES:
            raise LoadTestError(f"got percentile {self.percentile:g}; expected one of {', '.join(PERCENTILES)}")
        if not (0 < self.budget_ms < math.inf and 0 < self.error_rate < 1):
            raise LoadTestError(
                f"{self.model}: got {self.budget_ms:g} ms with {self.error_rate:g} failing; expected above 0, and a "
                "share below 1"
            )
        if self.repetitions < 2:
            raise LoadTestError(f"got {self.repetitions} repetitions; expected two or more: one has no interval")
        # Refuses what no plan may be.
        self.plan(1.0)

    @property
    def figure(self) -> str:
        """What the verdict calls it."""
        return f"p{self.percentile:g}_ms"

    @property
    def budget(self) -> str:
        """As text."""
        return f"p{self.percentile:g} <= {self.budget_ms:g} ms"

    def duration_s(self, rate_hz: float) -> float:
        """Of each window: long enough for the percentile, and for the error rate when nothing fails."""
        in_all, in_each = validity.samples_needed(self.percentile)
        # Clopper and Pearson: of so many tries without a failure, the upper end of the interval is the error rate.
        for_errors = math.log(0.025) / math.log1p(-self.error_rate)
        answers = SAMPLES_MARGIN * max(in_all / self.repetitions, for_errors / self.repetitions, in_each)
        return max(self.window_s, math.ceil(10 * answers / rate_hz) / 10)

    def plan(self, rate_hz: float) -> Plan:
        """What measures one rate."""
        return Plan(
            name="capacity",
            device=self.device,
            phases=(
                Phase(
                    name=f"{rate_hz:g}/s",
                    duration_s=self.duration_s(rate_hz),
                    streams=(Stream(model=self.model, rate_hz=rate_hz, mix=self.mix),),
                ),
            ),
            repetitions=self.repetitions,
            warm_up_s=self.warm_up_s,
            seed=self.seed,
            processes=self.processes,
            timeout_s=max(LEAST_PATIENCE_S, PATIENCE_BUDGETS * self.budget_ms / 1e3),
            budgets={
                self.model: {self.figure: self.budget_ms, "error_rate": self.error_rate, "rate_hz": rate_hz},
            },
            figures=(self.figure, "error_rate", "throughput_hz"),
        )

    def cost_s(self, rate_hz: float) -> float:
        """How long a rate takes at most: the last answers of every window may take their whole time."""
        plan = self.plan(rate_hz)
        each_s = BETWEEN_S + plan.warm_up_s + plan.phases[0].duration_s + plan.timeout_s
        return plan.repetitions * each_s


def question(model: str, device: str, *, percentile: float = 99.0, budget_ms: float | None = None) -> Question:
    """What the spec promises of a model on a device, or with another budget; `LoadTestError` for an unknown device."""
    if device not in DEVICES:
        raise LoadTestError(f"got device {device!r}; expected one of {', '.join(DEVICES)}")
    promised: Budget = find(model).budgets[device]
    within_ms = getattr(promised, f"p{percentile:g}_ms", math.nan) if budget_ms is None else budget_ms
    return Question(
        model=model, device=device, percentile=percentile, budget_ms=within_ms, error_rate=promised.error_rate
    )
