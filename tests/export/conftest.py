"""Heimdall's own numbers: checkpoints filled by a recipe, and what Heimdall's networks answer with them."""

import json
import zlib
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from rfserve.export import parity

GOLDENS = Path(__file__).parent / "goldens"


def _filled(name: str, shape: list[int], dtype: str) -> Tensor:
    """One tensor of the recipe: a seed from the name, a distribution from the kind of parameter."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith("num_batches_tracked"):
        values = np.zeros(shape)
    elif name.endswith("running_var"):
        values = rng.uniform(0.5, 1.5, shape)
    elif name.endswith("running_mean"):
        values = rng.normal(0, 0.1, shape)
    elif len(shape) == 1 and name.endswith("weight"):
        values = rng.uniform(0.8, 1.2, shape)
    elif len(shape) == 1:
        values = rng.normal(0, 0.05, shape)
    else:
        values = rng.normal(0, 1 / np.sqrt(np.prod(shape[1:])), shape)
    return torch.from_numpy(np.asarray(values).astype(dtype))


@pytest.fixture(scope="session")
def heimdall_state() -> Callable[[str], dict[str, Tensor]]:
    """The state dict of a Heimdall checkpoint, under Heimdall's names."""
    layout = json.loads((GOLDENS / "state_dict_layout.json").read_text())
    return lambda network: {name: _filled(name, shape, dtype) for name, (shape, dtype) in layout[network].items()}


@pytest.fixture(scope="session")
def golden() -> Callable[[str], dict[str, np.ndarray]]:
    """Inputs and outputs of a network: inputs under the spec's names, outputs as `positions` and `uncertainties`."""

    def load(network: str) -> dict[str, np.ndarray]:
        content = dict(np.load(GOLDENS / f"golden_{network}.npz"))
        names = {
            "positions": "receiver_positions",
            "pred_positions": "positions",
            "pred_uncertainties": "uncertainties",
        }
        return {names.get(k, k): v for k, v in content.items()}

    return load


@pytest.fixture(scope="module")
def brief_gate() -> Iterator[None]:
    """The parity gate with the first of its cases only, for modules that publish much and test what lies around it."""
    every = parity.cases
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(parity, "cases", lambda spec: islice(every(spec), 1))
        yield
