"""What a pod has of a model: what it served before a release, and how it is given other versions and brought back."""

from collections.abc import Iterable
from dataclasses import dataclass

from rfserve.export import live, pbtxt
from rfserve.export.live import LiveServer, Message
from rfserve.export.model_repository import ModelRepository, configuration_files
from rfserve.export.pbtxt import CONFIGURATIONS
from rfserve.export.spec import find
from rfserve.export.spec.model import Served
from rfserve.release.errors import PodError
from rfserve.release.pod_server import PodServer


@dataclass(frozen=True, kw_only=True)
class Placement:
    """A pod's versions of a model at one moment, the configuration it runs it with (None when it has none), and whose.

    `configuration_name` is the one of `configs/` that its target has, and `target` is `cpu` or `gpu`.
    """

    model: str
    versions: tuple[int, ...]
    configuration: Message | None
    configuration_name: str

    @property
    def target(self) -> str:
        """Whose versions the pod serves."""
        return CONFIGURATIONS[self.configuration_name].target

    @classmethod
    def of(cls, server: PodServer, spec: Served) -> "Placement":
        """What a pod has now; `PodError` when nothing that it serves tells what kind of pod it is."""
        versions = tuple(server.served_versions(spec.name))
        own = server.configuration(spec.name) if versions else None
        name = None if own is None else _configuration_name(own)
        for other in server.ready_models() if name is None else ():
            name = name or _configuration_name(server.configuration(other))
        if name is None:
            raise PodError(
                f"{server.pod.name}: {server.url} serves no network, so that nothing tells whether it is for cpu or "
                "gpu; have it load one first"
            )
        return cls(model=spec.name, versions=versions, configuration=own, configuration_name=name)

    def give(self, server: LiveServer, repository: ModelRepository, versions: Iterable[int]) -> None:
        """Have the pod serve exactly these versions out of its own repository, configured as this one is.

        The alias is not asked: the repository's configuration may name another version. Those that stay are not loaded
        again.
        """
        spec = find(self.model)
        with live.dependents_kept(server, spec):
            server.load(self.model, self._configured(repository, spec, versions))

    def restore(self, server: LiveServer) -> None:
        """Have the pod serve what it served when this was read."""
        spec = find(self.model)
        with live.dependents_kept(server, spec):
            if self.configuration is None:
                server.unload(self.model)
                return
            server.load(self.model, self.configuration)
        for version in self.versions:
            server.wait_until_ready(self.model, version)

    def _configured(self, repository: ModelRepository, spec: Served, versions: Iterable[int]) -> Message:
        state = repository.serving(spec.name)
        text = configuration_files(state.placing(spec), {}, state.cores)[f"configs/{self.configuration_name}.pbtxt"]
        configured = pbtxt.parse(text)
        configured.version_policy.specific.versions[:] = sorted(set(versions))
        return configured

    def rehearsing(self, repository: ModelRepository, spec: Served, version: int, name: str) -> Message:
        """The configuration for one version under another name: as the pod's, with one instance and no warm-up."""
        configured = self._configured(repository, spec, (version,))
        configured.name = name
        # Their data lies in the model's own folder.
        del configured.model_warmup[:]
        for group in configured.instance_group:
            group.count = 1
        return configured


def _configuration_name(configuration: Message) -> str | None:
    """Which of `configs/` it comes from; None for an ensemble's, which is the same for all."""
    target = live.target_of(configuration)
    accelerated = bool(configuration.optimization.execution_accelerators.gpu_execution_accelerator)
    for name, kind in CONFIGURATIONS.items():
        if kind.target == target and kind.tensorrt == (accelerated and target == "gpu"):
            return name
    return None
