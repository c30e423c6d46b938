"""Classifiers on trained encoders: ``for step in fine_tune(config)``, and the linear probe.

Axes: B clips of the global batch, S samples, T frames, F mel bins, C clips of a set, L labels. What is drawn to vary the
sounds (partners to mix in, what SpecAugment hides, noise) is keyed by the seed and the place in the run.
"""

import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from ssast_lab import audio, checkpoint, data, files, metrics
from ssast_lab.config import ConfigError, FineTuneConfig, LabelledConfig, ModelConfig, RunConfig, TuningConfig, to_dict
from ssast_lab.data.datasets import read_dataset
from ssast_lab.data.labelled import LabelError, LabelledSet, Split, check, read_labelled, splits
from ssast_lab.learning.run import Run
from ssast_lab.learning.training import Exam, Examination, Lesson, train
from ssast_lab.metrics import Scores
from ssast_lab.model import SSAST, Classifier, EncoderModel
from ssast_lab.patches import to_device_of

__all__ = [
    "Judgement", "Step", "fine_tune", "judged", "logits", "read_split", "read_splits", "together",
]  # fmt: skip

REPORT = "report.json"
AVERAGED = "averaged"
TURN = 10  # frames by which a clip is turned at most


class Losses(NamedTuple):
    """Means over the clips of a batch."""

    total: Tensor
    accuracy: Tensor  # share of clips whose highest logit is that of their label, or of the one with the larger share


@dataclass(frozen=True)
class Evaluation:
    """What the classifier does with the clips that watch over it."""

    loss: float
    accuracy: float  # nan where clips have several labels
    mean_average_precision: float
    clips: int


@dataclass(frozen=True)
class Judgement:
    """The scores on the test set, once training is over."""

    weights: str  # "best": chosen on the validation set; "last" where there is none; "averaged"
    step: int  # after which the weights were taken
    scores: Scores


@dataclass(frozen=True)
class Step:
    """What one optimiser step did."""

    step: int  # steps done, from 1
    epoch: float
    loss: float
    accuracy: float
    gradient_norm: float
    learning_rate: float
    clips_per_second: float  # of this step, over all processes
    seconds: float  # since this process began to train
    evaluation: Evaluation | None = None
    judgements: tuple[Judgement, ...] = ()  # with the last step of a run, in its main process


def read_splits(config: LabelledConfig) -> list[Split]:
    """What a configuration names: one split, or with numbered folds and no ``fold`` one for each of them. All are checked
    (:func:`ssast_lab.data.labelled.check`), lest the last fold be refused when the others have been trained."""
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
        found = [Split("", train, valid, test)]
    else:
        found = splits(labelled)
    if config.fold:
        numbered = ", ".join(split.name for split in found if split.name) or "none"
        found = [split for split in found if split.name == config.fold]
        if not found:
            raise LabelError(
                f"There is no fold {config.fold!r} to test in {config.train}; its numbered folds: {numbered}."
            )
    for split in found:
        check(split.train, *split.others, contents=not config.dataset)
    return found


def read_split(config: LabelledConfig) -> Split:
    """The one split that a configuration names."""
    found = read_splits(config)
    if len(found) > 1:
        names = ", ".join(split.name for split in found)
        raise LabelError(f"{config.train} has {len(found)} folds: name the one to test ({names}).")
    return found[0]


def fine_tune(config: FineTuneConfig, run: RunConfig | None = None, progress: bool = False) -> Iterator[Step]:
    """Trains a classifier on a trained encoder, or goes on with a run, and yields every step; see
    :func:`ssast_lab.learning.training.train` for folder, resume and processes.

    With a validation set the best weights are judged on the test set at the end, else the last ones; besides, the averaged
    ones where they are asked for. ``report.json`` in the run's folder holds the judgements, and the folder loads as the
    classifier, labels and all. Raises :class:`ssast_lab.data.labelled.LabelError` and :class:`ssast_lab.config.ConfigError`
    before anything is trained.
    """
    run = run or RunConfig(folder="runs/finetune")
    lesson = FineTuning(config)
    main = int(os.environ.get("RANK", 0)) == 0
    with closing(train(lesson, run, progress)) as ticks:
        for tick in ticks:
            last = tick.step == lesson.steps
            yield Step(
                tick.step, tick.epoch, tick.losses.total, tick.losses.accuracy, tick.gradient_norm, tick.learning_rate,
                tick.clips_per_second, tick.seconds, tick.examination.figures if tick.examination else None,
                lesson.judge(Run(run.folder)) if last and main else (),
            )  # fmt: skip


