"""Training the models that predict what comes next: ``for tick in forecast(recipe("apc-nano", train=["recordings"]))``.

Axes: B clips of the global batch, S samples, T frames, N negatives. Clips, cuts and negatives are keyed by (seed, step).
"""

from abc import abstractmethod
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ssast_lab import audio, data
from ssast_lab.config import ConfigError, DataConfig, LearningConfig, RunConfig, to_dict
from ssast_lab.learning.pretrain import find_clips
from ssast_lab.learning.training import Exam, Examination, Lesson, Tick, train
from ssast_lab.patches import to_device_of
from ssast_lab.predictive import (
    APC,
    CHANNELS,
    WIDTHS,
    APCConfig,
    Autoregressive,
    Wav2Vec,
    Wav2VecConfig,
    Wav2VecLosses,
    apc_config,
    autoregression,
    latent_frames,
    wav2vec_config,
    wav2vec_loss,
)


@dataclass(frozen=True)
class ForecastTraining(LearningConfig):
    """How long a predictive model is trained."""

    steps: int = 10_000
    evaluate_every: int = 500

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least_one("steps", "evaluate_every")


@dataclass(frozen=True)
class ForecastConfig:
    """All that decides what such a run computes. Where and how fast it runs is :class:`RunConfig`'s."""

    model: APCConfig | Wav2VecConfig = field(default_factory=APCConfig)
    data: DataConfig = field(default_factory=DataConfig)
    training: ForecastTraining = field(default_factory=ForecastTraining)


@dataclass(frozen=True)
class AutoregressiveEvaluation:
    """Means over the held-out clips."""

    loss: float  # absolute error of normalised log-mel
    repeated: float  # the same, had the present frame been repeated
    clips: int


@dataclass(frozen=True)
class Wav2VecEvaluation:
    """Means over the held-out clips, each with the same negatives every time."""

    loss: float  # nats
    accuracy: float
    clips: int


_PRESETS: dict[str, tuple[Callable[[str], APCConfig | Wav2VecConfig], dict[str, int]]] = {
    "apc": (apc_config, WIDTHS),
    "wav2vec": (wav2vec_config, CHANNELS),
}


def recipe(name: str, **data: Any) -> ForecastConfig:
    """A recipe by name: ``"apc-nano"``, ``"apc-tiny"``, ``"wav2vec-nano"`` or ``"wav2vec-tiny"``; ``data`` are the fields of
    :class:`DataConfig`. Optimiser, schedule and batch are those of our own recipes for SSAST of the same size (``modern-...``
    of :func:`ssast_lab.config.pretrain_config`), so that the models differ in what they learn."""
    kind, _, size = name.partition("-")
    if kind not in _PRESETS or size not in _PRESETS[kind][1]:
        names = ", ".join(f"{kind}-{size}" for kind, (_, sizes) in _PRESETS.items() for size in sizes)
        raise ConfigError(f"There is no recipe {name!r} of a predictive model; there are {names}.")
    batch = {"nano": 32, "tiny": 256}[size]
    return ForecastConfig(_PRESETS[kind][0](size), DataConfig(**data), ForecastTraining(batch=batch))


def forecast(
    config: ForecastConfig, run: RunConfig | None = None, progress: bool = False
) -> Generator[Tick, None, None]:
    """Trains a predictive model from scratch, or goes on with a run, and yields every step: see
    :func:`ssast_lab.learning.training.train`. ``tick.examination.figures`` are an evaluation of this room."""
    return train(LESSONS[type(config.model)](config), run or RunConfig(folder="runs/forecast"), progress)


class Forecasting(Lesson):
    """What both lessons share."""

    name = "forecast"
    settings: ForecastTraining
    evaluation: type  # what the means over the held-out clips are told as

    def __init__(self, config: ForecastConfig) -> None:
        self.whole, self.settings = config, config.training
        self.steps, self.evaluate_every = config.training.steps, config.training.evaluate_every
        self.clips, self.held_out = find_clips(config.data, config.training.seed)

    def config(self) -> dict[str, Any]:
        return to_dict(self.whole)

    def plan(self, corpus: data.Corpus, rows: slice) -> data.Plan:
        return data.Plan(corpus, self.settings.batch, self.settings.seed, rows)

    def draw(self, step: int) -> tuple[Tensor, ...]:
        return self.drawn((self.settings.seed, step, data.Stream.NEGATIVES), self.settings.batch)

    @abstractmethod
    def drawn(self, key: tuple[int, ...], clips: int) -> tuple[Tensor, ...]:
        """(B, ...) each: what is drawn for so many clips by a key."""

    @abstractmethod
    def per_clip(self, forward: Callable[..., Any], batch: data.Batch, drawn: Sequence[Tensor]) -> Any:
        """A NamedTuple of (B,); the first is the loss."""

    def losses(self, forward: Callable[..., Any], model: Any, batch: data.Batch, drawn: Sequence[Tensor]) -> Any:
        found = self.per_clip(forward, batch, drawn)
        return type(found)(*(value.mean() for value in found))

    def exam(self, accelerator: Accelerator, micro: int) -> "_Exam":
        return _Exam(self, accelerator, micro)


