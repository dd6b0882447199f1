"""mel_features: raw IQ of one receiver to the mel spectrogram that LocalizationNet takes."""

from rfserve.export.spec.device import measured, promised
from rfserve.export.spec.model import ModelSpec, Placement
from rfserve.export.spec.models.localization_net import MEL_BINS, MEL_FRAMES, MEL_SPECTROGRAM
from rfserve.export.spec.precision import FP16, FRONT_END_PRECISION, INT8
from rfserve.export.spec.tensor import Axis, DType, TensorSpec, Values

MEL_FFT_SAMPLES = 1024

MEL_RAW_SAMPLES = Axis(name="raw_samples", minimum=4096, maximum=65536, served=16384)
MEL_RAW_IQ = TensorSpec(
    name="raw_iq",
    dtype=DType.FP32,
    axes=(2, "raw_samples"),
    unit="full scale",
    meaning="in-phase and quadrature of one receiver",
    values=Values(kind="normal", high=0.1),
)

MEL_FEATURES = ModelSpec(
    name="mel_features",
    summary="raw IQ of one receiver to mel spectrogram",
    inputs=(MEL_RAW_IQ,),
    outputs=(
        TensorSpec(
            name="mel_spectrogram",
            dtype=DType.FP32,
            axes=(3, MEL_BINS, MEL_FRAMES),
            unit=MEL_SPECTROGRAM.unit,
            meaning=MEL_SPECTROGRAM.meaning,
        ),
    ),
    axes=(MEL_RAW_SAMPLES,),
    max_batch_size=32,
    tolerance=1e-3,
    has_weights=False,
    not_offered=dict.fromkeys((FP16, INT8), FRONT_END_PRECISION),
    # Half of it is the time-out in the queue, which must outlast what a scheduler takes a core away for.
    budgets={
        "cpu-2core": measured(p50_ms=7.9, p95_ms=14.04, p99_budget_ms=100, rate_hz=10),
        **promised("gpu", p99_ms=20, rate_hz=50),
    },
    row_costs_ms={"cpu": 1.5},
    worthwhile_rows={"cpu": 4},
    placements={
        "cpu": Placement(instances=2, intra_op_threads=1),
        "gpu": Placement(instances=2, intra_op_threads=1),
    },
)
