"""A checkpoint file: its tensors under the network's names, and what it says of itself."""

import hashlib
import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from rfserve.export.errors import CheckpointError
from rfserve.export.networks import convnext_names

# Where trainers put the state dict inside a pickle; Lightning uses the first.
STATE_KEYS = ("state_dict", "model_state_dict", "model")
# One of these ends every network's parameter list, so what stands before it is the trainer's prefix.
LANDMARKS = ("position_head.weight", "position_head.0.weight")
NAMED_AT_MOST = 200


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """State dict by Heimdall's names (ConvNeXt by timm's), the file's SHA-256 and its own description.

    `metadata` may hold `encoder_order` (str), `scaling` (see `rfserve.export.scaling`) and `training`, what is to be
    kept of how it was trained.
    """

    path: Path
    sha256: str
    state: Mapping[str, Tensor]
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def load_into(self, network: nn.Module) -> None:
        """Load every tensor; `CheckpointError` that names all missing, extra and misshaped ones otherwise."""
        wanted = network.state_dict()
        missing = sorted(set(wanted) - set(self.state))
        extra = sorted(set(self.state) - set(wanted))
        misshaped = [
            f"{n}: got {tuple(self.state[n].shape)}, expected {tuple(wanted[n].shape)}"
            for n in sorted(set(wanted) & set(self.state))
            if self.state[n].shape != wanted[n].shape
        ]
        problems = [
            f"{len(names)} {what}: {'; '.join(names[:NAMED_AT_MOST])}"
            for what, names in (("missing", missing), ("extra", extra), ("misshaped", misshaped))
            if names
        ]
        if problems:
            raise CheckpointError(
                f"{self.path.name} does not fit {type(network).__name__}: {' | '.join(problems)}. "
                "Give the checkpoint of this network (and of this --variant)"
            )
        broken = sorted(n for n, t in self.state.items() if t.is_floating_point() and not t.isfinite().all())
        if broken:
            raise CheckpointError(f"{self.path.name}: non-finite numbers in {', '.join(broken)}; the training diverged")
        network.load_state_dict(dict(self.state))


def read(path: Path) -> Checkpoint:
    """Read a plain state dict, a Lightning `.ckpt` or a safetensors file; nothing in it is executed.

    `CheckpointError` when the file is missing, is not one of these, or holds more than tensors and plain values.
    """
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}; give a .pt, .pth, .ckpt or .safetensors file")
    if path.suffix == ".safetensors":
        content, metadata = _read_safetensors(path)
    else:
        content, metadata = _read_pickle(path)
    state = convnext_names.translate(_without_prefix(content, path))
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Checkpoint(path=path, sha256=digest, state=state, metadata=metadata)


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(path, framework="pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            notes = dict(file.metadata() or {})
            state |= _shared(state, notes)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path.name} is not a safetensors file: {error}; save it again") from error
    if "scaling" in notes:
        try:
            notes["scaling"] = json.loads(notes["scaling"])
        except json.JSONDecodeError as error:
            raise CheckpointError(f"{path.name}: metadata 'scaling' is not JSON: {error}") from error
    return state, notes


def _shared(state: Mapping[str, Tensor], notes: Mapping[str, str]) -> dict[str, Tensor]:
    """Tensors that safetensors' `save_model` wrote once for several names; the notes say which for the other names."""
    others = {name: kept for name, kept in notes.items() if name not in state and kept in state}
    # A whole network under a second name, as a compiled one is, is not another network.
    return {name: state[kept] for name, kept in others.items() if not (_is_landmark(name) and _is_landmark(kept))}


def _is_landmark(name: str) -> bool:
    return f".{name}".endswith(tuple(f".{landmark}" for landmark in LANDMARKS))


def _read_pickle(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path.name} is not a PyTorch checkpoint of tensors and plain values: it is damaged, or loading it would "
            "run code from it. Save the state dict alone: torch.save(model.state_dict(), FILE)"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path.name} is not a PyTorch checkpoint: {error}; was it copied whole?") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path.name} holds a {type(content).__name__}; expected a dict of tensors by name")
    for key in STATE_KEYS:
        inner = content.get(key)
        if isinstance(inner, dict):
            metadata = {k: content[k] for k in ("encoder_order", "scaling", "training") if k in content}
            return _tensors(inner, path), metadata
    return _tensors(content, path), {}


def _tensors(content: Mapping[Any, Any], path: Path) -> dict[str, Tensor]:
    other = sorted(str(k) for k, v in content.items() if not isinstance(v, Tensor))
    if other or not content:
        raise CheckpointError(
            f"{path.name}: {f'{other} are no tensors' if other else 'no tensor in it'}; expected a state dict, or a "
            f"dict with one under {', '.join(STATE_KEYS)}"
        )
    return {str(k): v for k, v in content.items()}


def _without_prefix(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The network's tensors without the trainer's prefix; what stands beside it (a loss's weights) is left out."""
    for landmark in LANDMARKS:
        prefixes = sorted(n.removesuffix(landmark) for n in state if f".{n}".endswith(f".{landmark}"))
        if len(prefixes) > 1:
            raise CheckpointError(
                f"{path.name} holds several networks, under {prefixes}; expected one: save the one to be served alone"
            )
        if prefixes:
            return {n.removeprefix(prefixes[0]): t for n, t in state.items() if n.startswith(prefixes[0])}
    return state
