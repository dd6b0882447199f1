"""`make precisions`: every network in every precision that it is offered in, as the README's table."""

import sys
import tempfile
from pathlib import Path

from rfserve.export.publication import Source, publish
from rfserve.export.repository import Repository
from rfserve.export.spec import GRAPHS
from rfserve.export.spec.precision import FP32

HEAD = ["model", "precision", "size", "of FP32", "latency of FP32", "shift p99", "worst", "allowed", "sigma p99"]


def row(name: str, precision: str, repository: Repository) -> list[str]:
    def report(step: str) -> None:
        print(f"{name} {precision}: {step}", file=sys.stderr, flush=True)

    manifest = publish(GRAPHS[name], repository, Source(precision=precision), version=None, report=report)
    size = f"{manifest.size_bytes / 1e6:.1f} MB"
    drift = manifest.drift
    if drift is None:
        return [f"`{name}`", precision, size, "1", "1", "-", "-", "-", "-"]
    latency = "GPU only" if drift["latency_ratio"] is None else f"{drift['latency_ratio']:.2f}"
    limit = drift["limit"]
    return [
        f"`{name}`",
        precision,
        size,
        f"{drift['size_ratio']:.2f}",
        latency,
        f"{drift['position_p99_m']:.1f} m",
        f"{drift['position_worst_m']:.1f} m",
        f"{limit['position_p99_m']:g} m, worst {limit['position_worst_m']:g} m",
        f"{drift['sigma_p99_percent']:.2f} %",
    ]


def main() -> None:
    rows = [HEAD, ["---"] * len(HEAD)]
    with tempfile.TemporaryDirectory(prefix="rfserve-precisions-") as folder:
        for name, spec in GRAPHS.items():
            if spec.has_weights:
                rows += [row(name, p, Repository(Path(folder))) for p in (FP32, *spec.drift_limits)]
    print("\n".join(f"| {' | '.join(r)} |" for r in rows))


if __name__ == "__main__":
    main()
