"""What recorders put into the names of their files: time, centre frequency, receiver."""

import re
from datetime import UTC, datetime
from typing import Any

_TIME = r"(?P<day>\d{8})[T_-](?P<time>\d{6})Z?"
PATTERNS = (
    # KiwiSDR (kiwirecorder): 20200813T065220Z_77500_JO51xl_iq.wav, in Hz
    re.compile(rf"{_TIME}_(?P<hz>\d+)_(?P<receiver>.+?)_iq", re.I),
    # SDR#, HDSDR, SDRuno: SDRSharp_20200813_065220Z_77500Hz_IQ.wav, HDSDR_20200813_065220Z_78kHz_RF.wav
    re.compile(rf".*?{_TIME}_(?P<hz>\d+)(?P<unit>k|M)?Hz(_.*)?", re.I),
    # gqrx: gqrx_20200813_065220_77500_1800000_fc.raw
    re.compile(rf"gqrx_{_TIME}_(?P<hz>\d+)_(?P<rate>\d+)_fc", re.I),
)
SCALE = {None: 1.0, "k": 1e3, "m": 1e6}


def fields(stem: str) -> dict[str, Any]:
    """The fields of a side file that the name tells; none when it has another form."""
    for pattern in PATTERNS:
        match = pattern.fullmatch(stem)
        if match is None:
            continue
        parts = match.groupdict()
        unit = parts.get("unit")
        found: dict[str, Any] = {"center_frequency_hz": float(parts["hz"]) * SCALE[unit and unit.lower()]}
        try:
            begun = datetime.strptime(parts["day"] + parts["time"], "%Y%m%d%H%M%S").replace(tzinfo=UTC)
            found["start_time"] = begun.isoformat()
        except ValueError:
            pass
        if parts.get("receiver"):
            found["receiver"] = parts["receiver"]
        if parts.get("rate"):
            found |= {"sample_rate_hz": float(parts["rate"]), "datatype": "cf32_le"}
        return found
    return {}
