"""Masked spectrogram pretraining: ``for step in pretrain(config)``.

Axes: B clips of the global batch, N patches, M hidden patches of a clip, K of them that are predicted. Clips, crops and masks
are drawn by keys made of seed and step.
"""

import math
import os
import warnings
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ssast_lab import analysis, checkpoint, data, masking, objectives
from ssast_lab.analysis import Reconstruction
from ssast_lab.config import ConfigError, MaskConfig, PretrainConfig, RunConfig, TrainingConfig, to_dict
from ssast_lab.learning import augment
from ssast_lab.learning.task import EvaluationResult, Forward, StepResult
from ssast_lab.learning.training import train
from ssast_lab.learning.unlabelled import Part, UnlabelledTask
from ssast_lab.model import SSAST
from ssast_lab.objectives import Losses
from ssast_lab.patches import PatchGrid, to_device_of

HIDDEN_STEPS = 12  # steps in which the range of hidden patches is divided: 13 numbers can be drawn
LOOKED_AT = 200  # clips whose lengths are looked at before a run
FILLED = 3 / 4  # of the windows: clips that fill as much are not worth a word
FITTING = {  # what to do where a model to start from is of another size, or hears otherwise
    "width": ": take a recipe of its size, or --model.width {width} --model.depth {depth} --model.heads {heads}.",
    "depth": ": take a recipe of its size, or --model.depth {depth} --model.heads {heads}.",
    "audio": ": its features stay as they are, without --model.audio.mean and --model.audio.std.",
}
WATCHED = 2  # held-out clips whose reconstructions are kept at every evaluation


@dataclass(frozen=True)
class Evaluation:
    """Means over the held-out clips, each with the same mask every time."""

    loss: float
    nce: float  # nats
    mse: float  # squared normalised log-mel
    accuracy: float
    clips: int
    masked: float  # M; where shorter clips hide fewer, the M whose 1 / M is the accuracy of guessing


class ShortClips(UserWarning):
    """Most clips of a corpus are much shorter than the model's window: the message says how many, and which setting is sensible."""


def pretrain(
    config: PretrainConfig, run: RunConfig | None = None, progress: bool = False
) -> Generator[StepResult[Evaluation], None, None]:
    """Trains a model from random weights, or goes on with a run, and yields every step. The run's folder, resuming,
    processes and errors are those of :func:`ssast_lab.learning.training.train`. :class:`ShortClips` is warned of."""
    task = Pretraining(config)
    advice = on_lengths(task.clips, config)
    if advice and os.environ.get("RANK", "0") == "0":  # once, where several processes train
        warnings.warn(ShortClips(advice), stacklevel=2)
    return train(task, run or RunConfig(), progress)


def on_lengths(clips: Sequence[data.Clip], config: PretrainConfig) -> str:
    """What is to be known where most clips are much shorter than the window, by the headers of some of them; "" where they are not."""
    seconds = np.array([*filter(None, (data.estimated(clips[place]) for place in data.spread(len(clips), LOOKED_AT)))])
    model, features = config.model, config.model.audio
    frames = (seconds * features.sample_rate - features.window) / features.hop + 1
    window = features.seconds_of(model.frames)
    filled = float((frames / model.frames).clip(0, 1).mean()) if len(frames) else 1.0
    if filled > FILLED:
        return ""
    found = (
        f"{int((frames < model.frames).sum())} of {len(frames)} clips that were looked at are shorter than the window of {window:.1f} s; "
        f"all in all they fill {filled:.0%} of it, and half of them last at most {np.median(seconds):.1f} s"
    )
    if not config.training.pack:
        return (
            f"{found}. The rest is padding, which is hidden, learned and measured like sound, as in the official code. To join short "
            "clips instead, set training.pack (--training.pack)."
        )
    step = math.lcm(16, model.patch[1])
    fitting = math.ceil(np.quantile(frames, 0.9) / step) * step
    advice = f"{found}. Short clips are joined to fill it."
    if fitting < model.frames:
        advice += (
            f" Nine in ten would be heard alone and whole in windows of {fitting} frames (--model.frames {fitting})."
        )
    return advice


