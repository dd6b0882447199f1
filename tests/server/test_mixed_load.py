"""Short forms of the benchmarks of mixed requests and of memory."""

import pytest
from mixed_batches import CASES, ratio
from soak import MIB, measure

pytestmark = [pytest.mark.server, pytest.mark.alone]


@pytest.mark.parametrize("case", ["receiver counts", "models at once"])
def test_mixed_requests_share_batches_as_equal_ones_do(server, case):
    model, equal, mixed = CASES[case]()
    varied, same = ratio(server, model, equal, mixed, rounds=3, duration_s=0.5)
    print(f"\n{case}: {varied:.2f} / {same:.2f} rows")
    assert same > 1.2
    assert varied >= 0.8 * same


def test_memory_is_flat_under_mixed_load(server):
    models = ("mel_features", "heimdall_net", "iq_features", "locate")
    found = measure(server, models, minutes=0.15)
    print(f"\n{found}, least growth {found.least_growth_bytes / MIB:.1f} MiB")
    assert found.answered > 50
    assert found.rejected > 0
    assert found.unanswered == 0
    # In so short a time an arena may still grow once: a leak of a request's tensors would be gigabytes.
    assert found.is_flat or found.least_growth_bytes < 0.05 * found.first_bytes
    assert all(server.http.model_ready(name) for name in models)
