"""The Kubernetes API server, asked over HTTPS as a pod may: with the token and the authority of its service account."""

import http.client
import json
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rfserve.release.errors import ClusterError

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
REMEDIES = {
    401: "is the token of this cluster, and has it expired?",
    403: "the service account has to be allowed to list endpointslices of discovery.k8s.io in this namespace",
    404: "is this the Kubernetes API, 1.21 or newer?",
}


@dataclass(frozen=True, kw_only=True)
class ClusterApi:
    """The API at `url` (`https://host:port`), for one namespace.

    `token` is read again for each call, because the kubelet renews it; `authority` is the PEM file that the server's
    certificate is checked with. `timeout_s` bounds each wait for bytes.
    """

    url: str
    namespace: str
    token: Path = ACCOUNT / "token"
    authority: Path = ACCOUNT / "ca.crt"
    timeout_s: float = 10.0

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme != "https" or not parts.hostname:
            raise ClusterError(f"got API server {self.url!r}; expected https://HOST:PORT: a token goes there")

    @classmethod
    def of_pod(
        cls, environment: Mapping[str, str] = os.environ, *, folder: Path = ACCOUNT, namespace: str | None = None
    ) -> "ClusterApi":
        """As the kubelet tells a pod: address from the environment, the rest from the service account's folder.

        `ClusterError` when this is no pod, or one without a token.
        """
        host = environment.get("KUBERNETES_SERVICE_HOST")
        port = environment.get("KUBERNETES_SERVICE_PORT_HTTPS") or environment.get("KUBERNETES_SERVICE_PORT") or "443"
        if not host:
            raise ClusterError(
                "KUBERNETES_SERVICE_HOST is not set: this is no pod of a cluster; name the pods with --pods, or "
                "the API with --api-server"
            )
        url = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
        return cls(
            url=url,
            namespace=namespace or _read(folder / "namespace"),
            token=folder / "token",
            authority=folder / "ca.crt",
        )

    def get(self, path: str) -> dict[str, Any]:
        """The JSON object at a path; `ClusterError` with the server's reason."""
        parts = urlsplit(self.url)
        try:
            context = ssl.create_default_context(cafile=str(self.authority))
        except OSError as error:
            raise ClusterError(f"cannot read the cluster's authority {self.authority}: {error}") from error
        # Straight to the server: what a proxy of the environment would be given is a token.
        connection = http.client.HTTPSConnection(
            str(parts.hostname), parts.port or 443, timeout=self.timeout_s, context=context
        )
        headers = {"Authorization": f"Bearer {_read(self.token)}", "Accept": "application/json"}
        try:
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            status, body = answer.status, answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise ClusterError(
                f"the Kubernetes API at {self.url} does not answer: {error or type(error).__name__}; is the way there "
                "open (a NetworkPolicy?), and is --certificate-authority its own?"
            ) from error
        finally:
            connection.close()
        try:
            document = json.loads(body)
        except ValueError:
            document = None
        if status != http.client.OK:
            said = document.get("message") if isinstance(document, dict) else None
            remedy = REMEDIES.get(status, "see its log")
            raise ClusterError(
                f"the Kubernetes API at {self.url} refuses: {status} {said or body[:200].decode(errors='replace')}; "
                f"{remedy}"
            )
        if not isinstance(document, dict):
            raise ClusterError(f"the Kubernetes API at {self.url} answered {body[:200]!r}; expected a JSON object")
        return document


def _read(file: Path) -> str:
    try:
        text = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ClusterError(
            f"cannot read {file}: {error}; the pod needs automountServiceAccountToken: true, or a projected token"
        ) from error
    if not text or not text.isprintable():
        raise ClusterError(f"{file} holds nothing to use; expected one line")
    return text
