"""From log-mel back to sound.

Axes: S samples, T frames, F mel bins, K frequencies of the Fourier transform, 257 at 16 kHz. Log-mel keeps neither the phases nor
the fine structure of the spectrum, so many sounds have the same log-mel; this finds one of them.
"""

import math
from functools import lru_cache

import torch
from torch import Tensor

from ssast_lab.audio.errors import AudioError
from ssast_lab.audio.features import OFFICIAL, PREEMPHASIS, denormalise, mel_filters, window
from ssast_lab.config import AudioConfig

EDGE = 2  # frames added on either side, because the inverse transform needs a few to overlap at the ends
SPECTRUM_STEPS = 10  # multiplicative updates of the power spectrum
PENALTY = 0.3  # of the alternating projections, by which they converge fastest on the built-in sounds


@torch.no_grad()
def invert(
    log_mel: Tensor, config: AudioConfig = OFFICIAL, iterations: int = 32, phases_of: Tensor | None = None
) -> Tensor:
    """(T, F) -> (S,) or (B, T, F) -> (B, S): a sound with this normalised log-mel, on its device, at the
    configuration's rate; at 16 kHz S = 400 + 160 (T - 1).

    The phases are found by ``iterations`` of alternating projections, from a start at which every spectral peak advances by
    its own frequency. Nothing is random: the same input gives the same sound. With ``phases_of``, a waveform (S,) or (B, S),
    its phases are taken instead, so that one hears what the magnitudes alone do. The sound is not scaled: what is louder than
    full scale goes beyond ±1.
    """
    if log_mel.ndim not in (2, 3) or log_mel.shape[-1] != config.mel_bins or log_mel.shape[-2] < 1:
        raise AudioError(
            f"Sound is made from log-mel (T, {config.mel_bins}) or (B, T, {config.mel_bins}) of at least one frame, "
            f"not from the shape {tuple(log_mel.shape)}."
        )
    energies = denormalise(log_mel.float().reshape(-1, *log_mel.shape[-2:]), config).exp()
    magnitudes = _power_spectrum(energies, config).sqrt().transpose(1, 2)  # (B, K, T)
    magnitudes = torch.nn.functional.pad(magnitudes, (EDGE, EDGE), mode="replicate")
    samples, start = config.samples_of(log_mel.shape[-2]), _start(config)
    if phases_of is None:
        spectrum = _consistent_spectrum(magnitudes, iterations, config)
    else:
        spectrum = torch.polar(
            magnitudes, _phases(phases_of.to(magnitudes).reshape(len(energies), -1), magnitudes, samples, config)
        )
    sound = _deemphasised(_to_sound(spectrum, config))[:, start : start + samples]
    return sound.reshape(*log_mel.shape[:-2], samples)


@lru_cache(maxsize=4)
def _inverse_filters(config: AudioConfig, device: torch.device) -> Tensor:
    """(F, K): the pseudo-inverse of the mel filters, which are too many at low frequencies to be independent."""
    with torch.inference_mode(False):
        filters = mel_filters(config, torch.device("cpu"), torch.float64)
        return torch.linalg.pinv(filters).float().to(device)


def _power_spectrum(energies: Tensor, config: AudioConfig) -> Tensor:
    """(B, T, F) mel energies -> (B, T, K): a power spectrum that has them, nowhere negative.

    The least squares solution, then multiplicative updates of the Kullback-Leibler divergence (Lee and Seung, "Algorithms for
    non-negative matrix factorization", NIPS 2000), which repair what cutting it off at 0 did to the energies.
    """
    filters = mel_filters(config, energies.device, torch.float32)  # (K, F)
    reached = filters.sum(1).clamp(min=1e-9)
    spread = energies @ filters.T / reached  # a little of it everywhere, as an update cannot leave 0
    power = (energies @ _inverse_filters(config, energies.device)).clamp(min=0) + 1e-3 * spread + 1e-12
    for _ in range(SPECTRUM_STEPS):
        power = power * ((energies / (power @ filters).clamp(min=1e-12)) @ filters.T) / reached
    return power