def judged(config: FineTuneConfig, run: RunConfig) -> tuple[Judgement, ...]:
    """The judgements of a run that has done its steps, made and written once more: it may have ended before they were."""
    lesson, folder = FineTuning(config), Run(run.folder)
    lesson.started.to("cuda" if torch.cuda.is_available() else "cpu")
    lesson.restore(folder.read_training(lesson.steps)["lesson"])
    return lesson.judge(folder)


class FineTuning(Lesson):
    """The lesson: name the labels of a sound."""

    name = "finetune"
    settings: TuningConfig

    def __init__(self, config: FineTuneConfig) -> None:
        self.whole, self.settings = config, config.training
        self.split = read_split(config.data)
        others = self.split.others
        multi = any(part.multi for part in (self.split.train, *others))
        if self.settings.loss == "ce" and multi:
            raise LabelError(
                "Some clips have several labels or none, which cross-entropy cannot learn: use the loss bce."
            )
        self.loss = {"auto": "bce" if multi else "ce"}.get(self.settings.loss, self.settings.loss)
        self.started = self._classifier()
        self.model = self.started.config
        self.samples = audio.samples_of(self.model.frames)
        self.clips, self.held_out = self.split.train.clips, others[0].clips
        if len(self.clips) < self.settings.batch:
            raise ConfigError(
                f"{len(self.clips)} clips do not fill a batch of {self.settings.batch}: choose a smaller one."
            )
        self.epoch = math.ceil(len(self.clips) / self.settings.batch)  # steps
        self.steps = self.settings.steps or self.settings.epochs * self.epoch
        self.evaluate_every = self.settings.evaluate_every or self.epoch
        self.scaled = {"norm.": self.settings.head_rate, "linear.": self.settings.head_rate}
        self.sum: dict[str, Tensor] = {}
        self.summed = 0

    def _classifier(self) -> Classifier:
        config = self.whole
        trained, name = checkpoint.load(config.model), config.model
        if not isinstance(trained, SSAST | Classifier | EncoderModel):
            raise ConfigError(f"{name} is no masked spectrogram model, so that nothing can be fine-tuned on it.")
        stride, patch = config.stride or trained.config.stride, trained.config.patch
        if stride[0] > patch[0] or stride[1] > patch[1]:
            raise ConfigError(
                f"A stride of {stride[0]}x{stride[1]} leaves gaps between the {patch[0]}x{patch[1]} patches of {name}: "
                "take the recipe for models of its kind (-patch or -frame), or another stride."
            )
        own = trained.config.audio
        features = replace(own, mean=own.mean if config.mean is None else config.mean, std=config.std or own.std)
        changes = {
            "frames": config.frames or self._frames(trained.config),
            "stride": stride,
            "pooling": config.pooling,
            "audio": features,
        }
        torch.manual_seed(self.settings.seed)  # of the new head
        return Classifier.from_pretrained(trained, self.split.train.labels, **changes)

    def _frames(self, model: ModelConfig) -> int:
        """A window that nine in ten training clips fit into, in whole patches of 16 frames, at most the model's own."""
        lengths = []
        for clip in self.split.train.clips:
            with suppress(audio.AudioError, OSError):  # which training will meet, and count
                lengths.append(audio.frames_of(round(audio.info(clip.open()).seconds * audio.SAMPLE_RATE)))
        step = math.lcm(16, model.patch[1])
        usual = np.quantile(lengths, 0.9) if lengths else model.frames
        return min(math.ceil(usual / step) * step, model.frames)

    def config(self) -> dict[str, Any]:
        return to_dict(self.whole)

    def build(self) -> Classifier:
        return self.started

    def plan(self, corpus: data.Corpus, rows: slice) -> data.Plan:
        s, targets = self.settings, self.split.train.targets
        chance = targets @ (1 / np.maximum(targets.sum(0), 1)) if s.balanced else np.ones(len(targets))
        return LabelledPlan(corpus, s.batch, s.seed, rows, targets, s.mixup, chance.cumsum() if s.balanced else None)

    def draw(self, step: int) -> tuple[Tensor, ...]:
        """What SpecAugment hides (B, 4), by how many frames clips are turned (B,), how loud the noise is (B,), and its seeds."""
        s, rows = self.settings, self.settings.batch
        random = np.random.default_rng([s.seed, step, 9])
        spans = []
        for most, room in ((s.frequency_mask, self.model.audio.mel_bins), (s.time_mask, self.model.frames)):
            width = random.random(rows) * most
            start = (random.random(rows) * (room - width)).astype(np.int64)
            spans += [start, start + width.astype(np.int64)]
        turned = random.integers(-TURN, TURN, rows)
        loud = random.random(rows, dtype=np.float32) / 10
        seeds = random.integers(2**62, size=rows)
        return torch.from_numpy(np.stack(spans, 1)), *map(torch.from_numpy, (turned, loud, seeds))

    def losses(self, forward: Callable[..., Any], model: Any, batch: data.Batch, drawn: Sequence[Tensor]) -> Losses:
        assert batch.targets is not None
        fbank = vary(batch.features(self.model.audio, self.model.frames), self.model.audio, self.settings.noise, *drawn)
        guess = forward(fbank).float()
        right = (guess.argmax(1) == batch.targets.argmax(1)).float().mean()
        return Losses(self.loss_of(guess, batch.targets).mean(), right)

    def loss_of(self, guess: Tensor, targets: Tensor) -> Tensor:
        """(B, L), (B, L) -> (B,)"""
        if self.loss == "ce":
            return F.cross_entropy(guess, targets, reduction="none")
        return F.binary_cross_entropy_with_logits(guess, targets, reduction="none").mean(1)

    def learned(self, done: int, model: Any) -> None:
        first = self.settings.average_from
        if first and done % self.epoch == 0 and done >= first * self.epoch:
            self.summed += 1
            for name, value in model.state_dict().items():
                self.sum[name] = self.sum[name] + value if name in self.sum else value.clone()

    def state(self) -> dict[str, Any]:
        return {"sum": self.sum, "summed": self.summed}

    def restore(self, state: dict[str, Any]) -> None:
        device = next(self.started.parameters()).device
        self.sum = {name: value.to(device) for name, value in state["sum"].items()}
        self.summed = state["summed"]

    def exam(self, accelerator: Accelerator, micro: int) -> "_Exam":
        return _Exam(self, accelerator)

    def judge(self, run: Run) -> tuple[Judgement, ...]:
        """Scores the chosen weights and the averaged ones on the test set, and writes them down."""
        best = run.best()
        step = best["step"] if best else self.steps
        chosen = {"best" if best else "last": (step, run.read_weights(step))}
        if self.summed:
            mean = {name: value / self.summed for name, value in self.sum.items()}
            chosen[AVERAGED] = (self.steps, mean)
        judgements, model, test = [], Classifier(self.model), self.split.test
        model.to(next(self.started.parameters()).device).eval()
        for name, (step, weights) in chosen.items():
            model.load_state_dict(weights)
            if name == AVERAGED:
                with run.writing():
                    checkpoint.save(model, run.path / AVERAGED, {"recipe": self.config(), "epochs": self.summed})
            scores = metrics.score(test.targets, logits(model, test.clips), test.labels, test.sources)
            judgements.append(Judgement(name, step, scores))
        with run.writing():
            files.write(run.path / REPORT, json.dumps([_told(judgement) for judgement in judgements], indent=1))
        return tuple(judgements)


