"""The options that say which model repository a command works on."""

import argparse
from importlib import import_module
from pathlib import Path
from typing import Any

from rfserve.export.errors import RepositoryError
from rfserve.export.model_repository import ModelRepository
from rfserve.export.object_location import SCHEME
from rfserve.export.repository import Repository
from rfserve.export.spec import RfserveError

STORE_TIMEOUT_S = 30.0


def repository_at(location: str, store_timeout_s: float = STORE_TIMEOUT_S) -> ModelRepository:
    """The repository at a location as users write it: a folder, or `s3://…`.

    An object store that is silent for `store_timeout_s` gives an error. `RepositoryError` when the location is none.
    """
    if not location.startswith(SCHEME):
        return Repository(Path(location))
    try:
        # boto3 is an extra: nobody with a folder needs it.
        module = import_module("rfserve.export.object_repository")
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in {"boto3", "botocore"}:
            raise
        raise RepositoryError(f"{location} needs boto3, which is not installed: pip install 'rfserve[s3]'") from error
    repository: ModelRepository = module.ObjectRepository(location, store_timeout_s)
    return repository


def add_to(command: argparse.ArgumentParser) -> None:
    """Give a command `--repository`; its value is a `ModelRepository`."""
    command.add_argument(
        "--repository",
        action=_Repository,
        default=Repository(Path("model_repository")),
        metavar="LOCATION",
        help="a folder, or s3://BUCKET/PREFIX (default: model_repository)",
    )
    command.add_argument(
        "--store-timeout-s",
        action=_Timeout,
        type=float,
        default=STORE_TIMEOUT_S,
        help="silence of an object store that is an error (default: %(default)s)",
    )


class _Repository(argparse.Action):
    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, _: str | None = None
    ) -> None:
        namespace.repository_location = values
        _build(parser, namespace)


class _Timeout(argparse.Action):
    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, _: str | None = None
    ) -> None:
        namespace.store_timeout_s = values
        _build(parser, namespace)


def _build(parser: argparse.ArgumentParser, namespace: argparse.Namespace) -> None:
    """Make the repository anew from what is known of the two options, whichever comes first."""
    location = getattr(namespace, "repository_location", None)
    if location is not None:
        try:
            namespace.repository = repository_at(location, namespace.store_timeout_s)
        except RfserveError as error:
            parser.error(str(error))
