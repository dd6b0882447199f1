"""Measured features of real recordings against their ground truth."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from rfserve.export.networks.iq_features import IqFeatures

NETWORK = IqFeatures().eval()
SAMPLES = 16384
# The truth takes its noise from quiet 45 ms of each of eleven seconds, the estimate from one or two such moments.
CARRIER_SNR_BOUND_DB, CARRIER_PSD_BOUND_DB, CARRIER_OFFSET_BOUND_HZ = 4.0, 3.0, 0.05
# Pulses: the truth is the median over the pulse interval, of which the estimate's segments cover two thirds.
PULSE_SNR_BOUND_DB, PULSE_PSD_BOUND_DB, PULSE_OFFSET_BOUND_HZ = 4.0, 4.0, 1500.0


def db(power):
    return 10 * np.log10(power)


def features(samples: np.ndarray, *, rate_hz: float) -> np.ndarray:
    """SNR, PSD in dBFS/Hz and offset of one receiver."""
    iq = torch.from_numpy(np.stack([samples.real, samples.imag]).astype(np.float32))
    ones = torch.ones(1, 1)
    with torch.inference_mode():
        answer = NETWORK(iq[None, None], rate_hz * ones, 0 * ones, torch.zeros(1, 1, 3), ones > 0)[1]
    return answer[0, 0, :3].numpy()


def sigmf_receivers(folder: Path):
    """Each receiver's truth, sample rate and first samples."""
    for file in sorted(folder.glob("sigmf/*/truth.json")):
        for truth in json.loads(file.read_text())["receivers"]:
            meta = json.loads((file.parent / f"{truth['recording']}.sigmf-meta").read_text())
            data = np.fromfile(file.parent / f"{truth['recording']}.sigmf-data", "<i2", 2 * SAMPLES)
            samples = data[::2] / 32768 + 1j * data[1::2] / 32768
            yield truth, meta["global"]["core:sample_rate"], samples


@pytest.mark.recordings
def test_recorded_carrier_is_measured_as_the_truth_says(recordings):
    found = [r for r in sigmf_receivers(recordings) if "carrier_offset_hz" in r[0]]
    assert found, f"no recording of a carrier under {recordings}"
    for truth, rate_hz, samples in found:
        snr, psd, offset = features(samples, rate_hz=rate_hz)
        assert snr == pytest.approx(truth["snr_db"], abs=CARRIER_SNR_BOUND_DB), truth["id"]
        assert psd == pytest.approx(truth["noise_psd_dbfs_hz"], abs=CARRIER_PSD_BOUND_DB), truth["id"]
        assert offset == pytest.approx(truth["carrier_offset_hz"], abs=CARRIER_OFFSET_BOUND_HZ), truth["id"]


@pytest.mark.recordings
def test_recorded_pulses_have_their_mean_snr(recordings):
    found = [r for r in sigmf_receivers(recordings) if "pulse_peak_dbfs" in r[0]]
    assert found, f"no recording of pulses under {recordings}"
    for truth, rate_hz, samples in found:
        snr, psd, offset = features(samples, rate_hz=rate_hz)
        mean_snr_db = db(10 ** ((truth["rms_dbfs"] - truth["noise_dbfs"]) / 10) - 1)
        assert snr == pytest.approx(mean_snr_db, abs=PULSE_SNR_BOUND_DB), truth["id"]
        assert snr < truth["snr_db"], "the truth is the pulse's peak, the estimate its mean over time"
        assert psd == pytest.approx(truth["noise_psd_dbfs_hz"], abs=PULSE_PSD_BOUND_DB), truth["id"]
        assert abs(offset) <= PULSE_OFFSET_BOUND_HZ, truth["id"]


@pytest.mark.recordings
def test_recorded_bytes_at_two_megahertz_have_a_floor_between_their_quietest_and_their_mean(recordings):
    (file,) = recordings.glob("formats/*.cu8")
    data = (np.fromfile(file, np.uint8, 2 * SAMPLES) - 127.5) / 127.5
    samples = data[::2] + 1j * data[1::2]
    snr, psd, offset = features(samples, rate_hz=2e6)
    # The pauses between the frames were cut out of this file, so that no 256 µs of it are free of pulses.
    power = np.abs(samples) ** 2
    assert db(np.quantile(power, 0.1)) < psd + db(2e6) < db(power.mean())
    assert -20 < snr < 10
    assert abs(offset) < 1e6
