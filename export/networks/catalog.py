"""Which torch module computes a served model: the class of the same name, in the module with the spec's stem."""

from importlib import import_module
from typing import Any

from torch import nn

from rfserve.export.errors import ExportError
from rfserve.export.networks.iq_encoder import ENCODER_ORDERS, MBCONV, initialise
from rfserve.export.spec import ModelSpec

HEIMDALL_NETS = ("heimdall_net", "heimdall_net_pro")


def network_class(spec: ModelSpec) -> type[nn.Module]:
    """`HeimdallNet` of `heimdall_net.py` for `heimdall_net`, and so on; `ExportError` when there is none."""
    name = "".join(part.capitalize() for part in spec.name.split("_"))
    try:
        found: type[nn.Module] = getattr(import_module(f"rfserve.export.networks.{spec.name}"), name)
    except (ImportError, AttributeError) as error:
        raise ExportError(
            f"no network computes {spec.name!r}: {error}; add {name} to networks/{spec.name}.py"
        ) from error
    return found


def require_choices(spec: ModelSpec, *, variant: str | None, encoder_order: str | None) -> None:
    """`ExportError` when the model has no such variant or encoder order."""
    if variant is not None and variant not in spec.variants:
        choice = f"one of {', '.join(spec.variants)}" if spec.variants else "none: it has one size"
        raise ExportError(f"{spec.name}: got variant {variant!r}; expected {choice}")
    ordered = spec.name in HEIMDALL_NETS
    if encoder_order is not None and (not ordered or encoder_order not in ENCODER_ORDERS):
        choice = f"one of {', '.join(ENCODER_ORDERS)}" if ordered else "none: it has no IQ encoder"
        raise ExportError(f"{spec.name}: got encoder order {encoder_order!r}; expected {choice}")


def build(
    spec: ModelSpec, *, variant: str | None = None, encoder_order: str | None = None, seed: int | None = 0
) -> nn.Module:
    """The network of `spec` in evaluation mode; `seed` None leaves the weights to be loaded.

    `variant` is the size of a LocalizationNet (default: the spec's first), `encoder_order` the IQ encoder's order of a
    HeimdallNet (default `mbconv`). `ExportError` when the model has no such choice.
    """
    require_choices(spec, variant=variant, encoder_order=encoder_order)
    options: dict[str, Any] = {"order": encoder_order or MBCONV} if spec.name in HEIMDALL_NETS else {}
    if spec.variants:
        options["variant"] = variant or spec.variants[0]
    network = network_class(spec)(**options)
    if spec.has_weights and seed is not None:
        initialise(network, seed)
    return network.eval()
