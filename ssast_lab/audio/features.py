"""From a waveform to the model's input: Kaldi log-mel, normalised.

Axes: B batch, S samples at the rate of the configuration, T frames of 25 ms every 10 ms, F mel bins. The numbers in docstrings are
those of 16 kHz.
"""

import io
import math
import os
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from ssast_lab.audio.decode import Source, load_waveform
from ssast_lab.audio.errors import AudioError
from ssast_lab.config import AudioConfig
from ssast_lab.patches import to_device_of

PREEMPHASIS = 0.97
OFFICIAL = AudioConfig()
EPSILON = torch.finfo(torch.float32).eps  # the least mel energy: silence is log(EPSILON) = -15.94
CHUNK = 1 << 18  # samples of spectrogram frames computed at a time on a CPU: their spectra, 1 MB, stay in its cache


def within(lengths: Tensor, size: int) -> Tensor:
    """(B,) -> (B, size) bool, on the device of ``lengths``: True at the places before each length."""
    return torch.arange(size, device=lengths.device) < lengths.unsqueeze(1)


@lru_cache(maxsize=64)
def window(device: torch.device, config: AudioConfig = OFFICIAL, hop: int | None = None) -> Tensor:
    """(400,) symmetric Hann, or the same function at the samples of a longer or shorter window."""
    with torch.inference_mode(False):  # a tensor kept from inference mode could not be used outside it
        if hop in (None, config.hop):
            return torch.hann_window(config.window, periodic=False, device=device)
        turn = 2 * math.pi * config.hop / ((config.window - 1) * hop)
        return (
            (0.5 - 0.5 * torch.cos(turn * torch.arange(config.window_of(hop), dtype=torch.float64))).float().to(device)
        )


@lru_cache(maxsize=8)
def mel_filters(config: AudioConfig, device: torch.device, dtype: torch.dtype) -> Tensor:
    """(257, F): triangles on the HTK mel scale over the band, 20 to 8000 Hz; the FFT bin at half the rate counts for none.

    Computed in float32 step by step as torchaudio does, and not from :func:`ssast_lab.patches.mel_edges`, which is
    exact: at the foot of a filter that rounding is all that is left, and beside a pure tone it would show.
    """
    with torch.inference_mode(False):
        low, high = (1127.0 * math.log(1.0 + hertz / 700.0) for hertz in config.band)
        step = (high - low) / (config.mel_bins + 1)
        bins = torch.arange(config.mel_bins).unsqueeze(1)
        left, peak, right = low + bins * step, low + (bins + 1.0) * step, low + (bins + 2.0) * step
        mel = 1127.0 * (1.0 + config.sample_rate / config.fft * torch.arange(config.fft / 2) / 700.0).log()
        filters = torch.minimum((mel - left) / (peak - left), (right - mel) / (right - peak)).clamp(min=0)
        return torch.nn.functional.pad(filters, (0, 1)).T.to(device, dtype).contiguous()


