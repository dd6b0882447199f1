"""The one declaration of every served model; numpy and the standard library only."""

from rfserve.export.spec.catalog import ENSEMBLES, GRAPHS, MODELS, find
from rfserve.export.spec.device import DEVICES, Budget, Device
from rfserve.export.spec.errors import ModelNotFound, RfserveError, SpecError, TensorError
from rfserve.export.spec.example import example
from rfserve.export.spec.model import EnsembleSpec, ModelSpec, Placement, Step
from rfserve.export.spec.tensor import Axis, DType, TensorSpec

__all__ = [
    "DEVICES",
    "ENSEMBLES",
    "GRAPHS",
    "MODELS",
    "Axis",
    "Budget",
    "DType",
    "Device",
    "EnsembleSpec",
    "ModelNotFound",
    "ModelSpec",
    "Placement",
    "RfserveError",
    "SpecError",
    "Step",
    "TensorError",
    "TensorSpec",
    "example",
    "find",
]
