"""Which parts of a graph to keep in FP32 when all in INT8 moves fixes too far: by measured damage."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rfserve.export import onnx_file
from rfserve.export.drift import Drift
from rfserve.export.drift_gate import LIMITED, Gate, exceeded
from rfserve.export.progress import Report
from rfserve.export.quantization import Quantizer, groups
from rfserve.export.spec.precision import DriftLimit

DAMAGE_BATCHES = 6
# A stage that alone takes less of what is allowed is not worth a measurement for each of its blocks.
SPLIT_SHARE = 0.2


@dataclass(frozen=True, kw_only=True)
class Damage:
    """How far one part alone moves fixes when it is quantized: the worst figure as a share of what is allowed."""

    part: str
    nodes: tuple[str, ...]
    share: float


class Search:
    """Which parts to keep in FP32: none if all may be quantized, else those whose measured damage is greatest."""

    def __init__(self, gate: Gate, quantizer: Quantizer, limit: DriftLimit, report: Report) -> None:
        self.gate, self.quantizer, self.limit, self.report = gate, quantizer, limit, report
        self.nodes = quantizer.candidates()

    def write(self, file: Path) -> tuple[tuple[str, ...], Drift]:
        """Write the graph with as few parts in FP32 as the limit allows; those parts, and the drift that is left.

        The drift is still over the limit when half of the parts in FP32 are not enough: what is left would not pay.
        """
        drift = self._try(file, ())
        if not exceeded(drift, self.limit):
            return (), drift
        self.report(f"all in INT8 moves fixes {drift.position_p99_m:.3g} m at p99; looking for what hurts")
        order = self._damages(file)
        # The fewest parts that bring it within the limit, by bisection: more parts in FP32 never hurt in earnest.
        low, high = 1, max(len(order) // 2, 1)
        written, best = high, self._try(file, order[:high])
        while low < high and not exceeded(best, self.limit):
            written = (low + high) // 2
            drift = self._try(file, order[:written])
            self.report(f"{written} of {len(order)} parts in FP32: {drift.position_p99_m:.3g} m at p99")
            if exceeded(drift, self.limit):
                low = written + 1
            else:
                high, best = written, drift
        if written != high:
            self._try(file, order[:high])
        return tuple(d.part for d in order[:high]), best

    def _damages(self, file: Path) -> list[Damage]:
        """The damage of every part, greatest first; stages that hurt are taken apart into their blocks."""
        found = []
        for stage, nodes in groups(self.nodes, depth=1).items():
            whole = self._damage(file, stage, nodes)
            blocks = groups(nodes, depth=2)
            if whole.share > SPLIT_SHARE and len(blocks) > 1:
                found += [self._damage(file, block, inner) for block, inner in blocks.items()]
            else:
                found.append(whole)
        return sorted(found, key=lambda d: -d.share)

    def _damage(self, file: Path, part: str, nodes: Sequence[str]) -> Damage:
        self.quantizer.write(file, nodes)
        drift = self.gate.drift(onnx_file.open_session(file), batches=DAMAGE_BATCHES)
        share = max(getattr(drift, n) / getattr(self.limit, n) for n in LIMITED)
        self.report(f"{part} alone: {100 * share:.0f} % of what is allowed")
        return Damage(part=part, nodes=tuple(nodes), share=share)

    def _try(self, file: Path, in_fp32: Sequence[Damage]) -> Drift:
        kept = {node for damage in in_fp32 for node in damage.nodes}
        self.quantizer.write(file, [n for n in self.nodes if n not in kept])
        return self.gate.drift(onnx_file.open_session(file))
