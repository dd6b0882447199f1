"""What `gpu_check` found on one GPU, as rows of a table and as a file among the results."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from rfserve.loadtest import whole_file
from rfserve.loadtest.accelerator import Peaks
from rfserve.loadtest.errors import LoadTestError
from rfserve.loadtest.measurement import Machine

SCHEMA = 1
KIND = "gpu_check"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One network by one runtime in one precision at one batch.

    `share_of_compute` is of the measured peak of that precision (multiply-adds count as two, products and convolutions
    only), `share_of_bandwidth` what reading the weights once a batch takes of it. `parity` is the worst difference from
    the CPU in FP32 as a share of what is allowed.
    """

    model: str
    runtime: str
    precision: str
    batch: int
    p50_ms: float
    p99_ms: float
    runs: int
    rows_per_s: float
    gflop_per_row: float
    share_of_compute: float
    share_of_bandwidth: float
    peak_memory_bytes: int
    parity: float

    @classmethod
    def head(cls) -> str:
        """The line above the rows."""
        return (
            f"{'model':17} {'runtime':11} {'':4} {'batch':>5} {'p50 ms':>9} {'p99 ms':>9} {'rows/s':>9} "
            f"{'compute':>8} {'weights':>8} {'MiB':>7} {'parity':>7}"
        )

    def text(self) -> str:
        """For people."""
        return (
            f"{self.model:17} {self.runtime:11} {self.precision:4} {self.batch:5d} {self.p50_ms:9.3f} "
            f"{self.p99_ms:9.3f} {self.rows_per_s:9.1f} {self.share_of_compute:8.1%} {self.share_of_bandwidth:8.1%} "
            f"{self.peak_memory_bytes / 2**20:7.0f} {self.parity:7.3f}"
        )


@dataclass(frozen=True, kw_only=True)
class GpuResults:
    """One run of the check."""

    device: str
    date: str
    machine: Machine
    peaks: Peaks
    rows: tuple[Row, ...]
    not_run: tuple[str, ...]
    quick: bool

    @property
    def apart(self) -> tuple[Row, ...]:
        """Rows whose answers are farther from the CPU's than the specs allow; NaN is."""
        return tuple(row for row in self.rows if not row.parity <= 1)

    def write(self, file: Path) -> None:
        """JSON; it appears whole or not at all."""
        document = {"schema": SCHEMA, "kind": KIND, **asdict(self)}
        whole_file.write(file, json.dumps(document, indent=1) + "\n", make_folder=True)

    @classmethod
    def read(cls, file: Path) -> "GpuResults":
        """Results as `write` left them; `LoadTestError` for anything else."""
        try:
            document: Mapping[str, Any] = json.loads(file.read_text())
            if document["kind"] != KIND or document["schema"] != SCHEMA:
                raise LoadTestError(f"{file}: got {document['kind']} {document['schema']}; expected {KIND} {SCHEMA}")
            given = {f.name: document[f.name] for f in fields(cls)}
            given |= {"machine": Machine(**given["machine"]), "peaks": Peaks(**given["peaks"])}
            given |= {"rows": tuple(Row(**r) for r in given["rows"]), "not_run": tuple(given["not_run"])}
            return cls(**given)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise LoadTestError(f"{file}: no results of gpu_check: {type(error).__name__}: {error}") from error
