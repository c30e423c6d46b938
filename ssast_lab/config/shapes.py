"""Which features a model hears, and how large it is.

AudioConfig and ModelConfig are checked when they are built; presets are had by name.
"""

import math
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, TypeVar, get_args, get_origin

from torch import Tensor

from ssast_lab.patches import PatchGrid

Pooling = Literal["mean", "cls"]
N = TypeVar("N", int, Tensor)


class ConfigError(ValueError):
    """A configuration that cannot be: the message says what is wrong and what would be right."""


def check_choices(config: Any) -> None:
    """Raises :class:`ConfigError` where a field of a dataclass, annotated as a ``Literal``, has none of its values."""
    for item in fields(config):
        choices, value = get_args(item.type), getattr(config, item.name)
        if get_origin(item.type) is Literal and value not in choices:
            raise ConfigError(f"{item.name} is {' or '.join(choices)}, not {value!r}.")


@dataclass(frozen=True)
class AudioConfig:
    """How sound becomes the model's input: Kaldi log-mel features of frames of 25 ms every 10 ms, normalised as
    (fbank - mean) / (2 * std).

    The defaults are the official ones: 16 kHz, and the statistics of AudioSet and LibriSpeech together. Others have names, such as birds-48k.
    """

    mel_bins: int = 128
    mean: float = -4.2677393  # of the log-mel features, as ssast-lab data statistics finds it
    std: float = 4.5689974  # their standard deviation, likewise
    sample_rate: int = 16_000  # Hz, a multiple of 200, of which 25 and 10 ms are whole numbers of samples
    low: float = 20.0  # Hz, where the mel bands begin
    high: float | None = None  # Hz, where they end; None: at half the sample rate

    def __post_init__(self) -> None:
        if not isinstance(self.mel_bins, int) or self.mel_bins < 1:
            raise ConfigError(f"mel_bins must be a positive whole number, not {self.mel_bins}.")
        numbers = (self.mean, self.std, self.low, 1.0 if self.high is None else self.high)
        if not all(isinstance(value, int | float) for value in numbers):
            raise ConfigError(f"mean, std, low and high are numbers, not {', '.join(map(repr, numbers))}.")
        if not math.isfinite(self.mean) or not 0 < self.std < math.inf:
            raise ConfigError(f"mean and std must be finite and std positive, not {self.mean} and {self.std}.")
        if not isinstance(self.sample_rate, int) or self.sample_rate % 200 or not 1000 <= self.sample_rate <= 1_000_000:
            raise ConfigError(
                "sample_rate is a multiple of 200 Hz from 1000 to 1000000, such as 8000, 32000 or 48000, to which sounds of any rate "
                f"are resampled, not {self.sample_rate}."
            )
        low, high = self.band
        if not 0 <= low < high <= self.sample_rate / 2:
            raise ConfigError(
                f"The mel bands lie between 0 and {self.sample_rate / 2:g} Hz, half the sample rate, and low is below high, "
                f"not {low:g} and {high:g}."
            )

    def __str__(self) -> str:
        low, high = self.band
        return f"{self.sample_rate / 1000:g} kHz, {self.mel_bins} mel bins from {low:g} to {high:g} Hz, mean {self.mean:g}, deviation {self.std:g}"

    @property
    def band(self) -> tuple[float, float]:
        """Hz, from where to where the model hears."""
        return self.low, self.sample_rate / 2 if self.high is None else self.high

    def alike(self, other: "AudioConfig") -> bool:
        """Whether the features differ in their normalisation alone."""
        return replace(self, mean=other.mean, std=other.std) == other

    @property
    def hop(self) -> int:
        """Samples from one frame to the next, 10 ms."""
        return self.sample_rate // 100

    @property
    def window(self) -> int:
        """Samples that one frame looks at, 25 ms, and so the shortest sound."""
        return self.sample_rate // 40

    @property
    def fft(self) -> int:
        """Samples to which a window is zero-padded: the next power of two, as in Kaldi."""
        return 1 << (self.window - 1).bit_length()

    @property
    def pace(self) -> int:
        """Samples: hops are multiples of it where sound is heard faster or slower, so that their spectra are of whole samples."""
        return self.hop // math.gcd(self.hop, self.fft)

    def window_of(self, hop: N) -> N:
        """The samples that a frame looks at where frames lie ``hop`` samples apart."""
        return (self.window - 1) * hop // self.hop + 1

    def samples_of(self, frames: N, hop: N | int | None = None) -> N:
        """How many samples so many frames look at: the least for which :meth:`frames_of` gives them."""
        hop = self.hop if hop is None else hop
        return self.window_of(hop) + (frames - 1) * hop  # type: ignore[return-value, type-var]

    def frames_of(self, samples: N, hop: N | int | None = None) -> N:
        """T, the number of whole frames in so many samples (Kaldi's snip_edges); none is negative."""
        hop = self.hop if hop is None else hop
        frames = 1 + (samples - self.window_of(hop)) // hop  # type: ignore[type-var, operator]
        return frames.clamp(min=0) if isinstance(frames, Tensor) else max(0, frames)  # type: ignore[return-value]

    def seconds_of(self, frames: int) -> float:
        """How much sound so many frames look at."""
        return self.samples_of(frames) / self.sample_rate


