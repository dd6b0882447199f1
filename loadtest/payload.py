"""Requests to send, drawn from the spec of a model before the clock starts."""

from rfserve.export.spec import example, find
from rfserve.export.spec.tensor import Array

POOL = 16


def pool(model: str, *, size: int = POOL) -> list[dict[str, Array]]:
    """Different single requests at the served sizes, with mixed numbers of active receivers."""
    return [example(find(model), seed=seed) for seed in range(size)]