def together(folds: Sequence[tuple[LabelledSet, Scores]]) -> Scores:
    """The scores of all test folds as one: each clip was judged by the classifier that had not met it."""
    sources = [source for tested, _ in folds for source in tested.sources]
    targets, guesses = (np.concatenate([getattr(s, name) for _, s in folds]) for name in ("targets", "scores"))
    return metrics.score(targets, guesses, folds[0][1].labels, sources)


def _told(judgement: Judgement) -> dict[str, Any]:
    scores = judgement.scores
    return {
        "weights": judgement.weights,
        "step": judgement.step,
        "clips": len(scores.targets),
        **{name: interval._asdict() for name, interval in scores.headlines.items()},
        "classes": [row._asdict() for row in scores.classes],
        "confusion": None if scores.confusion is None else scores.confusion.tolist(),
    }


@dataclass
class LabelledPlan(data.Plan):
    """A plan whose batches have targets, and into some of whose clips another is mixed."""

    targets: np.ndarray = field(default_factory=lambda: np.empty((0, 0), np.float32))  # (C, L)
    mixup: float = 0.0
    chances: np.ndarray | None = None  # (C,) cumulated: how often each clip is drawn; None: once in each epoch

    def indices(self, places: np.ndarray) -> np.ndarray:
        if self.chances is None:
            return super().indices(places)
        drawn = [np.random.default_rng([self.seed, int(place), 7]).random() for place in places]
        return np.searchsorted(self.chances, np.array(drawn) * self.chances[-1], side="right")

    def __getitem__(self, step: int) -> data.Batch:
        batch = super().__getitem__(step)
        targets = torch.from_numpy(self.targets)[batch.indices.cpu()]
        if self.mixup:
            batch, targets = self._mixed(batch, targets, self.places(step))
        return batch._replace(targets=targets)

    def _mixed(self, batch: data.Batch, targets: Tensor, places: np.ndarray) -> tuple[data.Batch, Tensor]:
        """(B, S) int16: ``share`` of each chosen clip, without its mean, and the rest of a partner, cut to its length."""
        randoms = [np.random.default_rng([self.seed, int(place), 8]) for place in places]
        rows = [row for row, random in enumerate(randoms) if random.random() < self.mixup]
        if not rows:
            return batch, targets
        partners = np.array([randoms[row].integers(len(self.targets)) for row in rows])
        share = torch.tensor([randoms[row].beta(10, 10) for row in rows], dtype=torch.float32)[:, None]
        fractions = np.array([randoms[row].random() for row in rows])
        other = self.corpus.crop(partners, fractions, [(self.seed, int(places[row]), 8) for row in rows])
        device = batch.waveforms.device
        on = share.to(device)
        mixed = on * _centred(batch.waveforms[rows], batch.lengths[rows]) + (1 - on) * _centred(
            other.waveforms, other.lengths
        )
        own = audio.within(to_device_of(batch.lengths[rows], mixed), mixed.shape[1])
        waveforms = batch.waveforms.clone()
        waveforms[rows] = (mixed * own).round().clamp(-32768, 32767).to(torch.int16)
        targets = targets.clone()
        targets[rows] = share * targets[rows] + (1 - share) * torch.from_numpy(self.targets)[other.indices.cpu()]
        return batch._replace(waveforms=waveforms, unreadable=batch.unreadable | other.unreadable), targets


