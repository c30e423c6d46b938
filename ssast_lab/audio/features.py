"""From a waveform to the model's input: Kaldi log-mel, normalised.

Axes: B batch, S samples at 16 kHz, T frames of 25 ms every 10 ms, F mel bins.
"""

import io
import math
import os
from collections.abc import Sequence
from functools import lru_cache
from typing import TypeVar

import torch
from torch import Tensor

from ssast_lab.audio.decode import SAMPLE_RATE, WINDOW, Source, load_waveform
from ssast_lab.audio.errors import AudioError
from ssast_lab.config import AudioConfig
from ssast_lab.patches import to_device_of

HOP = 160  # samples, 10 ms
FFT = 512  # the window is zero-padded to this many samples
PACE = 5  # samples: hops are multiples of it where sound is heard faster or slower
PREEMPHASIS = 0.97
OFFICIAL = AudioConfig()
N = TypeVar("N", int, Tensor)
EPSILON = torch.finfo(torch.float32).eps  # the least mel energy: silence is log(EPSILON) = -15.94
CHUNK = 512  # spectrogram frames computed at a time on a CPU: their spectra, 1 MB, stay in its cache


def window_of(hop: N) -> N:
    """The samples of an analysis window, 400 where frames lie 160 samples apart."""
    return (WINDOW - 1) * hop // HOP + 1


def samples_of(frames: N, hop: N | int = HOP) -> N:
    """How many samples so many frames look at: the least for which :func:`frames_of` gives them."""
    return window_of(hop) + (frames - 1) * hop  # type: ignore[return-value, type-var]


