"""How a checkpoint's inputs and outputs were scaled in training; it is part of the exported graph.

Heimdall takes positions as offsets from the mean of the active receivers, in metres with a fixed number of metres for
a degree, and then scales features, positions and targets with the training set's figures.
"""

import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from rfserve.export.errors import ScalingError
from rfserve.export.spec import ModelSpec
from rfserve.export.spec.tensor import Array

# Of a great circle on the sphere of mean radius 6,371,008.8 m.
METRES_PER_DEGREE = 111_195.0
# Heimdall's metres per degree of latitude and of longitude.
HEIMDALL_METRES_PER_DEGREE = (111_000.0, 78_000.0)
RECEIVERS = "receivers"
# Inputs to inputs: the spec's examples to where a network was trained.
Moved = Callable[[dict[str, Array]], dict[str, Array]]
# Of a number of receivers and a factor.
Pairs = tuple[tuple[float, float], ...]
BY_RECEIVERS = ("uncertainty_by_receivers", "reach_by_receivers")
LENGTHS = {"metres_per_degree": 2, "feature_offset": 6, "feature_scale": 6, "position_offset": 3, "position_scale": 3}
LENGTHS |= dict.fromkeys(("target_offset", "target_scale", "uncertainty_scale"), 2)


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """Physical units to the network's and back: network = (physical - offset) / scale.

    `origin` is None (coordinates are passed as they are), "receivers" (offsets from the mean of the active receivers)
    or a fixed (latitude °, longitude °). With an origin, coordinates are metres (north, east) before offset and scale,
    with `metres_per_degree` (latitude, longitude). `features_are_local` says that the features' latitude, longitude
    and altitude columns are offsets of the same kind. `target_*` belongs to the position (north, east), and
    `target_scale` to the uncertainty as well, which is then multiplied by `uncertainty_scale`: what held-out truths
    say of it. `uncertainty_by_receivers` does so again by how many receivers are active: pairs of a number of them and
    a factor, linear between two, and that of the nearest beyond. `reach_m` is how far from a fixed origin the mean of
    the receivers was in training, times the factor of `reach_by_receivers` (such pairs again: the mean of a few strays
    farther); what is farther off gets a sigma of at least the distance beyond it. The default is the identity.

    Numbers may be given as any sequence, array or tensor, and are held as tuples of plain floats, which JSON and
    checkpoints can hold; `ScalingError` for anything else.
    """

    origin: str | tuple[float, float] | None = None
    metres_per_degree: tuple[float, float] = HEIMDALL_METRES_PER_DEGREE
    features_are_local: bool = False
    feature_offset: tuple[float, ...] = (0.0,) * 6
    feature_scale: tuple[float, ...] = (1.0,) * 6
    position_offset: tuple[float, ...] = (0.0,) * 3
    position_scale: tuple[float, ...] = (1.0,) * 3
    target_offset: tuple[float, float] = (0.0, 0.0)
    target_scale: tuple[float, float] = (1.0, 1.0)
    uncertainty_scale: tuple[float, float] = (1.0, 1.0)
    uncertainty_by_receivers: Pairs = ()
    reach_m: float | None = None
    reach_by_receivers: Pairs = ()

    def __post_init__(self) -> None:
        for name in (f.name for f in fields(self)):
            object.__setattr__(self, name, _plain(getattr(self, name)))
        for name, length in LENGTHS.items():
            values = getattr(self, name)
            if not (_are_numbers(values) and len(values) == length and all(math.isfinite(v) for v in values)):
                raise ScalingError(f"scaling {name}: got {values!r}; expected {length} finite numbers")
            if ("scale" in name or name == "metres_per_degree") and not all(v > 0 for v in values):
                raise ScalingError(f"scaling {name}: got {values}; expected every number above 0")
        for name in BY_RECEIVERS:
            self._check_receivers(name)
        self._check_origin()
        reach_m = self.reach_m
        if reach_m is not None and not (
            isinstance(self.origin, tuple) and _are_numbers((reach_m,)) and math.isfinite(reach_m) and reach_m > 0
        ):
            raise ScalingError(
                f"scaling reach_m: got {reach_m!r} m with origin {self.origin!r}; expected above 0, and a place"
            )
        if self.reach_by_receivers and reach_m is None:
            raise ScalingError("scaling reach_by_receivers: got factors without reach_m; expected metres to multiply")
        if not isinstance(self.features_are_local, bool):
            raise ScalingError(f"scaling features_are_local: got {self.features_are_local!r}; expected true or false")
        if self.features_are_local and self.origin is None:
            raise ScalingError("scaling features_are_local: got true without an origin; expected an origin")

    def _check_origin(self) -> None:
        origin = self.origin
        if origin is None or origin == RECEIVERS:
            return
        if not (isinstance(origin, tuple) and _are_numbers(origin) and len(origin) == 2):
            raise ScalingError(f"scaling origin: got {origin!r}; expected null, {RECEIVERS!r} or [latitude, longitude]")
        if not (abs(origin[0]) <= 90 and abs(origin[1]) <= 180):
            raise ScalingError(f"scaling origin: got {origin}; expected [latitude, longitude] in degrees")

    def _check_receivers(self, name: str) -> None:
        pairs = getattr(self, name)
        sound = isinstance(pairs, tuple) and all(
            _are_numbers(pair) and len(pair) == 2 and all(math.isfinite(v) and v > 0 for v in pair) for pair in pairs
        )
        if not (sound and all(before[0] < after[0] for before, after in pairwise(pairs))):
            raise ScalingError(
                f"scaling {name}: got {pairs!r}; expected pairs [receivers, factor], all above 0, "
                "and more receivers in each than in the one before"
            )

    @property
    def is_identity(self) -> bool:
        """Whether tensors pass unchanged."""
        return self == Scaling()

    @property
    def units(self) -> dict[str, tuple[float, float]]:
        """The physical size of one network unit in each output: degrees or what the target is in, and metres."""
        north, east = self.target_scale
        metres = self.metres_per_degree if self.origin is not None else (1.0, 1.0)
        sure = self.uncertainty_scale
        return {
            "positions": (north / metres[0], east / metres[1]),
            "uncertainties": (north * sure[0], east * sure[1]),
        }

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Scaling":
        """From JSON; `ScalingError` for unknown names, wrong lengths or values."""
        if not isinstance(content, Mapping):
            raise ScalingError(f"scaling: got a {type(content).__name__}; expected a JSON object, or a dict")
        names = {f.name for f in fields(cls)}
        unknown = sorted(map(str, set(content) - names))
        if unknown:
            raise ScalingError(f"scaling: got unknown entries {unknown}; expected some of {sorted(names)}")
        return cls(**content)

    @classmethod
    def read(cls, path: Path) -> "Scaling":
        """From a JSON file; `ScalingError` when it cannot be read."""
        try:
            content = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise ScalingError(f"scaling file {path}: {error}; expected a JSON object") from error
        if not isinstance(content, dict):
            raise ScalingError(f"scaling file {path}: got a {type(content).__name__}; expected a JSON object")
        return cls.from_dict(content)


