"""A repository with every model, and a real tritonserver that serves it."""

from pathlib import Path

import pytest

from rfserve.export.publication import Source, publish
from rfserve.export.repository import Repository
from rfserve.export.spec import MODELS
from rfserve.server.process import ServerOptions, TritonServer


@pytest.fixture(scope="session")
def repository(tmp_path_factory) -> Path:
    """Every served model with untrained weights; LocalizationNet in its smallest size."""
    folder: Path = tmp_path_factory.mktemp("model_repository")
    for name, spec in MODELS.items():
        source = Source(variant="tiny") if name == "localization_net" else Source()
        publish(spec, Repository(folder), source, version=None, report=lambda _: None)
    return folder


@pytest.fixture(scope="session")
def server(repository: Path):
    """The running server."""
    options = ServerOptions(repository=repository, grpc_port=0, http_port=0, metrics_port=0)
    with TritonServer(options) as running:
        yield running