def frames_of(samples: int) -> int:
    """T, the number of whole analysis windows in so many samples (Kaldi's snip_edges)."""
    return max(0, 1 + (samples - WINDOW) // HOP)


def within(lengths: Tensor, size: int) -> Tensor:
    """(B,) -> (B, size) bool, on the device of ``lengths``: True at the places before each length."""
    return torch.arange(size, device=lengths.device) < lengths.unsqueeze(1)


@lru_cache(maxsize=64)
def window(device: torch.device, hop: int = HOP) -> Tensor:
    """(400,) symmetric Hann, or the same function at the samples of a longer or shorter window."""
    with torch.inference_mode(False):  # a tensor kept from inference mode could not be used outside it
        if hop == HOP:
            return torch.hann_window(WINDOW, periodic=False, device=device)
        turn = 2 * math.pi * HOP / ((WINDOW - 1) * hop)
        return (0.5 - 0.5 * torch.cos(turn * torch.arange(window_of(hop), dtype=torch.float64))).float().to(device)


@lru_cache(maxsize=8)
def mel_filters(mel_bins: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """(257, F): triangles on the HTK mel scale from 20 to 8000 Hz; the FFT bin at 8000 Hz counts for none.

    Computed in float32 step by step as torchaudio does, and not from :func:`ssast_lab.patches.mel_edges`, which is
    exact: at the foot of a filter that rounding is all that is left, and beside a pure tone it would show.
    """
    with torch.inference_mode(False):
        low, high = (1127.0 * math.log(1.0 + hertz / 700.0) for hertz in (20.0, SAMPLE_RATE / 2))
        step = (high - low) / (mel_bins + 1)
        bins = torch.arange(mel_bins).unsqueeze(1)
        left, peak, right = low + bins * step, low + (bins + 1.0) * step, low + (bins + 2.0) * step
        mel = 1127.0 * (1.0 + SAMPLE_RATE / FFT * torch.arange(FFT / 2) / 700.0).log()
        filters = torch.minimum((mel - left) / (peak - left), (right - mel) / (right - peak)).clamp(min=0)
        return torch.nn.functional.pad(filters, (0, 1)).T.to(device, dtype).contiguous()


@lru_cache(maxsize=64)
def _paced_filters(mel_bins: int, device: torch.device, dtype: torch.dtype, hop: int) -> Tensor:
    """(bins, F): the mel filters for a spectrum of ``FFT * hop / HOP`` samples, whose bins lie, once the sound is that much
    faster, where those of the usual spectrum do. What is heard above 8 kHz then counts for none, and nothing is heard above
    8 kHz times the pace. The filters also turn the pre-emphasis of the sound into that of the faster sound, and the energy of
    a longer window into that of the usual one."""
    filters = mel_filters(mel_bins, device, dtype)
    if hop == HOP:
        return filters
    size = FFT * hop // HOP
    with torch.inference_mode(False):
        bins = torch.arange(min(size, FFT) // 2 + 1, dtype=torch.float64)
        wanted, given = (1 - 2 * PREEMPHASIS * torch.cos(2 * math.pi * bins / n) + PREEMPHASIS**2 for n in (FFT, size))
        paced = filters[: len(bins)] * (wanted / given * (HOP / hop) ** 2).to(device, dtype)[:, None]
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
def kaldi_fbank(waveforms: Tensor, mel_bins: int = 128, hop: int = HOP) -> Tensor:
    """(B, S) -> (B, T, F) or (S,) -> (T, F) float32: log-mel energies as Kaldi computes them with a Hann window and no
    dither, on the waveforms' device. Per frame: minus its mean, pre-emphasis, window, power spectrum, mel filters, log.

    Frames that lie ``hop`` samples apart (a multiple of 5), with windows and spectra as much longer, are those of the sound
    resampled to be ``hop / 160`` times as fast, pitch and tempo together.

    Every step is torchaudio's own arithmetic in its order, batched: in the quiet bands beside a pure tone the energies
    are float32 rounding errors, which are only the same if the operations are.
    """
    waveforms = torch.as_tensor(waveforms).float()
    samples = waveforms.shape[-1] if waveforms.ndim in (1, 2) else 0
    width = window_of(hop)
    if hop < PACE or hop % PACE:
        raise AudioError(f"Frames lie a multiple of {PACE} samples apart, not {hop}.")
    if samples < width:
        raise AudioError(
            f"Log-mel features need waveforms (S,) or (B, S) of at least {width} samples, "
            f"not the shape {tuple(waveforms.shape)}."
        )
    device = waveforms.device
    shape, exact = window(device, hop), _product_type(device)
    filters = _paced_filters(mel_bins, device, exact, hop)
    windows = torch.atleast_2d(waveforms).unfold(-1, width, hop)  # (B, T, 400), a view
    clips, frames, _ = windows.shape
    energies = torch.empty(clips, frames, mel_bins, device=device)
    # On a CPU few clips, or a part of one, at a time; elsewhere all at once.
    long = min(CHUNK, frames) if device.type == "cpu" else frames
    many = min(CHUNK // long, clips) if device.type == "cpu" else clips
    padded = torch.zeros(many, long, FFT * hop // HOP, device=device)
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


def _paced_fbank(waveforms: Tensor, mel_bins: int, hops: Tensor, frames: int) -> Tensor:
    """(B, S), hops (B,) on the CPU -> (B, T, F): :func:`kaldi_fbank` of clips that have different hops, cut or padded with 0 to
    so many frames."""
    paces, counts = hops.unique(return_counts=True)
    order = hops.argsort()
    parts = []
    for hop, rows in zip(paces.tolist(), to_device_of(order, waveforms).split(counts.tolist()), strict=True):
        fbank = kaldi_fbank(waveforms[rows, : samples_of(frames, hop)], mel_bins, hop)
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
    """(S,) -> (T, F) or (B, S) -> (B, T, F) at 16 kHz, or a sound file, its path or its bytes -> (T, F): the model's input,
    ``(fbank - mean) / (2 * std)``, of the waveform without its mean.

    With ``frames`` it is cut or padded at the end to that many. ``lengths`` (B,) says how many samples of a padded
    batch are each clip's own. As in the official loader, padding is 0 before it is normalised, so 0.467 afterwards.
    With ``hops`` (B,), whole numbers on the CPU, each clip is heard ``hop / 160`` times as fast (:func:`kaldi_fbank`); it goes with
    ``frames`` and ``lengths``, none of which is shorter than its :func:`window_of`. Samples are at 16 kHz; one sound at another
    ``rate`` in Hz, of one channel or several, is what :func:`ssast_lab.load_waveform` makes of it.
    """
    if rate is not None or isinstance(waveform, str | os.PathLike | io.IOBase | bytes):
        waveform = load_waveform(waveform, rate=rate)
    waveform = torch.as_tensor(waveform).float()
    if waveform.ndim == 2 and waveform.shape[1] < WINDOW <= waveform.shape[0]:
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
        if not WINDOW <= int(lengths.min()) <= int(lengths.max()) <= samples:
            raise AudioError(
                f"The clips of this batch have from {WINDOW} to {samples} samples of their own, not {lengths.tolist()}."
            )
        lengths = to_device_of(lengths, waveform)
        sums = waveform.where(within(lengths, samples), 0).sum(-1)
        waveform = waveform - (sums / lengths).unsqueeze(1)
    if hops is not None:
        assert frames is not None
        fbank = _paced_fbank(waveform, config.mel_bins, hops, frames)
    else:
        if frames is not None:  # compute no frame that would be cut
            waveform = waveform[..., : samples_of(max(1, frames))]
        fbank = kaldi_fbank(waveform, config.mel_bins)
    if lengths is not None:
        hop = torch.tensor(HOP) if hops is None else to_device_of(hops, waveform)
        own = 1 + (lengths - window_of(hop)) // hop
        fbank = fbank.where(within(own, fbank.shape[1]).unsqueeze(-1), 0)
    if frames is not None:
        fbank = torch.nn.functional.pad(fbank, (0, 0, 0, frames - fbank.shape[-2]))
    return (fbank - config.mean) / (2 * config.std)


def denormalise(log_mel: Tensor, config: AudioConfig = OFFICIAL) -> Tensor:
    """The inverse of the normalisation: the model's input (..., T, F) -> Kaldi log-mel energies (..., T, F)."""
    return log_mel * (2 * config.std) + config.mean
