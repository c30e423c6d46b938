"""Fine-tuning: a classifier on a trained encoder: ``for step in fine_tune(config)``.

Axes: B clips of the global batch, C clips of a set, L labels.
"""

import math
from collections.abc import Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from ssast_lab import audio, checkpoint, data, files, metrics
from ssast_lab.config import (
    ConfigError,
    FineTuneConfig,
    LabelledConfig,
    ModelConfig,
    RunConfig,
    TuningConfig,
    to_dict,
)
from ssast_lab.data.batches import unreadable
from ssast_lab.data.datasets import read_dataset
from ssast_lab.data.labelled import LabelError, LabelledSet, Split, check, read_labelled, splits
from ssast_lab.learning.run import Run
from ssast_lab.learning.task import EvaluationResult, Evaluator, Forward, Judgement, StepResult, TrainingTask
from ssast_lab.learning.training import train
from ssast_lab.learning.variation import SHIFT, LabelledPlan, vary
from ssast_lab.metrics import Scores
from ssast_lab.model import SSAST, Classifier, EncoderModel

__all__ = ["Judgement", "fine_tune", "judge", "logits", "pool_folds", "read_split", "read_splits"]

REPORT = "report.json"
AVERAGED = "averaged"


class Losses(NamedTuple):
    """Means over the clips of a batch."""

    total: Tensor
    accuracy: Tensor  # share of clips whose highest logit is that of their label, or of the one with the larger share


@dataclass(frozen=True)
class Evaluation:
    """What the classifier does with the validation clips, or where there are none, with those of the test set."""

    loss: float
    accuracy: float  # nan where clips have several labels
    mean_average_precision: float
    clips: int


def read_splits(config: LabelledConfig) -> list[Split]:
    """The splits that a configuration names: one, or with numbered folds and no ``fold`` one for each of them. All are
    checked here (:func:`ssast_lab.data.labelled.check`), before the first is trained. Raises :class:`LabelError`."""
    if not config.train:
        raise LabelError("There is nothing to learn from: name a task's folder, a table, or the folder of a data set.")
    if config.dataset and Path(config.train).is_dir():
        labelled = read_dataset(config.dataset, config.train)
    else:
        labelled = read_labelled(config.train, config.labels or None)
    if config.valid or config.test:
        train = labelled.where("train") if "train" in labelled.folds else labelled
        valid, test = (
            read_labelled(path, config.labels or labelled.labels) if path else labelled.where(fold)
            for path, fold in ((config.valid, "valid"), (config.test, "test"))
        )
        if not len(test):
            raise LabelError(
                f"{config.valid} was named to choose the best weights, but {config.train} has no fold test to judge them by: "
                "name a test set too."
            )
        chosen = [Split("", train, valid, test, "by the sets that were named")]
    else:
        chosen = splits(labelled)
    if config.fold:
        numbered = ", ".join(split.name for split in chosen if split.name) or "none"
        chosen = [split for split in chosen if split.name == config.fold]
        if not chosen:
            raise LabelError(
                f"There is no fold {config.fold!r} to test in {config.train}; its numbered folds: {numbered}."
            )
    for split in chosen:
        check(split.train, *split.others, contents=not config.dataset)
    return chosen


def read_split(config: LabelledConfig) -> Split:
    """The one split that a configuration names; raises :class:`LabelError` where it names several."""
    splits = read_splits(config)
    if len(splits) > 1:
        names = ", ".join(split.name for split in splits)
        raise LabelError(f"{config.train} has {len(splits)} folds: name the one to test ({names}).")
    return splits[0]


def fine_tune(
    config: FineTuneConfig, run: RunConfig | None = None, progress: bool = False
) -> Generator[StepResult[Evaluation], None, None]:
    """Trains a classifier on a trained encoder, or goes on with a run, and yields every step; see
    :func:`ssast_lab.learning.training.train` for folder, resume and processes.

    At the end the weights that were best on the validation set are judged on the test set, or without a validation set the
    last ones, and the averaged ones too where the configuration asks for them. The run's folder then holds the judgements
    as ``report.json``, and loads as the classifier with its labels. Raises :class:`ssast_lab.data.labelled.LabelError` and
    :class:`ssast_lab.config.ConfigError` before anything is trained.
    """
    return train(FineTuning(config), run or RunConfig(folder="runs/finetune"), progress)


def judge(config: FineTuneConfig, run: RunConfig) -> tuple[Judgement, ...]:
    """Judges a run that has done all its steps once more, and writes its report: it may have been ended before it was
    judged."""
    task, folder = FineTuning(config), Run(run.folder)
    task.classifier.to("cuda" if torch.cuda.is_available() else "cpu")
    task.restore(folder.read_training(task.steps)["task"])
    return task.judge(folder)


