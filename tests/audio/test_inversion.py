"""From log-mel back to sound: what comes back has the log-mel that it was made from."""

import pytest
import torch

from ssast_lab import audio
from ssast_lab.config import AudioConfig

# Mean distance of the log-mel of what was made from the log-mel that it was made from, in nats; measured: 0.131, 0.130,
# 0.173 and 0.222 of the first four. The pseudo-inverse and 32 iterations of Griffin and Lim give 0.147, 0.230, 0.365, 0.290.
WITHIN = {"speech": 0.138, "blackbird": 0.14, "guitar": 0.19, "tabla": 0.24}


def builtin(name: str) -> torch.Tensor:
    wave = audio.load_waveform(audio.builtin_sounds()[name]["path"])
    return wave - wave.mean()


def distance(sound: torch.Tensor, log_mel: torch.Tensor, config: AudioConfig = audio.features.OFFICIAL) -> float:
    return float((audio.log_mel(sound, config) - log_mel).abs().mean()) * 2 * config.std


@pytest.mark.parametrize("name", audio.builtin_sounds())
def test_what_comes_back_has_the_same_log_mel(name):
    wave = builtin(name)
    log_mel = audio.log_mel(wave)
    sound = audio.invert(log_mel)
    assert sound.shape == (audio.OFFICIAL.samples_of(len(log_mel)),)
    assert sound.isfinite().all()
    assert distance(sound, log_mel) < WITHIN.get(name, 0.5)
    # it is as loud as what it was made from
    power, before = sound.square().mean(), wave[: len(sound)].square().mean()
    assert float((power / before).log10().abs()) < 0.05


def test_more_iterations_come_closer():
    log_mel = audio.log_mel(builtin("speech"))
    distances = [distance(audio.invert(log_mel, iterations=number), log_mel) for number in (0, 4, 16, 64)]
    assert distances == sorted(distances, reverse=True)


def test_the_original_phases_give_nearly_the_original():
    wave = builtin("speech")
    log_mel = audio.log_mel(wave)
    sound = audio.invert(log_mel, phases_of=wave)
    # aligned to the sample, and the magnitudes of 128 bands are all that was lost
    correlation = torch.corrcoef(torch.stack((sound, wave[: len(sound)])))[0, 1]
    assert correlation > 0.95
    assert distance(sound, log_mel) < distance(audio.invert(log_mel), log_mel)


def test_a_batch_is_its_singles_and_nothing_is_random():
    short = [audio.log_mel(builtin(name))[:120] for name in ("speech", "guitar")]
    together = audio.invert(torch.stack(short), iterations=4)
    for alone, one in zip(short, together, strict=True):
        torch.testing.assert_close(audio.invert(alone, iterations=4), one, rtol=1e-4, atol=1e-5)
    torch.manual_seed(1)
    assert torch.equal(audio.invert(torch.stack(short), iterations=4), together)


def test_other_statistics_and_bands_come_back_too():
    config = AudioConfig(mel_bins=64, mean=-5.0, std=3.0)
    log_mel = audio.log_mel(builtin("blackbird")[:32000], config)
    assert distance(audio.invert(log_mel, config), log_mel, config) < 0.2


def test_silence_stays_silent():
    log_mel = audio.log_mel(torch.zeros(16000))
    assert audio.invert(log_mel).abs().max() < 1e-3


def test_one_frame_is_enough():
    assert audio.invert(audio.log_mel(builtin("speech"))[:1]).shape == (400,)


@pytest.mark.parametrize("shape", [(0, 128), (5, 64), (128,), (1, 2, 5, 128)])
def test_what_is_no_log_mel_is_refused(shape):
    with pytest.raises(audio.AudioError, match=r"Sound is made from log-mel \(T, 128\) or \(B, T, 128\)"):
        audio.invert(torch.zeros(shape))
