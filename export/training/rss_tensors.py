"""Events of received signal strengths as a HeimdallNet's input tensors."""

from collections.abc import Sequence

import numpy as np

from rfserve.export.spec import ModelSpec
from rfserve.export.spec.tensor import Array
from rfserve.export.training.powder import UNHEARD_DB
from rfserve.export.training.rss_event import RssEvent

# Strengths have no noise level with them: below this nothing was ever heard.
NOISE_DB = UNHEARD_DB
# A walkie-talkie's channel.
BANDWIDTH_HZ = 12_500.0
SNR, DENSITY, LATITUDE, LONGITUDE = 0, 1, 3, 4


def tensors(spec: ModelSpec, events: Sequence[RssEvent]) -> dict[str, Array]:
    """The inputs of a HeimdallNet for events, batch first, in the units of its spec; the strongest receivers of each.

    The signal-to-noise ratio is the strength above the weakest that was ever heard, the noise density what that is in
    the channel's bandwidth; IQ, frequency offset, altitude and receiver id are 0, as nobody measured them.
    """
    axes = {axis.name: axis for axis in spec.axes}
    sizes = {"receivers": axes["receivers"].maximum, "samples": axes["samples"].minimum}
    shapes = {t.name: tuple(sizes[a] if isinstance(a, str) else a for a in t.axes) for t in spec.inputs}
    held = {t.name: np.zeros((len(events), *shapes[t.name]), t.dtype.numpy) for t in spec.inputs}
    for row, event in enumerate(events):
        kept = event.strongest(sizes["receivers"])
        count = len(kept.names)
        features = held["features"][row, :count]
        features[:, SNR] = kept.rss_db - NOISE_DB
        features[:, DENSITY] = NOISE_DB - 10 * np.log10(BANDWIDTH_HZ)
        features[:, LATITUDE : LONGITUDE + 1] = kept.receivers_deg
        held["receiver_positions"][row, :count, :2] = kept.receivers_deg
        held["mask"][row, :count] = True
    return held