class Autoregression(Forecasting):
    """The lesson of APC: draw the frame ahead."""

    evaluation = AutoregressiveEvaluation

    def __init__(self, config: ForecastConfig) -> None:
        super().__init__(config)
        assert isinstance(config.model, APCConfig)
        self.model = config.model
        self.samples = audio.samples_of(self.model.frames)

    def build(self) -> APC:
        return APC(self.model)

    def repeated(self, model: APC) -> Iterable[nn.Module]:
        return ()  # an LSTM is one compiled operation already

    def drawn(self, key: tuple[int, ...], clips: int) -> tuple[Tensor, ...]:
        return ()

    def per_clip(self, forward: Callable[..., Any], batch: data.Batch, drawn: Sequence[Tensor]) -> Autoregressive:
        fbank = batch.features(self.model.audio, self.model.frames)
        frames = (to_device_of(batch.lengths, fbank) - audio.WINDOW).div(audio.HOP, rounding_mode="floor") + 1
        return autoregression(forward(fbank), fbank, frames, self.model.ahead)


class Contrast(Forecasting):
    """The lesson of wav2vec: tell the latent frames ahead from others of the same sound."""

    evaluation = Wav2VecEvaluation

    def __init__(self, config: ForecastConfig) -> None:
        super().__init__(config)
        assert isinstance(config.model, Wav2VecConfig)
        self.model = config.model
        self.samples = self.model.samples

    def build(self) -> Wav2Vec:
        return Wav2Vec(self.model)

    def repeated(self, model: Wav2Vec) -> Iterable[nn.Module]:
        return (*model.encoder, *model.context)

    def drawn(self, key: tuple[int, ...], clips: int) -> tuple[Tensor, ...]:
        return (draw_negatives(self.model, clips, key),)

    def per_clip(self, forward: Callable[..., Any], batch: data.Batch, drawn: Sequence[Tensor]) -> Wav2VecLosses:
        sound = batch.waveforms.float() / 32768
        lengths, negatives = (to_device_of(each, sound) for each in (batch.lengths, *drawn))
        return wav2vec_loss(forward(sound), latent_frames(lengths), negatives)


LESSONS: dict[type, type[Forecasting]] = {APCConfig: Autoregression, Wav2VecConfig: Contrast}


def draw_negatives(model: Wav2VecConfig, batch: int, key: tuple[int, ...]) -> Tensor:
    """(B, T, N) uniform from 0 to 1: which share of each clip's own frames lies before a negative."""
    return torch.rand(batch, model.frames, model.negatives, generator=data.generator(*key))


class _Exam(Exam):
    """The held-out clips, and what is drawn for them: the same for every evaluation of a run."""

    def __init__(self, lesson: Forecasting, accelerator: Accelerator, micro: int) -> None:
        self.lesson, self.accelerator, self.micro = lesson, accelerator, micro
        seed, chosen = lesson.settings.seed, lesson.held_out
        own = np.arange(len(chosen))[accelerator.process_index :: accelerator.num_processes]
        keys = [(seed, data.Stream.HELD_OUT, int(index)) for index in own]
        self.batch = data.Files(chosen, lesson.samples).crop(own, np.full(len(own), 0.5), keys) if len(own) else None
        self.drawn = [drawn[own] for drawn in lesson.drawn((seed, 0, data.Stream.HELD_OUT_NEGATIVES), len(chosen))]
        self.unreadable = self.batch.unreadable if self.batch else {}
        self.clips = len(chosen)

    def take(self, forward: Callable[..., Any], model: Any) -> Examination:
        device = self.accelerator.device
        total = torch.zeros(2, device=device)
        for begin in range(0, len(self.batch.lengths) if self.batch else 0, self.micro):
            assert self.batch is not None
            rows = slice(begin, begin + self.micro)
            piece, drawn = self.batch.part(rows).to(device), [drawn[rows] for drawn in self.drawn]
            total += torch.stack([value.sum() for value in self.lesson.per_clip(forward, piece, drawn)])
        loss, other = (self.accelerator.reduce(total, "sum") / self.clips).tolist()
        return Examination(self.lesson.evaluation(loss, other, self.clips), loss, loss)
