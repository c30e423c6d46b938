"""What all tasks that learn from sound without labels have in common.

Axes: B clips of the global batch.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from ssast_lab import data
from ssast_lab.analysis import Reconstruction
from ssast_lab.config import DataConfig
from ssast_lab.learning.task import E, EvaluationResult, Evaluator, Forward, TrainingTask


def find_clips(config: DataConfig, seed: int) -> tuple[list[data.Clip], list[data.Clip]]:
    """(training, held-out) clips of a corpus without labels; raises :class:`ssast_lab.data.DataError`."""
    if not config.train:
        raise data.DataError("There is nothing to train on: name a folder, a manifest or shards of sound.")
    clips = data.find_clips(config.train)
    if config.held_out:
        held_out = data.find_clips(config.held_out)
        return clips, [held_out[place] for place in data.spread(len(held_out), config.held_out_clips)]
    return data.split(clips, min(config.held_out_clips, max(len(clips) // 10, 1)), seed)


class UnlabelledTask(TrainingTask[E]):
    """A task whose losses are means over clips, in training as in evaluation."""

    losses_type: type  # a NamedTuple
    held_out_samples: int  # S of a held-out clip, which is never augmented

    def __init__(self, config: Any) -> None:
        """``config`` has the fields ``data``, a :class:`DataConfig`, and ``training``."""
        self.config, self.settings = config, config.training
        self.steps, self.evaluate_every = config.training.steps, config.training.evaluate_every
        self.clips, self.held_out = find_clips(config.data, config.training.seed)

    def plan(self, corpus: data.Corpus, rows: slice) -> data.Plan:
        return data.Plan(corpus, self.settings.batch, self.settings.seed, rows)

    def losses(self, forward: Forward, model: Any, batch: data.Batch, drawn: Sequence[Tensor]) -> Any:
        losses = self.losses_per_clip(forward, model, batch, drawn)
        return type(losses)(*(value.mean() for value in losses))

    @abstractmethod
    def losses_per_clip(self, forward: Forward, model: Any, batch: data.Batch, drawn: Sequence[Tensor]) -> Any:
        """As :meth:`losses`, but (B,) each."""

    @abstractmethod
    def draw_held_out(self) -> tuple[Tensor, ...]:
        """As :meth:`draw`, one row for each held-out clip: the same at every evaluation."""

    @abstractmethod
    def evaluation_result(
        self, means: Sequence[float], reconstructions: tuple[Reconstruction, ...]
    ) -> EvaluationResult[E]:
        """Of the means of the losses over the held-out clips."""

    def reconstruct(self, model: Any, batch: data.Batch, drawn: Sequence[Tensor]) -> tuple[Reconstruction, ...]:
        """Of some held-out clips, the first ones among ``batch``."""
        return ()

    def evaluator(self, accelerator: Accelerator, micro_batch: int) -> Evaluator[E]:
        return UnlabelledEvaluator(self, accelerator, micro_batch)


class UnlabelledEvaluator(Evaluator[E]):
    """The middle of each held-out clip, read once and kept in memory."""

    def __init__(self, task: UnlabelledTask[E], accelerator: Accelerator, micro_batch: int) -> None:
        self.task, self.accelerator, self.micro_batch = task, accelerator, micro_batch
        self.clips = len(task.held_out)
        rows = np.arange(self.clips)[accelerator.process_index :: accelerator.num_processes]  # of this process
        keys = [(task.settings.seed, data.Stream.HELD_OUT, int(row)) for row in rows]
        corpus = data.Files(task.held_out, task.held_out_samples)
        self.batch = corpus.crop(rows, np.full(len(rows), data.MIDDLE), keys) if len(rows) else None
        self.drawn = [drawn[rows] for drawn in task.draw_held_out()]
        self.unreadable = self.batch.unreadable if self.batch else {}
        self.noticed = (self.batch.noticed if self.batch else None) or {}

    def evaluate(self, forward: Forward, model: Any) -> EvaluationResult[E]:
        device = self.accelerator.device
        total = torch.zeros(len(self.task.losses_type._fields), device=device)  # type: ignore[attr-defined]
        reconstructions: tuple[Reconstruction, ...] = ()
        for begin in range(0, len(self.batch.lengths) if self.batch else 0, self.micro_batch):
            assert self.batch is not None
            rows = slice(begin, begin + self.micro_batch)
            batch, drawn = self.batch.part(rows).to(device), [drawn[rows] for drawn in self.drawn]
            losses = self.task.losses_per_clip(forward, model, batch, drawn)
            total += torch.stack([value.sum() for value in losses])
            if begin == 0 and self.accelerator.is_main_process:
                reconstructions = self.task.reconstruct(model, batch, drawn)
        means = (self.accelerator.reduce(total, "sum") / self.clips).tolist()
        return self.task.evaluation_result(means, reconstructions)
