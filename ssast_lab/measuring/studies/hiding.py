"""What happens to a fine-tuned classifier as more and more patches are hidden from it.

A classifier has no mask token, which belongs to the pretext model. Hidden patches are therefore *left out* of the sequence:
their information is removed and nothing false is added, since attention and mean pooling accept any number of tokens. For
comparison they are also *filled*: all values of a hidden patch become the mean of the clip, which the classifier takes for
sound. Axes: B clips of a batch, T frames, F mel bins, N patches, P values in a patch, C clips that are tested, L labels.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ssast_lab import checkpoint, data, files, masking, metrics
from ssast_lab.config import FineTuneConfig, to_dict
from ssast_lab.data import labelled
from ssast_lab.data.labelled import Split
from ssast_lab.measuring.compare import Averaged, averaged, csv_table, draw, write_text
from ssast_lab.measuring.compare.records import headline, measured_difference
from ssast_lab.measuring.compare.rows import Task, fine_tuned, read_tasks, recipe_of, with_seed
from ssast_lab.measuring.studies.pages import machine
from ssast_lab.measuring.studies.questions import StudyError
from ssast_lab.measuring.upstreams import weight_bytes
from ssast_lab.metrics import Interval, Scores
from ssast_lab.model import SSAST, Classifier, EncoderModel
from ssast_lab.patches import numbers, patchify, select, to_device_of
from ssast_lab.tables import markdown_table

QUESTION = "What happens to a fine-tuned classifier as more and more patches are hidden from it?"
SHARES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.85, 0.9, 0.95)  # of the patches that are hidden
LEFT_OUT, FILLED = "left out", "filled"
BATCH = 16  # clips

Path_ = str | os.PathLike[str]


class OcclusionCurve(NamedTuple):
    """One model on one task, by the share of patches that are hidden in one way. All sequences run over the shares."""

    model: str
    task: str
    way: str  # LEFT_OUT or FILLED
    shares: tuple[float, ...]
    runs: tuple[tuple[Scores, ...], ...]  # the scores of each seed
    averaged: tuple[Averaged, ...]  # over the seeds

    @property
    def chance(self) -> float:
        """The accuracy of always naming the commonest label; for clips with several labels, the mAP of a constant answer."""
        shares = self.runs[0][0].targets.mean(0)
        return float(shares.max() if self.runs[0][0].accuracy else shares[shares > 0].mean())

    def figure(self, place: int) -> Interval:
        """Accuracy or mAP at a share, given by its place."""
        return headline(self.averaged[place])

    def change(self, place: int) -> Interval:
        """The figure at a share minus that of the whole sound, on the same clips."""
        return measured_difference(self.averaged[place], self.averaged[0])


@torch.no_grad()
def masked_logits(classifier: Classifier, fbank: Tensor, mask: Tensor, way: str, means: Tensor) -> Tensor:
    """(B, T, F) log-mel, (B, N) True = hidden, equally many in each clip, and (B,) means of the clips -> (B, L) logits."""
    encoder = classifier.encoder
    patches = patchify(fbank, encoder.grid)  # (B, N, P)
    if way == FILLED:
        patches = torch.where(to_device_of(mask, fbank)[..., None], means[:, None, None], patches)
        encoding = encoder.transform(encoder.patch_embedding(patches), encoder.grid)
    else:
        visible = encoder.patch_embedding(select(patches, ~mask))
        encoding = encoder.transform(visible, encoder.grid, patches=to_device_of(numbers(~mask), fbank))
    return classifier.linear(classifier.norm(classifier.pool(encoding.tokens)))


@torch.no_grad()
def occluded_logits(
    classifier: Classifier, clips: Sequence[data.Clip], shares: Sequence[float], way: str, seed: int
) -> np.ndarray:
    """(shares, C, L) of the beginning of each clip, as a classifier is judged. Patches that are hidden at one share are hidden at every
    larger one, and are the same in both ways. :class:`StudyError` for a clip that cannot be read."""
    settings, device = classifier.config, classifier.linear.weight.device
    corpus = data.Files(clips, settings.audio.samples_of(settings.frames), settings.audio.sample_rate)
    logits: list[list[np.ndarray]] = [[] for _ in shares]
    for begin in range(0, len(clips), BATCH):
        rows = np.arange(begin, min(begin + BATCH, len(clips)))
        batch = corpus.crop(rows, np.full(len(rows), data.BEGINNING), [(0, int(row)) for row in rows])
        if batch.unreadable:
            raise StudyError(f"A test clip cannot be read: {next(iter(batch.unreadable.values()))}")
        batch = batch.to(device)
        fbank = batch.features(settings.audio, settings.frames)
        lengths = [max(min(settings.audio.frames_of(int(n)), settings.frames), 1) for n in batch.lengths]
        means = torch.stack([clip[:length].mean() for clip, length in zip(fbank, lengths, strict=True)])
        for place, share in enumerate(shares):
            mask = draw_mask(classifier, share, [(seed, int(row)) for row in rows])
            logits[place].append(masked_logits(classifier, fbank, mask, way, means).float().cpu().numpy())
    return np.stack([np.concatenate(batches) for batches in logits])


def draw_mask(classifier: Classifier, share: float, keys: Sequence[tuple[int, ...]]) -> Tensor:
    """(B, N) bool: hides this share of the patches of each clip, drawn singly by its key; at least one stays visible."""
    grid = classifier.encoder.grid
    count = min(round(share * grid.count), grid.count - 1)
    if not count:
        return torch.zeros(len(keys), grid.count, dtype=torch.bool)
    generators = [data.generator(*key, data.Stream.OCCLUSION) for key in keys]
    return torch.stack([masking.random_mask(grid, count, generator=generator) for generator in generators])


def run_hiding(
    models: Sequence[str],
    tasks: Sequence[Path_],
    runs: Path_,
    seeds: Sequence[int] = (0,),
    shares: Sequence[float] = SHARES,
    recipe: str = "small",
    epochs: int | None = None,
    progress: bool = False,
) -> tuple[list[OcclusionCurve], list[str]]:
    """Fine-tunes each model on each task with each seed, unless it is a classifier of the task's labels already, and hides
    more and more patches of the test clips from it. Returns the curves, and a sentence for each task that failed.
    :class:`StudyError` for wrong shares, and for models that are no masked spectrogram models."""
    if 0 not in shares or not all(0 <= share < 1 for share in shares):
        raise StudyError(f"The shares of hidden patches must include 0 and be from 0 to below 1, not {shares}.")
    shares, curves, failures = tuple(sorted(shares)), [], []
    for task in read_tasks(tasks):
        if task.set is None:
            failures.append(f"{task.name}: {task.failure}")
            continue
        for name in models:
            rows: dict[str, list[list[Scores]]] = {LEFT_OUT: [], FILLED: []}
            for seed in seeds:
                classifiers = _classifiers(name, task, Path(runs), seed, recipe, epochs, progress)
                for way, row in rows.items():
                    row.append(_scores(classifiers, task, shares, way, seed, Path(runs)))
            for way, row in rows.items():
                by_share = tuple(zip(*row, strict=True))
                curves.append(OcclusionCurve(name, task.name, way, shares, by_share, tuple(map(averaged, by_share))))
    return curves, failures


def _classifiers(
    name: str, task: Task, runs: Path, seed: int, recipe: str, epochs: int | None, progress: bool
) -> list[tuple[Classifier, Split]]:
    """The classifier for each split of the task."""
    assert task.set is not None
    splits, name = labelled.splits(task.set), with_seed(name, seed)
    loaded = checkpoint.load(name)
    if isinstance(loaded, Classifier) and len(splits) == 1 and loaded.config.labels == task.set.labels:
        return [(loaded, splits[0])]
    if not isinstance(loaded, SSAST | Classifier | EncoderModel):
        raise StudyError(f"{name} is no masked spectrogram model, so that nothing can be hidden from it.")
    classifiers = []
    for split in splits:
        tuning = recipe_of(recipe, loaded.config, name, task, seed, epochs, len(split.train))
        tuning = replace(tuning, data=replace(tuning.data, fold=split.name))
        folder = runs / "fine-tuned" / f"{task.name}-{_key(tuning, task, loaded)}-seed-{seed}"
        classifiers.append((fine_tuned(tuning, folder, progress)[0], split))
    return classifiers


def _key(tuning: FineTuneConfig, task: Task, model: torch.nn.Module) -> str:
    settings = to_dict(replace(tuning, training=replace(tuning.training, seed=0)))
    return files.sha256([settings, task.key, _weights(model)])[:12]


def _weights(model: torch.nn.Module) -> str:
    return files.sha256(*(part for name, _, data in weight_bytes(model.state_dict()) for part in (name.encode(), data)))


def _scores(
    classifiers: Sequence[tuple[Classifier, Split]],
    task: Task,
    shares: tuple[float, ...],
    way: str,
    seed: int,
    runs: Path,
) -> list[Scores]:
    """The scores at each share; the logits are computed once and kept."""
    key = files.sha256([task.key, [_weights(classifier) for classifier, _ in classifiers], shares, way, seed])
    file = runs / "hidden" / f"{key[:32]}.json"
    if not file.exists():
        device = "cuda" if torch.cuda.is_available() else "cpu"
        of_splits = [
            occluded_logits(classifier.to(device).eval(), split.test.clips, shares, way, seed)
            for classifier, split in classifiers
        ]
        write_text(file, files.to_json(np.concatenate(of_splits, axis=1).tolist()))
    tests, logits = task.tests, np.array(json.loads(file.read_text(encoding="utf-8")), float)
    return [metrics.score(tests.targets, at_share, tests.labels, tests.sources) for at_share in logits]


# --- the page -------------------------------------------------------------------------------------------------------


def write_hiding(curves: Sequence[OcclusionCurve], failures: Sequence[str], out: Path_, command: str) -> Path:
    """Writes ``hiding.md``, ``hiding.csv`` and a figure for each model. Returns the path of the page."""
    out = Path(out)
    rows = [
        {
            "model": one.model, "task": one.task, "hidden": one.way, "share": share,
            "measure": "mAP" if one.runs[0][0].accuracy is None else "accuracy",
            "value": one.figure(place).value, "low": one.figure(place).low, "high": one.figure(place).high,
            "seeds": len(one.runs[place]), "lost": one.change(place).value, "lost_low": one.change(place).low,
            "lost_high": one.change(place).high,
        }
        for one in curves
        for place, share in enumerate(one.shares)
    ]  # fmt: skip
    if rows:
        write_text(out / "hiding.csv", csv_table(rows))
    lines = [f"# {QUESTION}", "", "## What it says", "", *(f"- {conclusion(one)}" for one in curves), ""]
    for model in dict.fromkeys(one.model for one in curves):
        lines += [_picture([one for one in curves if one.model == model], model, out), ""]
        for way in (LEFT_OUT, FILLED):
            lines += _table([one for one in curves if (one.model, one.way) == (model, way)], f"{model}, {way}")
    lines += [f"{failure}\n" for failure in failures]
    remarks = (
        f"*{LEFT_OUT.capitalize()}*: hidden patches are left out of the sequence, so that nothing false stands in their place. "
        f"*{FILLED.capitalize()}*: all their values become the mean of the clip. Patches are drawn one by one over the whole "
        "window, silence behind a short sound as well; what is hidden at a share is hidden at every larger one."
    )
    page = out / "hiding.md"
    lines += ["## How it was made", "", "```", command, "```", "", remarks, "", machine(), ""]
    write_text(page, "\n".join(lines))
    return page


def conclusion(one: OcclusionCurve) -> str:
    """A sentence on how much can be hidden without loss: from which share on all intervals of the change lie below 0."""
    start = f"{one.model} on {one.task}, patches {one.way}: "
    whole, last = one.figure(0), one.figure(len(one.shares) - 1)
    if whole.low <= one.chance:
        return (
            f"{start}with nothing hidden it reaches {whole}, which is not above guessing ({one.chance:.3f}), "
            "so that hiding shows nothing."
        )
    first = len(one.shares)  # the place of the first share with a lasting loss
    while first > 1 and one.change(first - 1).high < 0:
        first -= 1
    most = f"{one.shares[-1]:.0%}"
    if first == len(one.shares):
        loss = f"up to {most} hidden no lasting loss can be told"
    else:
        loss = f"a loss can be told from {one.shares[first]:.0%} hidden on"
    left = f"above guessing ({one.chance:.3f})" if last.low > one.chance else f"guessing ({one.chance:.3f})"
    return f"{start}{loss}; with {most} hidden {whole.value:.3f} has become {last}, {left}."


def _table(curves: Sequence[OcclusionCurve], title: str) -> list[str]:
    if not curves:
        return []
    shares = curves[0].shares
    rows = [
        [one.task, *(f"{f.value:.3f} [{f.low:.3f}, {f.high:.3f}]" for f in map(one.figure, range(len(shares))))]
        for one in curves
    ]
    head = [title, *(f"{share:.0%}" for share in shares)]
    return [*markdown_table(head, rows, right=range(1, len(head))), ""]


def _picture(curves: Sequence[OcclusionCurve], model: str, out: Path) -> str:
    try:
        from ssast_lab import figures
    except ImportError:
        return draw(None, out / "hiding")
    drawn = []
    for one in curves:
        values, lows, highs, _ = zip(*map(one.figure, range(len(one.shares))), strict=True)
        percent = [100 * share for share in one.shares]
        drawn.append(figures.Line(one.task, one.way, percent, values, lows, highs, one.chance))
    slug = "".join(c if c.isalnum() or c in "-_" else "-" for c in Path(model).name)
    return draw(figures.lines(drawn, model, "hidden patches (%)", "accuracy or mAP"), out / f"hiding-{slug}")
