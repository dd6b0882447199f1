"""`rfserve-export register`: put a published version into MLflow."""

import argparse
from typing import Any

from rfserve.export.commands import registry_option, repository_option
from rfserve.export.model_repository import ModelRepository
from rfserve.export.registry import CANDIDATE, Registry
from rfserve.export.spec import find


def add_to(commands: Any) -> None:
    """Add the command to the sub-parsers of `rfserve-export`."""
    register = commands.add_parser("register", help=f"register a published version in MLflow, as {CANDIDATE}")
    register.add_argument("model", metavar="MODEL")
    register.add_argument("version", type=int, metavar="VERSION")
    register.set_defaults(run=_register)
    repository_option.add_to(register)
    registry_option.add_to(register)


def _register(options: argparse.Namespace) -> int:
    repository: ModelRepository = options.repository
    manifest = repository.manifest(find(options.model).name, options.version)
    print(Registry.from_options(options).register(repository, manifest).uri)
    return 0
