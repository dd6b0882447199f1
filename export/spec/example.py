"""Random inputs of any served model, drawn from its declaration."""

from collections.abc import Mapping

import numpy as np

from rfserve.export.spec.errors import SpecError
from rfserve.export.spec.model import Served
from rfserve.export.spec.tensor import Array, TensorSpec


def example(
    spec: Served,
    *,
    batch: int = 1,
    sizes: Mapping[str, int] | None = None,
    seed: int = 0,
    active: int | None = None,
) -> dict[str, Array]:
    """Inputs by name, every row different.

    `sizes` overrides the served sizes of dynamic axes. Masked models get a random number of active receivers per row
    (at least one) unless `active` fixes it; active receivers come first, as clients send them.
    """
    rng = np.random.default_rng(seed)
    chosen = spec.served_sizes | dict(sizes or {})
    return {t.name: _draw(t, rng, t.shape(batch, chosen), active) for t in spec.inputs}


def _draw(tensor: TensorSpec, rng: np.random.Generator, shape: tuple[int, ...], active: int | None) -> Array:
    values = tensor.values
    if values is None:
        raise SpecError(f"input {tensor.name} declares no values, so no example can be made")
    if values.kind == "mask":
        slots = shape[-1]
        counts = rng.integers(1, slots + 1, shape[:-1]) if active is None else np.full(shape[:-1], min(active, slots))
        return np.asarray(np.arange(slots) < counts[..., None])
    if values.kind == "ids":
        pool = np.arange(int(np.min(values.low)), int(np.max(values.high)))
        rows = [rng.choice(pool, shape[-1], replace=shape[-1] > pool.size) for _ in range(int(np.prod(shape[:-1])))]
        drawn = np.stack(rows).reshape(shape)
        return np.asarray(drawn, dtype=tensor.dtype.numpy)
    if values.kind == "normal":
        return rng.normal(0.0, values.high, shape).astype(tensor.dtype.numpy)
    return rng.uniform(values.low, values.high, shape).astype(tensor.dtype.numpy)
