"""Requests that show whether a server answers, in files that a probe sends with nothing but the standard library.

`index.json` lists every model whose readiness counts, and for each network one request: its body is `NAME.request`, in
the binary form of Triton's HTTP endpoint. An ensemble has no instance of its own, and its steps are asked.

A request has as many rows as the batcher joins: two of them at once are two executions, and the second finds the first
instance busy. With one row, one instance took both, and one that was dead got none.
"""

import json
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

from rfserve.export import durable_files
from rfserve.export.spec import ModelSpec, example
from rfserve.export.spec.model import Served
from rfserve.export.spec.queueing import Priority, largest_formed_batch
from rfserve.export.spec.tensor import TensorSpec

INDEX = "index.json"
REQUEST_ID = "rfserve-canary"
# Less than the time-out of the probe that sends it, which would end without a reason.
DEADLINE_S = 4.0
# Where nobody has measured what a row costs, the batcher joins as many as there may be.
MOST_ROWS = 8
# More than any model has slots.
MOST_RECEIVERS = 1000


def write(folder: Path, specs: Sequence[Served], target: str, cores: Mapping[str, int | None]) -> None:
    """Write the requests of the models, as `target` serves them on machines of so many cores (None: the specs')."""
    files: dict[str, bytes] = {}
    canaries = []
    for spec in (s for s in specs if isinstance(s, ModelSpec)):
        given = cores.get(spec.name)
        placed = spec if given is None else spec.on_cores(target, given)
        rows = min(largest_formed_batch(placed, target), MOST_ROWS)
        header, payload = _request(spec, rows)
        files[f"{spec.name}.request"] = header + payload
        canaries.append(
            {
                "model": spec.name,
                "instances": placed.placements[target].instances,
                "header_bytes": len(header),
                "deadline_s": DEADLINE_S,
                "outputs": {t.name: _shape_and_bytes(t, rows, spec.served_sizes) for t in spec.outputs},
            }
        )
    # Last: what it names is there.
    files[INDEX] = json.dumps({"models": [s.name for s in specs], "canaries": canaries}, indent=1).encode()
    folder.mkdir(parents=True, exist_ok=True)
    with durable_files.replaced(files, folder):
        pass


def _shape_and_bytes(tensor: TensorSpec, rows: int, sizes: Mapping[str, int]) -> tuple[list[int], int]:
    shape = tensor.shape(rows, sizes)
    return list(shape), prod(shape) * tensor.dtype.numpy.itemsize


def _request(spec: ModelSpec, rows: int) -> tuple[bytes, bytes]:
    """The JSON header and the tensors behind it, at the served sizes and with every receiver active.

    It overtakes what waits, and the server drops it when its sender has given up.
    """
    inputs: list[dict[str, Any]] = []
    payload = b""
    for tensor, array in zip(spec.inputs, example(spec, batch=rows, active=MOST_RECEIVERS).values(), strict=True):
        data = array.tobytes()
        payload += data
        inputs.append(
            {
                "name": tensor.name,
                "shape": list(array.shape),
                "datatype": tensor.dtype.value,
                "parameters": {"binary_data_size": len(data)},
            }
        )
    parameters = {"priority": int(Priority.URGENT), "timeout": int(DEADLINE_S * 1e6), "binary_data_output": True}
    header = {"id": REQUEST_ID, "parameters": parameters, "inputs": inputs}
    return json.dumps(header).encode(), payload