@dataclass(frozen=True)
class ModelConfig:
    """A masked spectrogram model: the encoder's size, the patches it sees, and the features it was made for."""

    width: int = 192  # of the embeddings
    depth: int = 12  # layers
    heads: int = 3  # of attention
    frames: int = 1024  # of the window, 10 ms each
    patch: tuple[int, int] = (16, 16)  # (mel bins, frames)
    stride: tuple[int, int] = (16, 16)  # from one patch to the next
    pooling: Pooling = "mean"  # of a classifier: "mean" over the patches, or "cls" for [CLS] and distillation together
    labels: tuple[str, ...] = ()  # of a classifier
    audio: AudioConfig = field(default_factory=AudioConfig)
    norm_eps: float | None = None  # of every LayerNorm; None as the official code: 1e-6, in a classifier's head 1e-5
    distillation: bool = True  # whether there is a distillation token; without one, a copy of [CLS] stands in its place

    def __post_init__(self) -> None:
        for name in ("patch", "stride", "labels"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        sizes = (self.width, self.depth, self.heads, self.frames, *self.patch, *self.stride)
        if len(self.patch) != 2 or len(self.stride) != 2 or not all(isinstance(size, int) for size in sizes):
            raise ConfigError(
                "width, depth, heads and frames are whole numbers, patch and stride two of them, "
                f"not {', '.join(map(str, sizes))}."
            )
        if min(self.width, self.depth, self.heads) < 1:
            raise ConfigError(f"width, depth and heads must be positive, not {self.width}, {self.depth}, {self.heads}.")
        if self.width % self.heads:
            raise ConfigError(f"The width {self.width} cannot be shared evenly among {self.heads} attention heads.")
        check_choices(self)
        if not all(isinstance(label, str) for label in self.labels):
            raise ConfigError("The labels must be texts.")
        if len(set(self.labels)) < len(self.labels):
            raise ConfigError("Two labels have the same name.")
        if self.norm_eps is not None and not (isinstance(self.norm_eps, float) and 0 < self.norm_eps < 1):
            raise ConfigError(f"norm_eps must be a small positive number, not {self.norm_eps}.")
        try:
            _ = self.grid
        except ValueError as error:
            raise ConfigError(str(error)) from None

    @property
    def grid(self) -> PatchGrid:
        return PatchGrid(self.audio.mel_bins, self.frames, self.patch, self.stride, self.audio.band)


# Features by name, beside the official ones. The statistics of telephone-8k are those of free speech, music and effects, those of birds-48k
# of 1404 sounds of games at 44.1 kHz. No recordings of bats were at hand: theirs are those of birds-48k.
AUDIO: dict[str, AudioConfig] = {
    "telephone-8k": AudioConfig(64, -4.454, 3.963, 8_000),
    "birds-48k": AudioConfig(128, -5.376, 4.562, 48_000, 150.0, 15_000.0),
    "bats-96k": AudioConfig(128, -5.376, 4.562, 96_000, 8_000.0, 48_000.0),
}


def audio_config(name: str = "") -> AudioConfig:
    """Features by name; "" for the official ones."""
    if name and name not in AUDIO:
        raise ConfigError(f"There are no features {name!r}; there are {', '.join(AUDIO)}.")
    return AUDIO[name] if name else AudioConfig()


SIZES: dict[str, dict[str, Any]] = {
    "nano": dict(width=128, depth=4, heads=2),  # ours, for teaching; the others are the paper's
    "tiny": dict(width=192, depth=12, heads=3),
    "small": dict(width=384, depth=12, heads=6),
    "base": dict(width=768, depth=12, heads=12),
}
SHAPES: dict[str, tuple[int, int]] = {"patch": (16, 16), "frame": (128, 2)}


def model_config(name: str, **changes: Any) -> ModelConfig:
    """A preset such as ``"tiny-patch"`` or ``"base-frame"``, with any field changed. ``"tiny-patch-birds-48k"`` names features of
    ``AUDIO`` as well; its frames are as high as these have mel bins."""
    size, kind, features = [*name.split("-", 2), "", ""][:3]
    if size not in SIZES or kind not in SHAPES or features not in ("", *AUDIO):
        names = ", ".join(f"{s}-{k}" for s in SIZES for k in SHAPES)
        raise ConfigError(f"There is no model preset {name!r}; there are {names}, also with -{', -'.join(AUDIO)}.")
    audio = audio_config(features)
    shape = SHAPES[kind] if kind == "patch" else (audio.mel_bins, SHAPES[kind][1])
    return replace(ModelConfig(**SIZES[size], patch=shape, stride=shape, audio=audio), **changes)
