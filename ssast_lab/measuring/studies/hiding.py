"""What happens to a fine-tuned classifier as more and more patches are hidden from it.

A classifier has no mask token: that belongs to the pretext model. So hidden patches are *left out* of the sequence, which
takes away what they said and puts nothing false in their place; attention and mean pooling do not mind how many tokens there
are. Beside it stands what a simple replacement does, *filled*: every value of a hidden patch becomes the mean of the clip,
which looks like sound, and is none. Axes: B clips of a batch, T frames, F mel bins, N patches, P values in a patch,
C clips that are tested, L labels.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ssast_lab import audio, checkpoint, data, masking, metrics
from ssast_lab.config import FineTuneConfig, to_dict
from ssast_lab.data import labelled
from ssast_lab.data.labelled import Split
from ssast_lab.measuring.compare import Averaged, averaged, draw, table_of, write_text
from ssast_lab.measuring.compare.rows import Task, member, read_tasks, recipe_of, tuned
from ssast_lab.measuring.studies.pages import machine
from ssast_lab.measuring.studies.questions import StudyError
from ssast_lab.metrics import Interval, Scores
from ssast_lab.model import SSAST, Classifier, EncoderModel
from ssast_lab.patches import patchify

QUESTION = "What happens to a fine-tuned classifier as more and more patches are hidden from it?"
SHARES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.85, 0.9, 0.95)  # of the patches
LEFT_OUT, FILLED = "left out", "filled"
BATCH = 16  # clips

Path_ = str | os.PathLike[str]


class Faded(NamedTuple):
    """One model on one task, with more and more hidden in one way."""

    model: str
    task: str
    way: str
    shares: tuple[float, ...]
    runs: tuple[tuple[Scores, ...], ...]  # of each share the scores by each seed
    both: tuple[Averaged, ...]  # of each share the seeds together

    @property
    def guessing(self) -> float:
        """What naming the commonest label reaches; of several labels, the mAP of any constant answer."""
        shares = self.runs[0][0].targets.mean(0)
        return float(shares.max() if self.runs[0][0].accuracy else shares[shares > 0].mean())

    def figure(self, place: int) -> Interval:
        found = self.both[place]
        return found.decisions.accuracy or found.ranking.mean_average_precision

    def lost(self, place: int) -> Interval:
        """The figure minus that of the whole sound, on the same clips."""
        whole, faded = self.both[0], self.both[place]
        decided = metrics.difference(faded.decisions, whole.decisions).accuracy
        return decided or metrics.difference(faded.ranking, whole.ranking).mean_average_precision


@torch.no_grad()
def look(classifier: Classifier, fbank: Tensor, mask: Tensor, way: str, means: Tensor) -> Tensor:
    """(B, T, F) log-mel, (B, N) True = hidden, equally many in each clip, and (B,) means of the clips -> (B, L) logits."""
    encoder = classifier.encoder
    patches = patchify(fbank, encoder.grid)  # (B, N, P)
    if way == FILLED:
        patches = torch.where(mask[..., None], means[:, None, None], patches)
        tokens = encoder.transform(encoder.patch_embedding(patches), encoder.grid).tokens
        return classifier.linear(classifier.norm(classifier.pool(tokens)))
    special = torch.cat((encoder.cls_token, encoder.distillation_token), dim=1).expand(len(patches), -1, -1)
    x = torch.cat((special, encoder.patch_embedding(patches)), dim=1) + encoder.positions
    kept = torch.cat((mask.new_ones(len(mask), special.shape[1]), ~mask), dim=1)
    x = x[kept].unflatten(0, (len(patches), -1))
    for block in encoder.blocks:
        x = block(x)
    return classifier.linear(classifier.norm(classifier.pool(encoder.norm(x))))


@torch.no_grad()
def faded_logits(
    classifier: Classifier, clips: Sequence[data.Clip], shares: Sequence[float], way: str, seed: int
) -> np.ndarray:
    """(shares, C, L) of the middle of each clip, as fine-tuning judges it. What is hidden of a clip at a share is hidden at
    every larger one, and is the same in both ways."""
    settings, device = classifier.config, classifier.linear.weight.device
    corpus = data.Files(clips, audio.samples_of(settings.frames))
    found: list[list[np.ndarray]] = [[] for _ in shares]
    for begin in range(0, len(clips), BATCH):
        rows = np.arange(begin, min(begin + BATCH, len(clips)))
        batch = corpus.crop(rows, np.full(len(rows), 0.5), [(0, int(row)) for row in rows])
        if batch.unreadable:
            raise StudyError(f"A clip to judge by cannot be read: {next(iter(batch.unreadable.values()))}")
        batch = batch.to(device)
        fbank = batch.features(settings.audio, settings.frames)
        lengths = [max(min(audio.frames_of(int(n)), settings.frames), 1) for n in batch.lengths]
        means = torch.stack([clip[:length].mean() for clip, length in zip(fbank, lengths, strict=True)])
        for place, share in enumerate(shares):
            mask = draw_mask(classifier, share, [(seed, int(row)) for row in rows]).to(device)
            found[place].append(look(classifier, fbank, mask, way, means).float().cpu().numpy())
    return np.stack([np.concatenate(pieces) for pieces in found])


def draw_mask(classifier: Classifier, share: float, keys: Sequence[tuple[int, ...]]) -> Tensor:
    """(B, N) bool: of each clip this share of its patches, one by one; at least one stays visible."""
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
) -> tuple[list[Faded], list[str]]:
    """Fine-tunes each model on each task by each seed, unless it is a classifier of the task's labels already, and hides more
    and more of the test clips from it. Returns what became of it, and a sentence for each task that failed."""
    if 0 not in shares or not all(0 <= share < 1 for share in shares):
        raise StudyError(
            f"The shares of hidden patches run from 0, which must be among them, to below 1, not {shares}."
        )
    shares, found, failures = tuple(sorted(shares)), [], []
    for task in read_tasks(tasks):
        if task.set is None:
            failures.append(f"{task.name}: {task.failure}")
            continue
        for name in models:
            rows: dict[str, list[list[Scores]]] = {LEFT_OUT: [], FILLED: []}
            for seed in seeds:
                judged = _classifiers(name, task, Path(runs), seed, recipe, epochs, progress)
                for way, row in rows.items():
                    row.append(_scores(judged, task, shares, way, seed, Path(runs)))
            for way, row in rows.items():
                by_share = tuple(zip(*row, strict=True))
                found.append(Faded(name, task.name, way, shares, by_share, tuple(map(averaged, by_share))))
    return found, failures


def _classifiers(
    name: str, task: Task, runs: Path, seed: int, recipe: str, epochs: int | None, progress: bool
) -> list[tuple[Classifier, Split]]:
    """The classifier of each split of the task."""
    assert task.set is not None
    splits, name = labelled.splits(task.set), member(name, seed)
    loaded = checkpoint.load(name)
    if isinstance(loaded, Classifier) and len(splits) == 1 and loaded.config.labels == task.set.labels:
        return [(loaded, splits[0])]
    if not isinstance(loaded, SSAST | Classifier | EncoderModel):
        raise StudyError(f"{name} is no masked spectrogram model, so that nothing can be hidden from it.")
    judged = []
    for split in splits:
        asked = recipe_of(recipe, loaded.config, name, task, seed, epochs, len(split.train))
        asked = replace(asked, data=replace(asked.data, fold=split.name))
        folder = runs / "fine-tuned" / f"{task.name}-{_key(asked, task, loaded)}-seed-{seed}"
        judged.append((tuned(asked, folder, progress)[0], split))
    return judged


def _key(asked: FineTuneConfig, task: Task, model: Any) -> str:
    settings = to_dict(replace(asked, training=replace(asked.training, seed=0)))
    return hashlib.sha256(json.dumps([settings, task.key, _weights(model)], sort_keys=True).encode()).hexdigest()[:12]


def _weights(model: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _scores(
    judged: Sequence[tuple[Classifier, Split]], task: Task, shares: tuple[float, ...], way: str, seed: int, runs: Path
) -> list[Scores]:
    """Of each share; computed once and kept."""
    key = [task.key, [_weights(classifier) for classifier, _ in judged], list(shares), way, seed]
    file = runs / "hidden" / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]}.json"
    if not file.exists():
        device = "cuda" if torch.cuda.is_available() else "cpu"
        guesses = np.concatenate(
            [faded_logits(c.to(device).eval(), split.test.clips, shares, way, seed) for c, split in judged], axis=1
        )
        write_text(file, json.dumps(guesses.tolist()))
    tests = task.tests
    guesses = np.array(json.loads(file.read_text(encoding="utf-8")))
    return [metrics.score(tests.targets, guess, tests.labels, tests.sources) for guess in guesses]


# --- the page -------------------------------------------------------------------------------------------------------


def write_hiding(faded: Sequence[Faded], failures: Sequence[str], out: Path_, command: str) -> Path:
    """``hiding.md``, ``hiding.csv`` and a figure of each model; returns the page."""
    out = Path(out)
    rows = [
        {
            "model": one.model, "task": one.task, "hidden": one.way, "share": share,
            "measure": "mAP" if one.runs[0][0].accuracy is None else "accuracy",
            "value": one.figure(place).value, "low": one.figure(place).low, "high": one.figure(place).high,
            "seeds": len(one.runs[place]), "lost": one.lost(place).value, "lost_low": one.lost(place).low,
            "lost_high": one.lost(place).high,
        }
        for one in faded
        for place, share in enumerate(one.shares)
    ]  # fmt: skip
    if rows:
        write_text(out / "hiding.csv", table_of(rows))
    lines = [f"# {QUESTION}", "", "## What it says", "", *(f"- {said(one)}" for one in faded), ""]
    for model in dict.fromkeys(one.model for one in faded):
        lines += [_picture([one for one in faded if one.model == model], model, out), ""]
        for way in (LEFT_OUT, FILLED):
            lines += _table([one for one in faded if (one.model, one.way) == (model, way)], f"{model}, {way}")
    lines += [f"{failure}\n" for failure in failures]
    remarks = (
        f"*{LEFT_OUT.capitalize()}*: hidden patches are left out of the sequence, so that nothing false stands in their place. "
        f"*{FILLED.capitalize()}*: all their values become the mean of the clip. Patches are drawn one by one over the whole "
        "window, silence behind a short sound as well; what is hidden at a share is hidden at every larger one."
    )
    page = out / "hiding.md"
    write_text(
        page, "\n".join([*lines, "## How it was made", "", "```", command, "```", "", remarks, "", machine(), ""])
    )
    return page


def said(one: Faded) -> str:
    """How much may be hidden before anything is lost: from which share on every interval excludes 0."""
    start, whole, last = (
        f"{one.model} on {one.task}, patches {one.way}: ",
        one.figure(0),
        one.figure(len(one.shares) - 1),
    )
    if whole.low <= one.guessing:
        return (
            f"{start}with nothing hidden it reaches {whole}, which is not above guessing ({one.guessing:.3f}), "
            "so that hiding shows nothing."
        )
    lost = len(one.shares)
    while lost > 1 and one.lost(lost - 1).high < 0:
        lost -= 1
    most = f"{one.shares[-1]:.0%}"
    told = (
        f"up to {most} hidden no lasting loss can be told"
        if lost == len(one.shares)
        else f"a loss can be told from {one.shares[lost]:.0%} hidden on"
    )
    left = f"above guessing ({one.guessing:.3f})" if last.low > one.guessing else f"guessing ({one.guessing:.3f})"
    return f"{start}{told}; with {most} hidden {whole.value:.3f} has become {last}, {left}."


def _table(faded: Sequence[Faded], title: str) -> list[str]:
    if not faded:
        return []
    shares = faded[0].shares
    lines = [
        f"| {title} | " + " | ".join(f"{share:.0%}" for share in shares) + " |",
        "| --- |" + " --: |" * len(shares),
    ]
    for one in faded:
        cells = [f"{f.value:.3f} [{f.low:.3f}, {f.high:.3f}]" for f in map(one.figure, range(len(shares)))]
        lines.append(f"| {one.task} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def _picture(faded: Sequence[Faded], model: str, out: Path) -> str:
    try:
        from ssast_lab import figures
    except ImportError:
        return draw(None, out / "hiding")
    drawn = []
    for one in faded:
        values, lows, highs, _ = zip(*map(one.figure, range(len(one.shares))), strict=True)
        percent = [100 * share for share in one.shares]
        drawn.append(figures.Line(one.task, one.way, percent, values, lows, highs, one.guessing))
    slug = "".join(c if c.isalnum() or c in "-_" else "-" for c in Path(model).name)
    return draw(figures.lines(drawn, model, "hidden patches (%)", "accuracy or mAP"), out / f"hiding-{slug}")
