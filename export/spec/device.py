"""The machines that budgets are promised on, and how a budget follows from what was measured there.

A budget of a measured device is the upper end of the measured 95 % interval times `HEAD_ROOM`, because machines differ
and do more than a load test. A p99 is what the queue limits need (`queueing`), when that is more, and no more than the
`CEILING_MS` that a whole fix may take. Budgets of a device that is not `measured` are promises.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from rfserve.export.spec.errors import SpecError

HEAD_ROOM = 1.5
CEILING_MS = 500.0
# What a device that nobody measured promises of its p99 for the smaller percentiles.
PROMISED_P50, PROMISED_P95 = 0.5, 0.8


@dataclass(frozen=True, kw_only=True)
class Device:
    """A kind of machine, the target whose configuration it serves with, and whether its budgets were measured."""

    target: str
    measured: bool


DEVICES: Mapping[str, Device] = {
    "cpu-2core": Device(target="cpu", measured=True),
    "gpu-h100": Device(target="gpu", measured=False),
    "gpu-h200": Device(target="gpu", measured=False),
}
# A configuration serves every machine of a target, so that its queue limits follow from one device's budgets.
REFERENCES: Mapping[str, str] = {"cpu": "cpu-2core", "gpu": "gpu-h100"}


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What a device promises: latency percentiles in ms of single requests that arrive open-loop at `rate_hz`.

    `error_rate` is the share that may fail. A test has to send some hundred requests to show that it is below 1 %.
    """

    p50_ms: float
    p95_ms: float
    p99_ms: float
    rate_hz: float
    error_rate: float = 0.01

    def __post_init__(self) -> None:
        if not 0 < self.p50_ms <= self.p95_ms <= self.p99_ms:
            raise SpecError(
                f"budget: got p50 {self.p50_ms}, p95 {self.p95_ms}, p99 {self.p99_ms} ms; expected above 0, ascending"
            )
        if not (self.rate_hz > 0 and 0 < self.error_rate < 1):
            raise SpecError(
                f"budget: got {self.rate_hz}/s with {self.error_rate} failing; expected a rate above 0, a share below 1"
            )

    @property
    def throughput_hz(self) -> float:
        """Good answers a second, at least, when `rate_hz` arrive."""
        return self.rate_hz * (1 - self.error_rate)


def measured(*, p50_ms: float, p95_ms: float, p99_budget_ms: float, rate_hz: float) -> Budget:
    """The budget that follows from the upper ends of measured intervals, in two digits, rounded up."""
    return Budget(p50_ms=_with_head_room(p50_ms), p95_ms=_with_head_room(p95_ms), p99_ms=p99_budget_ms, rate_hz=rate_hz)


def _with_head_room(upper_ms: float) -> float:
    budget_ms = HEAD_ROOM * upper_ms
    step_ms = 10.0 ** (np.floor(np.log10(budget_ms)) - 1)
    return float(f"{np.ceil(np.round(budget_ms / step_ms, 6)) * step_ms:.2g}")


def promised(target: str, *, p99_ms: float, rate_hz: float) -> dict[str, Budget]:
    """The same budget for every device of a target that nobody measured."""
    budget = Budget(p50_ms=PROMISED_P50 * p99_ms, p95_ms=PROMISED_P95 * p99_ms, p99_ms=p99_ms, rate_hz=rate_hz)
    return {name: budget for name, device in DEVICES.items() if device.target == target and not device.measured}
