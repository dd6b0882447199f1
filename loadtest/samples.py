"""Raw samples of a run, in seconds; Locust itself rounds to milliseconds."""

from dataclasses import dataclass, field

import numpy as np


@dataclass(kw_only=True)
class Samples:
    """What happened to the requests of one model. Failures never enter the latencies."""

    latencies_s: list[float] = field(default_factory=list)
    lags_s: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def sent(self) -> int:
        """Requests that ended, well or not."""
        return len(self.latencies_s) + len(self.failures)

    def latency_ms(self, percentile: float) -> float:
        """Latency from the intended send time at a percentile; NaN when nothing was answered."""
        return _percentile_ms(self.latencies_s, percentile)

    def lag_ms(self, percentile: float) -> float:
        """How late the generator sent, at a percentile; NaN when nothing was sent."""
        return _percentile_ms(self.lags_s, percentile)


def _percentile_ms(values_s: list[float], percentile: float) -> float:
    # `higher` never reports better than a request really was.
    return float(np.percentile(values_s, percentile, method="higher")) * 1e3 if values_s else float("nan")