def _centred(waveforms: Tensor, lengths: Tensor) -> Tensor:
    """(B, S) int16, of which ``lengths`` are sound -> (B, S) float32 without their means."""
    lengths = to_device_of(lengths, waveforms)
    own = audio.within(lengths, waveforms.shape[1])
    sound = waveforms.float()
    return (sound - sound.sum(1, keepdim=True) / lengths[:, None]) * own


def vary(
    fbank: Tensor, features: Any, noise: bool, spans: Tensor, turned: Tensor, loud: Tensor, seeds: Tensor
) -> Tensor:
    """(B, T, F) normalised log-mel, varied as the official ``src/dataloader.py`` does: SpecAugment (Park et al., Interspeech
    2019; hidden values are 0 before normalising), uniform noise, and a turn along time."""
    frames, bins = fbank.shape[1:]
    spans, turned, loud = (to_device_of(drawn, fbank) for drawn in (spans, turned, loud))
    low, high, begin, end = (column[:, None] for column in spans.unbind(1))
    bin_, frame = torch.arange(bins, device=fbank.device), torch.arange(frames, device=fbank.device)
    hidden = ((bin_ >= low) & (bin_ < high))[:, None] | ((frame >= begin) & (frame < end))[:, :, None]
    fbank = fbank.masked_fill(hidden, -features.mean / (2 * features.std))
    if not noise:
        return fbank
    grain = torch.stack([
        torch.rand(frames, bins, generator=torch.Generator(fbank.device).manual_seed(int(seed)), device=fbank.device)
        for seed in seeds
    ])  # fmt: skip
    fbank = fbank + grain * loud[:, None, None]
    rows = torch.arange(len(fbank), device=fbank.device)[:, None]
    return fbank[rows, (frame - turned[:, None]) % frames]


