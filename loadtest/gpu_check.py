"""The three networks on this machine's GPU: latency, throughput, parity with the CPU, memory, share of the peak.

    make gpu-check PYTHON=python3                                  # torch and timm are all it needs; no network
    python -m rfserve.loadtest.gpu_check --device cpu --quick      # the same steps in a minute, without a GPU

`torch` runs the networks in FP32, in TF32 and in FP16 (with those parts in FP32 that the exported FP16 graphs keep in
FP32); `onnxruntime` runs the exported graphs where onnx and a package with the device's provider are installed. Times
are of the device alone, inputs in its memory already. What was not run is listed with the reason.

The only module of the load test that knows the networks; nothing else may import it.
"""

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from rfserve.export.drift import Drift
from rfserve.export.elements import compare
from rfserve.export.networks.catalog import build
from rfserve.export.networks.scaled import in_physical_units
from rfserve.export.scaling import NEW_WEIGHTS
from rfserve.export.spec import GRAPHS, ModelSpec, example
from rfserve.export.spec.precision import FP16, FP32, DriftLimit
from rfserve.export.spec.tensor import Array
from rfserve.loadtest.accelerator import QUICK, TF32, THOROUGH, Device, Peaks, Timing
from rfserve.loadtest.errors import LoadTestError
from rfserve.loadtest.gpu_results import GpuResults, Row
from rfserve.loadtest.machine import describe

NETWORKS = tuple(name for name, spec in GRAPHS.items() if spec.has_weights)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
QUICK_BATCHES = (1, 2)
# The CPU answers in parts of this size; rows are independent.
REFERENCE_ROWS = 32
FLOP_ROWS = 8
# What the exported FP16 graphs keep in FP32 (`export.half.SINGLE_SCOPES`): parts that meet metres, hertz and degrees.
SINGLE_PARTS = ("receiver_encoder.feature_encoder", "geometry_encoder", "position_head", "uncertainty_head")
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One network, its inputs, and what the CPU answers in FP32."""

    spec: ModelSpec
    module: nn.Module
    inputs: Mapping[str, Array]
    expected: Mapping[str, Array]
    flop_per_row: float
    weight_bytes: int

    @classmethod
    def make(cls, name: str, *, variant: str | None, rows: int) -> "Subject":
        """Weights of seed 0, and `rows` random rows with every receiver active."""
        spec = GRAPHS[name]
        module = in_physical_units(name, build(spec, variant=variant), NEW_WEIGHTS[name])
        inputs = example(spec, batch=rows, active=max(a.maximum for a in spec.axes) if spec.axes else None)
        parts = [_answer(module, spec, _rows(inputs, i, i + REFERENCE_ROWS)) for i in range(0, rows, REFERENCE_ROWS)]
        counter = FlopCounterMode(display=False)
        with counter:
            _answer(module, spec, _rows(inputs, 0, FLOP_ROWS))
        return cls(
            spec=spec,
            module=module,
            inputs=inputs,
            expected={t.name: np.concatenate([p[t.name] for p in parts]) for t in spec.outputs},
            flop_per_row=counter.get_total_flops() / min(FLOP_ROWS, rows),
            weight_bytes=sum(p.numel() * p.element_size() for p in module.parameters()),
        )

    def parity(self, got: Mapping[str, Array], precision: str) -> float:
        """The worst difference from the CPU as a share of what is allowed: up to 1 is good.

        FP32: the spec's tolerance for every element. Others: what FP16 may move a fix, at the 99th percentile and at
        worst, in metres and per cent of sigma.
        """
        expected = {name: a[: len(got[name])] for name, a in self.expected.items()}
        if precision != FP32:
            return _share(Drift.between(expected, got), self.spec.drift_limits[FP16])
        units = NEW_WEIGHTS[self.spec.name].units
        worst = 0.0
        for name, wanted in expected.items():
            difference, allowed, _ = compare(got[name], wanted, self.spec.tolerance * np.asarray(units[name]))
            worst = max(worst, difference / allowed)
        return worst


def _share(drift: Drift, limit: DriftLimit) -> float:
    return max(
        drift.position_p99_m / limit.position_p99_m,
        drift.position_worst_m / limit.position_worst_m,
        drift.sigma_p99_percent / limit.sigma_p99_percent,
        drift.sigma_worst_percent / limit.sigma_worst_percent,
    )


def _rows(inputs: Mapping[str, Array], first: int, end: int) -> dict[str, Array]:
    return {name: array[first:end] for name, array in inputs.items()}


def _answer(module: nn.Module, spec: ModelSpec, inputs: Mapping[str, Array]) -> dict[str, Array]:
    with torch.no_grad():
        outputs = module(*(torch.from_numpy(inputs[t.name]) for t in spec.inputs))
    return {t.name: o.numpy() for t, o in zip(spec.outputs, outputs, strict=True)}


class TorchRunner:
    """A network in torch on the device, in one precision."""

    runtime = "torch"

    def __init__(self, subject: Subject, device: Device, precision: str) -> None:
        self._spec, self._device, self._precision = subject.spec, device, precision
        self._module = subject.module.to(device.torch)
        self._hooks = list(self._keep_single()) if precision == FP16 else []

    def _keep_single(self) -> Iterator[Any]:
        for path, part in self._module.get_submodule("network").named_modules():
            if path in SINGLE_PARTS:
                whole = torch.autocast(self._device.torch.type, enabled=False)
                yield part.register_forward_pre_hook(lambda _, given, w=whole: _enter(w, given))
                yield part.register_forward_hook(lambda _, __, out, w=whole: _leave(w, out))

    def load(self, inputs: Mapping[str, Array]) -> None:
        """Put the rows into the device's memory."""
        self._inputs = [torch.from_numpy(inputs[t.name]).to(self._device.torch) for t in self._spec.inputs]

    def run(self) -> Any:
        """One batch; on a GPU it may still be running when this returns."""
        half = torch.autocast(self._device.torch.type, torch.float16, enabled=self._precision == FP16)
        with torch.inference_mode(), self._device.float32(tf32=self._precision == TF32), half:
            return self._module(*self._inputs)

    def answer(self) -> dict[str, Array]:
        """Its outputs by name."""
        return {t.name: o.float().cpu().numpy() for t, o in zip(self._spec.outputs, self.run(), strict=True)}

    def close(self) -> None:
        """Give the device's memory back."""
        for hook in self._hooks:
            hook.remove()
        self._module.to("cpu")
        del self._inputs


