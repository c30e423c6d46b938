"""Models that predict what comes next, and what they learn by: the ones that SSAST's readers compare it with.

APC (Chung et al., "An Unsupervised Autoregressive Model for Speech Representation Learning", Interspeech 2019) draws the
spectrogram's frame some steps ahead; wav2vec (Schneider et al., "wav2vec: Unsupervised Pre-training for Speech Recognition",
Interspeech 2019), which predicts contrastively as CPC does (van den Oord et al., 2018), tells the latent frames ahead from
others of the same sound. Small re-implementations of the papers' objectives, whose differences from the papers are said here.

Axes: B clips, S samples at 16 kHz, T frames of 10 ms, F mel bins, D width, C channels, L layers, K steps ahead, N negatives.
"""

import math
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssast_lab.audio import within
from ssast_lab.config import AudioConfig, ConfigError

KERNELS, STRIDES = (10, 8, 4, 4, 4), (5, 4, 2, 2, 2)  # of wav2vec's encoder
LATENT_HOP = math.prod(STRIDES)  # 160 samples from one latent frame to the next
REACH = 1 + sum((kernel - 1) * math.prod(STRIDES[:layer]) for layer, kernel in enumerate(KERNELS))  # 465 samples, 29 ms


@dataclass(frozen=True)
class APCConfig:
    """Layers of LSTM over log-mel frames; the defaults are the paper's size, 5.6 million parameters with 128 mel bins."""

    width: int = 512
    depth: int = 3
    ahead: int = 3  # the frame that is predicted, counted from the present one
    frames: int = 1024  # of a training piece
    audio: AudioConfig = field(default_factory=AudioConfig)

    def __post_init__(self) -> None:
        _positive(self, "width", "depth", "ahead", "frames")
        if self.ahead >= self.frames:
            raise ConfigError(f"No frame lies {self.ahead} ahead of another in a piece of {self.frames} frames.")


@dataclass(frozen=True)
class Wav2VecConfig:
    """wav2vec's encoder and context network; the paper has 512 channels, these defaults make 5.5 million parameters."""

    channels: int = 304
    depth: int = 9  # layers of the context network
    kernel: int = 3  # latent frames that each of them looks at
    ahead: int = 12  # K: the steps ahead that are predicted
    negatives: int = 10  # for each true frame
    frames: int = 1024  # of a training piece

    def __post_init__(self) -> None:
        _positive(self, "channels", "depth", "kernel", "ahead", "negatives", "frames")
        if self.ahead >= self.frames:
            raise ConfigError(f"No frame lies {self.ahead} ahead of another in a piece of {self.frames} frames.")

    @property
    def samples(self) -> int:
        """S of a training piece."""
        return (self.frames - 1) * LATENT_HOP + REACH


