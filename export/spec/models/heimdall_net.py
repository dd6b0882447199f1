"""HeimdallNet: several receivers' IQ, features and positions to one position, by masked pooling."""

from rfserve.export.spec.device import measured, promised
from rfserve.export.spec.model import ModelSpec, Placement
from rfserve.export.spec.precision import FP16, INT8, DriftLimit
from rfserve.export.spec.tensor import Axis, DType, TensorSpec, Values

# Heimdall trains ten calibrations, and pads to ten receivers.
CALIBRATIONS = 10
# Its pooling takes any number; strengths of a whole campus are a few kilobytes.
MAX_RECEIVERS = 32
WINDOW_SAMPLES = 1024

RECEIVERS = Axis(name="receivers", minimum=1, maximum=MAX_RECEIVERS, served=10, padded=True)
SAMPLES = Axis(name="samples", minimum=256, maximum=16384, served=WINDOW_SAMPLES)

IQ_DATA = TensorSpec(
    name="iq_data",
    dtype=DType.FP32,
    axes=("receivers", 2, "samples"),
    unit="full scale",
    meaning="in-phase and quadrature of one window, the same instants at every receiver",
    values=Values(kind="normal", high=0.3),
)
FEATURES = TensorSpec(
    name="features",
    dtype=DType.FP32,
    axes=("receivers", 6),
    unit="dB, dBm/Hz (dBFS/Hz when uncalibrated), Hz, °, °, m",
    meaning="SNR, noise PSD, frequency offset, latitude, longitude, altitude",
    values=Values(kind="uniform", low=(0, -170, -100, 44.5, 7.0, 0), high=(40, -60, 100, 45.5, 8.5, 800)),
)
RECEIVER_POSITIONS = TensorSpec(
    name="receiver_positions",
    dtype=DType.FP32,
    axes=("receivers", 3),
    unit="°, °, m",
    meaning="latitude, longitude, altitude of the receiver (WGS 84)",
    values=Values(kind="uniform", low=(44.5, 7.0, 0), high=(45.5, 8.5, 800)),
)
RECEIVER_IDS = TensorSpec(
    name="receiver_ids",
    dtype=DType.INT64,
    axes=("receivers",),
    unit="-",
    meaning=f"which calibration the receiver uses, 0 to {CALIBRATIONS - 1}",
    values=Values(kind="ids", low=0, high=CALIBRATIONS),
)
MASK = TensorSpec(
    name="mask",
    dtype=DType.BOOL,
    axes=("receivers",),
    unit="-",
    meaning="True where the slot holds a receiver; the rest is padding and may hold anything",
    values=Values(kind="mask"),
)
POSITIONS = TensorSpec(
    name="positions",
    dtype=DType.FP32,
    axes=(2,),
    unit="°, °",
    meaning="latitude, longitude of the emitter (WGS 84)",
)
UNCERTAINTIES = TensorSpec(
    name="uncertainties",
    dtype=DType.FP32,
    axes=(2,),
    unit="m, m",
    meaning="standard deviation to the north and to the east",
)

HEIMDALL_NET = ModelSpec(
    name="heimdall_net",
    summary="several receivers, masked pooling",
    inputs=(IQ_DATA, FEATURES, RECEIVER_POSITIONS, RECEIVER_IDS, MASK),
    outputs=(POSITIONS, UNCERTAINTIES),
    axes=(RECEIVERS, SAMPLES),
    max_batch_size=32,
    # A receiver's own position is known to some metres.
    drift_limits={
        FP16: DriftLimit(position_p99_m=10, position_worst_m=30, sigma_p99_percent=1, sigma_worst_percent=2),
    },
    not_offered={
        INT8: "it does not pay: its convolutions run at 1.9 times the latency of FP32, and products alone gain nothing",
    },
    # Ten that ask for the same event at the same instant fit into the queue.
    budgets={
        "cpu-2core": measured(p50_ms=15.95, p95_ms=39.46, p99_budget_ms=150, rate_hz=10),
        **promised("gpu", p99_ms=15, rate_hz=100),
    },
    row_costs_ms={"cpu": 9},
    placements={
        "cpu": Placement(instances=2, intra_op_threads=1),
        "gpu": Placement(instances=2, intra_op_threads=1),
    },
)