def _enter(whole: torch.autocast, given: tuple[Any, ...]) -> tuple[Any, ...]:
    whole.__enter__()  # type: ignore[no-untyped-call]
    return tuple(x.float() if torch.is_tensor(x) and x.is_floating_point() else x for x in given)


def _leave(whole: torch.autocast, output: Any) -> Any:
    whole.__exit__(None, None, None)
    return output


class OnnxRunner:
    """An exported graph in ONNX Runtime on the device, in one precision."""

    runtime = "onnxruntime"

    def __init__(self, subject: Subject, device: Device, precision: str, graph: Path) -> None:
        import onnxruntime

        self._device, self._ort = device, onnxruntime
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        provider: Any = device.provider
        if device.is_cuda:
            # The exhaustive search for convolutions takes seconds for every new shape.
            chosen = {"use_tf32": str(int(precision == TF32)), "cudnn_conv_algo_search": "HEURISTIC"}
            provider = (provider, chosen)
        self._session = onnxruntime.InferenceSession(str(graph), options, providers=[provider])
        self._names = [t.name for t in subject.spec.outputs]

    def load(self, inputs: Mapping[str, Array]) -> None:
        """Put the rows into the device's memory."""
        kind = self._device.torch.type
        self._binding = self._session.io_binding()
        for name, array in inputs.items():
            self._binding.bind_ortvalue_input(name, self._ort.OrtValue.ortvalue_from_numpy(array, kind, 0))
        for name in self._names:
            self._binding.bind_output(name, kind)

    def run(self) -> Any:
        """One batch."""
        self._session.run_with_iobinding(self._binding)

    def answer(self) -> dict[str, Array]:
        """Its outputs by name."""
        self.run()
        return dict(zip(self._names, self._binding.copy_outputs_to_cpu(), strict=True))

    def close(self) -> None:
        """Give the device's memory back."""
        del self._binding, self._session


Runner = TorchRunner | OnnxRunner


def graphs(subject: Subject, folder: Path) -> dict[str, Path]:
    """The exported graph in FP32 and in FP16; `ModuleNotFoundError` where onnx or ONNX Runtime is not installed."""
    from rfserve.export import half, onnx_file

    single, halved = (folder / f"{subject.spec.name}.{p}.onnx" for p in (FP32, FP16))
    onnx_file.write(subject.module, subject.spec, single)
    half.write(single, halved)
    return {FP32: single, TF32: single, FP16: halved}


def why_no_onnxruntime(device: Device) -> str | None:
    """None when ONNX Runtime can run on the device."""
    try:
        import onnx  # noqa: F401
        import onnxruntime
    except ModuleNotFoundError as error:
        return f"{error.name} is not installed"
    if device.is_cuda:
        with contextlib.suppress(AttributeError):
            # CUDA's libraries come with torch's own wheels.
            onnxruntime.preload_dlls()
    offered = onnxruntime.get_available_providers()
    return None if device.provider in offered else f"{device.provider} is not among the providers here: {offered}"


