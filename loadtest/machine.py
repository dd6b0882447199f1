"""The machine that a load came from, and the versions of what made it."""

import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

from rfserve.loadtest.measurement import Machine

PACKAGES: Mapping[str, Sequence[str]] = {
    **{name: (name,) for name in ("rfserve", "locust", "tritonclient", "grpcio")},
    "onnxruntime": ("onnxruntime-gpu", "onnxruntime"),
}


def describe(triton: str) -> Machine:
    """This machine. `triton` is what the server says of itself; onnxruntime's version is the one installed here."""
    versions = {"triton": triton} if triton else {}
    for name, distributions in PACKAGES.items():
        found = next((v for d in distributions if (v := _version(d))), "")
        versions |= {name: found} if found else {}
    revision = _revision()
    return Machine(
        cpu_model=_cpu_model(),
        cores=len(os.sched_getaffinity(0)),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        kernel=platform.release(),
        python=platform.python_version(),
        versions=versions | ({"revision": revision} if revision else {}),
    )


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def _revision() -> str:
    """The git revision of rfserve's own working tree; empty when it is installed from elsewhere, or without git."""
    folder = Path(__file__).parent
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        # A package inside somebody else's repository would name theirs.
        listed = subprocess.run(
            ["git", "ls-files", "--error-unmatch", Path(__file__).name],
            cwd=folder,
            capture_output=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        if listed.returncode:
            return ""
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, check=False, timeout=10, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
