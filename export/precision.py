"""A graph in another precision: converted, gated, and measured against FP32."""

import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime

from rfserve.export import half, onnx_file
from rfserve.export.drift import Drift
from rfserve.export.drift_gate import LIMITED, Gate, exceeded
from rfserve.export.errors import DriftError, ExportError
from rfserve.export.progress import Report
from rfserve.export.quantization import STATIC, Quantizer
from rfserve.export.quantization_search import Search
from rfserve.export.scaling import Moved
from rfserve.export.scene import scenes
from rfserve.export.spec import ModelSpec, example
from rfserve.export.spec.precision import FP16, FP32, PRECISIONS, DriftLimit, suits

CALIBRATION_ROWS = 24
# Not the gate's own rows: a graph would be judged on what it was fitted to.
CALIBRATION_SEED = 1_000_001
LATENCY_RUNS = 12


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A graph of another precision that passed its gate, and what it cost.

    `in_fp32` are the parts that were kept in FP32 because they hurt, `latency_ratio` and `size_ratio` are against FP32
    (ONNX Runtime, CPU, one request); there is no latency for a precision that a CPU only emulates.
    """

    precision: str
    method: str
    drift: Drift
    limit: DriftLimit
    in_fp32: tuple[str, ...]
    latency_ratio: float | None
    size_ratio: float

    def to_dict(self) -> dict[str, Any]:
        """As the manifest holds it."""
        return {
            "against": FP32,
            "method": self.method,
            "rows": int(self.drift.rows.size),
            "position_p50_m": self.drift.position_p50_m,
            "position_p99_m": self.drift.position_p99_m,
            "position_worst_m": self.drift.position_worst_m,
            "sigma_p99_percent": self.drift.sigma_p99_percent,
            "sigma_worst_percent": self.drift.sigma_worst_percent,
            "limit": {n: getattr(self.limit, n) for n in LIMITED},
            "in_fp32": list(self.in_fp32),
            "latency_ratio": self.latency_ratio,
            "size_ratio": self.size_ratio,
        }


def require_offered(spec: ModelSpec, precision: str) -> None:
    """`ExportError` with the spec's reason unless the model is offered in this precision."""
    if precision not in PRECISIONS:
        raise ExportError(f"precision: got {precision!r}; expected one of {', '.join(PRECISIONS)}")
    if precision in spec.not_offered:
        offered = ", ".join([FP32, *spec.drift_limits])
        raise ExportError(f"{spec.name} is not offered in {precision}: {spec.not_offered[precision]}; use {offered}")


def convert(
    spec: ModelSpec,
    single: Path,
    file: Path,
    precision: str,
    *,
    report: Report,
    method: str = STATIC,
    moved: Moved = dict,
) -> Variant:
    """Write the FP32 graph `single` in another precision to `file`.

    `method` (`static` or `dynamic`) says where INT8 takes the activations' ranges from, and `moved` takes scenes to
    where the network was trained. `DriftError` when it moves fixes farther than the spec allows, even with the parts
    that hurt most in FP32; `ExportError` when the model is not offered in this precision.
    """
    require_offered(spec, precision)
    limit = spec.drift_limits[precision]
    gate = Gate(spec, single, moved=moved)
    kept: tuple[str, ...] = ()
    if precision == FP16:
        method = "cast"
        half.write(single, file)
        drift = gate.drift(onnx_file.open_session(file))
    else:
        report(f"calibrating {CALIBRATION_ROWS} scenes ({method})")
        calibration = scenes(spec, CALIBRATION_ROWS, seed=CALIBRATION_SEED, moved=moved)
        with tempfile.TemporaryDirectory(prefix="rfserve-ranges-") as folder:
            quantizer = Quantizer(
                graph=single, ranges_file=Path(folder) / "ranges.json", method=method, calibration=calibration
            )
            kept, drift = Search(gate, quantizer, limit, report).write(file)
    excess = exceeded(drift, limit)
    if excess:
        raise DriftError(
            f"{spec.name} in {precision} ({method}) moves fixes too far from FP32 over {drift.rows.size} scenes: "
            f"{'; '.join(excess)}{f', with {len(kept)} parts in FP32' if kept else ''}. Nothing was published; export "
            "it in FP32, or train with quantization in mind"
        )
    pays_here = suits("cpu", precision)
    ratio = _latency_ratio(spec, gate.single, onnx_file.open_session(file)) if pays_here else None
    return Variant(
        precision=precision,
        method=method,
        drift=drift,
        limit=limit,
        in_fp32=kept,
        latency_ratio=ratio,
        size_ratio=onnx_file.size_bytes(file) / onnx_file.size_bytes(single),
    )


def _latency_ratio(spec: ModelSpec, single: onnxruntime.InferenceSession, other: onnxruntime.InferenceSession) -> float:
    """Median latency of one request as a ratio, the two taking turns so that other work meets both."""
    inputs = example(spec)
    times: tuple[list[float], list[float]] = ([], [])
    for run in range(LATENCY_RUNS + 2):
        for session, taken in zip((single, other), times, strict=True):
            begun = time.perf_counter()
            onnx_file.run_session(session, inputs)
            if run >= 2:
                taken.append(time.perf_counter() - begun)
    return statistics.median(times[1]) / statistics.median(times[0])
