"""What kubectl renders, each target once."""

import copy
import shutil
from collections.abc import Callable
from functools import cache

import pytest
import yaml
from rendering import Manifests, render


@pytest.fixture(scope="session")
def rendered(tmp_path_factory) -> Callable[[str], str]:
    """The YAML of a target by its name."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed, so nothing can be rendered")
    return cache(lambda target: render(target, tmp_path_factory.mktemp("kustomization")))


@pytest.fixture(scope="session")
def manifests(rendered) -> Callable[[str], Manifests]:
    """The objects of a target by its name, to be changed as one likes."""
    parsed = cache(lambda target: Manifests(yaml.safe_load_all(rendered(target))))
    return lambda target: copy.deepcopy(parsed(target))
