"""HeimdallNetPro: as HeimdallNet, with Performer attention between the receivers."""

from dataclasses import replace

from rfserve.export.spec.device import measured, promised
from rfserve.export.spec.models.heimdall_net import HEIMDALL_NET

HEIMDALL_NET_PRO = replace(
    HEIMDALL_NET,
    name="heimdall_net_pro",
    summary="several receivers, Performer attention",
    budgets={
        "cpu-2core": measured(p50_ms=18.83, p95_ms=36.89, p99_budget_ms=200, rate_hz=10),
        **promised("gpu", p99_ms=15, rate_hz=100),
    },
    row_costs_ms={"cpu": 12},
)
