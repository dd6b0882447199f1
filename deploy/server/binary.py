"""The tritonserver to run: the one on PATH with its own backends, else the one that pip installed with ours."""

import os
import shutil
import sys
import sysconfig
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from rfserve.server.errors import BinaryNotFound

BACKENDS = Path(__file__).parent / "backends"
# glibc raises its threshold for mapped blocks with the largest block that was freed, up to 32 MiB; after one large
# request everything smaller stays in a heap that does not shrink (measured: 135 to 180 MiB more after five inputs of
# 32 MB, and 95 to 105 MiB with these). Given ones are not raised. At 1 MiB, single `locate` requests take 5 % longer.
# It also gives the server's threads up to eight heaps for each core, and each of them grows for as long as some thread
# meets a larger request than before: on two cores tritonserver held 129 MiB after six minutes of mixed load, and grew
# by half an hour's end; with two heaps it held 94 MiB from the first minute on, and served as many requests.
ALLOCATOR = {
    "MALLOC_ARENA_MAX": "2",
    "MALLOC_MMAP_THRESHOLD_": str(4 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(8 * 2**20),
}

# Our backend completes no configuration. To ask it, Triton starts one process more at each load and gives it a second
# to end: a load takes 2.1 s with that and 0.5 s without, a start with every model 6.5 s and 3.0 s.
AS_CONFIGURED = "--disable-auto-complete-config"


@dataclass(frozen=True, kw_only=True)
class Binary:
    """The executable, the arguments that its backends need, and its environment."""

    path: Path
    arguments: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)


def find(folder: Path) -> Binary:
    """The tritonserver of this machine. `folder` is an empty one, for the backends of the pip server.

    `BinaryNotFound` when there is none, or when the pip server would run on a NumPy it does not work with.
    """
    on_path = shutil.which("tritonserver")
    if on_path:
        return Binary(path=Path(on_path), environment=_inherited())
    package = find_spec("pytriton")
    if package is None or package.origin is None:
        raise BinaryNotFound(
            "no tritonserver on PATH and nvidia-pytriton is not installed; run inside NVIDIA's tritonserver image, or "
            "`pip install 'rfserve[server]'`"
        )
    require_numpy(installed_numpy())
    server = Path(package.origin).parent / "tritonserver"
    return Binary(
        path=server / "bin" / "tritonserver",
        arguments=(f"--backend-directory={_backends(server, folder)}", AS_CONFIGURED),
        environment=_environment(Path(package.origin).parents[1]),
    )


def installed_numpy() -> str:
    """The version of the installed NumPy, empty when there is none."""
    try:
        return version("numpy")
    except PackageNotFoundError:
        return ""


def require_numpy(found: str) -> None:
    """`BinaryNotFound` unless the pip server works with this NumPy: with 2.x it returns empty outputs, silently."""
    if not found.startswith("1."):
        raise BinaryNotFound(
            f"the tritonserver of nvidia-pytriton needs numpy 1.x, got {found or 'none'}: with 2.x its Python backend "
            "returns empty outputs without an error; `pip install 'numpy<2'`"
        )


def _backends(server: Path, folder: Path) -> Path:
    """A backend directory: NVIDIA's Python backend with the stub of this Python, and our `onnxruntime` beside it."""
    python = folder / "python"
    python.mkdir(parents=True)
    release = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = server / "python_backend_stubs" / release / "triton_python_backend_stub"
    if not stub.is_file():
        known = ", ".join(sorted(f.name for f in stub.parents[1].iterdir()))
        raise BinaryNotFound(f"nvidia-pytriton has no stub for Python {release}; it has {known}; use one of those")
    for file in (*(server / "backends" / "python").iterdir(), stub):
        if file.is_file():
            # Copies: Triton refuses a backend whose library is a link to outside of the backend directory.
            shutil.copy2(file, python / file.name)
    (folder / "onnxruntime").mkdir()
    for file in (BACKENDS / "onnxruntime").glob("*.py"):
        shutil.copy2(file, folder / "onnxruntime" / file.name)
    return folder


def _inherited() -> dict[str, str]:
    """The caller's environment, and the allocator's settings where the caller says nothing of them."""
    return ALLOCATOR | dict(os.environ)


def _environment(site_packages: Path) -> dict[str, str]:
    libraries = [str(site_packages / "nvidia_pytriton.libs"), str(sysconfig.get_config_var("LIBDIR"))]
    environment = _inherited()
    inherited = environment.get("LD_LIBRARY_PATH")
    environment["LD_LIBRARY_PATH"] = os.pathsep.join([*libraries, *([inherited] if inherited else [])])
    # The stub embeds an interpreter, which finds its packages beside the first python3 on PATH (PYTHONPATH does not
    # reach it): that must be this environment's, activated or not.
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", "")])
    return environment
