"""locate_pro: raw IQ and receiver geometry in, fix out, with HeimdallNetPro."""

from rfserve.export.spec.models.heimdall_net_pro import HEIMDALL_NET_PRO
from rfserve.export.spec.models.locate import locate_ensemble

LOCATE_PRO = locate_ensemble("locate_pro", HEIMDALL_NET_PRO)
