"""Training APC and wav2vec, which predict what comes next: ``for step in forecast(recipe("apc-nano", train=["recordings"]))``.

Axes: B clips of the global batch, S samples, T frames, N negatives. Clips, crops and negatives are drawn by keys made of seed
and step.
"""

from abc import abstractmethod
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ssast_lab import data
from ssast_lab.analysis import Reconstruction
from ssast_lab.config import ConfigError, DataConfig, LearningConfig, RunConfig
from ssast_lab.learning.task import EvaluationResult, Forward, StepResult
from ssast_lab.learning.training import train
from ssast_lab.learning.unlabelled import UnlabelledTask
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
    """All that decides what such a run computes. Where it runs and how fast is in :class:`RunConfig`."""

    model: APCConfig | Wav2VecConfig = field(default_factory=APCConfig)
    data: DataConfig = field(default_factory=DataConfig)
    training: ForecastTraining = field(default_factory=ForecastTraining)


@dataclass(frozen=True)
class AutoregressiveEvaluation:
    """Means over the held-out clips."""

    loss: float  # absolute error of normalised log-mel
    repeated: float  # the same error of a prediction that repeats the present frame
    clips: int


@dataclass(frozen=True)
class Wav2VecEvaluation:
    """Means over the held-out clips, each with the same negatives every time."""

    loss: float  # nats
    accuracy: float
    clips: int


ForecastEvaluation = AutoregressiveEvaluation | Wav2VecEvaluation

_PRESETS: dict[str, tuple[Callable[[str], APCConfig | Wav2VecConfig], dict[str, int]]] = {
    "apc": (apc_config, WIDTHS),
    "wav2vec": (wav2vec_config, CHANNELS),
}


def recipe(name: str, **data: Any) -> ForecastConfig:
    """A recipe by name: ``"apc-nano"``, ``"apc-tiny"``, ``"wav2vec-nano"`` or ``"wav2vec-tiny"``; ``data`` are the fields of
    :class:`DataConfig`. Optimiser, schedule and batch are those of our own recipes for SSAST of the same size (``modern-...``
    of :func:`ssast_lab.config.pretrain_config`), so that the models differ only in what they learn."""
    kind, _, size = name.partition("-")
    if kind not in _PRESETS or size not in _PRESETS[kind][1]:
        names = ", ".join(f"{kind}-{size}" for kind, (_, sizes) in _PRESETS.items() for size in sizes)
        raise ConfigError(f"There is no recipe {name!r} of a predictive model; there are {names}.")
    batch = {"nano": 32, "tiny": 256}[size]
    return ForecastConfig(_PRESETS[kind][0](size), DataConfig(**data), ForecastTraining(batch=batch))


def forecast(
    config: ForecastConfig, run: RunConfig | None = None, progress: bool = False
) -> Generator[StepResult[ForecastEvaluation], None, None]:
    """Trains a predictive model from random weights, or goes on with a run, and yields every step: see
    :func:`ssast_lab.learning.training.train`. ``step.losses`` are :class:`Autoregressive` or :class:`Wav2VecLosses`."""
    return train(TASKS[type(config.model)](config), run or RunConfig(folder="runs/forecast"), progress)


class Forecasting(UnlabelledTask[ForecastEvaluation]):
    """What both tasks share."""

    name = "forecast"
    config: ForecastConfig
    settings: ForecastTraining
    evaluation_type: type

    def draw(self, step: int) -> tuple[Tensor, ...]:
        return self.draw_by((self.settings.seed, step, data.Stream.NEGATIVES), self.settings.batch)

    def draw_held_out(self) -> tuple[Tensor, ...]:
        return self.draw_by((self.settings.seed, 0, data.Stream.HELD_OUT_NEGATIVES), len(self.held_out))

    @abstractmethod
    def draw_by(self, key: tuple[int, ...], clips: int) -> tuple[Tensor, ...]:
        """(B, ...) each: what is drawn at random for so many clips by a key."""

    def evaluation_result(
        self, means: Sequence[float], clips: int, reconstructions: tuple[Reconstruction, ...]
    ) -> EvaluationResult[ForecastEvaluation]:
        evaluation = self.evaluation_type(*means, clips=clips)
        return EvaluationResult(evaluation, evaluation.loss, evaluation.loss)


class Autoregression(Forecasting):
    """The task of APC: draw the frame ahead."""

    figures, evaluation_type = len(Autoregressive._fields), AutoregressiveEvaluation

    def __init__(self, config: ForecastConfig) -> None:
        super().__init__(config)
        assert isinstance(config.model, APCConfig)
        self.model = config.model
        self.samples = self.held_out_samples = self.model.audio.samples_of(self.model.frames)
        self.rate = self.model.audio.sample_rate

    def build(self) -> APC:
        return APC(self.model)

    def blocks_to_compile(self, model: APC) -> Iterable[nn.Module]:
        return ()  # an LSTM is one compiled operation already

    def draw_by(self, key: tuple[int, ...], clips: int) -> tuple[Tensor, ...]:
        return ()

    def losses_per_clip(
        self, forward: Forward, model: APC, batch: data.Batch, drawn: Sequence[Tensor]
    ) -> Autoregressive:
        fbank = batch.features(self.model.audio, self.model.frames)
        frames = self.model.audio.frames_of(to_device_of(batch.lengths, fbank))
        return autoregression(forward(fbank), fbank, frames, self.model.ahead)


class ContrastivePrediction(Forecasting):
    """The task of wav2vec: tell the latent frames ahead from others of the same sound."""

    figures, evaluation_type = len(Wav2VecLosses._fields), Wav2VecEvaluation

    def __init__(self, config: ForecastConfig) -> None:
        super().__init__(config)
        assert isinstance(config.model, Wav2VecConfig)
        self.model = config.model
        self.samples = self.held_out_samples = self.model.samples

    def build(self) -> Wav2Vec:
        return Wav2Vec(self.model)

    def blocks_to_compile(self, model: Wav2Vec) -> Iterable[nn.Module]:
        return (*model.encoder, *model.context)

    def draw_by(self, key: tuple[int, ...], clips: int) -> tuple[Tensor, ...]:
        return (draw_negatives(self.model, clips, key),)

    def losses_per_clip(
        self, forward: Forward, model: Wav2Vec, batch: data.Batch, drawn: Sequence[Tensor]
    ) -> Wav2VecLosses:
        sound = batch.waveforms
        lengths, negatives = (to_device_of(each, sound) for each in (batch.lengths, *drawn))
        return wav2vec_loss(forward(sound), latent_frames(lengths), negatives)


TASKS: dict[type, type[Forecasting]] = {APCConfig: Autoregression, Wav2VecConfig: ContrastivePrediction}


def draw_negatives(model: Wav2VecConfig, batch: int, key: tuple[int, ...]) -> Tensor:
    """(B, T, N), uniform from 0 to 1: where each negative is in its clip, as a fraction of the clip's latent frames."""
    return torch.rand(batch, model.frames, model.negatives, generator=data.generator(*key))
