"""LocalizationNet: one mel spectrogram to a position, by a ConvNeXt."""

from rfserve.export.spec.device import measured, promised
from rfserve.export.spec.model import ModelSpec, Placement
from rfserve.export.spec.models.heimdall_net import POSITIONS, UNCERTAINTIES
from rfserve.export.spec.precision import FP16, INT8, DriftLimit
from rfserve.export.spec.tensor import DType, TensorSpec, Values

MEL_BINS = 128
MEL_FRAMES = 32

MEL_SPECTROGRAM = TensorSpec(
    name="mel_spectrogram",
    dtype=DType.FP32,
    axes=(3, MEL_BINS, MEL_FRAMES),
    unit="dB",
    meaning="mel spectrogram of I, of Q and of the magnitude, relative to its own maximum",
    values=Values(kind="uniform", low=-80, high=0),
)

LOCALIZATION_NET = ModelSpec(
    name="localization_net",
    summary="one receiver's mel spectrogram, ConvNeXt",
    inputs=(MEL_SPECTROGRAM,),
    outputs=(POSITIONS, UNCERTAINTIES),
    max_batch_size=32,
    tolerance=1e-4,
    # The network itself claims no less than a hundredth of its unit, which is 100 m where the unit is 10 km.
    drift_limits={
        FP16: DriftLimit(position_p99_m=10, position_worst_m=30, sigma_p99_percent=1, sigma_worst_percent=2),
        INT8: DriftLimit(position_p99_m=100, position_worst_m=200, sigma_p99_percent=5, sigma_worst_percent=10),
    },
    variants=("large", "base", "small", "tiny"),
    budgets={
        "cpu-2core": measured(p50_ms=92.65, p95_ms=232.5, p99_budget_ms=420, rate_hz=3),
        **promised("gpu", p99_ms=30, rate_hz=50),
    },
    row_costs_ms={"cpu": 105},
    placements={
        "cpu": Placement(instances=2, intra_op_threads=1),
        "gpu": Placement(instances=2, intra_op_threads=1),
    },
)
