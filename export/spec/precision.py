"""The number formats of a version's weights, and what they are for."""

from dataclasses import dataclass

from rfserve.export.spec.errors import SpecError

FP32, FP16, INT8 = "fp32", "fp16", "int8"
PRECISIONS = (FP32, FP16, INT8)
# FP16 arithmetic needs a GPU; the INT8 kernels that pay are the CPU's.
BY_TARGET = {"cpu": (FP32, INT8), "gpu": (FP32, FP16)}
FRONT_END_PRECISION = "a front end measures noise 60 dB below a carrier, in FP64"


def suits(target: str, precision: str) -> bool:
    """Whether a target should serve a version of this precision when nobody chose one."""
    return precision in BY_TARGET[target]


@dataclass(frozen=True, kw_only=True)
class DriftLimit:
    """How far a variant's answers may lie from FP32's: position in metres, standard deviations in per cent."""

    position_p99_m: float
    position_worst_m: float
    sigma_p99_percent: float
    sigma_worst_percent: float

    def __post_init__(self) -> None:
        if not (
            0 < self.position_p99_m <= self.position_worst_m and 0 < self.sigma_p99_percent <= self.sigma_worst_percent
        ):
            raise SpecError(f"drift limit: got {self}; expected above 0, and the worst no less than the p99")
