"""SHA-256 of what a run came from and of what it came to: equal when, bit for bit, that is."""

import hashlib
import json
from collections.abc import Sequence

from torch import nn

from rfserve.export.training.rss_event import RssEvent


def weights(network: nn.Module) -> str:
    """Over the names and bytes of all weights."""
    found = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        found.update(name.encode())
        found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def measured(events: Sequence[RssEvent]) -> str:
    """Over the times, strengths and places of events."""
    found = hashlib.sha256()
    for event in events:
        found.update(event.time.encode())
        for array in (event.rss_db, event.receivers_deg, event.transmitter_deg):
            found.update(array.tobytes())
    return found.hexdigest()


def names(events: Sequence[RssEvent]) -> str:
    """Over the receivers' names: floors and radio map go by them, and `measured` does not know them."""
    return hashlib.sha256(json.dumps([event.names for event in events]).encode()).hexdigest()
