"""A pod on this machine: its containers run as a kubelet would run them, as far as a kernel alone can do that.

Namespaces of its own for mounts, processes and the network; a root file system that nobody can write to, but for the
volumes; user and group 1000, no capabilities, no new privileges. What an image would bring is this machine's: programs,
libraries and, for `tritonserver`, the one that pip installs. Needs root.
"""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rendering import ROOT, Manifests, Object, command, environment

from rfserve.server import binary

NEEDED = ("unshare", "nsenter", "setpriv", "mount", "ip")
USER = "1000"
STUB = b"triton_python_backend_stub"
DROPPED = ["setpriv", f"--reuid={USER}", f"--regid={USER}", f"--groups={USER}", "--no-new-privs"]
DROPPED += ["--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all"]
SYSTEM = ("usr", "lib", "lib64", "bin", "sbin", "etc", "sys")


def impossible() -> str:
    """Why there can be no such pod here; empty when there can."""
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing:
        return f"no {', '.join(missing)} here"
    if os.geteuid() != 0:
        return "only root may mount and change users"
    tried = subprocess.run(["unshare", "--mount", "--net", "--pid", "--fork", "true"], capture_output=True, check=False)
    return "" if tried.returncode == 0 else f"no namespaces here: {tried.stderr.decode().strip()}"


class LocalPod:
    """The one pod of `manifests`. `secrets` as for `rendering.environment`, `claims` are folders by name."""

    def __init__(self, manifests: Manifests, folder: Path, *, secrets: dict[str, str], claims: dict[str, Path]) -> None:
        self._manifests, self._folder, self._secrets, self._claims = manifests, folder, secrets, claims
        ((_, self.specification, _),) = manifests.pods()
        self.volumes = {v["name"]: self._volume(v) for v in self.specification["volumes"]}
        self._image = folder / "image"
        self._image.mkdir()
        found = binary.find(folder / "backends")
        start = self._image / "tritonserver"
        start.write_text(f'#!/bin/sh\nexec {found.path} {" ".join(found.arguments)} "$@"\n')
        start.chmod(0o755)
        self._server_environment = found.environment

    def _volume(self, volume: Object) -> Path:
        if "persistentVolumeClaim" in volume:
            return self._claims[volume["persistentVolumeClaim"]["claimName"]]
        folder = self._folder / "volumes" / volume["name"]
        folder.mkdir(parents=True)
        if "configMap" in volume:
            for name, text in self._manifests.one("ConfigMap", volume["configMap"]["name"])["data"].items():
                (folder / name).write_text(text)
        else:
            # As a kubelet makes an emptyDir for an fsGroup.
            os.chown(folder, 0, int(USER))
            folder.chmod(0o2777)
        return folder

    def init(self, container: Object) -> "subprocess.CompletedProcess[str]":
        """Run a container to its end."""
        words = self._words(container)
        return subprocess.run(words, env=self._environment(container), capture_output=True, text=True, check=False)

    @contextmanager
    def running(self, container: Object) -> Iterator["Running"]:
        """A container while it runs; killed at the end."""
        log = self._folder / f"{container['name']}.log"
        with log.open("wb") as stream:
            process = subprocess.Popen(
                self._words(container), env=self._environment(container), stdout=stream, stderr=subprocess.STDOUT
            )
            try:
                yield Running(self, container, process, log)
            finally:
                # The first process takes its namespace with it. It has changed its user, so that it outlives `unshare`.
                for child in _children(process.pid):
                    os.kill(child, signal.SIGKILL)
                process.kill()
                process.wait()

    def _environment(self, container: Object) -> dict[str, str]:
        image = {"PATH": os.pathsep.join([str(self._image), str(Path(sys.executable).parent), os.environ["PATH"]])}
        if container["command"] == ["tritonserver"]:
            image |= {k: self._server_environment[k] for k in ("LD_LIBRARY_PATH",)}
        return image | environment(container, self._manifests, self._secrets)

    def _words(self, container: Object) -> list[str]:
        values = environment(container, self._manifests, self._secrets)
        root = self._folder / f"root-{container['name']}-{time.monotonic_ns()}"
        root.mkdir()
        script = "\n".join(
            [
                "set -e",
                *self._mounts(container, root),
                f"exec chroot {root} " + shlex.join([*DROPPED, *command(container, values)]),
            ]
        )
        unshare = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--propagation=private"]
        return [*unshare, "sh", "-c", script]

    def _mounts(self, container: Object, root: Path) -> Iterator[str]:
        yield "ip link set lo up"
        yield f"mount -t tmpfs -o mode=755 tmpfs {root}"
        places = {Path("/", name) for name in SYSTEM if Path("/", name).is_dir()}
        yield from (f"mkdir -p {root}{place} && mount --rbind -o ro {place} {root}{place}" for place in sorted(places))
        yield f"mkdir -p {root}/proc {root}/dev && mount -t proc proc {root}/proc"
        for device in ("null", "zero", "full", "random", "urandom"):
            yield f"touch {root}/dev/{device} && mount --bind /dev/{device} {root}/dev/{device}"
        for mount in container["volumeMounts"]:
            place, source = mount["mountPath"], self.volumes[mount["name"]]
            yield f"mkdir -p {root}{place} && mount --bind {source} {root}{place}"
            if mount.get("readOnly"):
                yield f"mount -o remount,bind,ro {root}{place}"
        # Last, because some of it may lie in /tmp.
        for place in self._programs():
            yield f"mkdir -p {root}{place} && mount --bind {place} {root}{place}"
            yield f"mount -o remount,bind,ro {root}{place}"
        yield f"mount -o remount,ro {root}"

    def _programs(self) -> list[Path]:
        """What the image would hold and is not the system's: Python, packages, this checkout, Triton's backends."""
        found = {Path(sys.base_prefix), Path(sys.prefix), ROOT, self._folder / "backends", self._image}
        found |= {Path(sysconfig.get_config_var("LIBDIR"))}
        found |= {Path(p).resolve() for p in sys.path if p and Path(p).is_dir() and Path(p).name == "site-packages"}
        outer = [p for p in found if not any(other != p and other in p.parents for other in found)]
        return sorted(p for p in outer if p.exists() and p.parts[1] not in SYSTEM)