@torch.no_grad()
def logits(classifier: Classifier, clips: Sequence[data.Clip], batch: int = 32, forward: Any = None) -> np.ndarray:
    """(C, L) float32 of the middle of each clip, padded to the classifier's window as in training.

    :class:`ssast_lab.data.labelled.LabelError` names a clip that cannot be read.
    """
    config, device = classifier.config, classifier.linear.weight.device
    plan = _InOrder(data.Files(clips, audio.samples_of(config.frames)), batch, 0)
    found = []
    for piece in data.batches(plan, range(math.ceil(len(clips) / batch)), workers=2 if len(clips) > 500 else 0):
        if piece.unreadable:
            raise LabelError(f"A clip to judge by cannot be read: {next(iter(piece.unreadable.values()))}")
        fbank = piece.to(device).features(config.audio, config.frames)
        found.append((forward or classifier)(fbank).float().cpu().numpy())
    return np.concatenate(found)


class _InOrder(data.Plan):
    """The middle of every clip once; the last batch may be smaller."""

    def indices(self, places: np.ndarray) -> np.ndarray:
        return places[places < len(self.corpus.clips)]

    def __getitem__(self, step: int) -> data.Batch:
        indices = self.indices(self.places(step))
        return self.corpus.crop(indices, np.full(len(indices), 0.5), [(0, int(index)) for index in indices])


class _Exam(Exam):
    """The validation clips, or where there are none those of the test set, by which then nothing is chosen."""

    def __init__(self, lesson: FineTuning, accelerator: Accelerator) -> None:
        self.lesson, self.accelerator = lesson, accelerator
        self.set: LabelledSet = lesson.split.others[0]
        self.unreadable, self.clips = {}, len(self.set)

    def take(self, forward: Callable[..., Any], model: Classifier) -> Examination:
        own = range(self.accelerator.process_index, self.clips, self.accelerator.num_processes)
        found = logits(model, [self.set.clips[i] for i in own], forward=forward) if len(own) else np.empty((0, 0))
        everyone = gather_object([(list(own), found)])
        guess = np.empty(self.set.targets.shape, np.float32)
        for places, rows in everyone:
            guess[places] = rows
        targets = self.set.targets
        loss = float(self.lesson.loss_of(torch.from_numpy(guess), torch.from_numpy(targets)).mean())
        precisions = metrics.average_precisions(targets > 0.5, guess)
        mean = float(np.nanmean(precisions)) if len(targets) else math.nan
        accuracy = math.nan if self.set.multi else float((guess.argmax(1) == targets.argmax(1)).mean())
        figures = Evaluation(loss, accuracy, mean, self.clips)
        missed = 1 - (mean if self.set.multi else accuracy)
        return Examination(figures, missed if len(self.lesson.split.valid) else None, missed)
