"""locate_spectrogram: raw IQ of one receiver in, fix out, with LocalizationNet."""

from rfserve.export.spec.device import measured, promised
from rfserve.export.spec.model import EnsembleSpec, Step
from rfserve.export.spec.models.localization_net import LOCALIZATION_NET
from rfserve.export.spec.models.mel_features import MEL_FEATURES

LOCATE_SPECTROGRAM = EnsembleSpec(
    name="locate_spectrogram",
    summary=f"raw IQ to fix: {MEL_FEATURES.name}, then {LOCALIZATION_NET.name}",
    inputs=MEL_FEATURES.inputs,
    outputs=LOCALIZATION_NET.outputs,
    axes=MEL_FEATURES.axes,
    max_batch_size=min(MEL_FEATURES.max_batch_size, LOCALIZATION_NET.max_batch_size),
    tolerance=LOCALIZATION_NET.tolerance,
    budgets={
        "cpu-2core": measured(p50_ms=157.2, p95_ms=253.9, p99_budget_ms=500, rate_hz=3),
        **promised("gpu", p99_ms=50, rate_hz=25),
    },
    steps=(
        Step(
            model=MEL_FEATURES,
            input_map={"raw_iq": "raw_iq"},
            output_map={"mel_spectrogram": "mel_spectrogram"},
        ),
        Step(
            model=LOCALIZATION_NET,
            input_map={"mel_spectrogram": "mel_spectrogram"},
            output_map={t.name: t.name for t in LOCALIZATION_NET.outputs},
        ),
    ),
)
