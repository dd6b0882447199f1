"""A device of torch: its clock, its memory, and the most that it computes and moves."""

import math
import os
import re
import resource
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from rfserve.export.spec.precision import FP16, FP32
from rfserve.loadtest.errors import LoadTestError

TF32 = "tf32"
MOST_RUNS = 1000


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How long each thing is measured, and the sizes that the peaks are measured with."""

    seconds: float
    fewest_runs: int
    warm_up_runs: int
    matrix: int
    copy_bytes: int


# Large enough to fill a GPU; the small one only shows that it works.
THOROUGH = Effort(seconds=1.0, fewest_runs=10, warm_up_runs=3, matrix=8192, copy_bytes=2**30)
QUICK = Effort(seconds=0.02, fewest_runs=1, warm_up_runs=1, matrix=256, copy_bytes=2**24)


class Device:
    """`cuda` or `cpu`; `LoadTestError` when there is no such device here."""

    def __init__(self, kind: str) -> None:
        if kind == "cuda" and not torch.cuda.is_available():
            raise LoadTestError("torch sees no GPU here; run this on a machine with one, or give --device cpu")
        self.torch = torch.device(kind)
        self.is_cuda = kind == "cuda"
        self.provider = "CUDAExecutionProvider" if self.is_cuda else "CPUExecutionProvider"

    @property
    def description(self) -> str:
        """As the driver calls it."""
        return torch.cuda.get_device_name() if self.is_cuda else "cpu"

    @property
    def name(self) -> str:
        """As budgets and results call it: `gpu-h200`, `cpu-2core`."""
        if not self.is_cuda:
            return f"cpu-{len(os.sched_getaffinity(0))}core"
        return gpu_name(self.description)

    def wait(self) -> None:
        """Until everything that was started has ended."""
        if self.is_cuda:
            torch.cuda.synchronize()

    @contextmanager
    def float32(self, *, tf32: bool) -> Iterator[None]:
        """Whether products of FP32 may be rounded to TF32."""
        if not self.is_cuda:
            yield
            return
        before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
        torch.set_float32_matmul_precision("high" if tf32 else "highest")
        torch.backends.cudnn.allow_tf32 = tf32
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before[0])
            torch.backends.cudnn.allow_tf32 = before[1]

    def used_bytes(self) -> int:
        """What is taken of the device's memory; of a CPU, the most that this process has held."""
        if not self.is_cuda:
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        free, total = torch.cuda.mem_get_info()
        return int(total - free)

    def reset_peak(self) -> None:
        """Begin to watch torch's memory anew."""
        if self.is_cuda:
            torch.cuda.reset_peak_memory_stats()

    def peak_bytes(self, used_before: int | None) -> int:
        """The most that torch held since `reset_peak`; of another runtime, what is taken since it was loaded."""
        if used_before is not None:
            return self.used_bytes() - used_before
        return torch.cuda.max_memory_allocated() if self.is_cuda else self.used_bytes()

    def forget(self) -> None:
        """Give back what torch keeps for later."""
        if self.is_cuda:
            torch.cuda.empty_cache()


def gpu_name(description: str) -> str:
    """`gpu-h200` for `NVIDIA H200`: the model's first word with a digit in it."""
    words = re.findall(r"[a-z0-9]+", description.lower())
    return f"gpu-{next((w for w in words if re.search(r'[0-9]', w)), '-'.join(words) or 'unknown')}"


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Runs one by one (`p50_ms`, `p99_ms`), and in a row without waiting for each (`mean_s` a run)."""

    p50_ms: float
    p99_ms: float
    mean_s: float
    runs: int

    @classmethod
    def measure(cls, run: Callable[[], Any], device: Device, effort: Effort) -> "Timing":
        """Time `run` for about so long one by one, and as many times again in a row."""
        for _ in range(effort.warm_up_runs):
            run()
        device.wait()
        times: list[float] = []
        while len(times) < effort.fewest_runs or (math.fsum(times) < effort.seconds and len(times) < MOST_RUNS):
            begun = time.perf_counter()
            run()
            device.wait()
            times.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        for _ in times:
            run()
        device.wait()
        mean_s = (time.perf_counter() - begun) / len(times)
        p50, p99 = np.percentile(times, (50, 99), method="higher")
        return cls(p50_ms=float(p50) * 1e3, p99_ms=float(p99) * 1e3, mean_s=mean_s, runs=len(times))


@dataclass(frozen=True, kw_only=True)
class Peaks:
    """The most that this device does, measured on the spot: products of square matrices, and a copy, both ways."""

    flop_per_s: Mapping[str, float]
    bytes_per_s: float
    matrix: int

    @classmethod
    def measure(cls, device: Device, effort: Effort) -> "Peaks":
        """The median of some products and copies; TF32 on a GPU only."""
        size = effort.matrix
        found = {}
        for precision in (FP32, TF32, FP16) if device.is_cuda else (FP32, FP16):
            dtype = torch.float16 if precision == FP16 else torch.float32
            # Random numbers: a GPU clocks higher on zeros.
            left, right = (torch.randn(size, size, dtype=torch.float32).to(device.torch, dtype) for _ in range(2))
            out = torch.empty_like(left)
            with device.float32(tf32=precision == TF32):
                found[precision] = 2 * size**3 / _median_s(partial(torch.mm, left, right, out=out), device, effort)
        source = torch.ones(effort.copy_bytes // 4, dtype=torch.float32, device=device.torch)
        target = torch.empty_like(source)
        time_s = _median_s(partial(target.copy_, source), device, effort)
        return cls(flop_per_s=found, bytes_per_s=2 * effort.copy_bytes / time_s, matrix=size)

    def text(self) -> str:
        """For people."""
        products = ", ".join(f"{name} {value / 1e12:.2f} TFLOP/s" for name, value in self.flop_per_s.items())
        copied = f"copy {self.bytes_per_s / 1e9:.0f} GB/s"
        return f"measured peak: {products} (products of {self.matrix} x {self.matrix}); {copied}"


def _median_s(run: Callable[[], Any], device: Device, effort: Effort) -> float:
    return Timing.measure(run, device, effort).p50_ms / 1e3
