"""Published versions in MLflow: a run with the figures and the files, and a registered version behind an alias."""

import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rfserve.export import mlflow_model, run_record
from rfserve.export.errors import RegistryError
from rfserve.export.manifest import FILE_NAME, Manifest
from rfserve.export.model_repository import ModelRepository
from rfserve.export.run_record import MANIFEST_TAG, REPOSITORY_TAG, VERSION_TAG
from rfserve.export.spec import RfserveError, find
from rfserve.export.spec.model import Served
from rfserve.export.tracking import Tracking

CANDIDATE, CHAMPION = "candidate", "champion"


@dataclass(frozen=True, kw_only=True)
class Registered:
    """A published version in MLflow: `version` counts in the model repository, `registry_version` in MLflow.

    `is_new` is False when the version was registered before.
    """

    model: str
    version: int
    registry_version: str
    run_id: str
    is_new: bool

    @property
    def uri(self) -> str:
        """Where MLflow loads it from."""
        return f"models:/{self.model}/{self.registry_version}"


class Registry:
    """The registered models of an MLflow tracking server, or of a folder; see `Tracking` for the addresses.

    `RegistryError` when MLflow is not installed.
    """

    def __init__(self, tracking_uri: str | None = None, *, timeout_s: float = 10.0) -> None:
        self.tracking = Tracking(tracking_uri, timeout_s=timeout_s)

    @classmethod
    def from_options(cls, options: Namespace) -> "Registry":
        """The registry that a command's `--tracking-uri` names."""
        return cls(options.tracking_uri)

    def register(self, repository: ModelRepository, manifest: Manifest) -> Registered:
        """Register a published version as `candidate`; one that is registered already is returned as it is.

        `RegistryError` when MLflow cannot be reached or refuses, or when the version's files are not as published. It
        may be repeated: a registration that failed half-way leaves a failed run and no registered version.
        """
        model = manifest.model
        # MLflow prints the run's address, and stdout belongs to the command.
        with self._speaking(f"{model}/{manifest.version} is not registered"), redirect_stdout(sys.stderr):
            sha256 = repository.manifest_sha256(model, manifest.version)
            found = self._search(model, MANIFEST_TAG, sha256)
            version = found[0] if found else self._create(repository, manifest, sha256)
            # It never goes back to an older version: that one may be registered again at any time.
            newest = self._by_alias(model, CANDIDATE)
            if newest is None or int(newest.version) < int(version.version):
                self.tracking.client.set_registered_model_alias(model, CANDIDATE, version.version)
            return _registered(version, is_new=not found)

    def registered(self, model: str, version: int, *, repository: ModelRepository | None = None) -> Registered:
        """A version that is registered, `RegistryError` when it is not; see `champion` for `repository`."""
        with self._speaking(f"{model}/{version} was not looked up"):
            return _registered(self._find(model, version, repository), is_new=False)

    def champion(self, model: str, version: int, *, repository: ModelRepository | None = None) -> Registered:
        """Move the alias `champion` to a registered version, after it has passed its checks.

        `repository` says whose version is meant, where several repositories (or one that was written anew) registered
        the same number. `RegistryError` when the version is not registered, or more than one fits.
        """
        with self._speaking(f"{CHAMPION} of {model} was not moved to version {version}"):
            found = self._find(model, version, repository)
            self.tracking.client.set_registered_model_alias(model, CHAMPION, found.version)
            return _registered(found, is_new=False)

    def version_of(self, model: str, alias: str) -> int | None:
        """The repository version behind an alias; None when nothing stands behind it."""
        with self._speaking(f"{model}@{alias} was not read"):
            found = self._by_alias(model, alias)
            if found is not None and VERSION_TAG not in found.tags:
                raise RegistryError(
                    f"{model}@{alias} is MLflow's version {found.version}, which rfserve did not register; move the "
                    f"alias to one with a tag {VERSION_TAG}"
                )
            return None if found is None else int(found.tags[VERSION_TAG])

    @contextmanager
    def _speaking(self, consequence: str) -> Iterator[None]:
        try:
            yield
        except RfserveError:
            raise
        except Exception as error:  # MLflow lets the exceptions of its stores, of HTTP and of drivers through
            raise RegistryError(
                f"{consequence}: MLflow at {self.tracking.location} failed with {type(error).__name__}: {error}; mend "
                "that and repeat it"
            ) from error

    def _find(self, model: str, version: int, repository: ModelRepository | None) -> Any:
        found = self._search(model, VERSION_TAG, str(version))
        if repository is not None:
            sha256 = repository.manifest_sha256(model, version)
            found = [v for v in found if v.tags[MANIFEST_TAG] == sha256]
        where = self.tracking.location
        if not found:
            raise RegistryError(
                f"{model}/{version} is not registered in {where}; register it with "
                f"`rfserve-export register {model} {version}`"
            )
        if len(found) > 1:
            listed = ", ".join(f"{v.version} (from {v.tags[REPOSITORY_TAG]})" for v in found)
            raise RegistryError(
                f"{model}/{version} is registered {len(found)} times in {where}, as {listed}; say whose with "
                "--repository"
            )
        return found[0]

    def _search(self, model: str, tag: str, value: str) -> list[Any]:
        return list(self.tracking.client.search_model_versions(f"name = '{model}' and tags.`{tag}` = '{value}'"))

    def _by_alias(self, model: str, alias: str) -> Any | None:
        from mlflow.exceptions import MlflowException

        try:
            return self.tracking.client.get_model_version_by_alias(model, alias)
        except MlflowException as error:
            # Stores differ in the code for an alias that is not set.
            if error.error_code in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
                return None
            raise

    def _create(self, repository: ModelRepository, manifest: Manifest, sha256: str) -> Any:
        client, spec = self.tracking.client, find(manifest.model)
        name = f"{manifest.model}/{manifest.version}"
        tags = run_record.tags(repository, manifest, sha256)
        with repository.version_folder(manifest.model, manifest.version) as folder:
            changed = manifest.differences(folder)
            if changed:
                raise RegistryError(f"{name} is not as it was published: {'; '.join(changed)}; write a new version")
            figures, circumstances = run_record.measured(spec, folder)
            run = client.create_run(self._experiment(spec), run_name=name, tags=tags)
            run_id: str = run.info.run_id
            try:
                self._log(
                    run_id, run_record.metrics(manifest) | figures, run_record.parameters(manifest) | circumstances
                )
                self._log_configuration(run_id, repository, spec, manifest, folder)
                logged = self._log_model(run, spec, manifest, folder, tags)
                client.set_terminated(run_id, "FINISHED")
            except BaseException:
                with suppress(Exception):
                    client.set_terminated(run_id, "FAILED")
                raise
        self._make_registered_model(spec)
        # Not `models:/<id>` as the source: a database store would look that up in the process's own tracking URI.
        return client.create_model_version(
            spec.name, logged.artifact_location, run_id, tags=tags, model_id=logged.model_id
        )

    def _experiment(self, spec: Served) -> str:
        client, name = self.tracking.client, f"rfserve/{spec.name}"
        found = client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        return str(client.create_experiment(name, artifact_location=self.tracking.artifact_location(spec.name)))

    def _log(self, run_id: str, metrics: Mapping[str, float], parameters: Mapping[str, str]) -> None:
        from mlflow.entities import Metric, Param

        now_ms = int(time.time() * 1e3)
        self.tracking.client.log_batch(
            run_id,
            metrics=[Metric(name, value, now_ms, 0) for name, value in metrics.items()],
            params=[Param(name, value) for name, value in parameters.items()],
        )

    def _log_configuration(
        self, run_id: str, repository: ModelRepository, spec: Served, manifest: Manifest, folder: Path
    ) -> None:
        """The manifest and the configurations of the moment, laid out as in the model repository."""
        home = f"repository/{spec.name}"
        self.tracking.client.log_artifact(run_id, str(folder / FILE_NAME), f"{home}/{manifest.version}")
        for name, text in repository.read_configuration(spec).items():
            if text is not None:
                self.tracking.client.log_text(run_id, text, f"{home}/{name}")

    def _log_model(self, run: Any, spec: Served, manifest: Manifest, folder: Path, tags: Mapping[str, str]) -> Any:
        from mlflow.entities import LoggedModelOutput

        client, run_id = self.tracking.client, run.info.run_id
        logged = client.create_logged_model(
            run.info.experiment_id, name=spec.name, source_run_id=run_id, tags=dict(tags), model_type="onnx"
        )
        try:
            with tempfile.TemporaryDirectory(prefix="rfserve-") as scratch:
                target = Path(scratch) / "model"
                mlflow_model.save(
                    spec,
                    manifest,
                    folder,
                    target,
                    artifact_path=logged.artifact_location,
                    run_id=run_id,
                    model_uuid=logged.model_id,
                    model_id=logged.model_id,
                )
                client.log_model_artifacts(logged.model_id, str(target))
            client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
        except BaseException:
            with suppress(Exception):
                client.finalize_logged_model(logged.model_id, "FAILED")
            raise
        return client.finalize_logged_model(logged.model_id, "READY")

    def _make_registered_model(self, spec: Served) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self.tracking.client.create_registered_model(spec.name, description=spec.summary)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise


def _registered(version: Any, *, is_new: bool) -> Registered:
    return Registered(
        model=version.name,
        version=int(version.tags[VERSION_TAG]),
        registry_version=str(version.version),
        run_id=str(version.run_id),
        is_new=is_new,
    )
