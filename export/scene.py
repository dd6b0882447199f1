"""Realistic inputs for a network: receivers around an emitter, through the front end that feeds it in service.

A spec's `example` fills tensors with independent random numbers, which no recording looks like. What a change of
precision does to a position has to be measured on inputs that have the structure of recordings.
"""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from rfserve.export import onnx_file
from rfserve.export.networks.catalog import build
from rfserve.export.scaling import METRES_PER_DEGREE, Moved
from rfserve.export.spec import ENSEMBLES, EnsembleSpec, ModelSpec
from rfserve.export.spec.tensor import Array, TensorSpec

SAMPLE_RATES_HZ = (12e3, 48e3, 250e3, 1e6, 2.4e6)
EMISSIONS = ("carrier", "keyed", "narrow-band FM", "noise-like", "pulsed")
# Log-distance path loss of built-up areas (Rappaport, Wireless Communications, table 4.2): exponent and shadowing.
PATH_LOSS_EXPONENT = 3.0
SHADOWING_DB = 6.0
REFERENCE_M = 1_000.0
TUNING_ERROR_HZ = 500.0
OSCILLATOR_HZ = 50.0
FRONT_END_BATCH = 8


def scenes(spec: ModelSpec, count: int, *, seed: int = 0, moved: Moved = dict) -> dict[str, Array]:
    """`count` rows of inputs of a network, every one a scene of its own: emission, levels, geometry, noise.

    Raw IQ of the scenes runs through the eager front end of the ensemble that serves the network. The same seed gives
    the same rows. Scenes lie anywhere on Earth: `moved` takes them to where the network was trained, each on its own,
    so that its receivers stay apart. `ValueError` for a model that no ensemble ends in.
    """
    ensemble = next((e for e in ENSEMBLES.values() if e.steps[-1].model.name == spec.name), None)
    if ensemble is None:
        raise ValueError(f"no ensemble ends in {spec.name}; expected a network that raw IQ leads to")
    rng = np.random.default_rng(seed)
    drawn = [_scene(ensemble, rng) for _ in range(count)]
    known = {t.name: np.stack([row[t.name] for row in drawn]) for t in ensemble.inputs}
    for step in ensemble.steps[:-1]:
        front_end = build(step.model)
        inputs = {name: known[source] for name, source in step.input_map.items()}
        parts = [
            onnx_file.run_eager(front_end, step.model, {n: a[i : i + FRONT_END_BATCH] for n, a in inputs.items()})
            for i in range(0, count, FRONT_END_BATCH)
        ]
        known |= {to: np.concatenate([p[name] for p in parts]) for name, to in step.output_map.items()}
    rows = {name: known[source] for name, source in ensemble.steps[-1].input_map.items()}
    each = [moved({name: array[i : i + 1] for name, array in rows.items()}) for i in range(count)]
    return {name: np.concatenate([row[name] for row in each]) for name in rows}


def _scene(ensemble: EnsembleSpec, rng: np.random.Generator) -> dict[str, Array]:
    """One row of an ensemble's inputs."""
    slots = ensemble.served_sizes.get("receivers", 1)
    samples = ensemble.served_sizes["raw_samples"]
    active = int(rng.integers(1, slots + 1))
    rate_hz = float(rng.choice(SAMPLE_RATES_HZ))
    # Receivers are tuned to what they look for: to within some parts in a million and a channel's raster.
    offset = float(np.clip(rng.normal(0.0, TUNING_ERROR_HZ) / rate_hz, -0.3, 0.3))
    emission = _emission(str(rng.choice(EMISSIONS)), samples, offset, rng)
    radius_m = 10 ** rng.uniform(2.7, 4.5)
    apart_m = rng.normal(0.0, radius_m, (slots, 2))
    distance_m = np.hypot(*(apart_m - rng.normal(0.0, radius_m, 2)).T)
    loss_db = 10 * PATH_LOSS_EXPONENT * np.log10(np.maximum(distance_m, 10.0) / REFERENCE_M)
    level_db = rng.uniform(0, 40) - loss_db + rng.normal(0.0, SHADOWING_DB, slots)
    # Signal-to-noise ratios that receivers report; automatic gain then sets the level.
    amplitude = 10 ** (np.clip(level_db, -15.0, 60.0) / 20)
    turn = np.arange(samples) * rng.normal(0.0, OSCILLATOR_HZ, (slots, 1)) / rate_hz + rng.random((slots, 1))
    noise = rng.normal(0.0, math.sqrt(0.5), (2, slots, samples))
    mixed = amplitude[:, None] * emission * np.exp(2j * np.pi * turn) + noise[0] + 1j * noise[1]
    mixed *= 10 ** (rng.uniform(-40, -12) / 20) / np.sqrt(np.mean(np.abs(mixed) ** 2, -1, keepdims=True))
    centre = np.array([rng.uniform(-60, 70), rng.uniform(-180, 180)])
    degrees = centre + apart_m / (METRES_PER_DEGREE * np.array([1.0, math.cos(math.radians(centre[0]))]))
    held: Mapping[str, Array] = {
        "raw_iq": np.stack([mixed.real, mixed.imag], 1),
        "sample_rate_hz": np.full(slots, rate_hz),
        "full_scale_dbm": np.full(slots, rng.choice([0.0, -30.0])),
        "receiver_positions": np.column_stack([degrees, rng.uniform(0, 500, slots)]),
        "receiver_ids": rng.permutation(slots),
        "mask": np.ones(slots, bool),
    }
    return {t.name: _padded(t, held[t.name], active) for t in ensemble.inputs}


def _padded(tensor: TensorSpec, values: Array, active: int) -> Array:
    """The active receivers and zeros behind them; the one receiver of a tensor that has no such axis."""
    kept = np.array(values, tensor.dtype.numpy)
    if "receivers" not in tensor.axes:
        return np.asarray(kept[0])
    kept[active:] = 0
    return kept


def _emission(kind: str, samples: int, offset: float, rng: np.random.Generator) -> NDArray[np.complex128]:
    """A complex baseband emission of unit mean power, (samples), `offset` cycles a sample from the centre."""
    time = np.arange(samples)
    carrier = np.exp(2j * np.pi * time * offset)
    if kind == "keyed":
        dot = int(rng.integers(samples // 64, samples // 8))
        carrier = carrier * np.repeat(rng.integers(0, 2, samples // dot + 1), dot)[:samples]
        carrier[: dot // 2] = 1.0
    elif kind == "narrow-band FM":
        message = np.cumsum(np.sin(2 * np.pi * time * rng.uniform(0.001, 0.01)))
        carrier = carrier * np.exp(2j * np.pi * rng.uniform(0.005, 0.03) * message)
    elif kind == "noise-like":
        spectrum = np.fft.fft(rng.normal(size=samples) + 1j * rng.normal(size=samples))
        spectrum[np.abs(np.fft.fftfreq(samples)) > rng.uniform(0.02, 0.4)] = 0
        carrier = carrier * np.fft.ifft(spectrum)
    elif kind == "pulsed":
        period, width = int(rng.integers(300, 3000)), int(rng.integers(30, 250))
        carrier = carrier * (time % period < width)
    power = float(np.mean(np.abs(carrier) ** 2))
    return np.asarray(carrier / math.sqrt(power))
