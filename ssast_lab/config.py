"""What a model and its training are made of: frozen dataclasses, checked when they are built, and presets by name."""

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ssast_lab.patches import PatchGrid


class ConfigError(ValueError):
    """A configuration that cannot be: the message says what is wrong and what would be right."""


@dataclass(frozen=True)
class AudioConfig:
    """How sound becomes the model's input: Kaldi log-mel features, normalised as ``(fbank - mean) / (2 * std)``.

    The defaults are the official statistics of AudioSet and LibriSpeech together.
    """

    mel_bins: int = 128
    mean: float = -4.2677393
    std: float = 4.5689974

    def __post_init__(self) -> None:
        if self.mel_bins < 1:
            raise ConfigError(f"mel_bins must be positive, not {self.mel_bins}.")
        if not self.std > 0:
            raise ConfigError(f"std must be positive, not {self.std}.")


@dataclass(frozen=True)
class ModelConfig:
    """A masked spectrogram model: the encoder's size, the patches it sees, and the features it was made for."""

    width: int = 192
    depth: int = 12
    heads: int = 3
    frames: int = 1024
    patch: tuple[int, int] = (16, 16)  # (mel bins, frames)
    stride: tuple[int, int] = (16, 16)
    pooling: str = "mean"  # of a classifier: "mean" over the patches, or "cls" for [CLS] and distillation together
    labels: tuple[str, ...] = ()  # of a classifier
    audio: AudioConfig = field(default_factory=AudioConfig)

    def __post_init__(self) -> None:
        for name in ("patch", "stride", "labels"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if min(self.width, self.depth, self.heads) < 1:
            raise ConfigError(f"width, depth and heads must be positive, not {self.width}, {self.depth}, {self.heads}.")
        if self.width % self.heads:
            raise ConfigError(f"The width {self.width} cannot be shared evenly among {self.heads} attention heads.")
        if self.pooling not in ("mean", "cls"):
            raise ConfigError(f'pooling is "mean" or "cls", not {self.pooling!r}.')
        if len(set(self.labels)) < len(self.labels):
            raise ConfigError("Two labels have the same name.")
        try:
            _ = self.grid
        except ValueError as error:
            raise ConfigError(str(error)) from None

    @property
    def grid(self) -> PatchGrid:
        return PatchGrid(self.audio.mel_bins, self.frames, self.patch, self.stride)


SIZES: dict[str, dict[str, int]] = {
    "nano": dict(width=128, depth=4, heads=4),  # ours, for teaching; the others are the paper's
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


@dataclass(frozen=True)
class MaskConfig:
    """Which patches are hidden: ``count`` of them, in clusters of C x C (``cluster`` = (least C, most C)), or one by one
    (``cluster`` = None), as the paper does for frames."""

    count: int = 400
    cluster: tuple[int, int] | None = (3, 5)

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ConfigError(f"At least one patch must be hidden, not {self.count}.")
        if self.cluster is not None:
            object.__setattr__(self, "cluster", tuple(self.cluster))
            least, most = self.cluster
            if not 1 <= least <= most:
                raise ConfigError(f"The cluster factor runs from at least 1 upwards, not from {least} to {most}.")


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration as plain JSON types."""
    return asdict(config)