@lru_cache(maxsize=64)
def _paced_filters(config: AudioConfig, device: torch.device, dtype: torch.dtype, hop: int) -> Tensor:
    """(bins, F): the mel filters for a spectrum of ``512 * hop / 160`` samples, whose bins lie, once the sound is that much
    faster, where those of the usual spectrum do. What is heard above 8 kHz then counts for none, and nothing is heard above
    8 kHz times the pace. The filters also turn the pre-emphasis of the sound into that of the faster sound, and the energy of
    a longer window into that of the usual one."""
    filters = mel_filters(config, device, dtype)
    if hop == config.hop:
        return filters
    size = config.fft * hop // config.hop
    with torch.inference_mode(False):
        bins = torch.arange(min(size, config.fft) // 2 + 1, dtype=torch.float64)
        wanted, given = (
            1 - 2 * PREEMPHASIS * torch.cos(2 * math.pi * bins / n) + PREEMPHASIS**2 for n in (config.fft, size)
        )
        paced = filters[: len(bins)] * (wanted / given * (config.hop / hop) ** 2).to(device, dtype)[:, None]
        return torch.nn.functional.pad(paced, (0, 0, 0, size // 2 + 1 - len(bins))).contiguous()


def _product_type(device: torch.device) -> torch.dtype:
    """The type in which the mel energies are summed: float64 where float32 products may be rounded to TF32 or bfloat16,
    which training often allows and these sums, compared with an independent reference, do not bear."""
    if device.type == "cpu":
        settings = (torch.backends, torch.backends.mkldnn, getattr(torch.backends.mkldnn, "matmul", None))
        exact = all(getattr(s, "fp32_precision", "none") in ("none", "ieee") for s in settings)
        return torch.float32 if exact else torch.float64
    return torch.float64 if device.type == "cuda" else torch.float32


@torch.no_grad()
def kaldi_fbank(waveforms: Tensor, config: AudioConfig = OFFICIAL, hop: int | None = None) -> Tensor:
    """(B, S) -> (B, T, F) or (S,) -> (T, F) float32: log-mel energies as Kaldi computes them with a Hann window and no
    dither, on the waveforms' device. Per frame: minus its mean, pre-emphasis, window, power spectrum, mel filters, log.

    Frames that lie ``hop`` samples apart (a multiple of the configuration's pace), with windows and spectra as much longer, are those of the sound
    resampled to be ``hop / 160`` times as fast, pitch and tempo together.

    Every step is torchaudio's own arithmetic in its order, batched: in the quiet bands beside a pure tone the energies
    are float32 rounding errors, which are only the same if the operations are.
    """
    waveforms = torch.as_tensor(waveforms).float()
    samples = waveforms.shape[-1] if waveforms.ndim in (1, 2) else 0
    hop = config.hop if hop is None else hop
    width, size = config.window_of(hop), config.fft * hop // config.hop
    if hop < config.pace or hop % config.pace:
        raise AudioError(f"Frames lie a multiple of {config.pace} samples apart, not {hop}.")
    if samples < width:
        raise AudioError(
            f"Log-mel features need waveforms (S,) or (B, S) of at least {width} samples, "
            f"not the shape {tuple(waveforms.shape)}."
        )
    device = waveforms.device
    shape, exact = window(device, config, hop), _product_type(device)
    filters = _paced_filters(config, device, exact, hop)
    windows = torch.atleast_2d(waveforms).unfold(-1, width, hop)  # (B, T, 400), a view
    clips, frames, _ = windows.shape
    energies = torch.empty(clips, frames, config.mel_bins, device=device)
    # On a CPU few clips, or a part of one, at a time; elsewhere all at once.
    chunk = max(CHUNK // size, 1)
    long = min(chunk, frames) if device.type == "cpu" else frames
    many = min(chunk // long, clips) if device.type == "cpu" else clips
    padded = torch.zeros(many, long, size, device=device)
    with torch.autocast(device.type, enabled=False):
        for clip in range(0, clips, many):
            for frame in range(0, frames, long):
                here = slice(clip, clip + many), slice(frame, frame + long)
                x = windows[here] - windows[here].mean(-1, keepdim=True)
                y = padded[: x.shape[0], : x.shape[1]]
                # Product and sum apart, because fused into one step the product would not be rounded.
                torch.mul(x[..., :-1], -PREEMPHASIS, out=y[..., 1:width]).add_(x[..., 1:])
                torch.mul(x[..., 0], -PREEMPHASIS, out=y[..., 0]).add_(x[..., 0])
                y[..., :width] *= shape
                squares = torch.view_as_real(torch.fft.rfft(y)).square_()  # abs() would take four times as long
                power = squares[..., 0] + squares[..., 1]
                energies[here] = (power.to(exact) @ filters).clamp_(min=EPSILON).log_()
    return energies if waveforms.ndim == 2 else energies[0]


def _paced_fbank(waveforms: Tensor, config: AudioConfig, hops: Tensor, frames: int) -> Tensor:
    """(B, S), hops (B,) on the CPU -> (B, T, F): :func:`kaldi_fbank` of clips that have different hops, cut or padded with 0 to
    so many frames."""
    paces, counts = hops.unique(return_counts=True)
    order = hops.argsort()
    parts = []
    for hop, rows in zip(paces.tolist(), to_device_of(order, waveforms).split(counts.tolist()), strict=True):
        fbank = kaldi_fbank(waveforms[rows, : config.samples_of(frames, hop)], config, hop)
        parts.append(torch.nn.functional.pad(fbank, (0, 0, 0, frames - fbank.shape[1])))
    return torch.cat(parts)[to_device_of(order.argsort(), waveforms)]


def log_mel(
    waveform: Tensor | Source,
    config: AudioConfig = OFFICIAL,
    frames: int | None = None,
    lengths: Sequence[int] | Tensor | None = None,
    hops: Tensor | None = None,
    *,
    rate: int | None = None,
) -> Tensor:
    """(S,) -> (T, F) or (B, S) -> (B, T, F) at the configuration's rate, or a sound file, its path or its bytes -> (T, F): the model's
    input,
    ``(fbank - mean) / (2 * std)``, of the waveform without its mean.

    With ``frames`` it is cut or padded at the end to that many. ``lengths`` (B,) says how many samples of a padded
    batch are each clip's own. As in the official loader, padding is 0 before it is normalised, so 0.467 afterwards.
    With ``hops`` (B,), whole numbers on the CPU, each clip is heard ``hop / 160`` times as fast (:func:`kaldi_fbank`); it goes with
    ``frames`` and ``lengths``, none of which is shorter than one frame's window. One sound at another
    ``rate`` in Hz, of one channel or several, is what :func:`ssast_lab.load_waveform` makes of it.
    """
    if rate is not None or isinstance(waveform, str | os.PathLike | io.IOBase | bytes):
        waveform = load_waveform(waveform, rate=rate, to_rate=config.sample_rate)
    waveform = torch.as_tensor(waveform).float()
    if waveform.ndim == 2 and waveform.shape[1] < config.window <= waveform.shape[0]:
        raise AudioError(
            f"An array of the shape {tuple(waveform.shape)} seems to have its channels in columns: give its rate too, as in "
            "log_mel(array, rate=48000)."
        )
    samples = waveform.shape[-1]
    if lengths is None:
        waveform = waveform - waveform.mean(-1, keepdim=True)
    else:
        lengths = torch.as_tensor(lengths)
        if waveform.ndim != 2 or lengths.shape != waveform.shape[:1]:
            raise AudioError(
                f"Lengths {tuple(lengths.shape)} go with a batch (B, S) of as many waveforms, "
                f"not with the shape {tuple(waveform.shape)}."
            )
        if not config.window <= int(lengths.min()) <= int(lengths.max()) <= samples:
            raise AudioError(
                f"The clips of this batch have from {config.window} to {samples} samples of their own, not {lengths.tolist()}."
            )
        lengths = to_device_of(lengths, waveform)
        sums = waveform.where(within(lengths, samples), 0).sum(-1)
        waveform = waveform - (sums / lengths).unsqueeze(1)
    if hops is not None:
        assert frames is not None
        fbank = _paced_fbank(waveform, config, hops, frames)
    else:
        if frames is not None:  # compute no frame that would be cut
            waveform = waveform[..., : config.samples_of(max(1, frames))]
        fbank = kaldi_fbank(waveform, config)
    if lengths is not None:
        own = config.frames_of(lengths, None if hops is None else to_device_of(hops, waveform))
        fbank = fbank.where(within(own, fbank.shape[1]).unsqueeze(-1), 0)
    if frames is not None:
        fbank = torch.nn.functional.pad(fbank, (0, 0, 0, frames - fbank.shape[-2]))
    return (fbank - config.mean) / (2 * config.std)


def denormalise(log_mel: Tensor, config: AudioConfig = OFFICIAL) -> Tensor:
    """The inverse of the normalisation: the model's input (..., T, F) -> Kaldi log-mel energies (..., T, F)."""
    return log_mel * (2 * config.std) + config.mean
