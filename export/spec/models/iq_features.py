"""iq_features: raw IQ of the receivers to the window and the features that the HeimdallNets take."""

from rfserve.export.spec.device import measured, promised
from rfserve.export.spec.model import ModelSpec, Placement
from rfserve.export.spec.models.heimdall_net import (
    CALIBRATIONS,
    FEATURES,
    MASK,
    RECEIVER_POSITIONS,
    WINDOW_SAMPLES,
)
from rfserve.export.spec.precision import FP16, FRONT_END_PRECISION, INT8
from rfserve.export.spec.tensor import Axis, DType, TensorSpec, Values

# Recordings are megabytes: no more of them than there are calibrations.
RAW_RECEIVERS = Axis(name="receivers", minimum=1, maximum=CALIBRATIONS, served=CALIBRATIONS, padded=True)
RAW_SAMPLES = Axis(name="raw_samples", minimum=WINDOW_SAMPLES, maximum=65536, served=16384)

RAW_IQ = TensorSpec(
    name="raw_iq",
    dtype=DType.FP32,
    axes=("receivers", 2, "raw_samples"),
    unit="full scale",
    meaning="in-phase and quadrature, sample 0 at the same instant at every receiver",
    values=Values(kind="normal", high=0.1),
)
SAMPLE_RATE_HZ = TensorSpec(
    name="sample_rate_hz",
    dtype=DType.FP32,
    axes=("receivers",),
    unit="Hz",
    meaning="complex samples a second",
    values=Values(kind="uniform", low=10e3, high=2.4e6),
)
FULL_SCALE_DBM = TensorSpec(
    name="full_scale_dbm",
    dtype=DType.FP32,
    axes=("receivers",),
    unit="dBm",
    meaning="power of a full-scale tone at the antenna; 0 when uncalibrated, and the PSD is then dBFS/Hz",
    values=Values(kind="uniform", low=-40, high=0),
)

IQ_FEATURES = ModelSpec(
    name="iq_features",
    summary="raw IQ to window and features",
    inputs=(RAW_IQ, SAMPLE_RATE_HZ, FULL_SCALE_DBM, RECEIVER_POSITIONS, MASK),
    outputs=(
        TensorSpec(
            name="iq_data",
            dtype=DType.FP32,
            axes=("receivers", 2, WINDOW_SAMPLES),
            unit="full scale",
            meaning="the strongest window, the same instants at every receiver",
        ),
        TensorSpec(
            name="features",
            dtype=DType.FP32,
            axes=("receivers", 6),
            unit=FEATURES.unit,
            meaning=FEATURES.meaning,
        ),
    ),
    axes=(RAW_RECEIVERS, RAW_SAMPLES),
    max_batch_size=32,
    # Decibels and hertz: 1e-3 of either is far below what any receiver resolves.
    tolerance=1e-3,
    has_weights=False,
    not_offered=dict.fromkeys((FP16, INT8), FRONT_END_PRECISION),
    budgets={
        "cpu-2core": measured(p50_ms=16.71, p95_ms=33.4, p99_budget_ms=220, rate_hz=10),
        **promised("gpu", p99_ms=20, rate_hz=50),
    },
    row_costs_ms={"cpu": 9},
    # A row is 2.6 MB of complex numbers: four together take 1.3 times as long as one after the other.
    worthwhile_rows={"cpu": 1},
    placements={
        "cpu": Placement(instances=2, intra_op_threads=1),
        "gpu": Placement(instances=2, intra_op_threads=1),
    },
)
