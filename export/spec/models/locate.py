"""locate: raw IQ and receiver geometry in, fix out, with HeimdallNet."""

from rfserve.export.spec.device import measured, promised
from rfserve.export.spec.model import EnsembleSpec, ModelSpec, Step
from rfserve.export.spec.models.heimdall_net import HEIMDALL_NET, RECEIVER_IDS
from rfserve.export.spec.models.iq_features import IQ_FEATURES


def locate_ensemble(name: str, network: ModelSpec) -> EnsembleSpec:
    """The ensemble of `iq_features` and one HeimdallNet."""
    return EnsembleSpec(
        name=name,
        summary=f"raw IQ to fix: {IQ_FEATURES.name}, then {network.name}",
        inputs=(*IQ_FEATURES.inputs, RECEIVER_IDS),
        outputs=network.outputs,
        axes=IQ_FEATURES.axes,
        max_batch_size=min(IQ_FEATURES.max_batch_size, network.max_batch_size),
        tolerance=network.tolerance,
        budgets={
            "cpu-2core": measured(p50_ms=25.12, p95_ms=49.46, p99_budget_ms=400, rate_hz=8),
            **promised("gpu", p99_ms=30, rate_hz=50),
        },
        steps=(
            Step(
                model=IQ_FEATURES,
                input_map={t.name: t.name for t in IQ_FEATURES.inputs},
                output_map={t.name: t.name for t in IQ_FEATURES.outputs},
            ),
            Step(
                model=network,
                input_map={t.name: t.name for t in network.inputs},
                output_map={t.name: t.name for t in network.outputs},
            ),
        ),
    )


LOCATE = locate_ensemble("locate", HEIMDALL_NET)