def _plain(value: Any) -> Any:
    """Floats for numbers and tuples for what holds several, of NumPy, PyTorch or Python; all else as it is."""
    # An array and a tensor, wherever it is, and a single number of either.
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return tuple(_plain(v) for v in value)
    if isinstance(value, int) and not isinstance(value, bool):
        return float(value) if abs(value) <= sys.float_info.max else math.inf
    return value


def _are_numbers(values: Any) -> bool:
    return isinstance(values, tuple) and all(isinstance(v, float) for v in values)


UNIT_M = 10_000.0
_RECEIVERS_SCALING = Scaling(
    origin=RECEIVERS,
    features_are_local=True,
    feature_offset=(20.0, -100.0, 0.0, 0.0, 0.0, 0.0),
    feature_scale=(20.0, 40.0, 1_000.0, UNIT_M, UNIT_M, 1_000.0),
    position_scale=(UNIT_M, UNIT_M, 1_000.0),
    target_scale=(UNIT_M, UNIT_M),
)
# What networks with new weights work in: units of 10 km from the receivers, or from 0°, 0° where no receiver is known,
# and features near one.
NEW_WEIGHTS = {
    "heimdall_net": _RECEIVERS_SCALING,
    "heimdall_net_pro": _RECEIVERS_SCALING,
    "localization_net": Scaling(origin=(0.0, 0.0), target_scale=(UNIT_M, UNIT_M)),
}


def moved_home(scaling: Scaling, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Inputs of a HeimdallNet with receivers of anywhere, moved to where a network with a fixed origin was trained.

    The mean of all receivers comes to lie at the origin, and their standard deviation is one unit of the network's
    positions. Raw IQ for the front end of such a network has no features yet. Other networks' inputs stay as they are.
    """
    held = dict(inputs)
    if not isinstance(scaling.origin, tuple) or "receiver_positions" not in held:
        return held
    places = held["receiver_positions"][..., :2]
    known = places[np.isfinite(places).all(-1) & np.asarray(held["mask"], bool)]
    middle = known.mean(0, dtype=np.float64)
    apart = np.maximum(known.std(0, dtype=np.float64), 1e-6)
    unit = np.asarray(scaling.position_scale[:2]) / np.asarray(scaling.metres_per_degree)
    for name, columns in (("receiver_positions", slice(0, 2)), ("features", slice(3, 5))):
        if name in held:
            array = held[name].copy()
            array[..., columns] = (array[..., columns] - middle) / apart * unit + np.asarray(scaling.origin)
            held[name] = array
    return held


def network_units(spec: ModelSpec, scaling: Scaling) -> Mapping[str, Array]:
    """The physical size of one network unit in each output, for the parity gate."""
    if not spec.has_weights:
        return {}
    return {name: np.asarray(unit) for name, unit in scaling.units.items()}