def _positive(config: Any, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if not isinstance(value, int) or value < 1:
            raise ConfigError(f"{name} is a whole number from 1 upwards, not {value!r}.")


# As many parameters as the presets of SSAST have: 1.0 and 5.6 million.
WIDTHS = {"nano": 208, "tiny": 512}
CHANNELS = {"nano": 128, "tiny": 304}


def apc_config(size: str, **changes: Any) -> APCConfig:
    """``"nano"`` or ``"tiny"``, with any field changed."""
    return replace(APCConfig(_sized(WIDTHS, size)), **changes)


def wav2vec_config(size: str, **changes: Any) -> Wav2VecConfig:
    """``"nano"`` or ``"tiny"``, with any field changed."""
    return replace(Wav2VecConfig(_sized(CHANNELS, size)), **changes)


def _sized(sizes: dict[str, int], size: str) -> int:
    if size not in sizes:
        raise ConfigError(f"There is no size {size!r}; there are {' and '.join(sizes)}.")
    return sizes[size]


# --- autoregressive predictive coding -----------------------------------------------------------------------------


class APC(nn.Module):
    """LSTM layers that run forward in time, each adding to what the one below says, and a linear layer that draws the
    frame ahead (section 2 of the paper)."""

    def __init__(self, config: APCConfig) -> None:
        super().__init__()
        self.config = config
        sizes = [config.audio.mel_bins] + [config.width] * config.depth
        self.layers = nn.ModuleList(nn.LSTM(*pair, batch_first=True) for pair in pairwise(sizes))
        self.head = nn.Linear(config.width, config.audio.mel_bins)

    def hidden(self, fbank: Tensor) -> list[Tensor]:
        """(B, T, F) normalised log-mel -> after each of the L layers (B, T, D), which knows nothing of later frames."""
        found, x = [], fbank
        for layer in self.layers:
            y = layer(x)[0].float()  # so that what is added up is not rounded
            x = x + y if x.shape == y.shape else y
            found.append(x)
        return found

    def forward(self, fbank: Tensor) -> Tensor:
        """(B, T, F) normalised log-mel -> (B, T, F): at each frame, what the one ``ahead`` of it will be."""
        return self.head(self.hidden(fbank)[-1])


class Autoregressive(NamedTuple):
    """Means over frames, mel bins and clips; () tensors, or (B,) where a function says per clip."""

    total: Tensor  # absolute error of normalised log-mel
    repeated: Tensor  # the same, had the present frame been repeated: what is known without a model


def autoregression(guess: Tensor, fbank: Tensor, frames: Tensor, ahead: int) -> Autoregressive:
    """The L1 loss of APC (section 2 of the paper), as a mean for each clip.

    ``guess`` and ``fbank`` are (B, T, F), and of clip b only the first ``frames[b]`` are sound: others are neither predicted
    nor predicted from. A clip of at most ``ahead`` frames counts as 0.
    """
    future = fbank[:, ahead:]
    counted = within(frames - ahead, future.shape[1])  # (B, T - ahead)
    wrong = (guess[:, :-ahead].float() - future).abs().mean(-1)
    return Autoregressive(_mean(wrong, counted), _mean((fbank[:, :-ahead] - future).abs().mean(-1), counted))


def _mean(values: Tensor, counted: Tensor) -> Tensor:
    """(B, ...) -> (B,): the mean of those that count, 0 where none does."""
    return values.where(counted, 0).flatten(1).sum(1) / counted.flatten(1).sum(1).clamp(min=1)


# --- contrastive prediction ---------------------------------------------------------------------------------------


class Convolution(nn.Module):
    """A convolution along time, a ReLU and a norm: (B, T, C) -> (B, T', C').

    The paper normalises over channels and time together; this norm sees the channels of one frame, so that no frame
    knows of later ones, nor a short clip of its padding. It follows the ReLU, which it precedes in the paper: what only
    the ReLU has made positive shares a large mean, and a few steps of Adam along it leave latent frames that are constant
    in time. There is no bias: quiet sound is heard as loud sound is.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, before: int = 0) -> None:
        """``kernel`` is a multiple of ``stride``; ``before`` frames of zeros stand before the first one."""
        super().__init__()
        self.strides, self.stride, self.before = kernel // stride, stride, before
        self.linear = nn.Linear(kernel * inputs, outputs, bias=False)
        self.norm = nn.LayerNorm(outputs, eps=1e-10)

    def forward(self, x: Tensor) -> Tensor:
        # Blocks of a stride, side by side, and a matrix product: on a CPU in two thirds of the time that Conv1d takes.
        x = F.pad(x, (0, 0, self.before, 0))
        blocks = x[:, : x.shape[1] // self.stride * self.stride].unflatten(1, (-1, self.stride)).flatten(2)
        count = blocks.shape[1] - self.strides + 1  # T'
        windows = torch.cat([blocks[:, i : i + count] for i in range(self.strides)], dim=-1)  # (B, T', kernel * C)
        return self.norm(F.relu(self.linear(windows)))


class Heard(NamedTuple):
    """What the contrastive model makes of a sound. Frame t has heard the samples before 160 t + 465, and none after."""

    latents: Tensor  # (B, T, C) z of the paper
    context: Tensor  # (B, T, C) c
    ahead: Tensor  # (B, T, K, C) h_k(c): what is predicted for the latent frames 1, 2 ... K steps later


class Wav2Vec(nn.Module):
    """wav2vec: a convolutional encoder of the waveform, a causal convolutional context network, and an affine map for
    each step ahead. Its context layers add to what lies below, as those of the paper's larger model. The latent frames are
    normalised (:class:`Convolution`), and so not compressed by a logarithm as in the paper's code."""

    def __init__(self, config: Wav2VecConfig) -> None:
        super().__init__()
        self.config = config
        c = config.channels
        inputs = (1, *[c] * (len(KERNELS) - 1))
        self.encoder = nn.Sequential(
            *(Convolution(i, c, kernel, stride) for i, kernel, stride in zip(inputs, KERNELS, STRIDES, strict=True))
        )
        self.context = nn.ModuleList(
            Convolution(c, c, config.kernel, before=config.kernel - 1) for _ in range(config.depth)
        )
        self.steps = nn.Linear(c, config.ahead * c)
        # At first all candidates are equally likely: scores that start far from it are learned away together with the
        # latent frames.
        nn.init.normal_(self.steps.weight, std=0.1 / c)
        nn.init.zeros_(self.steps.bias)

    def hidden(self, waveforms: Tensor) -> tuple[Tensor, Tensor]:
        """(B, S) at 16 kHz -> latent frames and context, (B, T, C) each."""
        latents = x = self.encoder(waveforms[..., None])
        for layer in self.context:
            x = (x + layer(x)) * math.sqrt(0.5)  # as the paper's code keeps the sum's variance
        return latents, x

    def forward(self, waveforms: Tensor) -> Heard:
        """(B, S) at 16 kHz, 465 samples or more -> :class:`Heard`"""
        latents, context = self.hidden(waveforms)
        return Heard(latents, context, self.steps(context).unflatten(-1, (self.config.ahead, -1)))


class Wav2VecLosses(NamedTuple):
    """Means over pairs of present frame and step ahead; () tensors, or (B,) where a function says per clip."""

    total: Tensor  # nats, of one true frame and its N negatives together
    accuracy: Tensor  # share of the true frames that are likelier than each of their negatives; chance is 1 in N + 1


def latent_frames(samples: Tensor) -> Tensor:
    """(B,) samples -> (B,) whole latent frames in them."""
    return ((samples - REACH).div(LATENT_HOP, rounding_mode="floor") + 1).clamp(min=0)


def wav2vec_loss(heard: Heard, frames: Tensor, drawn: Tensor) -> Wav2VecLosses:
    """The binary logistic loss of wav2vec (its equation (1), summed over k; lambda = N), as a mean for each clip.

    Of clip b only the first ``frames[b]`` count. ``drawn`` (B, T, N), uniform from 0 to 1, says which of them are the
    negatives of each true frame: as in the paper all are equally likely, and as in its code the K predictions of one frame
    share them. The paper's loss is this mean times the number of its terms. A clip of one frame counts as 0.

    One thing is not the paper's: a score is the logarithm of how much likelier a candidate is as the true frame than as
    a negative, so that a score of 0 means one in N + 1 (Gutmann & Hyvärinen, "Noise-Contrastive Estimation of
    Unnormalized Statistical Models", JMLR 2012, section 2). In the paper it means one in two, and all latent frames are
    first drawn to one side to say that most candidates are false.
    """
    latents, guesses = heard.latents.float(), heard.ahead.float()
    clips, length, ahead, _ = guesses.shape
    first = torch.arange(clips, device=frames.device) * length
    others = (drawn * frames[:, None, None]).long() + first[:, None, None]  # (B, T, N), counted through the batch
    candidates = torch.cat((latents[:, :, None], F.embedding(others, latents.flatten(0, 1))), dim=2)  # (B, T, 1 + N, C)
    steps = range(1, ahead + 1)
    made = [
        F.pad(guesses[:, : max(length - k, 0), k - 1], (0, 0, min(k, length), 0)) for k in steps
    ]  # of frame t, k before
    odds = math.log(drawn.shape[-1])  # of a negative, before anything is heard
    true, *_ = scores = (candidates @ torch.stack(made, dim=-1) - odds).unbind(2)  # 1 + N of (B, T, K)
    false = torch.stack(scores[1:])
    frame, k = torch.arange(length, device=frames.device)[:, None], torch.arange(1, ahead + 1, device=frames.device)
    counted = (frame >= k) & (frame < frames[:, None, None])  # (B, T, K)
    loss = F.softplus(-true) + F.softplus(false).sum(0)
    return Wav2VecLosses(_mean(loss, counted), _mean((true > false.amax(0)).float(), counted))