class Running:
    """A container that runs. `exec` is what a kubelet does for an exec probe."""

    def __init__(self, pod: LocalPod, container: Object, process: "subprocess.Popen[bytes]", log: Path) -> None:
        self._pod, self._container, self.process, self._log = pod, container, process, log

    @property
    def pid(self) -> int:
        """The container's first process, as this machine sees it; waits until it is in its own root."""
        deadline = time.monotonic() + 20
        while True:
            found = _children(self.process.pid)
            if found and Path(f"/proc/{found[0]}/root").readlink() != Path("/"):
                return found[0]
            assert self.process.poll() is None, self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(0.05)

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def exec(self, words: list[str], timeout_s: float = 60) -> "subprocess.CompletedProcess[str]":
        """Run a command in it, as its user; `TimeoutExpired` beyond the time-out."""
        enter = ["nsenter", "--target", str(self.pid), "--mount", "--net", "--pid", "--root", "--wd=/"]
        return subprocess.run(
            [*enter, *DROPPED, *words],
            env=self._pod._environment(self._container),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def probe(self, kind: str) -> tuple[bool, str]:
        """Whether a probe of the container passes, within its own time-out; what it said."""
        probe: dict[str, Any] = self._container[kind]
        try:
            done = self.exec(probe["exec"]["command"], probe["timeoutSeconds"])
        except subprocess.TimeoutExpired:
            return False, "no answer in time"
        return done.returncode == 0, done.stdout + done.stderr

    def wait_for(self, kind: str, passes: bool, limit_s: float) -> str:
        """Probe until it passes, or fails; what it said last."""
        deadline = time.monotonic() + limit_s
        while True:
            found, words = self.probe(kind)
            if found is passes:
                return words
            assert self.process.poll() is None, self.log
            assert time.monotonic() < deadline, f"{words}\n{self.log[-3000:]}"
            time.sleep(0.3)

    def status(self) -> dict[str, str]:
        """/proc/PID/status of its first process."""
        text = Path(f"/proc/{self.pid}/status").read_text()
        return dict(re.findall(r"^(\w+):\s*(.*)$", text, re.MULTILINE))

    def stubs(self) -> dict[str, tuple[int, int]]:
        """Processes of Triton's Python backend in it, by instance: the pid here, and that in the pod.

        The newest of each: those of an unloaded model are still leaving when the next is ready.
        """
        own = Path(f"/proc/{self.pid}/ns/pid").readlink()
        found: dict[str, tuple[int, int]] = {}
        for entry in Path("/proc").iterdir():
            with suppress(OSError):
                if entry.name.isdigit() and (entry / "ns/pid").readlink() == own:
                    words = (entry / "cmdline").read_bytes().split(b"\0")
                    if STUB in words[0]:
                        inner = int((entry / "status").read_text().split("NSpid:")[1].splitlines()[0].split()[-1])
                        instance = words[8].decode()
                        found[instance] = max(found.get(instance, (0, 0)), (int(entry.name), inner), key=lambda p: p[1])
        return found


def _children(pid: int) -> list[int]:
    """The processes that one has started; none when it has ended."""
    try:
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