def draw_masks(grid: PatchGrid, mask: MaskConfig, batch: int, seed: int, step: int) -> Tensor:
    """(B, N) bool, True = hidden: the masks of a step, which all hide the same number of patches."""
    generator = data.generator(seed, step, data.Stream.MASK)
    if mask.fewest is not None:
        # One of few numbers, because PyTorch keeps memory for every shape; half of the steps hide nearly ``count``, where
        # predicting only a sample saves most.
        place = int((HIDDEN_STEPS + 1) * torch.rand((), generator=generator, dtype=torch.float64) ** 3)
        most = mask.hidden(grid.count)
        mask = replace(mask, count=most - round(place / HIDDEN_STEPS * (most - mask.fewest)), share=None)
    return masking.draw_mask(grid, mask, generator=generator, batch=batch)


def draw_queried(hidden: int, sampled: int, batch: int, seed: int, step: int) -> Tensor:
    """(B, K): which K of the M hidden patches of each clip are predicted in a step, in order."""
    order = torch.rand(batch, hidden, generator=data.generator(seed, step, data.Stream.QUERIED))
    return order.topk(sampled).indices.sort().values


class Pretraining(UnlabelledTask[Evaluation]):
    """Pick each hidden patch out of all hidden ones, and draw it."""

    name = "pretrain"
    config: PretrainConfig
    settings: TrainingConfig
    figures = len(Losses._fields) + 1

    def __init__(self, config: PretrainConfig) -> None:
        super().__init__(config)
        model, features = config.model, config.model.audio
        self.rate = features.sample_rate
        self.held_out_samples = features.samples_of(model.frames)
        self.samples = features.samples_of(model.frames, augment.hops(config.training.stretch, features)[-1])
        self.window = data.Window(model.frames, model.patch[1], features)
        self.better = "min" if config.training.nce_weight == 0 else "max"

    def build(self) -> SSAST:
        if self.settings.start_from:
            return self._trained()
        model = SSAST(self.config.model)
        if self.settings.start == "mae":
            model.encoder.start_as_mae()
        return model

    def _trained(self) -> SSAST:
        """The model to start from, at the length of this run."""
        wanted, name = self.config.model, self.settings.start_from
        model = checkpoint.load(name)
        if not isinstance(model, SSAST):
            raise ConfigError(f"{name} has no pretext heads, so that pretraining cannot go on from it.")
        given = to_dict(model.config)
        different = [
            field for field, value in to_dict(wanted).items() if field != "frames" and given.get(field) != value
        ]
        if different:
            (field, *_), asked = different, to_dict(wanted)
            raise ConfigError(
                f"Pretraining cannot go on from {name} with another {field}: it has {given.get(field)}, and {asked[field]} was asked for"
                + FITTING.get(field, ".").format(**given)
            )
        return model.train() if wanted.frames == model.config.frames else model.resized(wanted.frames).train()

    def plan(self, corpus: data.Corpus, rows: slice) -> data.Plan:
        s = self.settings
        return augment.AugmentingPlan(
            corpus, s.batch, s.seed, rows, s, self.window if s.pack else None, self.config.model.audio
        )

    def draw(self, step: int) -> tuple[Tensor, ...]:
        """(B, N) masks, and (B, K) which of the hidden patches are predicted, in steps that do not predict all."""
        s = self.settings
        mask = draw_masks(self.config.model.grid, self.config.mask, s.batch, s.seed, step)
        if s.sampled is None or step >= s.sampled_steps(self.steps):
            return (mask,)
        return mask, draw_queried(int(mask[0].sum()), s.sampled, s.batch, s.seed, step)

    def draw_held_out(self) -> tuple[Tensor, ...]:
        mask = MaskConfig(self.masked, self.config.mask.cluster)
        return (draw_masks(self.config.model.grid, mask, len(self.held_out), self.settings.seed, 0),)

    @property
    def masked(self) -> int:
        """How many patches of a whole window are hidden in evaluation."""
        count = self.settings.evaluate_masks
        patches = self.config.model.grid.count
        return count if count < patches else self.config.mask.hidden(patches)

    def losses_per_clip(self, forward: Forward, model: SSAST, batch: data.Batch, drawn: Sequence[Tensor]) -> Losses:
        mask, *queried = drawn
        fbank, s = augment.features(batch, self.config.model.audio, self._frames(mask)), self.settings
        clips = batch.clips_of(self.config.model.grid)
        of_clips = [] if clips is None else [None, clips][len(queried) :]
        prediction = forward(fbank, mask, *queried, *of_clips)
        targets = model.targets(fbank, mask)
        asked = [to_device_of(each, fbank) for each in queried]
        return objectives.per_clip(prediction, targets, s.mse_weight, s.nce_weight, s.softmax_over, *asked)

    def _frames(self, masks: Tensor) -> int:
        """Of the sounds that (B, N) masks are for."""
        return masks.shape[1] // self.config.model.grid.rows * self.window.patch

    def held_out_parts(self, batch: data.Batch, numbers: np.ndarray) -> tuple[list[Part], dict[str, str]]:
        """Clips of equal length, at their own length, as :func:`ssast_lab.measuring.evaluation.evaluate` takes them; all together
        where short ones are padded."""
        own = self._own(batch)
        parts: list[Part] = []
        left_out: dict[str, str] = {}
        for frames in own.unique().tolist():
            rows = (own == frames).nonzero()[:, 0].tolist()
            part = batch if len(rows) == len(own) else batch.chosen(rows)
            if self._measurable(frames):
                parts.append((part, (self._held_out_masks(numbers[rows], frames),)))
            else:
                left_out |= {
                    name: f"{name!r} is shorter than two patches, and was not measured on." for name in part.names
                }
        return parts, left_out

    def watched(self, batch: data.Batch, numbers: np.ndarray) -> Part | None:
        """The first clips, cut to the shortest of them."""
        own = self._own(batch)
        rows = [row for row, frames in enumerate(own.tolist()) if self._measurable(frames)][:WATCHED]
        if not rows:
            return None
        return batch.chosen(rows), (self._held_out_masks(numbers[rows], int(own[rows].min())),)

    def _own(self, batch: data.Batch) -> Tensor:
        """(B,) frames of each held-out clip that are measured on."""
        return (
            self.window.own(batch.lengths) if self.settings.pack else torch.full_like(batch.lengths, self.window.frames)
        )

    def _measurable(self, frames: int) -> bool:
        """Whether there are two patches to tell apart."""
        return frames // self.window.patch * self.config.model.grid.rows > 1

    def _held_out_masks(self, numbers: np.ndarray, frames: int) -> Tensor:
        """(B, N) for held-out clips of these numbers and so many frames."""
        if frames == self.window.frames:
            (masks,) = self.draw_held_out()
            return masks[numbers]
        whole, seed = self.config.model.grid, self.settings.seed
        grid = replace(whole, frames=frames)
        mask = MaskConfig(masking.of_shorter(self.masked, grid.count, whole.count), self.config.mask.cluster)
        keys = [(seed, int(number), self.masked, data.Stream.SCORED_MASK) for number in numbers]
        return torch.stack([masking.draw_mask(grid, mask, generator=data.generator(*key)) for key in keys])

    def held_out_figures(
        self, forward: Forward, model: SSAST, batch: data.Batch, drawn: Sequence[Tensor]
    ) -> Sequence[Tensor]:
        losses, (mask, *_) = self.losses_per_clip(forward, model, batch, drawn), drawn
        return *losses, to_device_of(1 / mask.sum(1), losses.mse)

    def evaluation_result(
        self, means: Sequence[float], clips: int, reconstructions: tuple[Reconstruction, ...]
    ) -> EvaluationResult[Evaluation]:
        loss, nce, mse, accuracy, chance = means
        evaluation = Evaluation(loss, nce, mse, accuracy, clips, round(1 / chance, 3))
        return EvaluationResult(evaluation, loss, mse if self.better == "min" else accuracy, reconstructions)

    def reconstruct(self, model: SSAST, batch: data.Batch, drawn: Sequence[Tensor]) -> tuple[Reconstruction, ...]:
        (masks,) = drawn
        fbanks = batch.features(self.config.model.audio, self._frames(masks))
        return tuple(analysis.reconstruct(model, *pair) for pair in zip(fbanks, masks, strict=True))