class FineTuning(TrainingTask[Evaluation]):
    """Name the labels of a sound."""

    name = "finetune"
    config: FineTuneConfig
    settings: TuningConfig

    def __init__(self, config: FineTuneConfig) -> None:
        self.config, self.settings = config, config.training
        self.split = read_split(config.data)
        others = self.split.others
        multi = any(part.multi for part in (self.split.train, *others))
        if self.settings.loss == "ce" and multi:
            raise LabelError(
                "Some clips have several labels or none, which cross-entropy cannot learn: use the loss bce."
            )
        self.loss = {"auto": "bce" if multi else "ce"}.get(self.settings.loss, self.settings.loss)
        self.told = {"loss": self.loss}
        self.classifier = self._classifier()
        self.model = self.classifier.config
        self.samples, self.rate = self.model.audio.samples_of(self.model.frames), self.model.audio.sample_rate
        self.clips, self.held_out = self.split.train.clips, others[0].clips
        if len(self.clips) < self.settings.batch:
            raise ConfigError(
                f"{len(self.clips)} clips do not fill a batch of {self.settings.batch}: choose a smaller one."
            )
        self.steps_per_epoch = math.ceil(len(self.clips) / self.settings.batch)
        self.steps = self.settings.steps or self.settings.epochs * self.steps_per_epoch
        self.evaluate_every = self.settings.evaluate_every or self.steps_per_epoch
        self.lr_multipliers = {"norm.": self.settings.head_rate, "linear.": self.settings.head_rate}
        self.weight_sum: dict[str, Tensor] = {}  # over the epochs whose weights are averaged
        self.epochs_summed = 0

    def _classifier(self) -> Classifier:
        """The trained encoder with a new head, for the configured window, stride and statistics."""
        config = self.config
        trained, name = checkpoint.load(config.model), config.model
        if not isinstance(trained, SSAST | Classifier | EncoderModel):
            raise ConfigError(f"{name} is no masked spectrogram model, so that nothing can be fine-tuned on it.")
        stride, patch = config.stride or trained.config.stride, trained.config.patch
        if stride[0] > patch[0] or stride[1] > patch[1]:
            raise ConfigError(
                f"A stride of {stride[0]}x{stride[1]} leaves gaps between the {patch[0]}x{patch[1]} patches of {name}: "
                "take the recipe for models of its kind (-patch or -frame), or another stride."
            )
        features = trained.config.audio
        mean = features.mean if config.mean is None else config.mean
        changes = {
            "frames": config.frames or self._usual_frames(trained.config),
            "stride": stride,
            "pooling": config.pooling,
            "audio": replace(features, mean=mean, std=config.std or features.std),
        }
        torch.manual_seed(self.settings.seed)  # for the new head
        return Classifier.from_pretrained(trained, self.split.train.labels, **changes)

    def _usual_frames(self, model: ModelConfig) -> int:
        """A window that nine in ten training clips fit into, a multiple of 16 frames and of a patch, at most the model's."""
        lengths = []
        for clip in self.split.train.clips:
            with suppress(audio.AudioError, OSError):  # training meets them again, and counts them
                lengths.append(
                    model.audio.frames_of(
                        round(audio.info(clip.open(), [], damage=False).seconds * model.audio.sample_rate)
                    )
                )
        step = math.lcm(16, model.patch[1])
        usual = np.quantile(lengths, 0.9) if lengths else model.frames
        return min(math.ceil(usual / step) * step, model.frames)

    def check(self, accelerator: Accelerator) -> None:
        """Raises :class:`LabelError` with all clips to judge by that cannot be read."""
        clips = list(dict.fromkeys(clip for part in self.split.others for clip in part.clips))
        own = clips[accelerator.process_index :: accelerator.num_processes]
        broken = dict(gather_object([*unreadable(own, data.BEGINNING, self.samples, self.rate).items()]))
        if broken:
            listed = "; ".join(f"{name} ({why.rstrip('.')})" for name, why in broken.items())
            raise LabelError(f"{len(broken)} of the {len(clips)} clips to judge by cannot be read: {listed}.")

    def sets(self) -> dict[str, Sequence[data.Clip]]:
        return {name: part.clips for name, part in zip(("train", "valid", "test"), self.split.parts, strict=True)}

    def answers(self) -> str:
        parts = self.split.parts
        return files.sha256(self.split.train.labels, *(part.targets.tobytes() for part in parts))

    def build(self) -> Classifier:
        return self.classifier

    def plan(self, corpus: data.Corpus, rows: slice) -> data.Plan:
        s, targets = self.settings, self.split.train.targets
        chance = targets @ (1 / np.maximum(targets.sum(0), 1)) if s.balanced else np.ones(len(targets))
        return LabelledPlan(corpus, s.batch, s.seed, rows, targets, s.mixup, chance.cumsum() if s.balanced else None)

    def draw(self, step: int) -> tuple[Tensor, ...]:
        """What :func:`vary` takes, except for ``noise``: spans (B, 4), and shifts, loudness and seeds of the noise (B,)."""
        s, rows = self.settings, self.settings.batch
        random = np.random.default_rng([s.seed, step, data.Stream.VARIATION])
        spans = []
        for widest, size in ((s.frequency_mask, self.model.audio.mel_bins), (s.time_mask, self.model.frames)):
            width = random.random(rows) * widest
            start = (random.random(rows) * (size - width)).astype(np.int64)
            spans += [start, start + width.astype(np.int64)]
        shifts = random.integers(-SHIFT, SHIFT, rows)
        loudness = random.random(rows, dtype=np.float32) / 10
        seeds = random.integers(2**62, size=rows)
        return torch.from_numpy(np.stack(spans, 1)), *map(torch.from_numpy, (shifts, loudness, seeds))

    def losses(self, forward: Forward, model: Classifier, batch: data.Batch, drawn: Sequence[Tensor]) -> Losses:
        assert batch.targets is not None
        fbank = vary(batch.features(self.model.audio, self.model.frames), self.model.audio, self.settings.noise, *drawn)
        scores = forward(fbank).float()
        correct = (scores.argmax(1) == batch.targets.argmax(1)).float().mean()
        return Losses(self.loss_per_clip(scores, batch.targets).mean(), correct)

    def loss_per_clip(self, scores: Tensor, targets: Tensor) -> Tensor:
        """(B, L) logits, (B, L) -> (B,)"""
        if self.loss == "ce":
            return F.cross_entropy(scores, targets, reduction="none")
        return F.binary_cross_entropy_with_logits(scores, targets, reduction="none").mean(1)

    def on_step_end(self, step: int, model: Classifier) -> None:
        first = self.settings.average_from
        if first and step % self.steps_per_epoch == 0 and step >= first * self.steps_per_epoch:
            self.epochs_summed += 1
            for name, value in model.state_dict().items():
                self.weight_sum[name] = self.weight_sum[name] + value if name in self.weight_sum else value.clone()

    def state(self) -> dict[str, Any]:
        return {"sum": self.weight_sum, "summed": self.epochs_summed}

    def restore(self, state: dict[str, Any]) -> None:
        device = next(self.classifier.parameters()).device
        self.weight_sum = {name: value.to(device) for name, value in state["sum"].items()}
        self.epochs_summed = state["summed"]

    def evaluator(self, accelerator: Accelerator, micro_batch: int) -> "LabelledEvaluator":
        return LabelledEvaluator(self, accelerator)

    def _chosen(self, best: dict[str, Any]) -> str:
        """By what the best weights were chosen."""
        by = f"the highest {best['by']} ({best['value']:.3f})" if "by" in best else "the lowest error"
        return f"{by} on the {len(self.split.valid)} validation clips; among equals the lowest loss decides"

    def judge(self, run: Run) -> tuple[Judgement, ...]:
        """Scores the chosen weights and the averaged ones on the test set, and writes the report."""
        best = run.best()
        step = best["step"] if best else self.steps
        judged = {"best" if best else "last": (step, run.read_weights(step))}
        if self.epochs_summed:
            mean = {name: value / self.epochs_summed for name, value in self.weight_sum.items()}
            judged[AVERAGED] = (self.steps, mean)
        judgements, model, test = [], Classifier(self.model), self.split.test
        noticed: dict[str, str] = {}
        model.to(next(self.classifier.parameters()).device).eval()
        for name, (step, weights) in judged.items():
            model.load_state_dict(weights)
            if name == AVERAGED:
                with run.writing():
                    checkpoint.save(
                        model,
                        run.path / AVERAGED,
                        {"recipe": to_dict(self.config), "epochs": self.epochs_summed, **self.told},
                    )
            scores = metrics.score(test.targets, logits(model, test.clips, noticed=noticed), test.labels, test.sources)
            judgements.append(Judgement(name, step, scores, self._chosen(best) if name == "best" and best else ""))
        known = run.noticed()
        run.note({}, {name: what for name, what in noticed.items() if name not in known})
        with run.writing():
            reports = [_report(judgement) | {"split": self.split.told()} for judgement in judgements]
            files.write(run.path / REPORT, files.to_json(reports, indent=1))
        return tuple(judgements)


