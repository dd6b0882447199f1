"""Every served model by name."""

from rfserve.export.spec.errors import ModelNotFound
from rfserve.export.spec.model import EnsembleSpec, ModelSpec, Served
from rfserve.export.spec.models.heimdall_net import HEIMDALL_NET
from rfserve.export.spec.models.heimdall_net_pro import HEIMDALL_NET_PRO
from rfserve.export.spec.models.iq_features import IQ_FEATURES
from rfserve.export.spec.models.localization_net import LOCALIZATION_NET
from rfserve.export.spec.models.locate import LOCATE
from rfserve.export.spec.models.locate_pro import LOCATE_PRO
from rfserve.export.spec.models.locate_spectrogram import LOCATE_SPECTROGRAM
from rfserve.export.spec.models.mel_features import MEL_FEATURES

GRAPHS: dict[str, ModelSpec] = {
    spec.name: spec for spec in (LOCALIZATION_NET, HEIMDALL_NET, HEIMDALL_NET_PRO, IQ_FEATURES, MEL_FEATURES)
}
ENSEMBLES: dict[str, EnsembleSpec] = {spec.name: spec for spec in (LOCATE, LOCATE_PRO, LOCATE_SPECTROGRAM)}
MODELS: dict[str, Served] = {**GRAPHS, **ENSEMBLES}


def find(name: str) -> Served:
    """The spec of a served model; `ModelNotFound` with the known names when there is none."""
    try:
        return MODELS[name]
    except KeyError:
        raise ModelNotFound(f"no served model {name!r}; expected one of {', '.join(MODELS)}") from None
