"""What the run of one Locust user left behind, and the measurements that it makes."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rfserve.export.spec.tensor import Array
from rfserve.loadtest.measurement import GeneratorUse, Measurement
from rfserve.loadtest.samples import Samples

BATCHES = 5


@dataclass(kw_only=True)
class Taken:
    """Samples, schedule in seconds from the window's start, and how it ended."""

    samples: Samples
    due_s: Array
    rate_hz: float
    limit_ms: float
    duration_s: float
    cpu_share: float

    def measurements(self, model: str) -> list[Measurement]:
        """The run cut into equal parts, which stand for repetitions.

        Batch means: see Law, Simulation Modeling and Analysis, section 9.5.3.
        """
        # What was due in the last instants before the end had no time to go out.
        edges_s = np.linspace(0.0, max(self.duration_s - self.limit_ms / 1e3, 1e-3), BATCHES + 1)
        found = []
        for number, part in enumerate(self.samples.batches(edges_s)):
            due_s, sent_s, done_s = part.times_s()
            begin, end = edges_s[number : number + 2]
            counts = part.counts()
            found.append(
                Measurement(
                    phase="locust",
                    model=model,
                    repetition=number,
                    precision="",
                    version=part.version,
                    loop="open",
                    target_rate_hz=self.rate_hz,
                    duration_s=float(end - begin),
                    due_s=due_s,
                    sent_s=sent_s,
                    done_s=done_s,
                    scheduled=int(((self.due_s >= begin) & (self.due_s < end)).sum()),
                    lateness_limit_ms=self.limit_ms,
                    server=None,
                    server_note="not asked; `rfserve-loadtest check` does",
                    generator=GeneratorUse(cpu_share=self.cpu_share, processes=1, hosts=()),
                    **counts,
                )
            )
        return found

    def to_dict(self) -> dict[str, Any]:
        """As Locust's messages can hold it; `from_dict` gives it back."""
        return asdict(self) | {"due_s": self.due_s.tolist()}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> "Taken":
        """What `to_dict` made of it."""
        given = {"samples": Samples(**document["samples"]), "due_s": np.asarray(document["due_s"], float)}
        return cls(**{**document, **given})
