"""Masked spectrogram pretraining: ``for step in pretrain(config)``.

Axes: B clips of the global batch, T frames, F mel bins, N patches. Clips, cuts and masks are keyed by (seed, step).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from ssast_lab import audio, data, masking, objectives
from ssast_lab.analysis import Reconstruction, reconstruct
from ssast_lab.config import DataConfig, MaskConfig, PretrainConfig, RunConfig, TrainingConfig, to_dict
from ssast_lab.learning.training import Exam, Examination, Lesson, train
from ssast_lab.model import SSAST
from ssast_lab.objectives import Losses
from ssast_lab.patches import PatchGrid, to_device_of

RANGE = 12  # parts of the range from which the number of hidden patches is drawn: 13 numbers
WATCHED = 2  # held-out clips whose reconstruction is kept at every evaluation


@dataclass(frozen=True)
class Evaluation:
    """Means over the held-out clips, each with the same mask every time."""

    loss: float
    nce: float  # nats
    mse: float  # squared normalised log-mel
    accuracy: float
    clips: int
    masked: int  # patches hidden in each


@dataclass(frozen=True)
class Step:
    """What one optimiser step did; its losses are means over the global batch."""

    step: int  # steps done, from 1
    epoch: float
    loss: float
    nce: float
    mse: float
    accuracy: float
    gradient_norm: float
    learning_rate: float
    clips_per_second: float  # of this step, over all processes
    seconds: float  # since this process began to train
    evaluation: Evaluation | None = None
    reconstructions: tuple[Reconstruction, ...] = ()  # of the same held-out clips, at every evaluation


def pretrain(config: PretrainConfig, run: RunConfig | None = None, progress: bool = False) -> Iterator[Step]:
    """Trains a model from scratch, or goes on with a run, and yields every step: see :func:`ssast_lab.learning.training.train`."""
    with closing(train(Pretraining(config), run or RunConfig(), progress)) as ticks:
        for tick in ticks:
            exam = tick.examination
            loss, nce, mse, accuracy = tick.losses
            yield Step(
                tick.step, tick.epoch, loss, nce, mse, accuracy, tick.gradient_norm, tick.learning_rate, tick.clips_per_second,
                tick.seconds, exam.figures if exam else None, exam.pictures if exam else (),
            )  # fmt: skip


def draw_masks(grid: PatchGrid, mask: MaskConfig, batch: int, seed: int, step: int) -> Tensor:
    """(B, N) bool: the masks of a step, keyed by (seed, step); all hide the same number."""
    generator, count = data.generator(seed, step, 5), mask.count
    if mask.fewest is not None:  # one of few numbers, as PyTorch keeps memory for each shape; most are near ``count``
        place = int((RANGE + 1) * torch.rand((), generator=generator, dtype=torch.float64) ** 3)
        count -= round(place / RANGE * (mask.count - mask.fewest))
    if mask.cluster is None:
        return masking.random_mask(grid, count, generator=generator, batch=batch)
    return masking.cluster_mask(grid, count, generator=generator, batch=batch, cluster=mask.cluster)


def draw_asked(hidden: int, sampled: int, batch: int, seed: int, step: int) -> Tensor:
    """(B, K): which K of the M hidden patches of each clip a step asks for, in order, keyed by (seed, step)."""
    order = torch.rand(batch, hidden, generator=data.generator(seed, step, 8))
    return order.topk(sampled).indices.sort().values


def find_clips(config: DataConfig, seed: int) -> tuple[list[data.Clip], list[data.Clip]]:
    """(training, held-out) clips of a corpus without labels."""
    if not config.train:
        raise data.DataError("There is nothing to train on: name a folder, a manifest or shards of sound.")
    clips = data.find_clips(config.train)
    if config.held_out:
        found = data.find_clips(config.held_out)
        return clips, [found[place] for place in data.spread(len(found), config.held_out_clips)]
    return data.split(clips, min(config.held_out_clips, max(len(clips) // 10, 1)), seed)


class Pretraining(Lesson):
    """The lesson: pick the hidden patches out, and draw them."""

    name = "pretrain"
    settings: TrainingConfig

    def __init__(self, config: PretrainConfig) -> None:
        self.whole, self.settings = config, config.training
        self.steps, self.evaluate_every = config.training.steps, config.training.evaluate_every
        self.clips, self.held_out = find_clips(config.data, config.training.seed)
        self.samples = audio.samples_of(config.model.frames)

    def config(self) -> dict[str, Any]:
        return to_dict(self.whole)

    def build(self) -> SSAST:
        model = SSAST(self.whole.model)
        if self.settings.start == "mae":
            model.encoder.start_as_mae()
        return model

    def plan(self, corpus: data.Corpus, rows: slice) -> data.Plan:
        return data.Plan(corpus, self.settings.batch, self.settings.seed, rows)

    def draw(self, step: int) -> tuple[Tensor, ...]:
        s = self.settings
        mask = draw_masks(self.whole.model.grid, self.whole.mask, s.batch, s.seed, step)
        if s.sampled is None or step >= s.sampled_steps(self.steps):
            return (mask,)
        return mask, draw_asked(int(mask[0].sum()), s.sampled, s.batch, s.seed, step)

    def losses(self, forward: Callable[..., Any], model: SSAST, batch: data.Batch, drawn: Sequence[Tensor]) -> Losses:
        mask, *asked = drawn
        fbank, s = batch.features(self.whole.model.audio, self.whole.model.frames), self.settings
        guess, among = forward(fbank, mask, *asked), [to_device_of(each, fbank) for each in asked]
        return objectives.joint(guess, model.targets(fbank, mask), s.mse_weight, s.nce_weight, s.softmax_over, *among)

    def exam(self, accelerator: Accelerator, micro: int) -> "_Exam":
        return _Exam(self, accelerator, micro)


class _Exam(Exam):
    """The held-out clips and their masks: the same for every evaluation of a run."""

    def __init__(self, lesson: Pretraining, accelerator: Accelerator, micro: int) -> None:
        config, training = lesson.whole, lesson.settings
        self.config, self.settings, self.accelerator, self.micro = config, training, accelerator, micro
        grid, chosen = config.model.grid, lesson.held_out
        count = training.evaluate_masks if training.evaluate_masks < grid.count else config.mask.count
        own = np.arange(len(chosen))[accelerator.process_index :: accelerator.num_processes]
        keys = [(training.seed, 6, int(index)) for index in own]
        self.masks = draw_masks(grid, MaskConfig(count, config.mask.cluster), len(chosen), training.seed, 0)[own]
        self.batch = data.Files(chosen, lesson.samples).crop(own, np.full(len(own), 0.5), keys) if len(own) else None
        self.unreadable = self.batch.unreadable if self.batch else {}
        self.clips, self.count = len(chosen), count

    def take(self, forward: Callable[..., Any], model: SSAST) -> Examination:
        device, s = self.accelerator.device, self.settings
        total = torch.zeros(len(Losses._fields), device=device)
        pictures: list[Reconstruction] = []
        for begin in range(0, len(self.masks), self.micro):
            assert self.batch is not None
            rows = slice(begin, begin + self.micro)
            mask, piece = self.masks[rows], self.batch.part(rows).to(device)
            fbank = piece.features(self.config.model.audio, self.config.model.frames)
            losses = objectives.per_clip(
                forward(fbank, mask), model.targets(fbank, mask), s.mse_weight, s.nce_weight, s.softmax_over
            )
            total += torch.stack([value.sum() for value in losses])
            if self.accelerator.is_main_process and begin == 0:
                pictures += [reconstruct(model, *pair) for pair in list(zip(fbank, mask, strict=True))[:WATCHED]]
        loss, nce, mse, accuracy = (self.accelerator.reduce(total, "sum") / self.clips).tolist()
        samples = {
            name: np.stack([getattr(picture, name) for picture in pictures])
            for name in ("original", "mask", "reconstruction")
            if pictures
        }
        figures = Evaluation(loss, nce, mse, accuracy, self.clips, self.count)
        return Examination(figures, loss, mse if s.nce_weight == 0 else -accuracy, tuple(pictures), samples)