def pool_folds(folds: Sequence[tuple[LabelledSet, Scores]]) -> Scores:
    """The scores over the clips of all test folds, each judged by the classifier that was not trained on it."""
    sources = [source for tested, _ in folds for source in tested.sources]
    targets, logits = (np.concatenate([getattr(s, name) for _, s in folds]) for name in ("targets", "scores"))
    return metrics.score(targets, logits, folds[0][1].labels, sources)


def _report(judgement: Judgement) -> dict[str, Any]:
    scores = judgement.scores
    return {
        "weights": judgement.weights,
        "step": judgement.step,
        "chosen": judgement.chosen,
        "clips": len(scores.targets),
        **{name: interval._asdict() for name, interval in scores.headlines.items()},
        "classes": [row._asdict() for row in scores.classes],
        "confusion": None if scores.confusion is None else scores.confusion.tolist(),
    }


@torch.no_grad()
def logits(
    classifier: Classifier,
    clips: Sequence[data.Clip],
    batch: int = 32,
    forward: Forward | None = None,
    noticed: dict[str, str] | None = None,
) -> np.ndarray:
    """(C, L) float32, of the beginning of each clip, padded to the classifier's window as in training. ``forward`` replaces the
    classifier's own. To ``noticed`` (name -> what) is added what should be known of a clip.

    Raises :class:`ssast_lab.data.labelled.LabelError` for a clip that cannot be read.
    """
    config, device = classifier.config, classifier.linear.weight.device
    plan = _InOrder(data.Files(clips, config.audio.samples_of(config.frames), config.audio.sample_rate), batch, 0)
    steps = range(math.ceil(len(clips) / batch))
    scores = []
    for part in data.batches(plan, steps, workers=2 if len(clips) > 500 else 0):
        if part.unreadable:
            raise LabelError(f"A clip to judge by cannot be read: {next(iter(part.unreadable.values()))}")
        if noticed is not None:
            noticed |= part.noticed or {}
        fbank = part.to(device).features(config.audio, config.frames)
        scores.append((forward or classifier)(fbank).float().cpu().numpy())
    return np.concatenate(scores)


