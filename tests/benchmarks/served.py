"""A repository with untrained weights, and the server that the benchmarks of serving measure."""

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rfserve.export.publication import Source, publish
from rfserve.export.repository import Repository
from rfserve.export.spec import MODELS, EnsembleSpec, find
from rfserve.server.process import ServerOptions, TritonServer


def with_steps(models: Iterable[str]) -> list[str]:
    """The models, and the steps of those that are ensembles, in the order of the catalogue."""
    wanted = set(models)
    for name in models:
        spec = find(name)
        if isinstance(spec, EnsembleSpec):
            wanted |= {step.model.name for step in spec.steps}
    return [name for name in MODELS if name in wanted]


def publish_untrained(models: Iterable[str], repository: Repository, seed: int = 0) -> None:
    """One version more of each model; LocalizationNet in its smallest size."""
    for name in models:
        source = Source(variant="tiny" if name == "localization_net" else None, seed=seed)
        publish(find(name), repository, source, version=None, report=lambda _: None)


class BriefServer(TritonServer):
    """For what is not about a server's end: killed, where unloading takes Triton a second for each instance."""

    def stop(self) -> int | None:
        """Stop it without waiting for anything, and clear up."""
        self.kill()
        return super().stop()


@contextmanager
def serving(models: Iterable[str]) -> Iterator[TritonServer]:
    """A server of these models and what they run, on free ports."""
    with tempfile.TemporaryDirectory(prefix="rfserve-bench-") as name:
        publish_untrained(with_steps(models), Repository(Path(name)))
        with TritonServer(ServerOptions(repository=Path(name), grpc_port=0, http_port=0, metrics_port=0)) as server:
            yield server