def _first_phases(magnitudes: Tensor, config: AudioConfig) -> Tensor:
    """(B, K, T) -> (B, K, T) radians: each peak of a frame advances by its interpolated frequency, and its neighbours with it
    (after Beauregard, Harish and Wyse, "Single pass spectrogram inversion", 2015)."""
    levels = magnitudes.clamp(min=1e-9).log()
    below = torch.nn.functional.pad(levels[:, :-1], (0, 0, 1, 0), value=-1e9)
    above = torch.nn.functional.pad(levels[:, 1:], (0, 0, 0, 1), value=-1e9)
    peaks = (levels > above) & (levels >= below)
    numbers = torch.arange(magnitudes.shape[1], device=magnitudes.device)[:, None].expand_as(levels)
    before = torch.where(peaks, numbers, -config.fft).cummax(1).values
    after = torch.where(peaks, numbers, 2 * config.fft).flip(1).cummin(1).values.flip(1)
    nearest = torch.where(numbers - before <= after - numbers, before, after).clamp(0, magnitudes.shape[1] - 1)
    shift = 0.5 * (below - above) / (below - 2 * levels + above).clamp(max=-1e-6)  # of the parabola's top
    frequency = (numbers + shift.clamp(-0.5, 0.5)).gather(1, nearest)
    return (2 * math.pi * config.hop / config.fft) * frequency.cumsum(2) + math.pi * ((numbers - nearest) % 2)


def _consistent_spectrum(magnitudes: Tensor, iterations: int, config: AudioConfig) -> Tensor:
    """(B, K, T) -> (B, K, T) complex: the magnitudes with phases that belong to a sound, as nearly as found.

    Griffin and Lim's two projections, alternated by ADMM, which comes closer in as many steps (Masuyama, Yatabe and Oikawa,
    "Griffin-Lim like phase recovery via alternating direction method of multipliers", IEEE Signal Processing Letters, 2019).
    """
    consistent = torch.polar(magnitudes, _first_phases(magnitudes, config))
    dual = torch.zeros_like(consistent)
    for _ in range(iterations):
        scaled = _with_magnitudes(consistent - dual, magnitudes)
        target = scaled + dual
        consistent = (PENALTY * target + _to_spectrum(_to_sound(target, config), config)) / (1 + PENALTY)
        dual = target - consistent
    return _with_magnitudes(consistent - dual, magnitudes)


def _with_magnitudes(spectrum: Tensor, magnitudes: Tensor) -> Tensor:
    return spectrum * (magnitudes / spectrum.abs().clamp(min=1e-12))


def _phases(sound: Tensor, magnitudes: Tensor, samples: int, config: AudioConfig) -> Tensor:
    """(B, S) -> (B, K, T): the phases of a sound, where the frames of the log-mel lie."""
    length, start = (magnitudes.shape[-1] - 1) * config.hop, _start(config)
    sound = torch.nn.functional.pad(sound[:, :samples], (start, max(0, length - start - min(sound.shape[1], samples))))
    emphasised = torch.nn.functional.pad(sound[:, 1:] - PREEMPHASIS * sound[:, :-1], (1, 0))
    return _to_spectrum(emphasised[:, :length], config).angle()


def _start(config: AudioConfig) -> int:
    """The sample at which the first frame of the log-mel begins, once the edges are added."""
    return EDGE * config.hop - config.window // 2


def _to_sound(spectrum: Tensor, config: AudioConfig) -> Tensor:
    length = (spectrum.shape[-1] - 1) * config.hop
    shape = window(spectrum.device, config)
    return torch.istft(spectrum, config.fft, config.hop, config.window, shape, length=length)


def _to_spectrum(sound: Tensor, config: AudioConfig) -> Tensor:
    shape = window(sound.device, config)
    return torch.stft(sound, config.fft, config.hop, config.window, shape, return_complex=True, pad_mode="constant")


def _deemphasised(sound: Tensor) -> Tensor:
    from torchaudio.functional import deemphasis

    return deemphasis(sound, PREEMPHASIS)
