"""Where MLflow keeps what is registered: a tracking server, or a folder of one's own."""

import os
import ssl
import urllib.error
import urllib.request
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rfserve.export.errors import RegistryError

# In the working directory, as the model repository is: not beside the repository, which may be a bucket, and not in
# it, where Triton would take it for a model.
EMBEDDED_FOLDER = "mlruns"


class Tracking:
    """An address, and MLflow's client for it.

    `uri` is a URI that MLflow knows, or a folder, which then holds a sqlite file and the artefacts. Without it
    `MLFLOW_TRACKING_URI` counts, and without that the folder `mlruns` in the working directory. The client is the
    address's own: the process's active run and tracking URI stay as they are. `RegistryError` without MLflow.
    """

    def __init__(self, uri: str | None = None, *, timeout_s: float) -> None:
        if find_spec("mlflow") is None:
            raise RegistryError("MLflow is not installed; pip install 'rfserve[registry]'")
        self.timeout_s = timeout_s
        self.uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or EMBEDDED_FOLDER
        self._folder: Path | None = None
        # "databricks" is the one address without a scheme.
        if not urlsplit(self.uri).scheme and self.uri != "databricks":
            self._folder = Path(self.uri).resolve()
            self.uri = f"sqlite:///{self._folder / 'mlflow.db'}"

    @property
    def location(self) -> str:
        """Where it is, as messages say it: without a password."""
        user, at, _ = urlsplit(self.uri).netloc.rpartition("@")
        return self.uri.replace(user + at, "", 1)

    def artifact_location(self, model: str) -> str | None:
        """Where the artefacts of a model go; None leaves that to MLflow."""
        return None if self._folder is None else (self._folder / "artifacts" / model).as_uri()

    @cached_property
    def client(self) -> Any:
        """An `mlflow.MlflowClient`; `RegistryError` when the server does not answer within the time-out."""
        # Registering concerns the tracking server and nobody else; who wants MLflow's telemetry sets this to false.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        self._require_reachable()
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=self.uri)

    def _require_reachable(self) -> None:
        """Ask once and briefly: MLflow's own retries take minutes to give up."""
        if urlsplit(self.uri).scheme not in {"http", "https"}:
            return
        try:
            # The scheme is checked above.
            urllib.request.urlopen(f"{self.location.rstrip('/')}/health", timeout=self.timeout_s).close()  # noqa: S310
        except urllib.error.HTTPError as error:
            # It answers; whether it lets this user in, MLflow will say.
            error.close()
        except OSError as error:
            if isinstance(getattr(error, "reason", error), ssl.SSLError):
                # Which certificates to trust is MLflow's to say.
                return
            raise RegistryError(
                f"no tracking server answers at {self.location} within {self.timeout_s:g} s: {error}; start it, or "
                "give another --tracking-uri"
            ) from error
