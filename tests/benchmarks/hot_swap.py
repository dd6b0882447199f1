"""Promotions and rollbacks under load: no request fails, and every answer is that of the version it names."""

import asyncio
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from figures import head, show
from served import publish_untrained
from tritonclient.grpc import InferResult
from wire_load import Outcome, WireLoad, serialised

from rfserve.export import local_model, release
from rfserve.export.cli import main as export_main
from rfserve.export.elements import compare
from rfserve.export.local_model import LocalModel
from rfserve.export.repository import Repository
from rfserve.export.scaling import Scaling, network_units
from rfserve.export.spec import ENSEMBLES, GRAPHS, example
from rfserve.export.spec.queueing import Priority
from rfserve.export.spec.tensor import Array
from rfserve.server.process import ServerOptions, TritonServer
from rfserve.server.security import Security

NETWORK, FRONT, ENSEMBLE = GRAPHS["heimdall_net"], GRAPHS["iq_features"], ENSEMBLES["locate"]
VERSIONS = (1, 2)
WORKERS = {NETWORK.name: 4, ENSEMBLE.name: 2}
SWAPS = 12
PAUSE_S = 0.3
# Differences of the front end within its tolerance reach the network's outputs.
SLACK = {NETWORK.name: 1, ENSEMBLE.name: 10}


@dataclass(frozen=True, kw_only=True)
class Swaps:
    """What became of the requests while versions changed. `wrong` answers fit no version, or not the one they name."""

    swaps: int
    answers: dict[str, int]
    by_version: dict[tuple[str, int], int]
    failures: dict[str, int]
    wrong: int
    longest_swap_s: float
    longest_answer_ms: float


def publish_two(folder: Path) -> Repository:
    """Two versions of a network with different weights, version 1 promoted; a front end, and their ensemble."""
    repository = Repository(folder)
    publish_untrained([FRONT.name], repository)
    for seed in VERSIONS:
        publish_untrained([NETWORK.name], repository, seed)
    publish_untrained([ENSEMBLE.name], repository)
    release.promote(repository, NETWORK, 1)
    return repository


class Expected:
    """What ONNX Runtime answers here for each version's file, for the input of each worker."""

    def __init__(self, repository: Repository) -> None:
        front = LocalModel(repository, FRONT, 1)
        manifest = repository.manifest(NETWORK.name, 1)
        self._units = network_units(NETWORK, Scaling.from_dict(manifest.scaling or {}))
        self.inputs = {
            (spec.name, worker): example(spec, seed=worker)
            for spec in (NETWORK, ENSEMBLE)
            for worker in range(WORKERS[spec.name])
        }
        self._outputs: dict[tuple[str, int, int], Mapping[str, Array]] = {}
        for version in VERSIONS:
            models = {FRONT.name: front, NETWORK.name: LocalModel(repository, NETWORK, version)}
            for (name, worker), arrays in self.inputs.items():
                self._outputs[name, worker, version] = (
                    models[NETWORK.name].run(arrays)
                    if name == NETWORK.name
                    else local_model.ensemble_outputs(
                        ENSEMBLE, arrays, lambda m, a, models=models: models[m.name].run(a)
                    )
                )

    def versions(self, name: str, worker: int, answer: InferResult) -> list[int]:
        """The versions whose answer this is."""
        return [v for v in VERSIONS if self._agrees(name, answer, self._outputs[name, worker, v])]

    def _agrees(self, name: str, answer: InferResult, wanted: Mapping[str, Array]) -> bool:
        for tensor in NETWORK.outputs:
            allowed = SLACK[name] * NETWORK.tolerance * np.asarray(self._units[tensor.name])
            got = answer.as_numpy(tensor.name)
            if got is None or compare(got, wanted[tensor.name], allowed)[2]:
                return False
        return True


def swap(folder: Path, url: str, number: int) -> None:
    """Version 2, then back, by the commands that a person gives."""
    where = ["--repository", str(folder), "--url", url]
    action = ["promote", NETWORK.name, "2"] if number % 2 == 0 else ["rollback", NETWORK.name]
    if export_main([*action, *where]) != 0:
        raise RuntimeError(f"{action[0]} failed")


async def measure(folder: Path, repository: Repository, url: str, *, swaps: int, pause_s: float = PAUSE_S) -> Swaps:
    """Several workers that ask without pause and name no version, while versions are promoted and rolled back."""
    expected = Expected(repository)
    outcome, by_version, wrong, done = Outcome(), Counter(), 0, False

    async def worker(load: WireLoad, name: str, number: int) -> None:
        nonlocal wrong
        # Loading takes cores: what is refused for overload would be no matter of versions.
        request = serialised(name, expected.inputs[name, number], priority=Priority.BULK)
        while not done:
            response = await load.send(request, outcome)
            if response is not None:
                fitting = expected.versions(name, number, InferResult(response))
                named = [int(response.model_version)] if name == NETWORK.name else fitting
                by_version[name, fitting[0] if fitting else 0] += 1
                wrong += len(fitting) != 1 or fitting != named

    times_s = []
    async with WireLoad(url) as load:
        tasks = [asyncio.create_task(worker(load, name, number)) for name, number in expected.inputs]
        try:
            for number in range(swaps):
                await asyncio.sleep(pause_s)
                begun = time.perf_counter()
                await asyncio.to_thread(swap, folder, url, number)
                times_s.append(time.perf_counter() - begun)
            await asyncio.sleep(pause_s)
        finally:
            done = True
            await asyncio.gather(*tasks)
    return Swaps(
        swaps=swaps,
        answers={name: sum(c for (n, _), c in by_version.items() if n == name) for name in WORKERS},
        by_version=dict(by_version),
        failures=dict(outcome.reasons),
        wrong=wrong,
        longest_swap_s=max(times_s),
        longest_answer_ms=outcome.answered_at_ms(100),
    )


def main() -> None:
    """Print what happened."""
    with tempfile.TemporaryDirectory(prefix="rfserve-bench-") as name:
        repository = publish_two(Path(name))
        options = ServerOptions(
            repository=Path(name), grpc_port=0, http_port=0, metrics_port=0, security=Security(open_admin=True)
        )
        with TritonServer(options) as server:
            found = asyncio.run(measure(Path(name), repository, server.grpc_url, swaps=SWAPS))
    title = f"{found.swaps} swaps under load"
    show(f"{title}: failed requests", sum(found.failures.values()), "0", f"of {sum(found.answers.values())} answered")
    show(f"{title}: wrong answers", found.wrong, "0", f"{found.answers}")
    detail = f"slowest answer {found.longest_answer_ms:.0f} ms"
    show(f"{title}: s for the slowest promotion or rollback", found.longest_swap_s, "<= 30", detail)


if __name__ == "__main__":
    head()
    main()
