"""What all tasks that learn from sound without labels have in common.

Axes: B clips of the global batch.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from ssast_lab import data
from ssast_lab.analysis import Reconstruction
from ssast_lab.config import DataConfig
from ssast_lab.learning.task import E, EvaluationResult, Evaluator, Forward, TrainingTask

Part = tuple[data.Batch, tuple[Tensor, ...]]  # clips, and what is drawn for them


def find_clips(config: DataConfig, seed: int) -> tuple[list[data.Clip], list[data.Clip]]:
    """(training, held-out) clips of a corpus without labels; raises :class:`ssast_lab.data.DataError`."""
    if not config.train:
        raise data.DataError("There is nothing to train on: name a folder, a manifest or shards of sound.")
    clips = data.find_clips(config.train)
    if config.held_out:
        held_out = data.find_clips(config.held_out)
        return clips, [held_out[place] for place in data.spread(len(held_out), config.held_out_clips)]
    if len(clips) == 1:
        return data.split_in_time(clips[0], config.held_out_clips)
    return data.split(clips, min(config.held_out_clips, max(len(clips) // 10, 1)), seed)


class UnlabelledTask(TrainingTask[E]):
    """A task whose losses are means over clips, in training as in evaluation."""

    figures: int  # how many :meth:`held_out_figures` gives
    held_out_samples: int  # S of a held-out clip, which is never augmented

    def __init__(self, config: Any) -> None:
        """``config`` has the fields ``data``, a :class:`DataConfig`, and ``training``."""
        self.config, self.settings = config, config.training
        self.steps, self.evaluate_every = config.training.steps, config.training.evaluate_every
        self.clips, self.held_out = find_clips(config.data, config.training.seed)

    def keep_division(self, sets: Mapping[str, Mapping[str, Any]]) -> None:
        clips = {clip.name: clip for clip in (*self.clips, *self.held_out)}
        train, held_out = (sets.get(name, {}).get("names", []) for name in ("train", "held_out"))
        if not self.config.data.held_out and clips.keys() == {*train, *held_out}:
            self.clips, self.held_out = ([clips[name] for name in names] for names in (train, held_out))

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

    def held_out_parts(self, batch: data.Batch, numbers: np.ndarray) -> tuple[list[Part], dict[str, str]]:
        """What is evaluated at once, of this process's held-out clips, which have these ``numbers`` among all; and what is to be
        said of those that are left out (name -> what)."""
        return [(batch, tuple(drawn[numbers] for drawn in self.draw_held_out()))], {}

    def watched(self, batch: data.Batch, numbers: np.ndarray) -> Part | None:
        """Those of the clips that :meth:`reconstruct` shows."""
        return None

    def held_out_figures(
        self, forward: Forward, model: Any, batch: data.Batch, drawn: Sequence[Tensor]
    ) -> Sequence[Tensor]:
        """(B,) each: the losses of each clip, and what else is averaged over the clips."""
        return self.losses_per_clip(forward, model, batch, drawn)

    @abstractmethod
    def evaluation_result(
        self, means: Sequence[float], clips: int, reconstructions: tuple[Reconstruction, ...]
    ) -> EvaluationResult[E]:
        """Of the means of the figures over so many held-out clips."""

    def reconstruct(self, model: Any, batch: data.Batch, drawn: Sequence[Tensor]) -> tuple[Reconstruction, ...]:
        """Of the clips that are watched."""
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
        corpus = data.Files(task.held_out, task.held_out_samples, task.rate)
        self.parts: list[Part] = []
        self.unreadable, self.noticed = {}, {}
        self.shown: Part | None = None
        if len(rows):
            batch = corpus.crop(rows, np.full(len(rows), data.MIDDLE), keys)
            self.parts, left_out = task.held_out_parts(batch, rows)
            self.shown = task.watched(batch, rows) if accelerator.is_main_process else None
            self.unreadable, self.noticed = batch.unreadable, (batch.noticed or {}) | left_out

    def evaluate(self, forward: Forward, model: Any) -> EvaluationResult[E]:
        device = self.accelerator.device
        total = torch.zeros(self.task.figures + 1, device=device)  # the last is the number of clips
        for part, all_drawn in self.parts:
            for begin in range(0, len(part.lengths), self.micro_batch):
                rows = slice(begin, begin + self.micro_batch)
                batch, drawn = part.part(rows).to(device), [drawn[rows] for drawn in all_drawn]
                figures = self.task.held_out_figures(forward, model, batch, drawn)
                total += torch.stack([*(value.sum() for value in figures), total.new_tensor(len(batch.lengths))])
        *sums, clips = self.accelerator.reduce(total, "sum").tolist()
        if not clips:
            raise data.DataError(
                f"None of the {self.clips} held-out clips is long enough to be measured on: add longer ones."
            )
        reconstructions = (
            () if self.shown is None else self.task.reconstruct(model, self.shown[0].to(device), self.shown[1])
        )
        return self.task.evaluation_result([value / clips for value in sums], int(clips), reconstructions)