class _InOrder(data.Plan):
    """The beginning of every clip once; the last batch may be smaller."""

    def indices(self, places: np.ndarray) -> np.ndarray:
        return places[places < len(self.corpus.clips)]

    def __getitem__(self, step: int) -> data.Batch:
        indices = self.indices(self.places(step))
        return self.corpus.crop(indices, np.full(len(indices), data.BEGINNING), [(0, int(index)) for index in indices])


class LabelledEvaluator(Evaluator[Evaluation]):
    """The validation clips, or where there are none those of the test set; these choose no checkpoint."""

    def __init__(self, task: FineTuning, accelerator: Accelerator) -> None:
        self.task, self.accelerator = task, accelerator
        self.set: LabelledSet = task.split.others[0]
        self.unreadable, self.noticed, self.clips = {}, {}, len(self.set)

    def evaluate(self, forward: Forward, model: Classifier) -> EvaluationResult[Evaluation]:
        rows = range(self.accelerator.process_index, self.clips, self.accelerator.num_processes)  # of this process
        own_logits = (
            logits(model, [self.set.clips[i] for i in rows], forward=forward, noticed=self.noticed)
            if len(rows)
            else np.empty((0, 0))
        )
        targets = self.set.targets
        scores = np.empty(targets.shape, np.float32)
        for places, part in gather_object([(list(rows), own_logits)]):
            scores[places] = part
        loss = float(self.task.loss_per_clip(torch.from_numpy(scores), torch.from_numpy(targets)).mean())
        precisions = metrics.average_precisions(targets > 0.5, scores)
        mean_precision = float(np.nanmean(precisions)) if len(targets) else math.nan
        accuracy = math.nan if self.set.multi else float((scores.argmax(1) == targets.argmax(1)).mean())
        figure = ("mAP", mean_precision) if self.set.multi else ("accuracy", accuracy)
        evaluation = Evaluation(loss, accuracy, mean_precision, self.clips)
        chooses = len(self.task.split.valid) > 0
        return EvaluationResult(
            evaluation, loss if chooses else None, 1 - figure[1], figure=figure if chooses else None
        )