class Check:
    """Measures every network, runtime, precision and batch, and keeps what could not be."""

    def __init__(self, device: Device, *, batches: Sequence[int], quick: bool) -> None:
        self.device, self.batches = device, batches
        self.effort = QUICK if quick else THOROUGH
        self.peaks = Peaks.measure(device, self.effort)
        self.rows: list[Row] = []
        self.not_run: list[str] = []
        self.precisions = (FP32, TF32, FP16) if device.is_cuda else (FP32, FP16)

    def network(self, name: str, variant: str | None) -> None:
        """One network by every runtime."""
        try:
            subject = Subject.make(name, variant=variant, rows=max(self.batches))
        except ModuleNotFoundError as error:
            self.not_run.append(f"{name}: {error.name} is not installed")
            return
        for precision in self.precisions:
            self._runner(TorchRunner(subject, self.device, precision), subject, precision)
        reason = why_no_onnxruntime(self.device)
        if reason is not None:
            self.not_run.append(f"{name} in ONNX Runtime: {reason}")
            return
        with tempfile.TemporaryDirectory(prefix="rfserve-gpu-") as folder:
            files = graphs(subject, Path(folder))
            for precision in self.precisions:
                used = self.device.used_bytes()
                runner = OnnxRunner(subject, self.device, precision, files[precision])
                self._runner(runner, subject, precision, used)

    def _runner(self, runner: Runner, subject: Subject, precision: str, used_before: int | None = None) -> None:
        try:
            for batch in self.batches:
                try:
                    self._batch(runner, subject, precision, batch, used_before)
                except torch.OutOfMemoryError:
                    self.not_run.append(f"{subject.spec.name} {runner.runtime} {precision} batch {batch}: no memory")
        finally:
            runner.close()
            self.device.forget()

    def _batch(self, runner: Runner, subject: Subject, precision: str, batch: int, used_before: int | None) -> None:
        self.device.reset_peak()
        runner.load(_rows(subject.inputs, 0, batch))
        parity = subject.parity(runner.answer(), precision)
        timing = Timing.measure(runner.run, self.device, self.effort)
        per_s = batch / timing.mean_s
        bytes_per_s = subject.weight_bytes / (2 if precision == FP16 else 1) / timing.mean_s
        row = Row(
            model=subject.spec.name,
            runtime=runner.runtime,
            precision=precision,
            batch=batch,
            p50_ms=timing.p50_ms,
            p99_ms=timing.p99_ms,
            runs=timing.runs,
            rows_per_s=per_s,
            gflop_per_row=subject.flop_per_row / 1e9,
            share_of_compute=per_s * subject.flop_per_row / self.peaks.flop_per_s[precision],
            share_of_bandwidth=bytes_per_s / self.peaks.bytes_per_s,
            peak_memory_bytes=self.device.peak_bytes(used_before),
            parity=parity,
        )
        self.rows.append(row)
        print(row.text(), flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write; 0 when every answer is as near to the CPU's as the specs demand, else 1."""
    options = _parser().parse_args(arguments)
    try:
        device = Device(options.device)
        output = options.output or RESULTS / f"{device.name}.json"
        if options.output is None and not device.is_cuda:
            raise LoadTestError("results of a CPU are those of `make bench`; give --output FILE to keep these")
        check = Check(
            device,
            batches=options.batches or (QUICK_BATCHES if options.quick else BATCHES),
            quick=options.quick,
        )
        print(check.peaks.text())
        print(Row.head())
        for name in options.models:
            smallest = GRAPHS[name].variants[-1] if options.quick and GRAPHS[name].variants else None
            check.network(name, smallest)
        here = describe("")
        results = GpuResults(
            device=device.name,
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            machine=replace(here, versions={**here.versions, **_versions(), "accelerator": device.description}),
            peaks=check.peaks,
            rows=tuple(check.rows),
            not_run=tuple(check.not_run),
            quick=options.quick,
        )
        results.write(output)
    except LoadTestError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for line in results.not_run:
        print(f"not run: {line}")
    for row in results.apart:
        print(
            f"parity: {row.model} {row.runtime} {row.precision} batch {row.batch}: {row.parity:.2f} of what is allowed"
        )
    return 1 if results.apart else 0


def _versions() -> dict[str, str]:
    found = {"torch": torch.__version__, "cuda": str(torch.version.cuda or "")}
    with contextlib.suppress(PackageNotFoundError):
        found["timm"] = version("timm")
    return {name: v for name, v in found.items() if v}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="default: %(default)s")
    parser.add_argument("--quick", action="store_true", help="small batches, the smallest sizes, hardly any repetition")
    parser.add_argument("--models", nargs="+", choices=NETWORKS, default=NETWORKS, help="default: all")
    parser.add_argument("--batches", nargs="+", type=int, metavar="N", help=f"default: {BATCHES}")
    parser.add_argument("--output", type=Path, help="default: loadtest/results/<device>.json")
    return parser


if __name__ == "__main__":
    sys.exit(main())
