"""HeimdallNetPro: as HeimdallNet, with Performer attention between the receivers."""

from dataclasses import replace

from rfserve.export.spec.models.heimdall_net import HEIMDALL_NET

HEIMDALL_NET_PRO = replace(HEIMDALL_NET, name="heimdall_net_pro", summary="several receivers, Performer attention")
