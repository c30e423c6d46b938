"""Which features a model hears, and how large it is.

AudioConfig and ModelConfig are checked when they are built; presets are had by name.
"""

import math
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, get_args, get_origin

from ssast_lab.patches import PatchGrid

Pooling = Literal["mean", "cls"]


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
    """How sound becomes the model's input: Kaldi log-mel features, normalised as (fbank - mean) / (2 * std).

    The defaults are the official statistics of AudioSet and LibriSpeech together.
    """

    mel_bins: int = 128
    mean: float = -4.2677393  # of the log-mel features, as ssast-lab data statistics finds it
    std: float = 4.5689974  # their standard deviation, likewise

    def __post_init__(self) -> None:
        if not isinstance(self.mel_bins, int) or self.mel_bins < 1:
            raise ConfigError(f"mel_bins must be a positive whole number, not {self.mel_bins}.")
        if not math.isfinite(self.mean) or not 0 < self.std < math.inf:
            raise ConfigError(f"mean and std must be finite and std positive, not {self.mean} and {self.std}.")


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
        return PatchGrid(self.audio.mel_bins, self.frames, self.patch, self.stride)


SIZES: dict[str, dict[str, Any]] = {
    "nano": dict(width=128, depth=4, heads=2),  # ours, for teaching; the others are the paper's
    "tiny": dict(width=192, depth=12, heads=3),
    "small": dict(width=384, depth=12, heads=6),
    "base": dict(width=768, depth=12, heads=12),
}
SHAPES: dict[str, tuple[int, int]] = {"patch": (16, 16), "frame": (128, 2)}


def model_config(name: str, **changes: Any) -> ModelConfig:
    """A preset such as ``"tiny-patch"`` or ``"base-frame"``, with any field changed."""
    size, _, kind = name.partition("-")
    if size not in SIZES or kind not in SHAPES:
        names = ", ".join(f"{s}-{k}" for s in SIZES for k in SHAPES)
        raise ConfigError(f"There is no model preset {name!r}; there are {names}.")
    shape = SHAPES[kind]
    return replace(ModelConfig(**SIZES[size], patch=shape, stride=shape), **changes)
