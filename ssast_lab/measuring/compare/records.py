"""What upstreams reached on tasks, as records. Axes: C clips that are tested, L labels, S seeds."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from ssast_lab import metrics
from ssast_lab.metrics import Interval, Scores

PROBED, TUNED = "linear probe", "fine-tuned"
ABOVE, BELOW, UNTOLD = "above", "below", "cannot be told"
MARKS = {ABOVE: " ▲", BELOW: " ▼"}


class CompareError(ValueError):
    """A comparison that cannot be made: the message says why and what to do."""


class Averaged(NamedTuple):
    """Trainings by S seeds as one classifier whose figures are the means over them. The clips, or sources, are drawn for all
    seeds together, so that the intervals are those of the means."""

    decisions: Scores  # (S C, L): accuracy and recall of as many clips from each seed are the means over the seeds
    ranking: Scores  # (C, S L): and so is the mean average precision over the labels of every seed


class Difference(NamedTuple):
    """How an upstream compares with the baseline."""

    interval: Interval  # of the task's measure: positive where the upstream is better
    verdict: str  # ABOVE or BELOW where the interval excludes 0 and no seed of the one reaches a seed of the other


@dataclass(frozen=True, eq=False)
class Entry:
    """One upstream on one task."""

    upstream: str
    task: str
    method: str
    failure: str = ""  # why there are no figures, in a sentence
    runs: tuple[Scores, ...] = ()  # (S,), or a single one where nothing is drawn
    layers: tuple[int, ...] = ()  # that the probes chose
    clips: int = 0  # of the whole task
    seconds: float = 0.0  # all seeds together; embeddings out of the cache took none
    averaged: Averaged | None = None
    difference: Difference | None = None  # None for the baseline, and where it failed

    @property
    def measure(self) -> str:
        """What the entry is judged by."""
        return "mAP" if self.runs and self.runs[0].accuracy is None else "accuracy"

    @property
    def figure(self) -> Interval | None:
        """The measure, the mean over the seeds."""
        return _headline(self.averaged) if self.averaged else None

    @property
    def singles(self) -> tuple[float, ...]:
        """(S,) the measure of every seed."""
        return tuple(_headline(Averaged(run, run)).value for run in self.runs)

    @property
    def deviation(self) -> float:
        """Of the measure over the seeds; nan of a single one."""
        if not self.runs:
            return math.nan
        return metrics.over_seeds(self.runs)[
            "mean_average_precision" if self.measure == "mAP" else "accuracy"
        ].deviation


@dataclass(frozen=True, eq=False)
class Comparison:
    """All upstreams on all tasks, in the order in which they were named."""

    entries: tuple[Entry, ...]
    baselines: dict[str, str]  # upstream -> the one that it is compared with
    settings: dict[str, Any]
    command: str
    lengths: dict[str, np.ndarray] = field(default_factory=dict)  # task -> (C,) seconds of the test clips

    @property
    def against(self) -> dict[str, str]:
        """Upstream -> the other one that it is compared with, of those that are."""
        return {one: other for one, other in self.baselines.items() if other not in ("", one)}

    def of(self, method: str) -> list[Entry]:
        return [entry for entry in self.entries if entry.method == method]

    def best(self, task: str, method: str) -> float:
        """The highest figure on a task, -inf where nothing could be measured."""
        return max((e.figure.value for e in self.of(method) if e.task == task and e.figure), default=-math.inf)


def averaged(runs: Sequence[Scores], seeds: int = 1) -> Averaged:
    """Runs of the same clips as one; a single run stands for as many ``seeds`` as are asked for."""
    runs = list(runs) * seeds if len(runs) == 1 else list(runs)
    if len(runs) == 1:
        return Averaged(runs[0], runs[0])
    first, count = runs[0], len(runs)
    groups = [f"group {group}" for group in first.groups]
    decisions = metrics.score(
        np.tile(first.targets, (count, 1)), np.vstack([run.scores for run in runs]), first.labels, groups * count
    )
    labels = [f"{label} {seed}" for seed in range(count) for label in first.labels]
    ranking = metrics.score(np.tile(first.targets, (1, count)), np.hstack([run.scores for run in runs]), labels, groups)
    return Averaged(decisions, ranking)


def _headline(one: Averaged) -> Interval:
    return one.ranking.mean_average_precision if one.decisions.accuracy is None else one.decisions.accuracy


def told_apart(one: Entry, other: Entry) -> Difference:
    """``one`` minus ``other``, on the same clips; both must have figures."""
    seeds = max(len(one.runs), len(other.runs))
    mine, theirs = averaged(one.runs, seeds), averaged(other.runs, seeds)
    decided = metrics.difference(mine.decisions, theirs.decisions).accuracy
    interval = decided or metrics.difference(mine.ranking, theirs.ranking).mean_average_precision
    verdict = UNTOLD
    if interval.low > 0 and min(one.singles) > max(other.singles):
        verdict = ABOVE
    elif interval.high < 0 and max(one.singles) < min(other.singles):
        verdict = BELOW
    return Difference(interval, verdict)


def with_differences(entries: Sequence[Entry], baselines: Mapping[str, str]) -> list[Entry]:
    """``baselines``: upstream -> the one that it is compared with."""
    known = {(entry.upstream, entry.task, entry.method): entry for entry in entries if entry.runs}
    compared = []
    for entry in entries:
        other = known.get((baselines.get(entry.upstream, ""), entry.task, entry.method))
        if entry.runs and other and other is not entry:
            entry = replace(entry, difference=told_apart(entry, other))
        compared.append(entry)
    return compared
