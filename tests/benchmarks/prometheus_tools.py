"""Debian's Prometheus: where it is, and one that runs on a free port for as long as it is asked for."""

import json
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ports import free_port

from rfserve.export.observability.files import files
from rfserve.export.observability.timing import Timing

ROOT = Path(__file__).parents[2]
FETCHED = ROOT / ".tools" / "usr" / "bin"
MISSING = "is not installed, and `make tools` could not fetch it (it unpacks Debian's package `prometheus`)"


def tool(name: str) -> str | None:
    """The path of `prometheus` or `promtool`: the one on PATH, or what `make tools` fetched."""
    return shutil.which(name) or shutil.which(name, path=str(FETCHED))


class Prometheus:
    """What a running one says."""

    def __init__(self, url: str) -> None:
        self._url = url

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Labels and value of each series of an instant query."""
        query = urllib.parse.urlencode({"query": expression})
        with urllib.request.urlopen(f"{self._url}/api/v1/query?{query}", timeout=5) as answer:
            found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        return [(dict(sample["metric"]), float(sample["value"][1])) for sample in found]

    def firing(self) -> set[str]:
        """The names of the alerts that fire now."""
        return {labels["alertname"] for labels, _ in self.query('ALERTS{alertstate="firing"}')}

    def ready(self) -> bool:
        """Whether it answers."""
        try:
            with urllib.request.urlopen(f"{self._url}/-/ready", timeout=5):
                return True
        except OSError:
            return False


@contextmanager
def prometheus(folder: Path, targets: Sequence[str], hasten: float) -> Iterator[Prometheus]:
    """One with every rule, hastened, that scrapes `targets` (host and port each)."""
    binary = tool("prometheus")
    if binary is None:
        raise FileNotFoundError(f"prometheus {MISSING}")
    for path, text in files(Timing(hasten=hasten), targets).items():
        if "prometheus" in path.parts:
            (folder / path.name).write_text(text)
    port = free_port()
    command = [binary, f"--config.file={folder}/prometheus.yaml", f"--storage.tsdb.path={folder}/data"]
    command += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"]
    log = folder / "prometheus.log"
    with log.open("w") as stream, subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT) as process:
        try:
            running = Prometheus(f"http://127.0.0.1:{port}")
            while not running.ready():
                if process.poll() is not None:
                    raise RuntimeError(log.read_text())
                time.sleep(0.05)
            yield running
        finally:
            process.kill()
